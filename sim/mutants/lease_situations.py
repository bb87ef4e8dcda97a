"""Traps of leases: the primary of a default-mode database is out of reach, and the processes beside it serve their
clients."""

from collections.abc import Callable

from shardwright.model.database import Role
from sim.checker import Json
from sim.clients import Talker, join, leave
from sim.machine_faults import pairs_around
from sim.machines import one_each
from sim.mutants.client_situations import TALKER
from sim.mutants.parking_situations import (
    CLIENTS_PAUSE_S,
    cut,
    freeze,
    lead_elsewhere,
    leads,
    replica_of,
    run_until,
    thaw,
    third_copy,
)
from sim.mutants.registry import on_machines
from sim.mutants.situations import primary_of_a_new_database
from sim.network import CONTROL, REPLICATION, STORE
from sim.served import Served
from sim.server import SimServer
from sim.simulation import Simulation

IN_FORCE_S = 60.0
"""Enough for every process to show that it needs proofs: leaders of simulations ask rarely."""
ASLEEP_S = 25.0
"""Longer than a failover."""
STEP_S = 0.0001


def leased_primary(simulation: Simulation, persistence: str = "aof") -> Json:
    """The record of the primary of a new database in default mode with a replica on another machine. All nodes serve it,
    clients write often, the leader is on a third machine, and the lease is in force."""
    world = simulation.world
    primary = primary_of_a_new_database(simulation, replication=True, persistence=persistence, proxy_policy="all-nodes")
    world.writers.calm_s = CLIENTS_PAUSE_S
    lead_elsewhere(simulation, primary)
    run_until(simulation, lambda: _is_in_force(simulation), IN_FORCE_S)
    assert _is_in_force(simulation), "no lease"
    return primary


def _is_in_force(simulation: Simulation) -> bool:
    groups = list(simulation.world.checker.tables["groups"].values())
    lease = groups[0]["lease"] if groups else None
    return lease is not None and lease["is_needed"] and not lease["waived"]


def _served(simulation: Simulation, node: int) -> Served:
    process = simulation.world.endpoint_process(node)
    assert process is not None
    (served,) = process.endpoints.values()
    return served


def _hides_replica(simulation: Simulation, primary: Json) -> Callable[[], None]:
    """The replica does not hear of its primary any more. Returns the function that ends that."""
    world = simulation.world
    pair = pairs_around([primary["node_uid"]], [replica_of(simulation, primary).node_uid])
    filters = {(a, b, REPLICATION) for a, b in pair}
    world.network.filters |= filters
    simulation.faults.check_links()
    return lambda: world.network.filters.difference_update(filters)


def without_lease(simulation: Simulation, primary: Json) -> Callable[[], None]:
    """Proofs are wanted, and one process that is not beside the primary cannot be told: no failover without a proof may
    begin. Returns the function that ends that."""
    world = simulation.world
    leader = world.leader()
    taken = {primary["node_uid"], 0 if leader is None else leader.node.uid}
    node = next(uid for uid in sorted(world.nodes) if uid not in taken)
    show = _hides_replica(simulation, primary)
    run_until(simulation, lambda: _is_waived(_served(simulation, node)), IN_FORCE_S)
    filters = {(uid, node, CONTROL) for uid in world.nodes if uid != node}
    world.network.filters |= filters
    show()
    simulation.run_for(20.0)
    return lambda: world.network.filters.difference_update(filters)


def _is_waived(served: Served) -> bool:
    return served.gate.standing.is_waived


def _sleep(simulation: Simulation, node: int, is_time: Callable[[], bool]) -> None:
    """The machine of a node is frozen at the first moment of that kind, for longer than a failover."""
    world = simulation.world
    run_until(simulation, is_time, 20.0, STEP_S)
    machine = world.machine_of(node)
    freeze(simulation, machine)
    simulation.run_for(ASLEEP_S)
    thaw(simulation, machine)
    simulation.run_for(40.0)
    world.writers.calm_s = 3.0


@on_machines(one_each)
def a_default_primary_that_is_cut_off(simulation: Simulation) -> None:
    """It serves the clients of its own machine for a while; the others need another primary."""
    world = simulation.world
    primary = leased_primary(simulation)
    cut(simulation, [primary["node_uid"]], 40.0)
    (group,) = world.checker.tables["groups"].values()
    if group["primary"] == primary["uid"]:
        world.checker.fail("default_failover", f"shard {primary['uid']} was cut off for 40 s, and no copy took over")


@on_machines(one_each)
def a_default_primary_whose_last_replica_is_parked_late(simulation: Simulation) -> None:
    """The old copy of a move, no longer wanted, is cut off together with the primary, and answers it. Then only the primary
    stays out of the leader's reach: it had proofs until this copy is parked."""
    world = simulation.world
    primary = leased_primary(simulation)
    replica = replica_of(simulation, primary)
    shard, daemon = f"shards/{replica.shard_uid:08d}", world.nodes[replica.node_uid].daemon
    if third_copy(simulation, primary, replica) is None or daemon is None:
        return
    daemon.process.freeze()
    run_until(simulation, lambda: world.checker.tables["shards"].get(shard, {}).get("wanted") != "running")
    run_until(simulation, lambda: _is_in_force(simulation), IN_FORCE_S)
    side = [primary["node_uid"], replica.node_uid]
    others = [STORE, *(node for node in world.nodes if node not in side)]
    from_replica, from_primary = set(pairs_around(side[1:], others)), set(pairs_around(side[:1], others))
    world.network.cuts |= from_replica | from_primary
    simulation.faults.check_links()
    simulation.run_for(20.0)
    world.network.cuts -= from_replica
    simulation.run_for(20.0)
    world.network.cuts -= from_primary
    daemon.process.thaw(world.loop)
    simulation.run_for(40.0)
    world.writers.calm_s = 3.0


