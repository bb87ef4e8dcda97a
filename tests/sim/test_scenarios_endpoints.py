"""Scenarios of endpoint processes: commands of their clients are in flight when a process or its leader fails."""

import pytest

from shardwright.model.database import Role
from shardwright.model.ids import MoveUid, NodeUid
from shardwright.model.move import MoveState, Rebind
from shardwright.store import keys, records
from shardwright.store.protocol import PutKey, Transaction
from sim.checker import Violation
from sim.clients import Client, Talker, join
from sim.daemon import SimDaemon
from sim.history import Position
from sim.loop import result_of
from sim.mutants.endpoint_situations import an_endpoint_process_started_again_before_the_leader_dies
from sim.served import Served
from sim.server import SimServer, WriteOutcome
from sim.simulation import Simulation, quiet
from tests.sim.sim_scenarios import at_point, cluster, ended, primary_node

pytestmark = pytest.mark.usefixtures("product_log")


def _primary(simulation: Simulation) -> SimServer:
    return next(s for s in simulation.world.servers_of("1:1") if s.role is Role.PRIMARY)


def _answers(server: SimServer, *, hides_refusal: bool) -> list[WriteOutcome]:
    found: list[WriteOutcome] = []

    def answer(outcome: WriteOutcome, position: Position | None) -> None:
        found.append(outcome)

    server.write(answer, hides_refusal=hides_refusal)
    return found


def test_a_server_refuses_a_command_before_postponing_it_and_a_script_when_it_runs() -> None:
    simulation = cluster()
    primary = _primary(simulation)
    primary.pause(10.0)
    postponed = _answers(primary, hides_refusal=False)
    primary.is_fenced = True
    script = _answers(primary, hides_refusal=True)
    assert _answers(primary, hides_refusal=False) == [WriteOutcome.REFUSED]
    assert postponed == script == []
    primary.end_pause()
    assert postponed == [WriteOutcome.REFUSED]
    assert script == [WriteOutcome.HIDDEN]
    simulation.end()


def test_a_new_connection_to_a_fenced_server_sends_nothing() -> None:
    simulation = cluster()
    primary = _primary(simulation)
    primary.end_clients()
    primary.is_fenced = True
    simulation.run_for(3.0)
    assert not simulation.world.checker.violations
    simulation.end()


def test_an_old_connection_to_a_fenced_server_acknowledges_false_writes() -> None:
    simulation = cluster()

    def write() -> None:
        for _ in range(30):
            _primary(simulation).is_fenced = True  # The leader opens it when it sees that.
            simulation.world.writers.write_soon(1)
            simulation.run_for(0.1)

    with pytest.raises(Violation, match=r"no_write_lost.*inside a script"):
        write()
    simulation.end()


@pytest.mark.proof
def test_a_pause_that_expires_under_the_fence_runs_no_script_of_a_new_endpoint_process() -> None:
    """The leader died between the fence and the promotion. Writes that the new process, started after the hold, had sent
    were executed when the pause expired, and were acknowledged."""
    quiet()
    simulation = Simulation(0)
    an_endpoint_process_started_again_before_the_leader_dies(simulation)
    simulation.rest()
    simulation.end()


def test_a_leader_that_dies_after_the_fence_with_holding_endpoints_loses_nothing() -> None:
    simulation = cluster()

    def strike(daemon: SimDaemon) -> None:
        daemon.process.kill()
        simulation.world.loop.at(1.0, simulation.restart_daemon, daemon.node.uid)

    at_point(simulation, "handoff:promote:before", strike)
    simulation.operator.action(primary_node(simulation), "enslave_node")
    simulation.run_for(60.0)
    simulation.rest()
    simulation.end()


def _listening(simulation: Simulation) -> Served:
    record = simulation.world.checker.database(1)
    assert record is not None
    (served,) = simulation.world.holders_of(record["port"])
    return served


