"""The initial states of the simulation's scenarios, and helpers for their checks."""

from collections.abc import Callable

from sim.daemon import SimDaemon
from sim.simulation import Simulation, quiet


def cluster(*, replication: bool = True, persistence: str = "aof", nodes: int = 3) -> Simulation:
    """Nodes with one database under writers."""
    quiet()
    simulation = Simulation(3, nodes=nodes)
    simulation.run_for(10.0)
    simulation.operator.create(60, replication=replication, persistence=persistence)
    simulation.run_for(10.0)
    simulation.world.writers.calm_s = 0.1
    return simulation


def run_until(simulation: Simulation, holds: Callable[[], bool], within_s: float = 30.0) -> None:
    """Let virtual time pass, in steps of a hundredth of a second, until a condition holds."""
    deadline = simulation.world.loop.now + within_s
    while not holds():
        assert simulation.world.loop.now < deadline, f"after {within_s} s: {simulation.world.checker.tables['moves']}"
        simulation.run_for(0.01)


def lead_from(simulation: Simulation, uid: int) -> None:
    """Have the daemon of this node lead: leaders yield until it does."""
    for _ in range(20):
        leader = simulation.world.leader()
        if leader is not None and leader.node.uid == uid:
            return
        if leader is not None:
            leader._yield()
        simulation.run_for(10.0)
    raise AssertionError(f"node {uid} does not lead")


def primary_node(simulation: Simulation) -> int:
    tables = simulation.world.checker.tables
    primary = tables["groups"]["groups/1:1"]["primary"]
    return int(tables["shards"][f"shards/{primary:08d}"]["node_uid"])


def at_point(simulation: Simulation, point: str, do: object) -> None:
    """Call ``do(daemon)`` when a leader reaches the point for the first time."""

    def reached(daemon: SimDaemon | None, name: str) -> None:
        if name == point and daemon is not None:
            simulation.world.on_point.remove(reached)
            assert callable(do)
            do(daemon)

    simulation.world.on_point.append(reached)


def first_relocation(simulation: Simulation) -> dict[str, object]:
    moves = simulation.world.checker.tables["moves"]
    return next(move for _, move in sorted(moves.items()) if move["kind"] == "relocate")


def ended(simulation: Simulation) -> list[str]:
    return [f"{a['name']} {a['status']}" for a in simulation.world.checker.tables["actions"].values()]
