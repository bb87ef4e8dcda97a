"""Scenarios of endpoint processes: what their clients have under way while something happens to a process or its leader."""

import pytest
from sim_scenarios import at_point, cluster, primary_node

from shardwright.model.database import Role
from shardwright.testing.sim.checker import Violation
from shardwright.testing.sim.daemon import SimDaemon
from shardwright.testing.sim.mutants.situations import an_endpoint_process_started_again_before_the_leader_dies
from shardwright.testing.sim.server import Outcome, Position, SimServer
from shardwright.testing.sim.simulation import Simulation, quiet

pytestmark = pytest.mark.usefixtures("product_log")


def _primary(simulation: Simulation) -> SimServer:
    return next(s for s in simulation.world.servers_of("1:1") if s.role is Role.PRIMARY)


def _answers(server: SimServer, *, hides_refusal: bool) -> list[Outcome]:
    found: list[Outcome] = []

    def answer(outcome: Outcome, position: Position | None) -> None:
        found.append(outcome)

    server.write(answer, hides_refusal=hides_refusal)
    return found


def test_a_server_refuses_a_command_before_it_postpones_it_and_a_script_when_it_runs() -> None:
    simulation = cluster()
    primary = _primary(simulation)
    primary.pause(10.0)
    postponed = _answers(primary, hides_refusal=False)
    primary.is_fenced = True
    script = _answers(primary, hides_refusal=True)
    assert _answers(primary, hides_refusal=False) == [Outcome.REFUSED]
    assert postponed == script == []
    primary.end_pause()
    assert postponed == [Outcome.REFUSED]
    assert script == [Outcome.HIDDEN]
    simulation.end()


def test_a_new_connection_to_a_fenced_server_sends_nothing() -> None:
    simulation = cluster()
    primary = _primary(simulation)
    primary.end_clients()
    primary.is_fenced = True
    simulation.run_for(3.0)
    assert not simulation.world.checker.violations
    simulation.end()


def test_an_old_connection_to_a_fenced_server_is_told_of_writes_that_are_none() -> None:
    simulation = cluster()
    _primary(simulation).is_fenced = True
    with pytest.raises(Violation, match=r"no_write_lost.*inside a script"):
        simulation.run_for(3.0)
    simulation.end()


def test_a_pause_that_expires_under_the_fence_runs_no_script_of_a_new_endpoint_process() -> None:
    """The leader died between the fence and the promotion: what the process had sent, which was started behind the hold, ran
    when the pause expired, and was acknowledged."""
    quiet()
    simulation = Simulation(0)
    an_endpoint_process_started_again_before_the_leader_dies(simulation)
    simulation.rest()
    simulation.end()


def test_a_leader_that_dies_behind_the_fence_of_endpoints_that_hold_loses_nothing() -> None:
    simulation = cluster()

    def strike(daemon: SimDaemon) -> None:
        daemon.process.kill()
        simulation.world.loop.at(1.0, simulation.restart_daemon, daemon.node.uid)

    at_point(simulation, "handoff:promote:before", strike)
    simulation.operator.action(primary_node(simulation), "enslave_node")
    simulation.run_for(60.0)
    simulation.rest()
    simulation.end()
