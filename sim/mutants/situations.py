"""Traps that chance sets too rarely: a planted mistake fails in one of them, the unchanged product passes all of them."""

from collections.abc import Callable
from typing import Any

from sim.checker import Json
from sim.machines import one_each
from sim.mutants.registry import on_machines
from sim.network import STORE
from sim.server import SimServer
from sim.simulation import Simulation


def when(simulation: Simulation, point: str, do: Callable[[Any], object]) -> None:
    def reached(daemon: Any, name: str) -> None:
        if name == point and daemon is not None and daemon.process.runs and not simulation.faults.is_over:
            simulation.world.on_point.remove(reached)
            do(daemon)

    simulation.world.on_point.append(reached)


def _cut_all(simulation: Simulation, *, at: float) -> set[tuple[int, int]]:
    """From that time on no node reaches another. Returns the cuts, so that they can be mended."""
    world = simulation.world
    pairs = {(a, b) for a in world.nodes for b in world.nodes if a != b}

    def cut() -> None:
        world.network.cuts |= pairs
        for server in world.all_servers:
            if server.is_alive:
                server.check_link()

    world.loop.at(at, cut)
    return pairs


def a_leader_killed_before_the_promotion(simulation: Simulation) -> None:
    """Repeatedly."""

    def kill(daemon: Any) -> None:
        simulation.faults._kill(daemon)
        when(simulation, "handoff:promote:before", kill)

    when(simulation, "handoff:promote:before", kill)


def a_leader_killed_after_the_promotion(simulation: Simulation) -> None:
    """Repeatedly."""

    def kill(daemon: Any) -> None:
        simulation.faults._kill(daemon)
        when(simulation, "handoff:promote:after", kill)

    when(simulation, "handoff:promote:after", kill)


def a_leader_killed_before_the_fence(simulation: Simulation) -> None:
    """The clients of the old primary write continuously, and the candidate lags only slightly: a successor that promotes it
    now lacks only the fence."""
    world = simulation.world
    primary = primary_of_a_new_database(simulation, replication=True)
    world.replication_lag_s = 0.0
    world.writers.busy_s = 0.001
    when(simulation, "handoff:fence:before", simulation.faults._kill)
    simulation.operator.action(primary["node_uid"], "enslave_node")
    simulation.run_for(40.0)


def a_leader_that_sleeps_for_longer_than_the_pause(simulation: Simulation) -> None:
    """Between the fence and the promotion, repeatedly. Its lease lasts longer, but no endpoint holds that long."""

    def sleep(daemon: Any) -> None:
        daemon.process.freeze()
        simulation.world.loop.at(5.0, daemon.process.thaw, simulation.world.loop)
        when(simulation, "handoff:compare:before", sleep)

    when(simulation, "handoff:compare:before", sleep)


def an_endpoint_process_that_dies_before_the_release(simulation: Simulation) -> None:
    """Its agent starts a new one, which forwards to the committed primary: still the old one. The leader is frozen just
    before the demotion."""
    world = simulation.world

    def end(daemon: Any) -> None:
        for uid in world.nodes:
            found = world.endpoint_process(uid)
            if found is not None and found.endpoints:
                found.process.kill()

    when(simulation, "handoff:promote:before", end)
    when(simulation, "handoff:demote:before", simulation.faults._freeze)


def a_promotion_that_is_delayed_in_transit(simulation: Simulation) -> None:
    """The leader freezes after it is sent; it arrives when the next leader has begun to act."""
    world = simulation.world

    def hold(daemon: Any) -> None:
        world.kept_back = "promote"
        world.loop.at(0.0, freeze, daemon)

    def freeze(daemon: Any) -> None:
        daemon.process.freeze()
        world.loop.at(25.0, daemon.process.thaw, world.loop)

    def act(daemon: Any) -> None:
        world.loop.at(0.05, world.network.let_arrive)

    when(simulation, "handoff:promote:before", hold)
    when(simulation, "handoff:undo_fence:after", act)


def databases_that_barely_fit(simulation: Simulation) -> None:
    """Large databases on few nodes."""
    for number in range(4):
        simulation.world.loop.at(
            8.0 + number, lambda: simulation.operator.create(400, replication=True, persistence="disabled")
        )


def requests_that_are_undone(simulation: Simulation) -> None:
    """During a slow sync."""
    world = simulation.world
    world.sync_base_s = 4.0

    def cancel() -> None:
        for action in list(world.checker.tables["actions"].values()):
            if action["name"] == "maintenance_on" and action["status"] == "running":
                simulation.operator.cancel(action["node_uid"], "maintenance_on")
        world.loop.at(3.0, cancel)

    world.loop.at(25.0, cancel)


