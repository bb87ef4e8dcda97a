"""Small named scenarios: each shows a mistake that a seed has found, or a trap that must stay closed."""

from dataclasses import replace

import pytest

from shardwright.model.database import Role
from shardwright.store import keys, records
from shardwright.store.protocol import PutKey, Transaction
from sim.daemon import SimDaemon
from sim.loop import result_of
from sim.operator import persistence_of
from sim.server import SimServer
from sim.simulation import Simulation
from tests.sim.sim_scenarios import at_point, cluster, ended, first_relocation, lead_from, primary_node

pytestmark = pytest.mark.usefixtures("product_log")


def test_a_planned_action_under_writers() -> None:
    simulation = cluster()
    simulation.operator.action(primary_node(simulation), "maintenance_on")
    simulation.run_for(30.0)
    simulation.rest()
    assert ended(simulation) == ["maintenance_on completed"]
    assert simulation.world.tally.writes["acknowledged"] > 100
    assert simulation.world.tally.writes["unknown"] == simulation.world.tally.writes["refused"] == 0
    simulation.end()


@pytest.mark.parametrize("point", ["handoff:intend:before", "handoff:verify:after", "handoff:commit:before"])
def test_an_unreachable_store_fails_only_the_command(point: str) -> None:
    """The exception once ended the database's queue and everything that waited in it."""
    simulation = cluster()

    def cut(daemon: SimDaemon) -> None:
        pairs = {(daemon.node.uid, 0), (0, daemon.node.uid)}
        simulation.world.network.cuts |= pairs
        simulation.world.loop.at(1.8, simulation.world.network.cuts.difference_update, pairs)

    at_point(simulation, point, cut)
    simulation.operator.action(primary_node(simulation), "enslave_node")
    simulation.run_for(30.0)
    simulation.rest()
    assert ended(simulation) == ["step_down completed"]
    simulation.end()


@pytest.mark.parametrize("way", ["kill", "freeze"])
@pytest.mark.parametrize("point", ["handoff:fence:after", "handoff:promote:before", "handoff:promote:after"])
def test_a_leader_that_fails_around_the_promotion(point: str, way: str) -> None:
    simulation = cluster(persistence="disabled")

    def strike(daemon: SimDaemon) -> None:
        if way == "kill":
            daemon.process.kill()
            simulation.world.loop.at(1.0, simulation.restart_daemon, daemon.node.uid)
        else:
            daemon.process.freeze()
            simulation.world.loop.at(15.0, daemon.process.thaw, simulation.world.loop)

    at_point(simulation, point, strike)
    simulation.operator.action(primary_node(simulation), "enslave_node")
    simulation.run_for(60.0)
    simulation.rest()
    assert ended(simulation) == ["step_down completed"]
    simulation.end()


def test_the_replica_of_a_dead_primary_without_files_takes_over_with_all_data() -> None:
    simulation = cluster(persistence="disabled")
    group = simulation.world.checker.tables["groups"]["groups/1:1"]
    primary = next(s for s in simulation.world.servers_of("1:1") if s.shard_uid == group["primary"])
    kept = primary.position
    primary.die(planned=False)
    simulation.rest()
    now = simulation.world.checker.tables["groups"]["groups/1:1"]
    assert now["primary"] != group["primary"]
    heir = next(s for s in simulation.world.servers_of("1:1") if s.shard_uid == now["primary"])
    assert heir.position.holds(kept) or kept.offset - heir.position.keys < 3
    simulation.end()


def test_a_clock_that_was_ahead_does_not_delay_a_restart_by_an_hour() -> None:
    """The leader that started a server again had a clock an hour ahead; its successor's clock is right."""
    simulation = cluster(replication=False)
    leader = simulation.world.leader()
    assert leader is not None
    leader.node.skew_s = 3600.0
    for _ in range(4):
        for server in simulation.world.servers_of("1:1"):
            server.die(planned=False)
        simulation.run_for(3.0)
    leader.process.kill()
    leader.node.skew_s = 0.0
    for server in simulation.world.servers_of("1:1"):
        server.die(planned=False)
    simulation.rest(60.0)
    simulation.end()


def test_replication_cannot_be_disabled_while_the_primary_is_dead() -> None:
    """The only live copy was deleted, because the leader had not noticed the primary's death yet."""
    simulation = cluster(persistence="disabled")
    simulation.world.writers.is_over = True
    simulation.run_for(10.0)
    group = simulation.world.checker.tables["groups"]["groups/1:1"]
    primary = next(s for s in simulation.world.servers_of("1:1") if s.shard_uid == group["primary"])
    primary.die(planned=False)
    simulation.run_for(2.0)
    simulation.operator.change(1, replication=False)
    simulation.run_for(20.0)
    chain = simulation.world.checker.chains["1:1"]
    assert chain.required
    assert any(s.position.holds(chain.required[-1]) for s in simulation.world.servers_of("1:1"))
    simulation.end()


