"""Traps of a failover without a proof: the primary of a strict database serves its clients behind a cut, or wakes later."""

from collections.abc import Callable

from sim.checker import Json
from sim.machine_faults import pairs_around, reboot
from sim.machines import SimMachine, one_each
from sim.mutants.registry import on_machines
from sim.mutants.situations import primary_of_a_new_database
from sim.network import REPLICATION, STORE
from sim.server import SimServer
from sim.simulation import Simulation

CLIENTS_PAUSE_S = 0.05
CONFIRMED_S = 0.15
"""For some writes with their confirmations; less than the time in which a leader asks a new copy again."""


def strict_primary(simulation: Simulation, persistence: str = "aof") -> Json:
    """The record of the primary of a new strict database with a replica on another machine. All nodes serve it, clients
    write often, and the leader is on a third machine."""
    world = simulation.world
    primary = primary_of_a_new_database(
        simulation, replication=True, persistence=persistence, proxy_policy="all-nodes", strict=True
    )
    world.writers.calm_s = CLIENTS_PAUSE_S
    lead_elsewhere(simulation, primary)
    return primary


def lead_elsewhere(simulation: Simulation, primary: Json) -> None:
    """The leader is on a machine without a copy."""
    world = simulation.world
    taken = {s.node_uid for s in world.servers_of(primary["group_uid"])}
    for _ in range(10):
        leader = world.leader()
        if leader is not None and leader.node.uid not in taken:
            break
        if leader is not None:
            leader._yield()
        simulation.run_for(10.0)


def replica_of(simulation: Simulation, primary: Json) -> SimServer:
    (replica,) = [s for s in simulation.world.servers_of(primary["group_uid"]) if s.shard_uid != primary["uid"]]
    return replica


def cut(simulation: Simulation, uids: list[int], seconds: float) -> None:
    """These nodes reach each other and their own clients, but nothing else; then the network heals."""
    world = simulation.world
    others = [STORE, *(node for node in world.nodes if node not in uids)]
    cuts = set(pairs_around(uids, others))
    world.network.cuts |= cuts
    simulation.faults.check_links()
    simulation.run_for(seconds)
    world.network.cuts -= cuts
    simulation.run_for(40.0)
    world.writers.calm_s = 3.0


def run_until(simulation: Simulation, is_so: Callable[[], bool], limit_s: float = 30.0, step_s: float = 0.05) -> None:
    until = simulation.world.loop.now + limit_s
    while not is_so() and simulation.world.loop.now < until:
        simulation.run_for(step_s)


def third_copy(simulation: Simulation, primary: Json, replica: SimServer) -> SimServer | None:
    """A move's new copy of the replica, as soon as it follows the primary too; None: there was no room for one."""
    world = simulation.world
    simulation.operator.action(replica.node_uid, "maintenance_on", {"evict_ha_replica": True})
    known = {primary["uid"], replica.shard_uid}

    def found() -> SimServer | None:
        new = (s for s in world.servers_of(primary["group_uid"]) if s.shard_uid not in known)
        return next((s for s in new if s.is_link_up), None)

    run_until(simulation, lambda: found() is not None)
    return found()


@on_machines(one_each)
def a_strict_primary_that_is_cut_off(simulation: Simulation) -> None:
    """It serves the clients of its own machine; the others need another primary."""
    world = simulation.world
    primary = strict_primary(simulation)
    cut(simulation, [primary["node_uid"]], 40.0)
    (group,) = world.checker.tables["groups"].values()
    if group["primary"] == primary["uid"]:
        world.checker.fail("strict_failover", f"shard {primary['uid']} was cut off for 40 s, and no copy took over")


@on_machines(one_each)
def a_strict_primary_that_is_cut_off_with_the_old_copy_of_a_move(simulation: Simulation) -> None:
    """That copy is not wanted any more, but the daemon of its node sleeps: it runs, and confirms what clients write."""
    world = simulation.world
    primary = strict_primary(simulation)
    replica = replica_of(simulation, primary)
    shard = f"shards/{replica.shard_uid:08d}"
    daemon = world.nodes[replica.node_uid].daemon
    if third_copy(simulation, primary, replica) is None or daemon is None:
        return
    daemon.process.freeze()
    run_until(simulation, lambda: world.checker.tables["shards"].get(shard, {}).get("wanted") != "running")
    cut(simulation, [primary["node_uid"], replica.node_uid], 40.0)
    daemon.process.thaw(world.loop)
    simulation.run_for(20.0)