@on_machines(one_each)
def a_process_that_misses_the_return_of_the_proofs(simulation: Simulation) -> None:
    """Proofs were given up while the replica was away. When they are wanted again, no leader reaches the endpoint process
    beside the primary; its clients do."""
    world = simulation.world
    primary = leased_primary(simulation)
    served = _served(simulation, primary["node_uid"])
    show = _hides_replica(simulation, primary)
    run_until(simulation, lambda: _is_waived(served), IN_FORCE_S)
    filters = {(node, primary["node_uid"], CONTROL) for node in world.nodes if node != primary["node_uid"]}
    world.network.filters |= filters
    show()
    simulation.run_for(IN_FORCE_S)
    cut(simulation, [primary["node_uid"]], 40.0)
    world.network.filters -= filters
    simulation.run_for(20.0)


@on_machines(one_each)
def a_leader_that_dies_when_a_process_is_told_to_serve_without_proofs(simulation: Simulation) -> None:
    """The primary's machine is cut off at that moment: the next leader knows only what is on record."""
    world = simulation.world
    primary = leased_primary(simulation)
    served = _served(simulation, primary["node_uid"])
    show = _hides_replica(simulation, primary)
    until = world.loop.now + IN_FORCE_S
    while not _is_waived(served) and world.loop.now < until:
        simulation.run_for(10 * STEP_S)
    leader = world.leader()
    if leader is not None:
        simulation.faults._kill(leader)
    show()
    cut(simulation, [primary["node_uid"]], 60.0)


@on_machines(one_each)
def a_word_that_no_proof_is_needed_and_that_arrives_late(simulation: Simulation) -> None:
    """It was sent when the replica was away, and arrives when proofs are needed again."""
    world = simulation.world
    primary = leased_primary(simulation)
    served = _served(simulation, primary["node_uid"])
    world.kept_back = f"lease {primary['node_uid']} "
    show = _hides_replica(simulation, primary)
    run_until(simulation, lambda: _is_waived(served), IN_FORCE_S)
    show()
    run_until(simulation, lambda: _is_in_force(simulation), IN_FORCE_S)
    world.kept_back = ""
    world.network.let_arrive()
    cut(simulation, [primary["node_uid"]], 40.0)


@on_machines(one_each)
def a_default_primary_that_sleeps_with_a_write_in_flight(simulation: Simulation) -> None:
    """It executes the write when it wakes, and the process beside it has the reply."""
    primary = leased_primary(simulation)
    served = _served(simulation, primary["node_uid"])
    talker = Talker(simulation.world, TALKER, primary["database_uid"], pause_s=CLIENTS_PAUSE_S, wait_max_s=2 * ASLEEP_S)
    join(served, talker)
    talker.begin()
    _sleep(simulation, primary["node_uid"], lambda: any(write.client is talker for write in served.in_flight))
    leave(talker)


@on_machines(one_each)
def a_process_that_sleeps_with_an_answer_on_its_way(simulation: Simulation) -> None:
    """The answer was given before the primary's machine fell asleep; it is read when another copy leads."""
    primary = leased_primary(simulation)
    prover = _served(simulation, primary["node_uid"]).prover
    _sleep(simulation, primary["node_uid"], lambda: prover.is_about_to_hear)


@on_machines(one_each)
def a_default_primary_that_sleeps_while_its_successor_restarts_empty(simulation: Simulation) -> None:
    """Another copy holds a write that the successor acknowledged, and no leader has seen it in sync; then the sleeper
    answers again, which was in sync in the generation before."""
    world = simulation.world
    primary = leased_primary(simulation, persistence="disabled")
    replica = replica_of(simulation, primary)
    third = third_copy(simulation, primary, replica)
    if third is None:
        return
    sleeper = world.machine_of(primary["node_uid"])
    freeze(simulation, sleeper)
    run_until(simulation, lambda: any(leads(simulation, copy) for copy in (replica, third)))
    successor, follower = (replica, third) if leads(simulation, replica) else (third, replica)
    run_until(simulation, lambda: _has_received_a_write_of(successor, follower), step_s=STEP_S)
    successor.die(planned=False)
    simulation.run_for(ASLEEP_S)
    thaw(simulation, sleeper)
    simulation.run_for(40.0)
    world.writers.calm_s = 3.0


def _has_received_a_write_of(successor: SimServer, follower: SimServer) -> bool:
    here = follower.position
    return successor.role is Role.PRIMARY and here.history is successor.position.history and here.offset > here.history.base