def test_a_frozen_primary_is_not_ended_while_no_other_copy_lives() -> None:
    """Its replica died meanwhile. The primary held all data in memory, and was ended as unresponsive."""
    simulation = cluster(persistence="disabled")
    group = simulation.world.checker.tables["groups"]["groups/1:1"]
    servers = simulation.world.servers_of("1:1")
    primary = next(s for s in servers if s.shard_uid == group["primary"])
    primary.process.freeze()
    for server in servers:
        if server is not primary:
            server.die(planned=False)
    simulation.run_for(40.0)
    assert primary.is_alive
    primary.process.thaw(simulation.world.loop)
    simulation.rest(60.0)
    chain = simulation.world.checker.chains["1:1"]
    assert chain.required
    assert primary.position.holds(chain.required[-1])
    simulation.end()


@pytest.mark.parametrize("after_s", [0.6, 0.76, 0.92, 1.08])
def test_a_primary_that_dies_during_a_move_is_replaced_at_once(after_s: float) -> None:
    """Its agent reported the death first; the leader recorded the loss and revoked the record, turn by turn."""
    simulation = cluster()
    world = simulation.world
    before = world.checker.tables["groups"]["groups/1:1"]
    servers = world.servers_of("1:1")
    simulation.operator.action(next(s.node_uid for s in servers if s.shard_uid != before["primary"]), "maintenance_on")
    simulation.run_for(after_s)
    next(s for s in servers if s.shard_uid == before["primary"]).die(planned=False)
    simulation.run_for(1.0)
    assert world.checker.tables["groups"]["groups/1:1"]["primary"] != before["primary"]
    simulation.rest(60.0)
    simulation.end()


@pytest.mark.parametrize(("persistence", "after_s"), [("aof", 0.3), ("aof", 0.9), ("snapshot", 1.5), ("disabled", 1.2)])
def test_a_target_that_is_lost_for_good_during_a_move_is_replaced(persistence: str, after_s: float) -> None:
    """The move waited for the daemon of its node: for two minutes during a sync, and indefinitely after it, when the move
    prevented the rebuild of the lost copy."""
    simulation = cluster(persistence=persistence, nodes=4)
    simulation.operator.action(primary_node(simulation), "maintenance_on")
    simulation.run_for(after_s)
    simulation.kill_node(int(str(first_relocation(simulation)["to_node"])))
    simulation.run_for(50.0)
    assert ended(simulation) == ["maintenance_on completed"]
    moves = simulation.world.checker.tables["moves"].values()
    assert [m["state"] for m in moves if m["state"] not in ("done", "failed")] == []
    simulation.rest(120.0)
    simulation.end()


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_silent_server_is_ended_on_time_whatever_the_leaders_clock_does(jump_s: float) -> None:
    """A wall clock that was set back by an hour once delayed the end of a silent primary by an hour; one that was set
    forward ended a server that had been silent for a moment."""
    simulation = cluster()
    world = simulation.world
    group = world.checker.tables["groups"]["groups/1:1"]
    primary = next(s for s in world.servers_of("1:1") if s.shard_uid == group["primary"])
    primary.process.freeze()
    simulation.run_for(9.5)
    leader = world.leader()
    assert leader is not None
    leader.node.skew_s += jump_s
    simulation.run_for(0.4)
    assert primary.is_alive
    simulation.run_for(20.0)
    assert not primary.is_alive
    simulation.rest(60.0)
    simulation.end()


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_start_that_never_ends_is_given_up_on_time_by_a_leader_with_another_clock(jump_s: float) -> None:
    simulation = cluster()
    world = simulation.world
    target = next(node.daemon for n, node in world.nodes.items() if n not in {s.node_uid for s in world.servers_of("1:1")})
    assert target is not None
    target.process.freeze()
    simulation.operator.action(primary_node(simulation), "maintenance_on", {"keep_slave_shards": False})
    simulation.run_for(10.0)
    for node in world.nodes.values():
        node.skew_s += jump_s
    leader = world.leader()
    assert leader is not None
    leader.process.kill()
    while (successor := world.leader()) is None or successor is leader:
        simulation.run_for(0.1)
    simulation.run_for(5.0)
    assert first_relocation(simulation)["state"] == "starting", "not shortened"
    simulation.run_for(20.0)
    assert first_relocation(simulation)["state"] == "failed", "not delayed"
    simulation.rest()
    simulation.end()


