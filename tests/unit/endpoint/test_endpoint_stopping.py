"""When a session stops its client, is passed, or ends: calm, freeze, cut, and the last replies of a server that is left."""

from dataclasses import replace

import pytest

from shardwright.endpoint.ledger import NO_PRIMARY, OUTCOME_UNKNOWN
from shardwright.endpoint.packed_session import pack
from shardwright.endpoint.resp import encode_command
from shardwright.endpoint.session import HEAVY_BYTES, HEAVY_COMMANDS, LEAVE_S, STREAM_FROM_BYTES
from shardwright.endpoint.setup import Phase
from tests.unit.endpoint.test_endpoint_session import NEW, OLD, READONLY, Play, opened

BUSY = b"-BUSY Valkey is busy running a script. You can only call SCRIPT KILL.\r\n"


# -- calm and freeze ---------------------------------------------------------------------------------------------------


def test_a_calmed_client_gets_its_replies_and_sends_nothing_new() -> None:
    play = opened().client(b"GET a\r\n")
    play.session.calm()
    play.client(b"GET b\r\n")
    assert play.to_backend() == b"GET a\r\n"
    play.server(b"$1\r\n1\r\n")
    assert (play.to_client(), play.session.is_drained, play.session.blocked_since) == (b"$1\r\n1\r\n", True, None)
    play.session.end_calm(play.now)
    assert play.to_backend() == b"GET b\r\n"


def test_the_end_of_a_calm_does_not_end_a_freeze_and_vice_versa() -> None:
    play = opened()
    play.session.calm()
    play.session.freeze()
    play.client(b"GET a\r\n")
    play.session.end_calm(play.now)
    assert play.to_backend() == b""
    play.session.calm()
    play.session.thaw(play.now)
    assert play.to_backend() == b""
    play.session.end_calm(play.now)
    assert play.to_backend() == b"GET a\r\n"


@pytest.mark.parametrize(
    ("pipeline", "is_heavy"),
    [
        (b"GET a\r\n" * (HEAVY_COMMANDS - 1), False),
        (b"GET a\r\n" * HEAVY_COMMANDS, True),
        (encode_command(b"SET", b"a", b"x" * (HEAVY_BYTES - 100)), False),
        (encode_command(b"SET", b"a", b"x" * HEAVY_BYTES), True),
        (b"BLPOP q 0\r\n", False),
    ],
)
def test_much_in_flight_is_heavy(pipeline: bytes, is_heavy: bool) -> None:
    assert opened().client(pipeline).session.is_heavy is is_heavy


def test_a_download_is_heavy_until_its_last_byte() -> None:
    play = opened().client(b"GET a\r\n").server(b"$100000\r\n" + b"x" * STREAM_FROM_BYTES)
    assert play.session.is_heavy
    assert not play.session.is_quiet
    play.server(b"x" * (100_000 - STREAM_FROM_BYTES) + b"\r\n")
    assert not play.session.is_heavy


def test_a_frozen_connection_is_quiet_when_nothing_is_in_flight_and_nothing_ties_it() -> None:
    play = opened().client(b"SET a 1\r\n")
    play.session.freeze()
    assert not play.session.is_quiet
    assert play.server(b"+OK\r\n").session.is_quiet
    for line in (b"WATCH a\r\n", b"CLIENT TRACKING ON\r\n"):
        tied = opened().client(line).server(b"+OK\r\n")
        tied.session.freeze()
        assert not tied.session.is_quiet


def test_a_transaction_above_the_limit_ties_its_connection() -> None:
    play = opened()
    play.gate.limits.transaction = 100
    play.client(b"MULTI\r\n" + encode_command(b"SET", b"a", b"x" * 50)).server(b"+OK\r\n+QUEUED\r\n")
    assert not play.session.is_tied
    assert play.client(encode_command(b"SET", b"a", b"x" * 50)).server(b"+QUEUED\r\n").session.is_tied


def test_unprocessed_bytes_are_passed_with_the_connection() -> None:
    play = opened()
    play.session.freeze()
    play.client(b"SET a 1\r\nGET a\r\nGE").client(b"T")
    assert b"".join(play.session.unread) == b"SET a 1\r\nGET a\r\nGET"
    assert pack(play.session).transaction is None


def test_a_retiring_endpoint_closes_a_connection_behind_the_last_reply() -> None:
    play = opened().client(b"SET a 1\r\nGET a\r\n")
    play.gate.retire()
    assert not play.server(b"+OK\r\n").session.wants_close
    assert play.server(b"$1\r\n1\r\n").session.wants_close
    assert play.to_client() == b"+OK\r\n$1\r\n1\r\n"


def test_a_retiring_endpoint_waits_for_half_a_command_and_for_a_transaction() -> None:
    play = opened().client(b"SET a 1\r\nGE")
    play.gate.retire()
    assert not play.server(b"+OK\r\n").session.wants_close
    assert play.client(b"T a\r\n").server(b"$1\r\n1\r\n").session.wants_close
    play = opened().client(b"MULTI\r\nSET a 1\r\n")
    play.gate.retire()
    assert not play.server(b"+OK\r\n+QUEUED\r\n").session.wants_close
    assert play.client(b"EXEC\r\n").server(b"*1\r\n+OK\r\n").session.wants_close


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_cut_answers_unanswered_commands_unless_a_reply_has_begun() -> None:
    play = opened().client(b"SET a 1\r\nGET a\r\n")
    play.session.cut()
    assert (play.to_client(), play.session.wants_close, play.dropped()) == (OUTCOME_UNKNOWN + NO_PRIMARY, True, True)
    play = opened().client(b"GET a\r\n").server(b"$100000\r\n" + b"x" * STREAM_FROM_BYTES)
    play.to_client()
    play.session.cut()
    assert (play.to_client(), play.session.wants_close) == (b"", True)
    blocked = opened().client(b"BLPOP q 0\r\n")
    blocked.session.cut()
    assert (blocked.to_client(), blocked.session.wants_close) == (b"", True)


