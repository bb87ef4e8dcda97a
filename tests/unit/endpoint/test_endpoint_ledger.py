"""The rows of one connection: which replies pass at once, which wait, and what is sent again after a server was left."""

import pytest

from shardwright.endpoint.entries import Entry, Kind, OpenTransaction
from shardwright.endpoint.ledger import NOT_CONFIRMED, OUTCOME_UNKNOWN, QUEUED, CommandLedger
from shardwright.endpoint.words import READS

READONLY = b"-READONLY You can't write against a read only replica.\r\n"
OK = b"+OK\r\n"


class Rows:
    """A ledger and the replies that the client has received."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.ledger = CommandLedger(self.out)

    def sent(self, *lines: str, kind: Kind = Kind.PLAIN, count: int = 1) -> "Rows":
        for line in lines:
            raw = f"{line}\r\n".encode() * count
            self.ledger.add(Entry(kind, raw, 0.0, word=line.split()[0].encode(), count=count))
        return self

    def batch(self, *lines: str) -> "Rows":
        """Plain commands that were sent as one chunk."""
        raw = "".join(f"{line}\r\n" for line in lines).encode()
        self.ledger.add(Entry(Kind.PLAIN, raw, 0.0, word=lines[0].split()[0].encode(), count=len(lines)))
        return self

    def answered(self, *replies: bytes) -> "Rows":
        for reply in replies:
            self.ledger.settle(reply)
        return self

    def received(self) -> bytes:
        said = b"".join(self.out)
        self.out.clear()
        return said

    def again(self, opened: OpenTransaction | None = None) -> bytes:
        return b"".join(self.ledger.send_again(opened, 1.0))


# -- straight ----------------------------------------------------------------------------------------------------------


def test_many_replies_pass_at_once_if_all_of_them_answer_plain_commands() -> None:
    rows = Rows().batch("GET a", "GET b").sent("GET c")
    assert rows.ledger.settle_plain(1, b"1")
    assert rows.ledger.settle_plain(2, b"23")
    assert (rows.received(), rows.ledger.is_idle, rows.ledger.kept) == (b"123", True, 0)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.PLAIN])
def test_no_reply_to_another_kind_of_command_passes_at_once(kind: Kind) -> None:
    rows = Rows().sent("GET a").sent("SELECT 3", kind=kind)
    kept = rows.ledger.kept
    assert not rows.ledger.settle_plain(2, b"12")
    assert (rows.received(), rows.ledger.kept) == (b"", kept)
    assert rows.ledger.settle_plain(1, b"1")


def test_more_replies_than_commands_do_not_pass() -> None:
    rows = Rows().sent("GET a")
    assert not rows.ledger.settle_plain(2, b"12")
    assert not Rows().ledger.settle_plain(1, b"1")
    with pytest.raises(IndexError):
        Rows().answered(OK)


def test_a_local_reply_waits_for_the_replies_before_it() -> None:
    rows = Rows()
    rows.ledger.answer_locally(b"0")
    assert rows.received() == b"0"
    rows.sent("GET a")
    rows.ledger.answer_locally(b"2")
    rows.sent("GET b")
    assert rows.received() == b""
    assert rows.ledger.settle_plain(1, b"1")
    assert rows.received() == b"12"
    rows.answered(b"3")
    assert (rows.received(), rows.ledger.is_idle) == (b"3", True)


def test_the_reply_to_a_command_of_the_endpoint_is_discarded() -> None:
    rows = Rows().sent("DISCARD", kind=Kind.DROP).sent("GET a").answered(OK, b"1")
    assert rows.received() == b"1"


def test_a_reply_streams_only_if_the_rest_of_it_is_not_needed() -> None:
    for kind in Kind:
        entry = Entry(kind, b"", 0.0)
        assert entry.may_stream == (kind in (Kind.PLAIN, Kind.BLOCKING, Kind.EXEC))
        entry.effect = lambda reply: None
        assert entry.may_stream == (kind in (Kind.PLAIN, Kind.BLOCKING))


def test_a_streamed_reply_completes_its_command() -> None:
    rows = Rows().batch("GET a", "GET b")
    rows.ledger.answer_locally(b"!")
    rows.ledger.settle_streamed(b"$9")
    assert (rows.received(), rows.ledger.is_idle) == (b"", False)
    rows.ledger.settle_streamed(b"$9")
    assert (rows.received(), rows.ledger.is_idle, rows.ledger.kept) == (b"!", True, 0)


# -- refused -----------------------------------------------------------------------------------------------------------


def test_only_the_refused_commands_of_a_chunk_are_sent_again() -> None:
    rows = Rows().batch("INCR a", "INCR b", "INCR c").answered(b":1\r\n", READONLY, READONLY)
    assert rows.received() == b":1\r\n"
    assert rows.ledger.is_recovering
    assert rows.ledger.has_waiting
    assert rows.again() == b"INCR b\r\nINCR c\r\n"
    rows.answered(b":2\r\n", b":3\r\n")
    assert (rows.received(), rows.ledger.is_idle, rows.ledger.kept) == (b":2\r\n:3\r\n", True, 0)


def test_reads_after_a_refused_write_are_repeated() -> None:
    rows = Rows().sent("SET a 1", "GET a", "INCR n").answered(READONLY, b"old", b":1\r\n")
    assert rows.received() == b""
    assert rows.again() == b"SET a 1\r\nGET a\r\n"
    assert rows.answered(OK, b"new").received() == OK + b"new" + b":1\r\n"


def test_an_error_of_a_script_is_not_a_refusal() -> None:
    rows = Rows().sent("EVAL x 0").answered(b"-READONLY my own words\r\n")
    assert (rows.received(), rows.ledger.is_idle) == (b"-READONLY my own words\r\n", True)


def test_a_refused_command_of_the_endpoint_is_forgotten() -> None:
    rows = Rows().sent("SET a 1").sent("WAIT 1 50", kind=Kind.DROP).answered(READONLY, READONLY)
    assert rows.again() == b"SET a 1\r\n"
    assert rows.answered(OK).ledger.kept == 0


def test_a_forcibly_unblocked_command_has_no_reply() -> None:
    rows = Rows().sent("BLPOP q 0", kind=Kind.BLOCKING).answered(b"-UNBLOCKED force unblock\r\n")
    assert (rows.received(), rows.ledger.is_unblocked) == (b"", True)
    rows = Rows().sent("GET a").answered(b"-UNBLOCKED force unblock\r\n")
    assert (rows.received(), rows.ledger.is_unblocked) == (b"-UNBLOCKED force unblock\r\n", False)


# -- lost --------------------------------------------------------------------------------------------------------------


def test_each_command_of_a_lost_server_is_repeated_or_answered() -> None:
    rows = Rows().batch("GET a", "SET a 1", "GET b").sent("SELECT 2", kind=Kind.STATE).sent("UNHEARD-OF x")
    rows.ledger.lose_server()
    assert rows.received() == b"", "later replies wait for the repeated read"
    assert rows.again() == b"GET a\r\nGET b\r\nSELECT 2\r\n"
    rows.answered(b"1", b"2", OK)
    assert rows.received() == b"1" + OUTCOME_UNKNOWN + b"2" + OK + OUTCOME_UNKNOWN
    assert (rows.ledger.is_idle, rows.ledger.kept) == (True, 0)


def test_no_command_that_may_write_is_a_read() -> None:
    writes = "SET DEL INCR APPEND EVAL FCALL SORT GETSET GETDEL GETEX LPOP SPOP XADD XREADGROUP PFMERGE BITFIELD MIGRATE"
    assert not READS & {word.encode() for word in writes.split()}
    assert {b"EVAL_RO", b"FCALL_RO", b"SORT_RO", b"BITFIELD_RO"} <= READS


def test_commands_that_waited_too_long_are_answered_and_counted() -> None:
    rows = Rows().sent("GET a", "GET b")
    assert rows.ledger.fail_waiting(b"-no\r\n") == 0, "in flight: its server may still answer"
    rows.ledger.lose_server()
    assert rows.ledger.fail_waiting(b"-no\r\n") == 2
    assert (rows.received(), rows.ledger.is_idle, rows.ledger.kept) == (b"-no\r\n-no\r\n", True, 0)


# -- transactions ------------------------------------------------------------------------------------------------------


def transaction(rows: Rows, *lines: str, is_watched: bool = False) -> OpenTransaction:
    made = OpenTransaction(is_watched=is_watched)
    for line in lines:
        kind = {"EXEC": Kind.EXEC, "DISCARD": Kind.DISCARD}.get(line, Kind.MEMBER)
        entry = Entry(kind, f"{line}\r\n".encode(), 0.0, word=line.split()[0].encode())
        entry.transaction = made
        if kind is not Kind.DISCARD:
            made.members.append(entry)
        made.exec_sent |= kind is not Kind.MEMBER
        rows.ledger.add(entry)
    return made


def test_a_refused_member_repeats_the_whole_transaction_without_a_second_queued() -> None:
    rows = Rows()
    made = transaction(rows, "MULTI", "SET a 1")
    rows.answered(OK, READONLY)
    assert rows.received() == OK
    assert rows.again(made) == b"MULTI\r\nSET a 1\r\n"
    rows.answered(OK, QUEUED)
    assert rows.received() == QUEUED, "the client has received the reply to its MULTI"


def test_an_open_transaction_is_repeated_although_no_reply_is_missing() -> None:
    rows = Rows()
    made = transaction(rows, "MULTI", "SET a 1")
    rows.answered(OK, QUEUED)
    rows.ledger.lose_server()
    rows.received()
    assert rows.again(made) == b"MULTI\r\nSET a 1\r\n"
    rows.answered(OK, QUEUED)
    assert (rows.received(), rows.ledger.kept) == (b"", 0)
    made.is_broken = True
    assert rows.again(made) == b""


def test_a_lost_exec_is_not_repeated_and_its_members_are_queued() -> None:
    rows = Rows()
    transaction(rows, "MULTI", "SET a 1", "EXEC")
    rows.ledger.lose_server()
    assert (rows.received(), rows.ledger.is_idle) == (OK + QUEUED + OUTCOME_UNKNOWN, True)


def test_an_exec_aborted_by_a_refused_member_is_repeated_unless_it_was_watched() -> None:
    aborted = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
    for is_watched in (False, True):
        rows = Rows()
        transaction(rows, "MULTI", "SET a 1", "EXEC", is_watched=is_watched)
        rows.answered(OK, READONLY, aborted)
        if is_watched:
            assert rows.received() == OK + QUEUED + b"*-1\r\n", "as if a watched key had changed"
        else:
            assert (rows.received(), rows.again()) == (OK, b"MULTI\r\nSET a 1\r\nEXEC\r\n")


def test_an_exec_aborted_by_the_clients_mistake_is_passed_on() -> None:
    rows = Rows()
    transaction(rows, "MULTI", "NONSENSE", "EXEC")
    replies = (OK, b"-ERR unknown command\r\n", b"-EXECABORT Transaction discarded because of previous errors.\r\n")
    assert rows.answered(*replies).received() == b"".join(replies)


def test_a_discard_ends_a_repetition() -> None:
    rows = Rows()
    made = transaction(rows, "MULTI", "SET a 1")
    rows.answered(OK, READONLY)
    entry = Entry(Kind.DISCARD, b"DISCARD\r\n", 0.0)
    entry.transaction = made
    rows.ledger.add(entry)
    rows.answered(OK)
    assert rows.received() == OK + QUEUED + OK
    assert rows.again() == b""


# -- strict ------------------------------------------------------------------------------------------------------------


def guarded(rows: Rows, line: str, kind: Kind = Kind.PLAIN) -> None:
    entry = Entry(kind, f"{line}\r\n".encode(), 0.0, word=line.split()[0].encode())
    entry.is_guarded = True
    rows.ledger.add(entry)


def test_a_guarded_success_waits_for_a_confirmation_and_an_error_does_not() -> None:
    rows = Rows()
    for line in ("SET a 1", "INCR s"):
        guarded(rows, line)
    guarded(rows, "EXEC", Kind.EXEC)
    rows.answered(OK)
    assert (rows.received(), rows.ledger.unconfirmed) == (b"", 1)
    rows.ledger.confirm()
    assert rows.received() == OK
    assert rows.answered(b"-WRONGTYPE x\r\n", b"*-1\r\n").received() == b"-WRONGTYPE x\r\n*-1\r\n"
    assert (rows.ledger.unconfirmed, rows.ledger.kept) == (0, 0)


def test_each_unconfirmed_success_fails_once() -> None:
    rows = Rows().sent("GET a")
    guarded(rows, "SET a 1")
    guarded(rows, "SET b 1")
    rows.answered(b"0", OK, OK)
    assert rows.ledger.fail_unconfirmed() == 2
    assert rows.received() == b"0" + NOT_CONFIRMED * 2
    assert (rows.ledger.fail_unconfirmed(), rows.ledger.kept) == (0, 0)