def test_a_late_command_that_passes_an_endpoint_is_corrected() -> None:
    """The command of an ended move arrives when the endpoint has returned: no process listened."""
    simulation = cluster()
    world = simulation.world
    endpoint = next(iter(world.checker.tables["endpoints"]))
    home = world.checker.tables["endpoints"][endpoint]["nodes"]
    world.kept_back = "pass"
    simulation.operator.action(home[0], "maintenance_on")
    simulation.run_for(30.0)
    assert world.kept_back == ""
    assert world.checker.tables["endpoints"][endpoint]["nodes"] != home
    simulation.operator.action(home[0], "maintenance_off")
    simulation.run_for(30.0)
    assert world.checker.tables["endpoints"][endpoint]["nodes"] == home
    world.network.let_arrive()
    simulation.run_for(0.01)
    served = world.nodes[home[0]].endpoint_process
    assert served is not None
    assert [s.is_listening for s in served.endpoints.values()] == [False], "the late command did harm"
    simulation.rest(60.0)
    assert [s.is_listening for s in served.endpoints.values()] == [True]
    simulation.end()


def test_a_copy_that_was_given_up_does_not_count() -> None:
    """The primary dies just after the replica was given up, while the replica's process still ends."""
    simulation = cluster(persistence="disabled")
    world = simulation.world
    simulation.operator.change(1, replication=False)
    while all(s["wanted"] == "running" for s in world.checker.tables["shards"].values()):
        simulation.run_for(0.001)
    assert len(world.servers_of("1:1")) == 2
    world.servers_of("1:1")[0].die(planned=False)
    simulation.rest()
    simulation.end()


def test_an_undone_end_of_a_maintenance_leaves_the_node_in_maintenance_even_without_a_daemon() -> None:
    """The node returns to its former state, which does not cost a vote."""
    simulation = cluster()
    world = simulation.world
    node = primary_node(simulation)
    simulation.operator.action(node, "maintenance_on")
    simulation.run_for(30.0)
    away = next(d for d in world.daemons() if d.node.uid != node and d.leader is None)
    away.process.freeze()
    simulation.run_for(20.0)
    simulation.operator.action(node, "maintenance_off")
    simulation.run_for(0.005)
    simulation.operator.cancel(node, "maintenance_off", mode="undo")
    simulation.run_for(10.0)
    assert ended(simulation)[-1] == "maintenance_off cancelled"
    assert world.checker.tables["nodes"][f"nodes/{node:08d}"]["is_quorum_only"]
    simulation.rest()
    simulation.end()


def replica_node(simulation: Simulation) -> int:
    tables = simulation.world.checker.tables
    primary = tables["groups"]["groups/1:1"]["primary"]
    return next(int(s["node_uid"]) for s in tables["shards"].values() if s["uid"] != primary and s["wanted"] == "running")


def homes(simulation: Simulation) -> set[int]:
    shards = simulation.world.checker.tables["shards"].values()
    return {int(s["node_uid"]) for s in shards if s["wanted"] == "running"}


@pytest.mark.parametrize("returns_after_s", [10.0, 35.2, 36.0, 36.3, 120.0])
def test_a_lost_copy_is_rebuilt_and_a_returning_one_is_not_one_too_many(returns_after_s: float) -> None:
    """The node returns before, during and after the rebuild of its copy."""
    simulation = cluster(persistence="disabled")
    simulation.operator.policy(slave_ha_grace_period_s=20)
    simulation.run_for(5.0)
    dead, before = replica_node(simulation), homes(simulation)
    simulation.kill_node(dead)
    simulation.run_for(returns_after_s)
    if returns_after_s > 100:
        assert dead not in homes(simulation)
    simulation.revive_node(dead)
    simulation.rest()
    assert len(homes(simulation)) == 2
    if returns_after_s < 20:
        assert homes(simulation) == before
    simulation.end()


def test_a_dead_primarys_copy_is_rebuilt_too() -> None:
    simulation = cluster(persistence="disabled")
    simulation.operator.policy(slave_ha_grace_period_s=20)
    simulation.run_for(5.0)
    dead = primary_node(simulation)
    simulation.kill_node(dead)
    simulation.run_for(120.0)
    assert dead not in homes(simulation)
    assert len(homes(simulation)) == 2
    simulation.rest()
    simulation.end()


def server_of(simulation: Simulation, shard_uid: int) -> SimServer:
    return next(s for s in simulation.world.servers_of("1:1") if s.shard_uid == shard_uid)


@pytest.mark.parametrize(("kept", "wanted"), [("aof", "disabled"), ("aof", "snapshot"), ("snapshot", "aof")])
def test_a_server_that_is_down_during_a_change_of_persistence_loads_its_files(kept: str, wanted: str) -> None:
    simulation = cluster(replication=False, persistence=kept)
    server = server_of(simulation, 1)
    if kept == "snapshot":
        server.save()
        simulation.run_for(3.0)
    holds = server.comes_back
    assert holds is not None
    server.die(planned=False)
    simulation.run_for(0.05)
    simulation.operator.change(1, **persistence_of(wanted))
    simulation.run_for(30.0)
    now = server_of(simulation, 1)
    assert now.incarnation == 2
    assert now.position.holds(holds)
    assert (now.persistence, now.is_aof_on) == (wanted, wanted == "aof")
    simulation.rest()
    simulation.end()


