"""Transcripts of sessions in strict mode: no success is reported before a replica's confirmation."""

from dataclasses import replace

import pytest

from shardwright.endpoint.gate import Change, Gate
from shardwright.endpoint.ledger import NOT_CONFIRMED, OUTCOME_UNKNOWN
from shardwright.endpoint.protocol import (
    CONFIRM_BYTES_PER_S,
    CONFIRM_LONGEST_S,
    CONFIRM_MAX_S,
    CONFIRM_SLICE_S,
    DRAIN_S,
    EndpointSpec,
    Target,
)
from shardwright.endpoint.resp import CommandScanner, bulk
from shardwright.endpoint.session import Session
from shardwright.endpoint.strict import ASKED_MAX, LOOK_AFTER_S, MARK, QUESTION, REPLICATION_INFO, is_followed, patience_s
from shardwright.endpoint.wire import spec_from, spec_to
from shardwright.endpoint.words import NOT_PLAIN_WHEN_STRICT, READS, RULES, STORES_NOTHING
from shardwright.model.ids import DatabaseUid, EndpointUid, ShardUid

OLD = Target(ShardUid(1), 1, "127.0.0.1", 1001, "aaa")
NEW = Target(ShardUid(2), 2, "127.0.0.1", 1002, "bbb")
ASKED = MARK + QUESTION
YES = b":0\r\n:1\r\n"
NO = b":0\r\n:0\r\n"
"""The replies to the mark and to the question; a repeated question has no mark."""
YES_AGAIN = b":1\r\n"
NO_AGAIN = b":0\r\n"
GONE = bulk(b"# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_repl_offset:100\r\n")


class Play:
    """A session of a strict endpoint with an open server connection."""

    def __init__(self, *, is_strict: bool = True) -> None:
        spec = EndpointSpec(EndpointUid("1:1"), DatabaseUid(1), "d", "127.0.0.1", 1, OLD, "", "secret", is_strict)
        self.gate = Gate(spec)
        self.session = Session(self.gate, uid=7)
        self.now = 0.0
        self.says(b"PING\r\n").connect()
        assert self.sent() == b"PING\r\n"
        assert self.server(b"+PONG\r\n") == b"+PONG\r\n"

    def says(self, data: bytes) -> "Play":
        self.session.client_data(data, self.now)
        return self

    def connect(self, replicas: str = "") -> "Play":
        target = self.gate.target
        assert self.session.needs_backend
        assert target is not None
        self.session.backend_opened(target)
        count = len(CommandScanner().scan(self.sent()))
        info = f"# Server\r\nrun_id:{target.run_id}\r\nrole:master\r\nloading:0\r\n{replicas}"
        self.session.backend_data(b"*0\r\n" + bulk(info.encode()) + b"+OK\r\n" * (count - 2), self.now)
        return self

    def sent(self) -> bytes:
        """The bytes to the server."""
        data = b"".join(self.session.to_backend)
        self.session.to_backend.clear()
        return data

    def server(self, data: bytes) -> bytes:
        """The replies to the client after these bytes from the server."""
        self.session.backend_data(data, self.now)
        return self.received()

    def received(self) -> bytes:
        data = b"".join(self.session.to_client)
        self.session.to_client.clear()
        return data

    def at_rest(self) -> bool:
        """Nothing is kept, and the fast path is open again."""
        ledger = self.session.ledger
        return ledger.is_idle and not ledger.kept and not ledger.unconfirmed and not self.session.assurance.is_pending


def test_a_write_is_answered_after_a_confirmation_and_one_question_covers_a_chunk() -> None:
    play = Play().says(b"SET a 1\r\nINCR n\r\nGET a\r\n")
    assert play.sent() == b"SET a 1\r\nINCR n\r\nGET a\r\n" + ASKED
    assert play.server(b"+OK\r\n:1\r\n$1\r\n1\r\n") == b""
    assert not play.session.is_drained
    assert play.server(YES) == b"+OK\r\n:1\r\n$1\r\n1\r\n"
    assert play.at_rest()


