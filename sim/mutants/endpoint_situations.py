"""Traps with an endpoint process that dies in a handoff."""

from typing import Any

from shardwright.leader import handoff
from sim.mutants.situations import primary_of_a_new_database, when
from sim.network import STORE
from sim.simulation import Simulation

SHORT_PAUSE_S = 30.0


def an_endpoint_process_started_again_after_the_hold(simulation: Simulation) -> None:
    """It did not run when it was asked to hold. Then its clients write through the new process while the fence is in
    transit: the pause postpones these writes. A third of them are scripts that catch their errors."""
    world = simulation.world
    primary = primary_of_a_new_database(simulation, replication=True)

    def end(daemon: Any) -> None:
        for uid in world.nodes:
            found = world.endpoint_process(uid)
            if found is not None and found.endpoints:
                found.process.kill()

    def start(daemon: Any) -> None:
        world.network.slow_until[daemon.node.uid] = world.loop.now + 0.3
        for node in world.nodes.values():
            node.endpoint_dies_at = -10.0
            if node.daemon is not None:
                node.daemon.wake_agent()
        world.writers.busy_s = 0.002
        world.writers.write_soon(primary["database_uid"])

    when(simulation, "handoff:hold:before", end)
    when(simulation, "handoff:hold:after", start)
    simulation.operator.action(primary["node_uid"], "enslave_node")
    simulation.run_for(20.0)
    world.writers.busy_s = 0.05


def an_endpoint_process_started_again_before_the_leader_dies(simulation: Simulation) -> None:
    """The same, but between the fence and the promotion the leader is killed while the store is unreachable: the pause
    expires under the fence before another leader can act. It is shorter than in the product."""
    network, loop = simulation.world.network, simulation.world.loop
    pairs = {pair for node in simulation.world.nodes for pair in ((node, STORE), (STORE, node))}

    def strike(daemon: Any) -> None:
        network.cuts |= pairs
        loop.at(SHORT_PAUSE_S + 2.0, network.cuts.difference_update, pairs)
        simulation.faults._kill(daemon)

    when(simulation, "handoff:promote:before", strike)
    usual, handoff.PAUSE_S = handoff.PAUSE_S, min(handoff.PAUSE_S, SHORT_PAUSE_S)
    try:
        an_endpoint_process_started_again_after_the_hold(simulation)
        simulation.run_for(SHORT_PAUSE_S)
    finally:
        handoff.PAUSE_S = usual
