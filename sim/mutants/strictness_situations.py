"""Traps of a change to strict mode: what was answered before it must be on a replica before a failover without a proof."""

from sim.machine_faults import pairs_around
from sim.machines import one_each
from sim.mutants.parking_situations import CLIENTS_PAUSE_S, replica_of
from sim.mutants.registry import on_machines
from sim.mutants.situations import primary_of_a_new_database
from sim.network import STORE
from sim.simulation import Simulation

HANGS_S = 0.7
"""Shorter than the time after which a replica is no longer in sync."""
CHANGES_S = 7.0
"""Time in which every endpoint process learns of the mode."""


@on_machines(one_each)
def a_replica_that_hangs_while_its_database_becomes_strict(simulation: Simulation) -> None:
    """It lacks writes that were answered in default mode, and wakes when the primary's machine is cut off."""
    world = simulation.world
    primary = primary_of_a_new_database(simulation, replication=True, proxy_policy="all-nodes")
    world.writers.calm_s = CLIENTS_PAUSE_S
    replica = replica_of(simulation, primary)
    for _ in range(10):
        leader = world.leader()
        if leader is not None and leader.node.uid not in (primary["node_uid"], replica.node_uid):
            break
        if leader is not None:
            leader._yield()
        simulation.run_for(10.0)
    replica.process.freeze()
    simulation.run_for(HANGS_S)
    simulation.operator.change(primary["database_uid"], strict=True)
    simulation.run_for(CHANGES_S)
    own = primary["node_uid"]
    cuts = set(pairs_around([own], [STORE, *(node for node in world.nodes if node != own)]))
    world.network.cuts |= cuts
    simulation.faults.check_links()
    simulation.run_for(1.0)
    replica.process.thaw(world.loop)
    simulation.run_for(60.0)
    world.network.cuts -= cuts
    simulation.run_for(40.0)
    world.writers.calm_s = 3.0