def test_nothing_is_read_after_the_end_and_the_budget_is_returned() -> None:
    play = opened().hold().client(b"SET a 1\r\n")
    assert play.gate.budget.used > 0
    play.session.ended()
    assert play.gate.budget.used == 0
    count = play.gate.counts.bytes_in
    play.client(b"SET b 1\r\n")
    assert (play.to_backend(), play.gate.counts.bytes_in) == (b"", count)


# -- leaving a server --------------------------------------------------------------------------------------------------


def test_replies_of_a_server_that_is_left_are_awaited_for_a_limited_time() -> None:
    play = opened().client(b"SET a 1\r\n")
    play.to_backend()
    play.release(NEW).client(b"GET a\r\n")
    assert (play.to_backend(), play.dropped(), play.session.needs_ticks) == (b"", False, True)
    play.now = LEAVE_S - 0.01
    play.session.tick(play.now)
    assert not play.dropped()
    assert play.server(b"+OK\r\n").to_client() == b"+OK\r\n"
    assert play.dropped()
    play.connect()
    assert play.to_backend() == b"GET a\r\n"


def test_an_idle_connection_leaves_at_once_and_one_to_the_same_server_stays() -> None:
    same = replace(OLD, generation=5)
    play = opened().release(same).client(b"GET a\r\n")
    assert (play.dropped(), play.to_backend()) == (False, b"GET a\r\n")
    another = replace(OLD, generation=6, run_id="ccc")
    play.server(b"$-1\r\n").release(another)
    assert play.dropped(), "another process at the same address"


def test_a_blocked_client_is_closed_when_its_server_is_left_so_that_it_repeats_its_command() -> None:
    play = opened().client(b"BLPOP q 0\r\n").release(NEW)
    assert (play.session.wants_close, play.to_client()) == (True, b"")
    play = opened().client(b"BLPOP q 0\r\n").server(b"-UNBLOCKED force unblock from blocking operation\r\n")
    assert (play.session.wants_close, play.to_client()) == (True, b"")


def test_a_tied_client_with_a_refused_command_is_closed_after_the_other_replies() -> None:
    play = opened().client(b"CLIENT TRACKING ON\r\n").server(b"+OK\r\n").client(b"SET a 1\r\nGET a\r\n")
    play.to_client()
    assert not play.server(READONLY).session.wants_close
    assert play.server(b"$-1\r\n").session.wants_close


def test_a_connection_to_a_former_target_is_dropped() -> None:
    play = Play().client(b"GET a\r\n")
    play.session.backend_opened(OLD)
    assert play.session.phase is Phase.SETUP
    play.release(NEW)
    assert play.dropped()
    play.connect()
    assert play.to_backend() == b"GET a\r\n"


def test_bytes_that_are_not_a_reply_end_the_server_connection_with_a_cause() -> None:
    play = opened().client(b"GET a\r\nSET a 1\r\n").server(b"?\r\n")
    assert play.session.failure == "the server sent bytes that are not a reply"
    assert (play.dropped(), play.session.phase) == (True, Phase.NONE)
    assert play.to_client() == b"", "the read is repeated, and the write is answered after it"


# -- a server that is busy with a script -------------------------------------------------------------------------------


def busy_server(play: Play) -> Play:
    play.session.backend_opened(OLD)
    play.to_backend()
    return play.server(b"*0\r\n" + BUSY * 3)


def test_a_client_of_a_busy_server_gets_its_error() -> None:
    play = busy_server(Play().client(b"GET a\r\nSET a 1\r\n"))
    assert play.to_client() == BUSY * 2
    assert (play.dropped(), play.session.phase) == (True, Phase.NONE)
    assert play.session.failure.startswith("the server is busy: BUSY")


def test_commands_that_end_a_script_reach_the_busy_server() -> None:
    play = busy_server(Play().client(b"SCRIPT KILL\r\n"))
    assert (play.to_backend(), play.session.phase) == (b"SCRIPT KILL\r\n", Phase.BUSY)
    play.server(b"+OK\r\n")
    assert (play.to_client(), play.dropped(), play.session.failure) == (b"+OK\r\n", True, "")
    assert busy_server(Play().client(b"SCRIPT LOAD x\r\n")).to_backend() == b""


# -- the cost of long commands -----------------------------------------------------------------------------------------


def test_the_middle_of_a_long_command_or_reply_is_recognized() -> None:
    play = opened()
    assert not play.session.is_inside_command(1)
    play.client(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1000\r\n" + b"x" * 100)
    assert play.session.is_inside_command(100)
    assert not play.session.is_inside_command(902)
    play.client(b"x" * 900 + b"\r\n").server(b"$1000\r\n" + b"y" * 10)
    assert play.session.is_inside_reply(100)
    assert not play.session.is_inside_reply(992)


def test_the_oldest_command_in_flight_is_known_with_its_time() -> None:
    play = opened()
    assert play.session.oldest is None
    play.now = 3.0
    play.client(b"EVAL x 0\r\n")
    play.now = 5.0
    play.client(b"GET a\r\n")
    oldest = play.session.oldest
    assert oldest is not None
    assert (oldest.word, oldest.sent_at) == (b"EVAL", 3.0)
    assert not play.session.is_idle
    play.server(b":1\r\n$-1\r\n")
    assert (play.session.oldest, play.session.is_idle) == (None, True)