@on_machines(one_each)
def a_strict_primary_that_is_cut_off_with_a_replica(simulation: Simulation) -> None:
    """Another copy has just joined them on a machine that the leader reaches."""
    primary = strict_primary(simulation)
    replica = replica_of(simulation, primary)
    if third_copy(simulation, primary, replica) is not None:
        cut(simulation, [primary["node_uid"], replica.node_uid], 40.0)


@on_machines(one_each)
def a_strict_primary_whose_older_replica_lags(simulation: Simulation) -> None:
    """The new copy of a move has confirmed the last writes, and no leader has seen it in sync yet; then the primary is cut
    off."""
    world = simulation.world
    primary = strict_primary(simulation)
    replica = replica_of(simulation, primary)
    filters = {(a, b, REPLICATION) for a, b in pairs_around([primary["node_uid"]], [replica.node_uid])}
    world.network.filters |= filters
    simulation.faults.check_links()
    if third_copy(simulation, primary, replica) is not None:
        simulation.run_for(CONFIRMED_S)
        world.loop.at(1.0, world.network.filters.difference_update, filters)
        cut(simulation, [primary["node_uid"]], 40.0)


@on_machines(one_each)
def a_strict_primary_that_wakes_when_another_copy_leads(simulation: Simulation) -> None:
    """Its machine sleeps while two copies are parked; it wakes at the moment in which one of them becomes the primary, and
    the leader's daemon is killed then."""
    world = simulation.world
    primary = strict_primary(simulation)
    replica = replica_of(simulation, primary)
    if third_copy(simulation, primary, replica) is None:
        return
    machine = world.machine_of(primary["node_uid"])
    freeze(simulation, machine)

    copies = [s for s in world.servers_of(primary["group_uid"]) if s.shard_uid != primary["uid"]]
    run_until(simulation, lambda: any(leads(simulation, copy) for copy in copies))
    leader = world.leader()
    if leader is not None:
        simulation.faults._kill(leader)
    thaw(simulation, machine)
    simulation.run_for(40.0)
    world.writers.calm_s = 3.0


@on_machines(one_each)
def a_strict_primary_that_sleeps_while_its_successor_reboots(simulation: Simulation) -> None:
    """The successor comes back with a snapshot that lacks the last writes; the sleeper holds them all."""
    world = simulation.world
    primary = strict_primary(simulation, persistence="snapshot")
    replica = replica_of(simulation, primary)
    replica.files.snapshot, replica.files.snapshot_at = replica.position, world.loop.now
    simulation.run_for(2.0)
    sleeper = world.machine_of(primary["node_uid"])
    freeze(simulation, sleeper)
    run_until(simulation, lambda: leads(simulation, replica))
    reboot(simulation.faults, world.machine_of(replica.node_uid), off_s=1.0)
    simulation.run_for(25.0)
    thaw(simulation, sleeper)
    simulation.run_for(40.0)
    world.writers.calm_s = 3.0


def leads(simulation: Simulation, server: SimServer) -> bool:
    """Whether it is the only group's primary on record."""
    (group,) = simulation.world.checker.tables["groups"].values()
    return bool(group["primary"] == server.shard_uid)


def freeze(simulation: Simulation, machine: SimMachine) -> None:
    for process in processes_on(simulation, machine):
        process.freeze()


def thaw(simulation: Simulation, machine: SimMachine) -> None:
    for process in processes_on(simulation, machine):
        process.thaw(simulation.world.loop)


def processes_on(simulation: Simulation, machine: SimMachine) -> list:  # type: ignore[type-arg]
    world = simulation.world
    found = [s.process for s in world.all_servers if s.is_alive and s.node_uid in machine.nodes]
    for uid in machine.nodes:
        node = world.nodes[uid]
        found += [part.process for part in (node.daemon, node.endpoint_process) if part is not None]
    return found