def a_leader_that_does_not_know_its_loss(simulation: Simulation) -> None:
    """Its lease is revoked, but it relies on the lease for seconds, and does not learn of the next leader."""
    world = simulation.world

    def revoke(daemon: Any) -> None:
        leader = world.store._items.get("leader")
        if leader is None or leader.lease is None:
            return
        world.store._end(leader.lease)
        uid = daemon.node.uid
        daemon.store.watch_stalls_until = world.loop.now + 6.0
        slow = {(0, uid)}
        world.network.cuts |= slow
        world.loop.at(1.0, world.network.cuts.difference_update, slow)
        for seconds in (0.3, 0.6, 1.2, 1.6):
            world.loop.at(seconds, simulation.operator.action, 1 + int(seconds * 10) % 3, "enslave_node")

    for point in ("handoff:hold:before", "handoff:fence:before", "handoff:commit:before"):
        when(simulation, point, revoke)


def replicas_that_lag(simulation: Simulation) -> None:
    """Always six tenths of a second behind."""
    world = simulation.world

    def lag() -> None:
        if not simulation.faults.is_over:
            world.replication_lag_s = 0.6
            world.loop.at(1.0, lag)

    world.loop.at(20.0, lag)


def a_primary_that_dies_long_after_its_link(simulation: Simulation) -> None:
    """For more than a minute no node reaches another. Then the primaries die; their files hold data that no replica has."""
    world = simulation.world
    pairs = _cut_all(simulation, at=22.0)

    def strike() -> None:
        for group in list(world.checker.tables["groups"].values()):
            for server in world.servers_of(group["uid"]):
                if server.shard_uid == group["primary"]:
                    server.die(planned=False)
        world.network.cuts -= pairs
        simulation.faults.last_at = world.loop.now  # until now the cut kept databases from their clients

    world.loop.at(90.0, strike)


def a_node_that_dies_long_after_its_links_and_comes_back(simulation: Simulation) -> None:
    """With the files of primaries that have data that no replica has, because they served without a link for more than a
    minute."""
    world = simulation.world
    pairs = _cut_all(simulation, at=22.0)

    def strike() -> None:
        primaries = {group["primary"] for group in world.checker.tables["groups"].values()}
        nodes = {s.node_uid for s in world.all_servers if s.is_alive and s.shard_uid in primaries}
        for uid in sorted(nodes):
            simulation.kill_node(uid)
            world.loop.at(40.0, simulation.revive_node, uid)
        world.network.cuts -= pairs
        simulation.faults.last_at = world.loop.now  # until now the cut kept databases from their clients

    world.loop.at(90.0, strike)
    simulation.operator.create(60, replication=True, persistence="aof")


def primary_of_a_new_database(
    simulation: Simulation,
    *,
    replication: bool,
    persistence: str = "aof",
    proxy_policy: str = "single",
    strict: bool = False,
) -> Json:
    """The record of the first database's primary, which accepts clients. Time passes."""
    simulation.run_for(1.0)
    simulation.operator.create(
        60, replication=replication, persistence=persistence, proxy_policy=proxy_policy, strict=strict
    )
    simulation.run_for(5.0)
    tables = simulation.world.checker.tables
    (group,) = tables["groups"].values()
    return tables["shards"][f"shards/{group['primary']:08d}"]


def _while_an_only_copy_moves(
    simulation: Simulation,
    is_time: Callable[[SimServer], bool],
    strike: Callable[[Json], None],
    *,
    persistence: str = "aof",
) -> None:
    """Strike an only copy on a node that is being emptied, when its new copy has reached this stage."""
    world = simulation.world
    only = primary_of_a_new_database(simulation, replication=False, persistence=persistence)
    simulation.operator.action(only["node_uid"], "maintenance_on")

    def watch() -> None:
        if any(is_time(s) for s in world.servers_of(only["group_uid"])):
            strike(only)
        else:
            world.loop.at(0.005, watch)

    watch()
    simulation.run_for(54.0)


def an_only_copy_that_is_lost_when_its_new_one_is_complete(simulation: Simulation) -> None:
    """And no observation has recorded it yet."""
    _while_an_only_copy_moves(simulation, lambda s: s.is_link_up, lambda only: simulation.lose_node(only["node_uid"]))


def an_only_copy_that_dies_while_its_new_one_is_empty(simulation: Simulation) -> None:
    """The file of the dead copy holds all data; the new copy is empty and answers first."""

    def strike(only: Json) -> None:
        for server in simulation.world.servers_of(only["group_uid"]):
            if server.shard_uid == only["uid"]:
                server.die(planned=False)

    _while_an_only_copy_moves(simulation, lambda s: s.sync is not None, strike)