def test_reads_alone_cause_no_question_but_wait_after_a_write() -> None:
    play = Play().says(b"GET a\r\nHGETALL h\r\nPUBLISH c x\r\n")
    assert play.sent() == b"GET a\r\nHGETALL h\r\nPUBLISH c x\r\n"
    assert play.server(b"$-1\r\n*0\r\n:0\r\n") == b"$-1\r\n*0\r\n:0\r\n"
    play.says(b"SET a 1\r\n").says(b"GET a\r\n")
    assert play.sent() == b"SET a 1\r\n" + ASKED + b"GET a\r\n"
    assert play.server(b"+OK\r\n") == b""
    assert play.server(YES) == b"+OK\r\n"
    assert play.server(b"$1\r\n1\r\n") == b"$1\r\n1\r\n"
    assert play.at_rest()


def test_reads_before_a_write_of_the_same_chunk_are_answered_at_once() -> None:
    play = Play().says(b"GET a\r\nGET b\r\n").says(b"DEL a\r\n")
    play.sent()
    assert play.server(b"$1\r\nx\r\n$1\r\ny\r\n:1\r\n") == b"$1\r\nx\r\n$1\r\ny\r\n"
    assert play.server(YES) == b":1\r\n"
    assert play.at_rest()


def test_without_a_replica_the_question_is_repeated_and_then_the_write_is_in_doubt() -> None:
    play = Play().says(b"SET a 1\r\nGET a\r\nLPUSH s x\r\n")
    assert play.sent().endswith(ASKED)
    assert play.server(b"+OK\r\n$1\r\n1\r\n-WRONGTYPE wrong\r\n") == b""
    assert play.server(b":0\r\n") == b""
    looks_at: list[float] = []
    while not (received := play.server(b"")):
        looks = play.sent() == REPLICATION_INFO + QUESTION
        looks_at += [play.now] if looks else []
        if looks:
            received = play.server(GONE)
            if received:
                break
        play.now += CONFIRM_SLICE_S
        assert play.server(NO_AGAIN) == b""
    assert received == NOT_CONFIRMED + b"$1\r\n1\r\n-WRONGTYPE wrong\r\n"
    assert play.server(NO_AGAIN) == play.sent() == b""
    assert looks_at == [pytest.approx(at, abs=CONFIRM_SLICE_S) for at in (LOOK_AFTER_S, CONFIRM_MAX_S)]
    assert play.gate.counts.errors == 1
    assert play.at_rest()


def replicas(*lines: str, written: int = 0) -> bytes:
    text = "".join(f"slave{n}:ip=127.0.0.1,port=1,{line}\r\n" for n, line in enumerate(lines))
    return bulk(f"# Replication\r\nrole:master\r\n{text}master_repl_offset:{written}\r\n".encode())


def test_a_write_waits_for_a_replica_that_is_receiving() -> None:
    big = 320 * 1024 * 1024
    for info, patience in (
        (GONE, 0),
        (b"-NOPERM no\r\n", 0),
        (replicas("state=send_bulk,offset=0,lag=0", written=big), 0),
        (replicas("state=online,offset=0,lag=1", written=big), CONFIRM_LONGEST_S),
        (replicas("state=online,offset=0,lag=0,type=replica", written=big), CONFIRM_LONGEST_S),
        (replicas("state=online,offset=99,lag=2", written=99), CONFIRM_MAX_S),
        (replicas("state=online,offset=0,lag=9", written=big), CONFIRM_MAX_S + big / CONFIRM_BYTES_PER_S),
        (replicas("state=online,offset=0,lag=9", written=big * 9), CONFIRM_LONGEST_S),
        (replicas("state=online,offset=5,lag=7", "state=online,offset=1,lag=0", written=5), CONFIRM_LONGEST_S),
    ):
        assert patience_s(info) == patience, info


