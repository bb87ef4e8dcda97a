"""Which facts prove that a process has ended; everything destructive hangs on it."""

from datetime import UTC, datetime
from itertools import product

import pytest

from shardwright.model.ids import ShardUid
from shardwright.model.liveness import (
    TABLE,
    Alive,
    Ended,
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
SERVING = {Health.OK, Health.LOADING}
DAEMON, NO_DAEMON = True, False


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


def test_without_that_word_only_two_things_prove_an_end() -> None:
    """A look into this machine's own processes, and a closed port where nobody is who could start or report it."""
    unsaid = set(ProcessState) - set(WORDS) - {ProcessState.ABSENT}
    proofs = {facts: v for facts, v in TABLE.items() if facts[0] in unsaid and isinstance(v, Proof)}
    for (report, has_daemon, health, sighting), proof in proofs.items():
        if proof is Proof.SEEN:
            assert report is ProcessState.RUNNING
            assert sighting is Sighting.ENDED
            assert health not in SERVING
        else:
            assert proof is Proof.PORT_CLOSED
            assert (report, has_daemon, health) == (ProcessState.UNKNOWN, NO_DAEMON, Health.REFUSED)
    seen = {f for f, v in proofs.items() if v is Proof.SEEN}
    assert seen == {
        (ProcessState.RUNNING, has_daemon, health, Sighting.ENDED)
        for has_daemon in (True, False)
        for health in set(Health) - SERVING
    }
    closed = {f for f, v in proofs.items() if v is Proof.PORT_CLOSED}
    assert closed == {(ProcessState.UNKNOWN, NO_DAEMON, Health.REFUSED, sighting) for sighting in Sighting}


@pytest.mark.parametrize("health", [Health.UNREACHABLE, Health.TIMEOUT, Health.UNKNOWN])
@pytest.mark.parametrize("report", [ProcessState.UNKNOWN, ProcessState.RUNNING])
def test_silence_proves_nothing(report: ProcessState, health: Health) -> None:
    for has_daemon, sighting in product((True, False), (Sighting.NONE, Sighting.RUNS)):
        assert isinstance(TABLE[report, has_daemon, health, sighting], Silence)


def test_a_refusal_proves_nothing_of_a_process_that_was_reported_to_run() -> None:
    """It may be that its machine was started again, or that another address answers; its agent or a look will say."""
    for has_daemon, sighting in product((True, False), (Sighting.NONE, Sighting.RUNS)):
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
        assert has_ended_after_start(Ended(proof)) is (proof not in (Proof.NOT_STARTED, Proof.PORT_CLOSED))
    assert not has_ended(Alive())
    assert not has_ended_after_start(Silent(Silence.REFUSED))
