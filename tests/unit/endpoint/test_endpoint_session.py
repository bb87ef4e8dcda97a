"""Transcripts of sessions: bytes and events in, bytes and wishes out."""

from dataclasses import replace

from shardwright.endpoint.gate import Change, Gate
from shardwright.endpoint.ledger import NO_PRIMARY, OUTCOME_UNKNOWN
from shardwright.endpoint.packed_session import pack, unpack
from shardwright.endpoint.protocol import EndpointSpec, Target
from shardwright.endpoint.resp import CommandScanner, bulk, encode_command
from shardwright.endpoint.session import Session
from shardwright.endpoint.setup import Phase
from shardwright.endpoint.wire import packed_session_from, packed_session_to
from shardwright.model.ids import DatabaseUid, EndpointUid, ShardUid

OLD = Target(ShardUid(1), 1, "127.0.0.1", 1001, "aaa")
NEW = Target(ShardUid(2), 2, "127.0.0.1", 1002, "bbb")
READONLY = b"-READONLY You can't write against a read only replica.\r\n"
NOREPLICAS = b"-NOREPLICAS Not enough good replicas to write.\r\n"
PREVIOUS = b"-EXECABORT Transaction discarded because of previous errors.\r\n"


class Play:
    """A session, its gate, and a manual clock."""

    def __init__(self, *, password: str = "", target: Target | None = OLD) -> None:
        spec = EndpointSpec(EndpointUid("1:1"), DatabaseUid(1), "d", "127.0.0.1", 1, target, password, "secret")
        self.gate = Gate(spec)
        self.session = Session(self.gate, uid=7)
        self.now = 0.0

    def client(self, data: bytes) -> "Play":
        self.session.client_data(data, self.now)
        return self

    def server(self, data: bytes) -> "Play":
        self.session.backend_data(data, self.now)
        return self

    def connect(self, *, info: str = "", hello: bytes = b"*2\r\n$2\r\nid\r\n:9\r\n") -> "Play":
        assert self.session.needs_backend
        target = self.gate.target
        assert target is not None
        self.session.backend_opened(target)
        count = len(CommandScanner().scan(self.to_backend()))
        text = f"# Server\r\nrun_id:{target.run_id}\r\nrole:master\r\nloading:0\r\n{info}"
        return self.server(hello + bulk(text.encode()) + b"+OK\r\n" * (count - 2))

    def release(self, target: Target) -> "Play":
        self.gate.release(target)
        self.session.gate_changed(self.now)
        return self

    def hold(self) -> "Play":
        assert self.gate.begin_hold(OLD, NEW, self.now) is Change.HELD
        self.session.gate_changed(self.now)
        return self

    def lose(self) -> "Play":
        """The server dies, and another process is to become the primary."""
        self.to_backend()
        self.session.backend_lost(self.now)
        target = self.gate.target
        assert target is not None
        return self.release(replace(target, generation=target.generation + 1, run_id=target.run_id + "+"))

    def dropped(self) -> bool:
        was, self.session.wants_drop = self.session.wants_drop, False
        return was

    def to_client(self) -> bytes:
        data = b"".join(self.session.to_client)
        self.session.to_client.clear()
        return data

    def to_backend(self) -> bytes:
        data = b"".join(self.session.to_backend)
        self.session.to_backend.clear()
        return data


def opened() -> Play:
    play = Play().client(b"PING\r\n").connect()
    assert play.to_backend() == b"PING\r\n"
    play.server(b"+PONG\r\n")
    assert play.to_client() == b"+PONG\r\n"
    return play


def test_an_unsuitable_server_gets_no_command() -> None:
    for info, failure in (
        ("min_slaves_good_slaves:0\r\n", "the server is fenced"),
        ("loading:1\r\n", "the server is loading"),
    ):
        play = Play().client(b"SET a 1\r\n").connect(info=info)
        assert play.session.failure == failure
        assert play.dropped()
        assert play.to_backend() == b""
        assert play.session.needs_backend