def test_a_write_waits_while_a_replica_receives_and_no_longer() -> None:
    play = Play().says(b"SET a 1\r\n")
    play.server(b"+OK\r\n:0\r\n")
    at_work, silent = (replicas(f"state=online,offset=0,lag={lag}", written=100) for lag in (1, 2))
    looks_at: list[float] = []
    for _ in range(round(8 / CONFIRM_SLICE_S)):
        looks = play.sent().startswith(REPLICATION_INFO)
        looks_at += [play.now] if looks else []
        play.now += CONFIRM_SLICE_S
        assert play.server((at_work if looks else b"") + NO_AGAIN) == b""
    assert looks_at[:2] == [pytest.approx(at, abs=CONFIRM_SLICE_S) for at in (LOOK_AFTER_S, CONFIRM_MAX_S)]
    assert play.sent() == REPLICATION_INFO + QUESTION
    assert play.server(silent) == b"", "it has just reported"
    play.now += CONFIRM_MAX_S
    play.server(NO_AGAIN)
    assert play.sent() == REPLICATION_INFO + QUESTION
    assert play.server(silent) == NOT_CONFIRMED
    assert play.server(NO_AGAIN) == play.sent() == b""
    assert play.at_rest()


def test_which_replicas_can_confirm() -> None:
    for info, follows in (
        (GONE, False),
        (b"-NOPERM no\r\n", False),
        (b"", False),
        (replicas("state=send_bulk,offset=0,lag=0"), False),
        (replicas("state=online,offset=0,lag=2"), True),
        (replicas("state=online,offset=0,lag=3"), False),
        (replicas("state=online,offset=0,lag=9", "state=online,offset=0,lag=0"), True),
    ):
        assert is_followed(info) is follows, info


def test_a_lost_replica_is_not_awaited_even_if_it_has_just_reported() -> None:
    play = Play().says(b"SET a 1\r\n")
    play.server(b"+OK\r\n" + NO)
    play.now += CONFIRM_MAX_S
    play.server(NO_AGAIN)
    play.server(NO_AGAIN)
    assert play.server(replicas("state=online,offset=0,lag=0") + NO_AGAIN) == b""
    assert play.server(GONE) == NOT_CONFIRMED


def test_a_busy_replica_is_not_awaited_indefinitely() -> None:
    play = Play().says(b"SET a 1\r\n")
    play.server(b"+OK\r\n" + NO)
    play.now += CONFIRM_MAX_S
    play.server(NO_AGAIN)
    play.server(NO_AGAIN)
    assert play.sent().endswith(REPLICATION_INFO + QUESTION)
    play.now += CONFIRM_LONGEST_S
    assert play.server(replicas("state=online,offset=0,lag=0") + NO_AGAIN) == b""
    assert play.sent() == REPLICATION_INFO + QUESTION
    assert play.server(replicas("state=online,offset=0,lag=0")) == NOT_CONFIRMED


def test_a_client_that_writes_continuously_gets_its_error_in_time() -> None:
    """Its questions never end: there is always a later one."""
    play = Play()
    replies = {b"INCR": b":1\r\n", b"SPUBLISH": b":0\r\n", b"WAIT": b":0\r\n", b"INFO": GONE}
    unread: list[bytes] = []
    received = b""
    while not received and play.now < 5:
        play.says(b"INCR n\r\n")
        unread += [word for _, word in CommandScanner().scan(play.sent())]
        assert unread.count(b"WAIT") <= ASKED_MAX
        play.now += CONFIRM_SLICE_S
        count = unread.index(b"WAIT") + 1  # the server is busy with it for the slice
        received = play.server(b"".join(replies[word] for word in unread[:count]))
        del unread[:count]
    assert received.startswith(NOT_CONFIRMED)
    assert play.now == pytest.approx(CONFIRM_MAX_S, abs=(ASKED_MAX + 2) * CONFIRM_SLICE_S)


def test_few_questions_are_unanswered_at_once_and_the_next_one_covers_the_rest() -> None:
    play = Play()
    for _ in range(10):
        play.says(b"INCR n\r\n")
    assert play.sent() == (b"INCR n\r\n" + ASKED) * ASKED_MAX + b"INCR n\r\n" * (10 - ASKED_MAX)
    assert play.server((b":1\r\n" + YES) * ASKED_MAX) == b":1\r\n" * ASKED_MAX
    assert play.sent() == ASKED
    assert play.server(b":1\r\n" * (10 - ASKED_MAX) + YES) == b":1\r\n" * (10 - ASKED_MAX)
    assert play.at_rest()