def an_only_copy_whose_new_one_dies_before_it_has_a_file(simulation: Simulation) -> None:
    """The old copy has ended, and its files are kept until the new copy has files of its own."""

    def is_alone(server: SimServer) -> bool:
        shards = simulation.world.checker.tables["shards"].values()
        has_left = any(s["group_uid"] == server.group_uid and s["wanted"] == "stopped" for s in shards)
        return has_left and len(simulation.world.servers_of(server.group_uid)) == 1

    def strike(only: Json) -> None:
        for server in simulation.world.servers_of(only["group_uid"]):
            server.die(planned=False)

    _while_an_only_copy_moves(simulation, is_alone, strike, persistence="snapshot")


def a_leader_that_must_yield_when_no_other_daemon_runs(simulation: Simulation) -> None:
    """The other daemons are down for longer than their leases."""
    world = simulation.world

    def strike() -> None:
        leader = world.leader()
        for daemon in world.daemons():
            if daemon is not leader:
                daemon.process.kill()
                world.loop.at(40.0, simulation.restart_daemon, daemon.node.uid)
        if leader is not None:
            world.loop.at(20.0, simulation.operator.action, leader.node.uid, "enslave_node", {"demote_node": True})

    world.loop.at(22.0, strike)


def primaries_that_die_during_a_move(simulation: Simulation) -> None:
    """While a new copy syncs, and the leader observes frequently."""
    world = simulation.world

    def begin() -> None:
        simulation.operator.action(1, "maintenance_on")
        world.loop.at(0.9, strike)

    def strike() -> None:
        for move in list(world.checker.tables["moves"].values()):
            uid = move.get("group_uid", "")
            group = world.checker.tables["groups"].get(f"groups/{uid}")
            for server in world.servers_of(uid):
                if group is not None and server.shard_uid == group["primary"] and server.is_alive:
                    server.die(planned=False)

    world.loop.at(22.0, begin)


def primaries_that_freeze_without_a_replica(simulation: Simulation) -> None:
    """For longer than the policy's timeout for a silent server, while their replicas die; then they resume."""
    world = simulation.world
    asleep: list[Any] = []

    def strike() -> None:
        for group in list(world.checker.tables["groups"].values()):
            servers = world.servers_of(group["uid"])
            for server in servers:
                if server.shard_uid == group["primary"]:
                    server.process.freeze()
                    asleep.append(server)
            for server in servers:
                if server not in asleep:
                    server.die(planned=False)
        world.loop.at(15.0, wake)

    def wake() -> None:
        for server in asleep:
            server.process.thaw(world.loop)

    world.loop.at(22.0, strike)


def clocks_that_jump_while_a_server_is_frozen(simulation: Simulation) -> None:
    """A primary with a replica never answers again; just before its timeout, every clock is set back by an hour."""
    world = simulation.world
    primary = primary_of_a_new_database(simulation, replication=True)
    (server,) = (s for s in world.servers_of(primary["group_uid"]) if s.shard_uid == primary["uid"])

    def jump() -> None:
        for node in world.nodes.values():
            node.skew_s -= 3600.0

    server.process.freeze()
    server.is_frozen_for_good = True
    world.loop.at(10.0, jump)


@on_machines(one_each)
def separate_machines_of_which_one_is_cut_off(simulation: Simulation) -> None:
    """Its daemon is dead. Its clients are on it and continue to write to their primary, which no leader can ask or
    observe."""
    world = simulation.world
    primary = primary_of_a_new_database(simulation, replication=True)
    uid = primary["node_uid"]
    if (daemon := world.nodes[uid].daemon) is not None:
        simulation.faults._kill(daemon)
    pairs = {pair for other in (STORE, *world.nodes) if other != uid for pair in ((uid, other), (other, uid))}
    world.network.cuts |= pairs
    simulation.run_for(40.0)
    world.network.cuts -= pairs
    simulation.run_for(40.0)
    simulation.run_for(20.0)


def a_leader_that_freezes_before_the_fence_and_dies_after_it(simulation: Simulation) -> None:
    """Its endpoints have released themselves: its pause postpones scripts of their clients."""
    world = simulation.world
    primary = primary_of_a_new_database(simulation, replication=True)
    world.writers.busy_s = 0.001

    def sleep(daemon: Any) -> None:
        daemon.process.freeze()
        world.loop.at(2.0, daemon.process.thaw, world.loop)

    when(simulation, "handoff:fence:before", sleep)
    when(simulation, "handoff:fence:after", simulation.faults._kill)
    simulation.operator.action(primary["node_uid"], "enslave_node")
    simulation.run_for(40.0)