def test_a_hold_keeps_commands_back_and_an_undo_releases_them() -> None:
    play = opened().client(b"SET a 1\r\n").hold().client(b"SET b 2\r\nGE")
    assert play.to_backend() == b"SET a 1\r\n"
    assert not play.session.is_drained
    play.server(b"+OK\r\n")
    assert play.session.is_drained
    play.client(b"T b\r\n").release(OLD)
    assert play.to_backend() == b"SET b 2\r\nGET b\r\n"
    assert not play.dropped()


def test_refused_commands_are_sent_again_in_order_and_executed_ones_are_not() -> None:
    play = opened().client(b"SET a 1\r\nGET a\r\nPUBLISH c x\r\nSET b 2\r\n")
    play.to_backend()
    play.server(READONLY + b"$1\r\n0\r\n:0\r\n" + READONLY)
    assert play.to_client() == b""
    assert play.dropped()
    play.release(NEW).connect()
    assert play.to_backend() == b"SET a 1\r\nGET a\r\nSET b 2\r\n"
    play.client(b"GET c\r\n")
    play.server(b"+OK\r\n")
    assert play.to_client() == b"+OK\r\n"
    play.server(b"$1\r\n1\r\n+OK\r\n$-1\r\n")
    assert play.to_client() == b"$1\r\n1\r\n:0\r\n+OK\r\n$-1\r\n"
    assert play.session.ledger.kept == 0


