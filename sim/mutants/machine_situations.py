"""Traps with several machines: silence, a refusal, a lost lease and an old record, none of which proves an end."""

from collections.abc import Callable, Iterable
from typing import Any

from shardwright.leader.presence import STORM_S
from shardwright.model.cluster import DaemonPresence
from shardwright.model.ids import LeaseId, NodeUid
from shardwright.store import keys, records
from shardwright.store.protocol import PutKey, Transaction
from sim.checker import Json
from sim.loop import result_of
from sim.machine_faults import freeze, pairs_around, reboot, revoke_all
from sim.machines import one_each
from sim.mutants.lease_situations import leased_primary, without_lease
from sim.mutants.registry import on_machines
from sim.mutants.situations import primary_of_a_new_database
from sim.network import AGENT, CONTROL, SERVER, STORE
from sim.simulation import Simulation
from sim.world import START

CLIENTS_PAUSE_S = 0.05


def _primary(simulation: Simulation) -> Json:
    """The record of the primary of a new database with a replica on another machine; clients write often. It is not on the
    leader's machine."""
    world = simulation.world
    primary = primary_of_a_new_database(simulation, replication=True)
    world.writers.calm_s = CLIENTS_PAUSE_S
    _lead_elsewhere(simulation, primary["node_uid"])
    return primary


def _lead_elsewhere(simulation: Simulation, uid: int) -> None:
    leader = simulation.world.leader()
    if leader is not None and leader.node.uid == uid:
        leader._yield()
        simulation.run_for(10.0)


def _cut_while(simulation: Simulation, pairs: Iterable[tuple[int, int]], seconds: float) -> None:
    """Clients on the far side go on writing to their primary, which no leader can ask or observe."""
    world = simulation.world
    cuts = set(pairs)
    world.network.cuts |= cuts
    simulation.faults.check_links()
    simulation.run_for(seconds)
    world.network.cuts -= cuts
    simulation.run_for(40.0)
    world.writers.calm_s = 3.0


@on_machines(one_each)
def a_machine_that_is_cut_off_with_its_daemon(simulation: Simulation) -> None:
    """The daemon lives and loses its lease; the endpoint process and the primary serve their clients."""
    uid = _primary(simulation)["node_uid"]
    others = [STORE, *(node for node in simulation.world.nodes if node != uid)]
    _cut_while(simulation, pairs_around([uid], others), 40.0)


@on_machines(one_each)
def a_machine_whose_daemon_alone_is_cut_off(simulation: Simulation) -> None:
    """It reaches neither the store nor the leader; its primary serves clients and feeds its replica."""
    world = simulation.world
    uid = _primary(simulation)["node_uid"]
    leaders = {(node, uid, kind) for node in world.nodes if node != uid for kind in (AGENT, SERVER, CONTROL)}
    world.network.filters |= leaders
    _cut_while(simulation, pairs_around([uid], [STORE]), 40.0)
    world.network.filters -= leaders
    simulation.run_for(20.0)


@on_machines(one_each)
def a_primary_that_ends_behind_a_cut(simulation: Simulation) -> None:
    """It serves its clients for some time after its machine was cut off, because no failover without a proof can begin. Then
    its process ends, and the network heals. Its files alone have all that it acknowledged."""
    world = simulation.world
    primary = leased_primary(simulation)
    uid = primary["node_uid"]
    tell = without_lease(simulation, primary)

    def end_its_servers() -> None:
        for server in simulation.faults._servers():
            if server.node_uid == uid:
                server.die(planned=False)

    world.loop.at(35.0, end_its_servers)
    _cut_while(simulation, pairs_around([uid], [STORE, *(node for node in world.nodes if node != uid)]), 40.0)
    tell()
    (group,) = world.checker.tables["groups"].values()
    if group["primary"] != primary["uid"]:
        world.checker.fail("heir", f"shard {group['primary']} took over, although it was cut off for half a minute")


@on_machines(one_each)
def a_firewall_that_refuses_the_leaders(simulation: Simulation) -> None:
    """In the name of the primary's machine, whose daemon is dead. Everything else passes."""
    world = simulation.world
    uid = _primary(simulation)["node_uid"]
    if (daemon := world.nodes[uid].daemon) is not None:
        daemon.process.kill()
    refused = {(node, uid, kind) for node in world.nodes if node != uid for kind in (AGENT, SERVER)}
    world.network.rejects |= refused
    simulation.run_for(40.0)
    world.network.rejects -= refused
    simulation.restart_daemon(uid)
    simulation.run_for(20.0)
    world.writers.calm_s = 3.0


