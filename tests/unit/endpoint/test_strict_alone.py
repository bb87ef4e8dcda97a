"""Transcripts of sessions in strict mode whose server has no replica: writes wait, and are not executed meanwhile."""

from dataclasses import replace

import pytest

from shardwright.endpoint.gate import Change, Gate
from shardwright.endpoint.ledger import ABORTED, DISCARD
from shardwright.endpoint.protocol import ALONE_MAX_S, HOLD_MAX_S
from shardwright.endpoint.session import Session
from shardwright.endpoint.strict import LOOK_AFTER_S, NO_REPLICA, QUESTION, REPLICATION_INFO
from tests.unit.endpoint.test_strict_session import ASKED, GONE, NEW, NO, NO_AGAIN, OLD, YES, Play


def alone() -> Play:
    """A session whose server has just said that it has no replica; its write is still unconfirmed."""
    play = Play().says(b"SET a 1\r\n")
    play.server(b"+OK\r\n" + NO)
    play.now += LOOK_AFTER_S
    play.server(NO_AGAIN)
    play.server(NO_AGAIN)
    assert play.sent().endswith(REPLICATION_INFO + QUESTION)
    assert play.server(GONE + NO_AGAIN) == b""
    assert play.gate.is_alone
    play.sent()
    return play


def other(play: Play) -> Play:
    """Another session of the same endpoint."""
    found = Play()
    found.gate = play.gate
    found.session = Session(play.gate, uid=8)
    found.now = play.now
    found.says(b"GET a\r\n").connect()
    assert found.sent() == b"GET a\r\n", "reads go on"
    assert found.server(b"$-1\r\n") == b"$-1\r\n"
    return found


def test_without_any_replica_writes_wait_and_are_not_executed() -> None:
    play = other(alone())
    play.says(b"SET b 1\r\nGET a\r\n")
    assert play.sent() == b""
    assert play.session.needs_ticks
    play.gate.note_replica()
    play.session.gate_changed(play.now)
    assert play.sent() == b"SET b 1\r\nGET a\r\n" + ASKED
    assert play.server(b"+OK\r\n$-1\r\n" + YES) == b"+OK\r\n$-1\r\n"
    assert play.at_rest()


@pytest.mark.parametrize(
    ("lags", "is_kept_back"), [((), False), ((0,), False), ((2,), False), ((3,), True), ((3, 9), True), ((9, 1), False)]
)
def test_a_new_connection_to_a_server_whose_replicas_are_all_silent_executes_no_write(
    lags: tuple[int, ...], is_kept_back: bool
) -> None:
    """The process may not have written for a while, as when its node has just got a virtual address."""
    found = Play()
    found.session = Session(found.gate, uid=8)
    lines = (f"slave{n}:ip=10.0.0.2,port=1,state=online,offset=5,lag={lag}\r\n" for n, lag in enumerate(lags))
    found.says(b"GET a\r\n").connect("".join(lines))
    assert found.sent() == b"GET a\r\n"
    found.server(b"$-1\r\n")
    found.says(b"SET b 1\r\n")
    assert (found.sent() == b"") is is_kept_back


@pytest.mark.parametrize("commands", [b"SET b 1\r\n", b"BLPOP l 0\r\n", b"EVAL x 0\r\n"])
def test_a_write_that_waits_for_a_replica_ends_with_an_error_and_was_not_executed(commands: bytes) -> None:
    play = other(alone())
    play.says(commands)
    play.now += HOLD_MAX_S + 1
    play.session.tick(play.now)
    assert play.received() == b""
    play.now += ALONE_MAX_S
    play.session.tick(play.now)
    assert play.received() == NO_REPLICA
    assert play.sent() == b""


def test_a_transaction_waits_for_a_replica_before_it_begins() -> None:
    play = other(alone())
    play.says(b"MULTI\r\nSET b 1\r\nEXEC\r\n")
    assert play.sent() == b""
    play.gate.note_replica()
    play.session.gate_changed(play.now)
    assert play.sent().startswith(b"MULTI\r\nSET b 1\r\nEXEC\r\n")


def test_an_exec_waits_for_a_replica_and_is_then_aborted() -> None:
    play = Play().says(b"MULTI\r\nSET b 1\r\n")
    assert play.server(b"+OK\r\n+QUEUED\r\n") == b"+OK\r\n+QUEUED\r\n"
    play.gate.note_alone()
    play.sent()
    play.says(b"EXEC\r\n")
    assert play.sent() == b""
    play.now += ALONE_MAX_S
    play.session.tick(play.now)
    assert play.sent() == DISCARD
    assert play.server(b"+OK\r\n") == ABORTED


def test_a_wait_for_a_replica_that_becomes_a_hold_has_its_whole_time() -> None:
    play = other(alone())
    play.says(b"SET b 1\r\n")
    play.now += ALONE_MAX_S - 1
    assert play.gate.begin_hold(OLD, NEW, play.now) is Change.HELD
    play.session.gate_changed(play.now)
    play.now += HOLD_MAX_S - 1
    play.session.tick(play.now)
    assert play.received() == b""


def test_another_server_or_mode_ends_the_wait() -> None:
    play = alone()
    play.gate.begin_hold(OLD, NEW, play.now)
    assert play.gate.release(NEW) is Change.MOVED
    assert not play.gate.is_alone, "after a handoff, the replicas attach at once"
    play = alone()
    play.gate.apply_settings(replace(play.gate.spec, is_strict=False))
    assert not play.gate.is_alone
    play.gate.note_alone()
    assert not play.gate.is_alone, "in default mode no replica is needed"


def test_after_a_failover_writes_wait_until_the_new_primary_has_a_replica() -> None:
    play = Play()
    assert play.gate.serve(replace(play.gate.spec, target=NEW)) is Change.MOVED
    assert play.gate.is_alone
    play = Play(is_strict=False)
    assert play.gate.serve(replace(play.gate.spec, target=NEW)) is Change.MOVED
    assert not play.gate.is_alone
    first = Gate(replace(play.gate.spec, target=None, is_strict=True))
    assert first.serve(replace(first.spec, target=OLD)) is Change.MOVED
    assert not first.is_alone, "the process is new, not the primary"