def test_a_refused_transaction_is_repeated_completely() -> None:
    play = opened().client(b"MULTI\r\nSET a 1\r\n")
    play.server(b"+OK\r\n" + NOREPLICAS)
    assert play.to_client() == b"+OK\r\n"
    play.client(b"GET a\r\n")
    play.to_backend()
    play.release(NEW).connect()
    assert play.to_backend() == b"MULTI\r\nSET a 1\r\nGET a\r\n"
    play.server(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n").client(b"EXEC\r\n")
    assert play.to_client() == b"+QUEUED\r\n+QUEUED\r\n"
    play.server(b"*2\r\n+OK\r\n$1\r\n1\r\n")
    assert play.to_client() == b"*2\r\n+OK\r\n$1\r\n1\r\n"


def test_a_pipelined_transaction_that_was_aborted_is_repeated() -> None:
    play = opened().client(b"MULTI\r\nSET a 1\r\nEXEC\r\n")
    play.to_backend()
    play.server(b"+OK\r\n" + READONLY + PREVIOUS).release(NEW).connect()
    assert play.to_backend() == b"MULTI\r\nSET a 1\r\nEXEC\r\n"
    play.server(b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n")
    assert play.to_client() == b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n"


def test_a_watched_transaction_that_was_refused_fails_as_if_a_key_had_changed() -> None:
    play = opened().client(b"WATCH a\r\nMULTI\r\nSET a 1\r\nEXEC\r\n")
    play.server(b"+OK\r\n+OK\r\n" + READONLY + PREVIOUS)
    assert play.to_client() == b"+OK\r\n+OK\r\n+QUEUED\r\n*-1\r\n"


def sets(play: Play, *commands: str, replies: bytes) -> Play:
    """A transaction of these commands with these replies."""
    play.client(b"MULTI\r\n" + b"".join(f"{command}\r\n".encode() for command in commands) + b"EXEC\r\n")
    return play.server(b"+OK\r\n" + b"+QUEUED\r\n" * len(commands) + replies)


def test_settings_of_a_transaction_are_remembered_if_they_succeeded() -> None:
    commands = (
        "CLIENT SETNAME me",
        "LRANGE l 0 -1",
        "SELECT 3",
        "SELECT 99",
        "CLIENT SETINFO lib-name x",
        "CLIENT NO-TOUCH maybe",
    )
    replies = b"+OK\r\n*2\r\n$1\r\na\r\n*1\r\n:1\r\n+OK\r\n-ERR range\r\n+OK\r\n-ERR syntax error\r\n"
    play = sets(opened(), *commands, replies=b"*6\r\n" + replies)
    assert play.session.state.database == 3
    assert list(play.session.state.settings) == ["SETNAME", "SETINFO LIB-NAME"]
    assert play.session.name == "me"
    assert not play.session.is_tied


def test_a_transaction_that_enables_tracking_ties_the_connection() -> None:
    assert not sets(opened(), "CLIENT TRACKING ON", replies=b"*1\r\n-ERR no\r\n").session.is_tied
    assert not sets(opened(), "CLIENT TRACKING ON", replies=b"*-1\r\n").session.is_tied
    play = sets(opened(), "CLIENT TRACKING ON", replies=b"*1\r\n+OK\r\n")
    assert play.session.is_tied
    assert not sets(play, "CLIENT TRACKING OFF", replies=b"*1\r\n+OK\r\n").session.is_tied


def test_a_passed_transaction_applies_its_settings_in_the_other_process() -> None:
    play = opened().client(b"MULTI\r\nCLIENT SETNAME me\r\n").server(b"+OK\r\n+QUEUED\r\n")
    play.session.freeze()
    moved = Play()
    unpack(pack(play.session), moved.session)
    moved.client(b"EXEC\r\n").connect().server(b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n")
    assert (moved.session.name, moved.to_client()) == ("me", b"*1\r\n+OK\r\n")


def test_a_command_that_is_never_queued_has_no_reply_of_its_own() -> None:
    play = opened().client(b"MULTI\r\nMULTI\r\nWATCH a\r\nSELECT 3\r\nEXEC\r\n")
    play.server(b"+OK\r\n-ERR nested\r\n-ERR inside\r\n+QUEUED\r\n*1\r\n+OK\r\n")
    assert (play.session.state.database, play.session.wants_close) == (3, False)
    assert sets(play, "SELECT 4", replies=b"*2\r\n+OK\r\n+OK\r\n").session.wants_close


def test_a_long_reply_to_exec_is_kept_only_if_it_must_be_read() -> None:
    long = b"$40000\r\n" + b"x" * 40_000 + b"\r\n"
    play = sets(opened(), "GET a", "SET b 1", replies=b"*2\r\n" + long[:30_000])
    assert len(play.to_client()) > 30_000
    assert play.server(long[30_000:] + b"+OK\r\n").to_client().endswith(b"x\r\n+OK\r\n")
    play = sets(play, "GET a", "SELECT 3", replies=b"*2\r\n" + long[:30_000])
    assert play.to_client() == b"+OK\r\n+QUEUED\r\n+QUEUED\r\n"
    play.server(long[30_000:]).server(b"+OK\r\n")
    assert play.to_client() == b"*2\r\n" + long + b"+OK\r\n"
    assert play.session.state.database == 3


def test_a_refused_command_in_a_transaction_aborts_it() -> None:
    play = opened().client(b"MULTI\r\nCLIENT REPLY OFF\r\nSET a 1\r\nEXEC\r\n").server(b"+OK\r\n")
    assert b"SET" not in play.to_backend()
    assert play.server(b"+OK\r\n").to_client().endswith(PREVIOUS)


def test_a_lost_server_answers_writes_and_repeats_reads() -> None:
    play = opened().client(b"GET a\r\nINCR n\r\nGET n\r\nSELECT 3\r\n")
    play.lose().connect()
    assert play.to_backend() == b"GET a\r\nGET n\r\nSELECT 3\r\n"
    play.server(b"$1\r\nx\r\n$1\r\n5\r\n+OK\r\n")
    assert play.to_client() == b"$1\r\nx\r\n" + OUTCOME_UNKNOWN + b"$1\r\n5\r\n+OK\r\n"
    assert play.session.state.database == 3


def test_a_lost_transaction_is_repeated_unless_exec_was_sent() -> None:
    play = opened().client(b"MULTI\r\nSET a 1\r\n").server(b"+OK\r\n")
    play.lose().connect()
    assert play.to_backend() == b"MULTI\r\nSET a 1\r\n"
    play.server(b"+OK\r\n+QUEUED\r\n").client(b"EXEC\r\nGET a\r\n")
    play.lose().connect()
    assert play.to_backend() == b"GET a\r\n"
    play.server(b"$1\r\n1\r\n")
    assert play.to_client() == b"+OK\r\n+QUEUED\r\n" + OUTCOME_UNKNOWN + b"$1\r\n1\r\n"


def test_waiting_ends_after_four_seconds_and_no_part_of_a_transaction_runs() -> None:
    play = Play(target=None).client(b"MULTI\r\nSET a 1\r\n")
    play.now = 3.9
    play.session.tick(play.now)
    assert play.to_client() == b""
    play.now = 4.1
    play.session.tick(play.now)
    assert play.to_client() == NO_PRIMARY * 2
    play.release(NEW)
    play.client(b"SET b 2\r\nEXEC\r\nGET a\r\n").connect()
    assert play.to_client() == NO_PRIMARY + PREVIOUS
    assert play.to_backend() == b"GET a\r\n"


def test_an_old_server_that_never_answers_is_left() -> None:
    play = opened().client(b"INCR n\r\nGET n\r\n").hold().release(NEW)
    play.to_backend()
    assert not play.dropped()
    play.now = 0.6
    play.session.tick(play.now)
    assert play.dropped()
    assert play.to_client() == OUTCOME_UNKNOWN
    play.connect()
    assert play.to_backend() == b"GET n\r\n"


def test_kept_bytes_are_bounded_and_given_back() -> None:
    play = opened()
    play.gate.limits.kept = 10_000
    play.gate.limits.kept_when_scarce = 1000
    play.hold()
    command = b"SET a " + b"x" * 994 + b"\r\n"
    for _ in range(11):
        play.client(command)
    assert play.session.is_full
    assert play.gate.budget.used == 11 * len(command)
    play.release(OLD)
    play.server(b"+OK\r\n" * 11)
    assert not play.session.is_full
    assert play.gate.budget.used == 0


def test_pushes_are_not_replies_and_long_replies_stream() -> None:
    play = opened().client(b"GET a\r\nGET b\r\n")
    play.server(b">2\r\n$1\r\nx\r\n_\r\n$100000\r\n" + b"y" * 50_000)
    assert len(play.to_client()) > 50_000
    play.server(b"y" * 50_000 + b"\r\n$1\r\nb\r\n")
    assert play.to_client().endswith(b"yy\r\n$1\r\nb\r\n")
    assert play.session.ledger.is_idle


def test_a_connection_is_packed_and_unpacked() -> None:
    play = Play(password="p").client(b"AUTH p\r\nSELECT 3\r\nCLIENT SETNAME me\r\nMULTI\r\nINCR n\r\n").connect()
    play.to_backend()
    play.server(b"+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n")
    play.session.freeze()
    play.client(b"EXEC\r\nGET")
    assert play.session.is_quiet
    other = Play(password="p")
    packed = packed_session_from(packed_session_to(pack(play.session)))
    unpack(packed, other.session)
    other.client(b"".join(play.session.unread)).client(b" n\r\n")
    other.connect()
    assert other.session.name == "me"
    assert other.to_backend() == b"MULTI\r\nINCR n\r\nEXEC\r\nGET n\r\n"
    other.server(b"+OK\r\n+QUEUED\r\n*1\r\n:1\r\n$1\r\n1\r\n")
    assert other.to_client() == b"*1\r\n:1\r\n$1\r\n1\r\n"


def test_a_target_moves_only_to_a_higher_generation() -> None:
    gate = Play().gate
    assert gate.begin_hold(OLD, replace(NEW, generation=1), 0.0) is Change.NONE
    assert gate.begin_hold(OLD, NEW, 1.0) is Change.HELD
    assert gate.begin_hold(OLD, NEW, 2.0) is Change.NONE
    assert gate.hold is not None
    assert gate.hold.since == 1.0
    assert gate.serve(gate.spec) is Change.NONE
    assert gate.release(OLD) is Change.MOVED
    assert gate.begin_hold(OLD, NEW, 3.0) is Change.HELD
    assert gate.release(NEW) is Change.MOVED
    assert gate.begin_hold(OLD, NEW, 4.0) is Change.NONE
    assert gate.release(OLD) is Change.NONE
    assert gate.serve(replace(gate.spec, target=OLD)) is Change.NONE
    assert gate.serve(replace(gate.spec, target=None)) is Change.NONE
    assert (gate.target, gate.is_open) == (NEW, True)


def test_a_live_server_that_closes_its_connection_means_this_client() -> None:
    play = opened().client(b"GET a\r\nSET a 1\r\n")
    play.to_backend()
    play.session.backend_lost(play.now)
    play.client(b"SET a 2\r\n").connect()
    assert (play.to_backend(), play.session.wants_close) == (b"", True)
    assert play.to_client() == b""


def test_a_server_that_closes_an_idle_connection_is_not_noticed() -> None:
    play = opened()
    play.session.backend_lost(play.now)
    assert play.client(b"GET a\r\n").connect().to_backend() == b"GET a\r\n"
    assert not play.session.wants_close


def test_a_protocol_error_from_the_server_closes_the_client() -> None:
    play = opened().client(b"*1\r\n$4\r\nPINGXX")
    play.server(b"-ERR Protocol error: invalid CRLF in request\r\n")
    assert not play.session.wants_close  # a script may return the same text
    play.session.backend_lost(play.now)
    assert play.session.wants_close
    assert play.to_client() == b"-ERR Protocol error: invalid CRLF in request\r\n"


def test_the_first_word_of_an_http_request_closes_after_the_earlier_replies() -> None:
    for word in (b"POST / HTTP/1.1\r\n", b"hOsT: x\r\n", encode_command(b"post", b"/"), b'"\\x50OST"\r\n'):
        play = opened().client(b"SET a 1\r\n" + word + b"SET b 1\r\n")
        assert (play.to_backend(), play.session.wants_close) == (b"SET a 1\r\n", False)
        play.server(b"+OK\r\n")
        assert (play.to_client(), play.to_backend(), play.session.wants_close) == (b"+OK\r\n", b"", True)
        assert Play(password="p").client(word).session.wants_close


def test_a_protocol_error_is_reported_after_the_earlier_replies() -> None:
    play = opened().client(b"GET a\r\n*x\r\nGET b\r\n").server(b"$1\r\n1\r\n")
    assert play.to_client() == b"$1\r\n1\r\n-ERR Protocol error: invalid multibulk length\r\n"
    assert (play.to_backend(), play.session.wants_close) == (b"GET a\r\n", True)


def test_a_command_with_an_empty_name_has_a_reply_and_an_empty_line_has_none() -> None:
    play = opened().client(b"\r\n*0\r\n*-7\r\n  \r\n")
    assert play.to_backend() == b""
    for empty in (encode_command(b""), encode_command(b"", b"a"), b'""\r\n'):
        assert play.client(empty).to_backend() == empty


def test_an_unexpected_reply_ends_the_server_connection() -> None:
    play = opened().server(b"+what\r\n")
    assert play.dropped()
    assert play.session.phase is Phase.NONE
    assert play.to_client() == b""


def test_the_limits_before_a_login_end_with_it_even_within_one_chunk() -> None:
    wide = encode_command(b"MSET", *[b"k"] * 20)
    assert b"Protocol error" in Play(password="p").client(wide).to_client()
    play = Play(password="p").client(b"AUTH p\r\n" + wide).connect()
    assert play.to_client() == b"+OK\r\n"
    assert play.to_backend() == wide