@on_machines(one_each)
def a_machine_that_sleeps(simulation: Simulation) -> None:
    """With its primary and its clients; they go on when it wakes."""
    world = simulation.world
    uid = _primary(simulation)["node_uid"]
    freeze(simulation.faults, world.machine_of(uid), 25.0)
    simulation.run_for(60.0)
    world.writers.calm_s = 3.0


@on_machines(one_each)
def a_record_of_an_older_boot_that_arrives_late(simulation: Simulation) -> None:
    """A machine boots; its primary starts again and serves. Then a presence that its former daemon had sent arrives in the
    store, and the machine is cut off from all but its clients."""
    world = simulation.world
    primary = primary_of_a_new_database(simulation, replication=False)
    uid = primary["node_uid"]
    machine = world.machine_of(uid)
    before = machine.boot_id
    _lead_elsewhere(simulation, uid)
    reboot(simulation.faults, machine, off_s=2.0)
    simulation.run_for(40.0)
    simulation.operator.change(primary["database_uid"], replication=True)
    simulation.run_for(20.0)
    world.writers.calm_s = CLIENTS_PAUSE_S
    late = DaemonPresence(NodeUid(uid), 1, 1, before, 0, "0.1.0", "https://", START, machine_id=machine.machine_id)
    lease: LeaseId = result_of(world.store.grant(world.times.ttl * 8))
    result_of(world.store.transact(Transaction((), (PutKey(keys.key_of(late), records.encode(late), lease),))))
    simulation.run_for(1.0)
    others = [node for node in world.nodes if node != uid]
    _cut_while(simulation, pairs_around([uid], [STORE, *others]), 40.0)
    if (daemon := world.nodes[uid].daemon) is not None:
        simulation.faults._kill(daemon)
    simulation.run_for(40.0)


@on_machines(one_each)
def a_store_that_loses_most_leases(simulation: Simulation) -> None:
    """While the primary's machine is cut off for some seconds. Nothing is moved because of the storm while it lasts."""
    world = simulation.world
    uid = _primary(simulation)["node_uid"]
    simulation.run_for(20.0)
    leader = world.leader()
    if leader is None or leader.candidate._lease is None:
        return
    kept = leader.candidate._lease
    moves = set(world.checker.tables["moves"])
    others = [STORE, *(node for node in world.nodes if node != uid)]
    cuts = set(pairs_around([uid], others))
    world.network.cuts |= cuts
    revoke_all(simulation.faults, but=kept)
    look = _watch_for(simulation, lambda: set(world.checker.tables["moves"]) - moves, STORM_S - 0.5)
    look()
    simulation.run_for(STORM_S)
    world.network.cuts -= cuts
    simulation.run_for(40.0)
    world.writers.calm_s = 3.0


def _watch_for(simulation: Simulation, found: Callable[[], Any], seconds: float) -> Callable[[], None]:
    """A function that fails the simulation when something is found within this time."""
    world = simulation.world
    until = world.loop.now + seconds

    def look() -> None:
        if found():
            world.checker.fail("storm", f"{sorted(found())} began because the store lost its leases")
        elif world.loop.now < until:
            world.loop.at(0.1, look)

    return look


@on_machines(one_each)
def a_machine_that_is_declared_off(simulation: Simulation) -> None:
    """No failover without a proof can begin. Its primary's replica takes over then. When the machine is back, it gets the
    role again. Then the network is cut, and the machine serves its clients: the word was about another time."""
    world = simulation.world
    primary = leased_primary(simulation)
    uid = primary["node_uid"]
    tell = without_lease(simulation, primary)
    reboot(simulation.faults, world.machine_of(uid), off_s=60.0)
    simulation.run_for(35.0)
    simulation.operator.declare_off(uid)
    simulation.run_for(10.0)
    (group,) = world.checker.tables["groups"].values()
    if group["primary"] == primary["uid"]:
        world.checker.fail("declared_off", f"the machine of shard {primary['uid']} was declared off, and no copy took over")
        return
    tell()
    simulation.run_for(60.0)
    there = world.checker.tables["shards"][f"shards/{group['primary']:08d}"]["node_uid"]
    simulation.operator.action(there, "enslave_node")
    simulation.run_for(20.0)
    _lead_elsewhere(simulation, uid)
    others = [STORE, *(node for node in world.nodes if node != uid)]
    _cut_while(simulation, pairs_around([uid], others), 40.0)