def test_a_later_answer_covers_an_earlier_question() -> None:
    play = Play().says(b"SET a 1\r\n").says(b"SET b 1\r\n")
    assert play.sent() == b"SET a 1\r\n" + ASKED + b"SET b 1\r\n" + ASKED
    assert play.server(b"+OK\r\n" + NO + b"+OK\r\n") == b""
    assert play.sent() == b""
    assert play.server(YES) == b"+OK\r\n+OK\r\n"
    assert play.at_rest()


def test_a_question_does_not_cover_later_commands() -> None:
    play = Play().says(b"SET a 1\r\n").says(b"SET b 1\r\n")
    assert play.server(b"+OK\r\n" + YES + b"+OK\r\n") == b"+OK\r\n"
    assert play.server(NO) == b""
    assert play.sent().endswith(ASKED + QUESTION)
    assert play.server(YES_AGAIN) == b"+OK\r\n"


def test_a_transaction_is_guarded_only_by_its_exec() -> None:
    play = Play().says(b"SET a 1\r\nMULTI\r\nINCR n\r\n")
    assert play.sent() == b"SET a 1\r\n" + ASKED
    assert play.server(b"+OK\r\n" + YES) == b"+OK\r\n"
    assert play.sent() == b"MULTI\r\nINCR n\r\n"
    assert play.server(b"+OK\r\n+QUEUED\r\n") == b"+OK\r\n+QUEUED\r\n"
    play.says(b"EXEC\r\n")
    assert play.sent() == b"EXEC\r\n" + ASKED
    assert play.server(b"*1\r\n:1\r\n") == b""
    assert play.server(YES) == b"*1\r\n:1\r\n"
    assert play.at_rest()


def test_an_exec_that_did_not_run_needs_no_replica() -> None:
    play = Play().says(b"WATCH a\r\nMULTI\r\nINCR n\r\nEXEC\r\n")
    assert play.server(b"+OK\r\n+OK\r\n+QUEUED\r\n*-1\r\n") == b"+OK\r\n+OK\r\n+QUEUED\r\n*-1\r\n"


def test_a_blocking_command_waits_until_the_writes_before_it_are_confirmed() -> None:
    play = Play().says(b"SET a 1\r\nBLPOP q 0\r\n")
    assert play.sent() == b"SET a 1\r\n" + ASKED
    assert play.server(b"+OK\r\n" + YES) == b"+OK\r\n"
    assert play.sent() == b"BLPOP q 0\r\n" + ASKED
    assert play.session.is_blocking
    assert play.session.is_drained
    assert play.server(b"*2\r\n$1\r\nq\r\n$1\r\nx\r\n") == b""
    assert play.server(YES) == b"*2\r\n$1\r\nq\r\n$1\r\nx\r\n"
    assert play.at_rest()


def test_the_clients_own_wait_is_passed_on() -> None:
    play = Play().says(b"SET a 1\r\nWAIT 2 0\r\n")
    assert play.sent() == b"SET a 1\r\n" + ASKED
    assert play.server(b"+OK\r\n" + YES) == b"+OK\r\n"
    assert play.sent() == b"WAIT 2 0\r\n"
    assert play.server(b":2\r\n") == b":2\r\n"
    assert play.at_rest()


def test_a_question_ends_within_the_drain_and_is_repeated_while_held() -> None:
    assert CONFIRM_SLICE_S < DRAIN_S
    play = Play().says(b"SET a 1\r\n")
    play.sent()
    assert play.gate.begin_hold(OLD, NEW, 0.0) is Change.HELD
    play.session.gate_changed(0.0)
    assert play.server(b"+OK\r\n" + NO) == b""
    assert not play.session.is_drained
    assert play.sent() == QUESTION
    assert play.server(YES_AGAIN) == b"+OK\r\n"
    assert play.session.is_drained