@pytest.mark.parametrize("delay_s", [0.0, 0.02])
def test_a_primary_that_returns_from_a_snapshot_gives_way_to_the_replica_that_lived_on(delay_s: float) -> None:
    """It is not recorded yet that the old primary follows the new one when the new one dies."""
    simulation = cluster(persistence="snapshot")
    for server in simulation.world.servers_of("1:1"):
        server.save()
    simulation.run_for(20.0)

    def die(daemon: SimDaemon) -> None:
        new = next(s for s in simulation.world.servers_of("1:1") if s.role is Role.PRIMARY and not s.is_fenced)
        simulation.world.loop.at(delay_s, lambda: new.die(planned=False))

    at_point(simulation, "handoff:commit:after", die)
    old_node = primary_node(simulation)
    simulation.operator.action(old_node, "enslave_node")
    simulation.run_for(60.0)
    simulation.rest()
    assert primary_node(simulation) == old_node
    assert server_of(simulation, 2).position.keys > 200
    simulation.end()


def test_a_replica_that_died_first_does_not_take_over_from_later_writes() -> None:
    """The leader's last observation of the replica is older than the replica's death."""
    simulation = cluster()
    first, dead = primary_node(simulation), replica_node(simulation)
    leader = simulation.world.leader()
    assert leader is not None
    if leader.node.uid == dead:
        leader.process.kill()
        simulation.run_for(20.0)
        simulation.restart_daemon(dead)
        simulation.run_for(5.0)
    simulation.kill_node(dead)
    simulation.run_for(3.0)
    primary = next(s for s in simulation.world.servers_of("1:1") if s.node_uid == first)
    holds = primary.position
    assert primary.is_alive
    primary.die(planned=False)
    simulation.run_for(30.0)
    assert primary_node(simulation) == first
    assert next(s for s in simulation.world.servers_of("1:1") if s.node_uid == first).position.holds(holds)
    simulation.revive_node(dead)
    simulation.rest()
    simulation.end()


def test_a_cancelled_move_does_not_give_up_the_only_remaining_copy() -> None:
    """The next leader undid a handoff; then the primary, which has no files, dies, and the action is cancelled."""
    simulation = cluster(replication=False, persistence="disabled")
    lead_from(simulation, (node := primary_node(simulation)) + 1)
    holds = []

    def freeze(daemon: SimDaemon) -> None:
        daemon.process.freeze()
        simulation.world.loop.at(25.0, daemon.process.thaw, simulation.world.loop)

    def strike(_: SimDaemon) -> None:
        primary = next(s for s in simulation.world.servers_of("1:1") if s.role is Role.PRIMARY and s.node_uid == node)
        holds.append(primary.position)
        primary.die(planned=False)
        simulation.world.loop.at(0.04, lambda: simulation.operator.cancel(node, "maintenance_on", mode="stop"))

    at_point(simulation, "handoff:compare:before", freeze)
    at_point(simulation, "handoff:undo_commit:after", strike)
    simulation.operator.action(node, "maintenance_on")
    simulation.run_for(60.0)
    simulation.rest()
    primary = next(s for s in simulation.world.servers_of("1:1") if s.role is Role.PRIMARY and not s.is_fenced)
    assert holds
    assert primary.position.keys >= holds[0].keys
    simulation.end()


def test_a_restarted_candidate_was_never_promoted() -> None:
    """It died when the handoff was intended, an older decision restarts it, and the leader dies. The next leader finds a
    fenced primary, and a candidate that is also a primary but empty."""
    simulation = cluster(persistence="disabled")
    node = primary_node(simulation)
    holds = []

    def strike(daemon: SimDaemon) -> None:
        for server in simulation.world.servers_of("1:1"):
            if server.node_uid != node:
                server.die(planned=False)
            else:
                holds.append(server.position)
        dead = next(s for s in daemon.mirror.view().shards.values() if s.node_uid != node)
        again = replace(dead, incarnation=dead.incarnation + 1, port=dead.port + 40)
        write = Transaction(operations=(PutKey(keys.key_of(again), records.encode(again)),))
        result_of(simulation.world.store.transact(write))
        daemon.process.kill()
        simulation.world.loop.at(1.0, simulation.restart_daemon, daemon.node.uid)

    at_point(simulation, "handoff:compare:before", strike)
    simulation.operator.action(node, "enslave_node")
    simulation.run_for(60.0)
    simulation.rest()
    now = next(s for s in simulation.world.servers_of("1:1") if s.role is Role.PRIMARY and not s.is_fenced)
    assert now.position.holds(holds[0])
    simulation.end()
