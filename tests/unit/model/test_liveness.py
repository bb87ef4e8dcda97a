"""Which facts prove that a process has ended; everything destructive hangs on it."""

from datetime import UTC, datetime
from itertools import product

import pytest

from shardwright.model.ids import ShardUid
from shardwright.model.liveness import (
    TABLE,
    Alive,
    Ended,
    Facts,
    Proof,
    Silence,
    Silent,
    has_ended,
    has_ended_after_start,
    liveness_of,
)
from shardwright.model.seen import Health, ProcessSeen, ProcessState, ServerSeen, Sighting

NOW = datetime(2026, 1, 1, tzinfo=UTC)
UID = ShardUid(1)
WORDS = {
    ProcessState.FAILED: Proof.START_FAILED,
    ProcessState.GONE: Proof.REPORTED,
}
UNSAID = set(ProcessState) - set(WORDS) - {ProcessState.ABSENT}
SERVING = {Health.OK, Health.LOADING}
DAEMON, NO_DAEMON = True, False
SILENT_LOOKS = (Sighting.NONE, Sighting.RUNS, Sighting.HERE)
OFF_PROOFS = {Proof.DECLARED_OFF, Proof.OFF_UNREPORTED}


def test_there_is_an_answer_to_everything() -> None:
    assert set(TABLE) == set(product(ProcessState, (True, False), Health, Sighting))


@pytest.mark.parametrize("report", WORDS)
def test_an_agents_word_that_nothing_runs_needs_nothing_else(report: ProcessState) -> None:
    cells = {verdict for facts, verdict in TABLE.items() if facts[0] is report}
    assert cells == {WORDS[report]}


def test_a_report_of_before_the_start_is_proof_while_its_agent_lives_and_the_server_is_silent() -> None:
    """An agent that dies between the start and its next report leaves that report behind."""
    for health, sighting in product(Health, Sighting):
        living, dead = (TABLE[ProcessState.ABSENT, has_daemon, health, sighting] for has_daemon in (DAEMON, NO_DAEMON))
        assert living is (None if health in SERVING else Proof.NOT_STARTED)
        assert dead is TABLE[ProcessState.UNKNOWN, NO_DAEMON, health, sighting]


def _proofs() -> dict[Facts, Proof]:
    """The cells that permit something destructive without an agent's word."""
    return {facts: v for facts, v in TABLE.items() if facts[0] in UNSAID and isinstance(v, Proof)}


@pytest.mark.parametrize(("sighting", "proof"), [(Sighting.ENDED, Proof.SEEN), (Sighting.REBOOTED, Proof.REBOOTED)])
def test_the_machine_of_a_process_proves_its_end_unless_its_server_answers(sighting: Sighting, proof: Proof) -> None:
    assert {f for f, v in _proofs().items() if v is proof} == {
        (ProcessState.RUNNING, has_daemon, health, sighting)
        for has_daemon in (True, False)
        for health in set(Health) - SERVING
    }


def test_a_closed_port_proves_an_end_only_on_this_machine_where_nobody_could_start_it() -> None:
    """On another machine its host, a firewall, or a host that took the address over may have refused the connection, and a
    daemon that reaches nobody may be about to start the process."""
    closed = {f for f, v in _proofs().items() if v is Proof.PORT_CLOSED}
    assert closed == {(ProcessState.UNKNOWN, NO_DAEMON, Health.REFUSED, Sighting.HERE)}


def test_the_word_that_a_machine_is_off_counts_for_silent_servers_of_nodes_that_are_away() -> None:
    """A server that has not been asked yet may answer, and a daemon of the node refutes the word."""
    assert {(f, v) for f, v in _proofs().items() if v in OFF_PROOFS} == {
        ((report, NO_DAEMON, health, Sighting.OFF), proof)
        for report, proof in ((ProcessState.RUNNING, Proof.DECLARED_OFF), (ProcessState.UNKNOWN, Proof.OFF_UNREPORTED))
        for health in set(Health) - SERVING - {Health.UNKNOWN}
    }


def test_nothing_else_proves_an_end() -> None:
    assert set(_proofs().values()) == {Proof.SEEN, Proof.REBOOTED, Proof.PORT_CLOSED} | OFF_PROOFS


def test_an_absent_presence_proves_nothing_by_itself() -> None:
    """Without it, no cell becomes a proof but that of the closed port on this machine, and of a machine declared off."""
    for (report, has_daemon, health, sighting), verdict in TABLE.items():
        is_other = verdict is not Proof.PORT_CLOSED and verdict not in OFF_PROOFS
        if has_daemon == NO_DAEMON and is_other and report is not ProcessState.ABSENT:
            assert verdict is TABLE[report, DAEMON, health, sighting]


@pytest.mark.parametrize("health", [Health.UNREACHABLE, Health.TIMEOUT, Health.UNKNOWN])
@pytest.mark.parametrize("report", [ProcessState.UNKNOWN, ProcessState.RUNNING])
def test_silence_proves_nothing(report: ProcessState, health: Health) -> None:
    for has_daemon, sighting in product((True, False), SILENT_LOOKS):
        assert isinstance(TABLE[report, has_daemon, health, sighting], Silence)


def test_a_refusal_proves_nothing_of_a_process_that_was_reported_to_run() -> None:
    """It may be that its machine was started again, or that another address answers; its agent or a look will say."""
    for has_daemon, sighting in product((True, False), SILENT_LOOKS):
        assert TABLE[ProcessState.RUNNING, has_daemon, Health.REFUSED, sighting] is Silence.REFUSED


def test_what_answers_lives() -> None:
    for facts, verdict in TABLE.items():
        if facts[0] not in WORDS and facts[2] in SERVING:
            assert verdict is None


def test_what_is_told_beside_the_judgement() -> None:
    ended = ProcessSeen(UID, 1, ProcessState.GONE, ended_at=NOW)
    assert liveness_of(ended, None, Sighting.NONE, has_daemon=True) == Ended(Proof.REPORTED, NOW)
    silent = ServerSeen(UID, 1, NOW, Health.TIMEOUT, unanswered_since=NOW)
    assert liveness_of(None, silent, Sighting.NONE, has_daemon=True) == Silent(Silence.NO_ANSWER, NOW)
    serving = ServerSeen(UID, 1, NOW, Health.OK)
    running = ProcessSeen(UID, 1, ProcessState.RUNNING)
    assert liveness_of(running, serving, Sighting.NONE, has_daemon=False) == Alive()
    assert liveness_of(None, None, Sighting.NONE, has_daemon=True) == Silent(Silence.NOT_ASKED)


def test_a_copy_that_may_still_be_started_has_not_ended_after_its_start() -> None:
    for proof in Proof:
        assert has_ended(Ended(proof))
        assert has_ended_after_start(Ended(proof)) is (
            proof not in (Proof.NOT_STARTED, Proof.PORT_CLOSED, Proof.OFF_UNREPORTED)
        )
    assert not has_ended(Alive())
    assert not has_ended_after_start(Silent(Silence.REFUSED))