def test_a_session_that_leaves_its_server_does_not_keep_a_success() -> None:
    """It is unknown here whether the other server has the writes."""
    play = Play().says(b"SET a 1\r\nGET a\r\n")
    play.sent()
    assert play.server(b"+OK\r\n$1\r\n1\r\n") == b""
    play.gate.release(NEW)
    play.session.gate_changed(0.0)
    assert play.server(b":0\r\n-UNBLOCKED force unblock from blocking operation\r\n") == NOT_CONFIRMED + b"$1\r\n1\r\n"
    assert play.session.wants_drop
    play.gate.note_replica()
    assert play.says(b"SET b 1\r\n").connect().sent() == b"SET b 1\r\n" + ASKED
    assert play.server(b"+OK\r\n" + YES) == b"+OK\r\n"


def test_a_lost_server_leaves_confirmed_and_unconfirmed_writes() -> None:
    play = Play().says(b"SET a 1\r\n").says(b"SET b 1\r\nGET b\r\nSET c 1\r\n")
    play.sent()
    assert play.server(b"+OK\r\n" + YES + b"+OK\r\n") == b"+OK\r\n"
    play.session.backend_lost(0.0)
    assert play.received() == NOT_CONFIRMED
    play.gate.release(NEW)
    play.session.gate_changed(0.0)
    assert play.connect().sent() == b"GET b\r\n"
    assert play.server(b"$1\r\n1\r\n") == b"$1\r\n1\r\n" + OUTCOME_UNKNOWN
    assert play.at_rest()


def test_a_refused_write_is_repeated_and_guarded_again() -> None:
    play = Play().says(b"SET a 1\r\n")
    play.sent()
    wait = b"-ERR WAIT cannot be used with replica instances.\r\n"
    assert play.server(b"-READONLY You can't write against a read only replica.\r\n:0\r\n" + wait) == b""
    play.gate.release(NEW)
    play.session.gate_changed(0.0)
    assert play.connect().sent() == b"SET a 1\r\n" + ASKED
    assert play.server(b"+OK\r\n") == b""
    assert play.server(YES) == b"+OK\r\n"
    assert play.at_rest()


def test_a_subscriber_cannot_write() -> None:
    play = Play().says(b"SUBSCRIBE c\r\n")
    play.sent()
    assert play.server(b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n") != b""
    play.says(b"SET a 1\r\nPING\r\n")
    assert b"strict mode" in play.received()
    assert play.sent() == b"PING\r\n"


def test_a_large_reply_of_a_write_is_not_passed_on_before_its_confirmation() -> None:
    play = Play().says(b"GETDEL big\r\n")
    play.sent()
    reply = b"$100000\r\n" + b"x" * 100_000 + b"\r\n"
    assert play.server(reply[:50_000]) == b""
    assert play.server(reply[50_000:]) == b""
    play.session.client_data(b"", 0.0)
    assert play.gate.budget.used >= len(reply)
    assert play.server(YES) == reply
    assert play.gate.budget.used == 0


def test_the_mode_changes_between_two_commands() -> None:
    play = Play(is_strict=False).says(b"SET a 1\r\n")
    assert play.sent() == b"SET a 1\r\n"
    play.gate.serve(replace(play.gate.spec, is_strict=True))
    play.says(b"SET b 1\r\n")
    assert play.sent() == b"SET b 1\r\n" + ASKED
    assert play.server(b"+OK\r\n+OK\r\n") == b"+OK\r\n"
    play.gate.serve(replace(play.gate.spec, is_strict=False))
    play.says(b"SET c 1\r\n")
    assert play.sent() == b"SET c 1\r\n"
    assert play.server(YES + b"+OK\r\n") == b"+OK\r\n+OK\r\n"
    assert play.at_rest()
    assert spec_from(spec_to(replace(play.gate.spec, is_strict=True))).is_strict


def test_no_command_that_may_write_counts_as_a_read() -> None:
    writes = (
        b"SET DEL INCR EVAL EVALSHA FCALL FUNCTION EXEC MULTI GETEX GETDEL SORT GEORADIUS XREADGROUP BLPOP PFMERGE BITFIELD"
    )
    for word in (*writes.split(), b"SOMETHING.NEW"):
        assert word not in STORES_NOTHING
        assert word in NOT_PLAIN_WHEN_STRICT
    for word in RULES:
        assert word in NOT_PLAIN_WHEN_STRICT
    assert all(word not in NOT_PLAIN_WHEN_STRICT for word in READS - RULES.keys())