def _with_idle_clients(count: int) -> tuple[Simulation, list[Client]]:
    simulation = cluster()
    served = _listening(simulation)
    return simulation, [join(served, Client(uid)) for uid in range(count)]


def test_a_process_that_dies_while_it_adopts_connections_ends_only_the_adopted_ones() -> None:
    """The other connections continue at the source, and are passed to the next process."""
    simulation, clients = _with_idle_clients(1000)
    source = _listening(simulation)

    def strike(daemon: SimDaemon) -> None:
        target = _listening(simulation)
        assert target is not source
        target.owner.process.kill()

    at_point(simulation, "pass:after", strike)
    simulation.operator.action(primary_node(simulation), "enslave_node")
    simulation.run_for(60.0)
    simulation.rest()
    target = _listening(simulation)
    left = [c for c in clients if not c.is_gone]
    assert 0 < len(left) < 1000
    assert all(c.served is target for c in left)
    assert ended(simulation) == ["step_down completed"]
    simulation.end()


def test_the_busiest_connection_is_passed_first_and_waits_least() -> None:
    simulation, clients = _with_idle_clients(3000)
    source = _listening(simulation)
    talker = Talker(simulation.world, 5000, 1, pause_s=0.005, wait_max_s=0.1)
    join(source, talker)
    talker.begin()
    passed_before: list[int] = []

    def look() -> None:
        if talker.served is source:
            simulation.world.loop.at(0.001, look)
        else:
            passed_before.append(sum(c.served is not source for c in clients))

    look()
    simulation.operator.action(primary_node(simulation), "enslave_node")
    simulation.run_for(20.0)
    assert passed_before
    assert passed_before[0] < 100
    assert all(c.served is talker.served for c in clients)
    simulation.end()


def test_a_calmed_pipeline_resumes_by_itself_without_a_hold() -> None:
    simulation = cluster()
    served = _listening(simulation)
    pipeline = join(served, Client(1, 0.15))
    served.calm()
    assert pipeline.drained_at == pytest.approx(simulation.world.loop.now + 0.15)
    simulation.run_for(2.0)
    assert pipeline.stopped_at == float("inf")
    simulation.end()


@pytest.mark.proof
def test_a_handoff_after_a_rebind_holds_at_the_present_process() -> None:
    """The process that had just received the endpoint was not asked to hold, because it had not been observed since. Its
    clients' writes were postponed, and ended with their connections."""
    simulation = cluster()
    world = simulation.world
    source = _listening(simulation)
    talkers = [Talker(world, uid, 1, pause_s=0.0005, wait_max_s=0.5) for uid in range(10)]
    for talker in talkers:
        join(source, talker)
        talker.begin()
    to_node = next(n for n in world.nodes if n != source.owner.node_uid)

    def record(daemon: SimDaemon) -> None:
        view = daemon.mirror.view()
        uid, *_ = view.endpoints
        handoff = view.live_moves()[0]
        rebind = Rebind(
            uid=MoveUid("rebind-99"),
            action_uid=handoff.action_uid,
            state=MoveState.HANDOFF,
            database_uid=handoff.database_uid,
            endpoint_uid=uid,
            from_node=NodeUid(source.owner.node_uid),
            to_node=NodeUid(to_node),
            created_at=handoff.created_at,
            state_since=handoff.state_since,
        )
        result_of(world.store.transact(Transaction((), (PutKey(keys.key_of(rebind), records.encode(rebind)),))))

    def pass_on(daemon: SimDaemon) -> None:
        other = world.endpoint_process(to_node)
        assert other is not None
        source.owner.pass_endpoint(source.gate.spec.uid, other)

    at_point(simulation, "handoff:calm:before", record)
    at_point(simulation, "handoff:intend:before", pass_on)
    simulation.operator.action(primary_node(simulation), "enslave_node")
    simulation.run_for(30.0)
    assert world.tally.clients == {}
    assert {t.served for t in talkers} == {_listening(simulation)}
    simulation.end()
