"""Traps of the rebuild of a strict database's only replica: the clients wait for it, and silence may be a cut of the leader.

The leader looks as often as in the product: chance gives it more time than the rules have.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from shardwright.leader.pace import NORMAL_PACE, Pace
from sim.machine_faults import freeze, reboot
from sim.machines import one_each
from sim.mutants.parking_situations import replica_of, run_until, strict_primary
from sim.mutants.registry import on_machines
from sim.network import AGENT, CONTROL, SERVER
from sim.server import SimServer
from sim.simulation import SIM_PACE, Simulation

UNCONFIRMED_MAX_S = 12.0
"""Five seconds of silence, what comes before, a start and a full sync. When the lease and the grace period are waited for,
it takes seventeen seconds."""
PAUSE_S = 4.0
WATCHED_S = 20.0


@contextmanager
def _strict_replica(simulation: Simulation) -> Iterator[SimServer]:
    """The replica of a new strict database, see ``strict_primary``. Afterwards the simulation is as fast as usual again."""
    world = simulation.world
    _set_pace(simulation, NORMAL_PACE)
    primary = strict_primary(simulation)
    simulation.run_for(10.0)
    yield replica_of(simulation, primary)
    world.writers.calm_s = 3.0
    _set_pace(simulation, SIM_PACE)
    simulation.run_for(20.0)


def _set_pace(simulation: Simulation, pace: Pace) -> None:
    """Daemons take it at their start."""
    simulation.world.pace = pace
    for node in simulation.world.nodes.values():
        if node.daemon is not None:
            node.daemon.process.kill()
        simulation.restart_daemon(node.uid)


def _nothing_moves(simulation: Simulation, why: str) -> None:
    """Fail if a move begins soon."""
    world = simulation.world
    before = set(world.checker.tables["moves"])
    run_until(simulation, lambda: set(world.checker.tables["moves"]) != before, WATCHED_S)
    begun = sorted(set(world.checker.tables["moves"]) - before)
    if begun:
        world.checker.fail("needless_rebuild", f"{begun} began, although {why}")
    simulation.run_for(WATCHED_S)


@on_machines(one_each)
def a_strict_replica_whose_machine_dies(simulation: Simulation) -> None:
    """Nothing is confirmed until another copy follows. The machine is back much later."""
    world = simulation.world
    with _strict_replica(simulation) as replica:
        reboot(simulation.faults, world.machine_of(replica.node_uid), off_s=60.0)
        struck_at = world.loop.now
        simulation.run_for(1.0)
        confirmed = world.tally.writes["acknowledged"]
        run_until(simulation, lambda: world.tally.writes["acknowledged"] > confirmed, 2 * UNCONFIRMED_MAX_S)
        took_s = world.loop.now - struck_at
        if took_s > UNCONFIRMED_MAX_S:
            world.checker.fail("strict_rebuild", f"no write was confirmed for {took_s:.1f} s after a replica's machine died")
        simulation.run_for(80.0)


@on_machines(one_each)
def a_strict_replica_that_only_the_leader_does_not_reach(simulation: Simulation) -> None:
    """Nor its agent, nor its endpoint process. It follows its primary and confirms."""
    world = simulation.world
    with _strict_replica(simulation) as replica:
        leader = world.leader()
        if leader is not None and leader.node.uid != replica.node_uid:
            filters = {(leader.node.uid, replica.node_uid, kind) for kind in (AGENT, CONTROL, SERVER)}
            world.network.filters |= filters
            world.loop.at(WATCHED_S, world.network.filters.difference_update, filters)
            _nothing_moves(simulation, "the replica confirms what clients write")


@on_machines(one_each)
def a_strict_replica_whose_machine_is_paused(simulation: Simulation) -> None:
    """For a few seconds, as by a backup of a virtual machine."""
    with _strict_replica(simulation) as replica:
        freeze(simulation.faults, simulation.world.machine_of(replica.node_uid), PAUSE_S)
        _nothing_moves(simulation, f"the replica was away for {PAUSE_S:g} s only")
