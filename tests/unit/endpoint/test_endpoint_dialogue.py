"""How the endpoint processes single commands: transcripts of what it answers itself, watches, refuses or postpones."""

import pytest

from shardwright.endpoint import login
from shardwright.endpoint.ledger import NO_PRIMARY
from shardwright.endpoint.resp import encode_command
from shardwright.endpoint.setup import Phase
from tests.unit.endpoint.test_endpoint_session import NEW, OLD, PREVIOUS, Play, opened

IN_TRANSACTION = b"-ERR Command not allowed inside a transaction\r\n"
SUBSCRIBED = b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"


def subscribed() -> Play:
    play = opened().client(b"SUBSCRIBE c\r\n").server(SUBSCRIBED)
    assert play.to_client() == SUBSCRIBED
    play.to_backend()
    return play


# -- logging in --------------------------------------------------------------------------------------------------------


def test_a_client_without_a_login_is_answered_locally_and_its_commands_reach_no_server() -> None:
    play = Play(password="p").client(b"GET a\r\nMULTI\r\nSUBSCRIBE c\r\nMONITOR\r\nCLIENT ID\r\n")
    assert play.to_client() == login.NOAUTH * 5
    assert not play.session.needs_backend
    play.client(b"AUTH x\r\nGET a\r\nAUTH p\r\n")
    assert play.to_client() == login.WRONGPASS + login.NOAUTH + b"+OK\r\n"
    play.client(b"GET a\r\n").connect()
    assert play.to_backend() == b"GET a\r\n"


def test_a_wrong_login_does_not_end_a_valid_one() -> None:
    play = Play(password="p").client(b"AUTH p\r\nAUTH x\r\nGET a\r\n")
    assert play.to_client() == b"+OK\r\n" + login.WRONGPASS
    assert play.session.needs_backend


def test_a_hello_logs_in_and_the_first_one_waits_for_a_servers_reply() -> None:
    play = Play(password="p").client(b"HELLO 3\r\n")
    assert play.to_client() == login.HELLO_NOAUTH
    play.client(b"HELLO 3 AUTH default x\r\n")
    assert play.to_client() == login.WRONGPASS
    play.client(b"HELLO 3 AUTH default p SETNAME me\r\n")
    assert play.to_client() == b""
    play.connect(hello=b"%1\r\n$2\r\nid\r\n:9\r\n")
    assert (play.session.state.protocol, play.session.name) == (3, "me")
    # It has a server connection now, so the HELLO goes to the server.
    assert play.to_backend() == encode_command(b"HELLO", b"3", b"SETNAME", b"me")


def test_a_hello_is_answered_with_the_reply_to_another_connection() -> None:
    play = opened()
    second = Play()
    second.gate.hellos.update(play.gate.hellos)
    assert second.client(b"HELLO 2\r\n").to_client() == b"*2\r\n$2\r\nid\r\n:7\r\n"
    assert not second.session.needs_backend
    assert second.client(b"HELLO 9\r\n").to_client().startswith(b"-NOPROTO")


def test_a_hello_that_a_server_refuses_changes_nothing() -> None:
    play = opened().client(b"HELLO 3\r\n").server(b"-ERR no\r\n")
    assert play.session.state.protocol == 2
    play.client(b"HELLO 3 SETNAME me\r\n").server(b"%0\r\n")
    assert (play.session.state.protocol, play.session.name, play.session.ledger.null) == (3, "me", b"_\r\n")


# -- commands of the endpoint itself -----------------------------------------------------------------------------------


def test_quit_is_answered_after_all_earlier_commands() -> None:
    play = opened().client(b"GET a\r\nQUIT\r\nGET b\r\n")
    assert (play.to_backend(), play.session.wants_close) == (b"GET a\r\n", False)
    play.server(b"$1\r\n1\r\n")
    assert (play.to_client(), play.session.wants_close) == (b"$1\r\n1\r\n+OK\r\n", True)
    assert play.to_backend() == b""


def test_a_reset_forgets_the_clients_state_and_its_login() -> None:
    play = Play(password="p").client(b"AUTH p\r\nSELECT 3\r\nCLIENT SETNAME me\r\nMULTI\r\n").connect()
    play.server(b"+OK\r\n+OK\r\n+OK\r\n").client(b"RESET\r\n")
    assert play.to_client().endswith(b"+RESET\r\n")
    session = play.session
    assert (session.state.database, session.name, session.transaction) == (0, "", None)
    assert (session.is_authenticated, session.phase, play.dropped()) == (False, Phase.NONE, True)
    assert play.client(b"GET a\r\n").to_client() == login.NOAUTH
    assert play.client(b"RESET now\r\n").to_client() == login.wrong_number("reset")


def test_a_reset_waits_for_earlier_replies_and_ends_a_subscription() -> None:
    play = opened().client(b"GET a\r\nRESET\r\n")
    assert play.to_client() == b""
    assert play.server(b"$-1\r\n").to_client() == b"$-1\r\n+RESET\r\n"
    play = subscribed().client(b"RESET\r\n")
    assert play.to_client() == b"+RESET\r\n"
    assert not play.session.is_tied


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (b"CLIENT REPLY OFF\r\n", b"-ERR CLIENT REPLY OFF and SKIP are not supported"),
        (b"CLIENT reply skip\r\n", b"-ERR CLIENT REPLY OFF and SKIP are not supported"),
        (b"CLIENT MAINT_NOTIFICATIONS ON\r\n", b"-ERR unknown subcommand 'MAINT_NOTIFICATIONS'"),
        (b"MONITOR\r\n", b"-NOPERM this endpoint does not allow the 'monitor' command"),
        (b"PSYNC ? -1\r\n", b"-NOPERM this endpoint does not allow the 'psync' command"),
    ],
)
def test_commands_without_exactly_one_reply_are_refused_and_counted(line: bytes, refusal: bytes) -> None:
    play = opened()
    errors = play.gate.counts.errors
    assert play.client(line).to_client().startswith(refusal)
    assert (play.to_backend(), play.gate.counts.errors) == (b"", errors + 1)
    assert play.client(b"CLIENT REPLY ON\r\n").to_backend() == b"CLIENT REPLY ON\r\n"


def test_unbalanced_quotes_in_a_command_that_is_parsed_close_the_connection() -> None:
    play = Play(password="p").client(b'AUTH "p\r\n')
    assert play.to_client() == b"-ERR Protocol error: unbalanced quotes in request\r\n"
    assert play.session.wants_close


# -- the connection's state --------------------------------------------------------------------------------------------


def test_only_settings_that_a_server_accepted_are_remembered() -> None:
    play = opened().client(b"SELECT 99\r\nCLIENT SETNAME a\r\nCLIENT TRACKING ON\r\n").server(b"-ERR out of range\r\n" * 3)
    assert (play.session.state.database, play.session.name, play.session.is_tied) == (0, "", False)
    play.client(b"SELECT 4\r\nCLIENT SETNAME a\r\nCLIENT SETNAME b\r\n").server(b"+OK\r\n" * 3)
    assert (play.session.state.database, play.session.name) == (4, "b")
    play.client(b"CLIENT TRACKING ON\r\n").server(b"+OK\r\n")
    assert play.session.is_tied
    play.client(b"CLIENT TRACKING OFF\r\n").server(b"+OK\r\n")
    assert not play.session.is_tied


def test_a_watch_ties_the_connection_until_its_transaction_or_its_end() -> None:
    for end in (b"UNWATCH\r\n", b"MULTI\r\nDISCARD\r\n", b"MULTI\r\nEXEC\r\n"):
        play = opened().client(b"WATCH a\r\n").server(b"+OK\r\n")
        assert play.session.is_tied
        play.client(end).server(b"+OK\r\n" * end.count(b"\n"))
        assert not play.session.is_tied, end


def test_only_a_read_with_block_blocks() -> None:
    for line, blocks in (
        (b"XREAD COUNT 1 STREAMS s 0\r\n", False),
        (b"XREAD block 0 STREAMS s $\r\n", True),
        (b"XREADGROUP GROUP g c BLOCK 5 STREAMS s >\r\n", True),
        (b"BLPOP q 0\r\n", True),
    ):
        assert opened().client(line).session.is_blocking is blocks, line


# -- transactions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"SUBSCRIBE c\r\n", b"MONITOR\r\n", b"AUTH p\r\n", b"HELLO 3\r\n"])
def test_a_command_that_is_refused_in_a_transaction_aborts_it(line: bytes) -> None:
    play = opened().client(b"MULTI\r\n").server(b"+OK\r\n")
    play.to_client()
    play.to_backend()
    assert play.client(line).to_client() == IN_TRANSACTION
    play.client(b"SET a 1\r\nEXEC\r\nGET a\r\n")
    assert b"SET" not in play.to_backend()
    play.server(b"+OK\r\n$-1\r\n")
    assert play.to_client().endswith(PREVIOUS + b"$-1\r\n")


def test_a_broken_transaction_that_is_discarded_has_ended() -> None:
    play = opened().client(b"MULTI\r\n").server(b"+OK\r\n").client(b"MONITOR\r\nDISCARD\r\n")
    play.server(b"+OK\r\n")
    assert play.to_client() == b"+OK\r\n" + IN_TRANSACTION + b"+OK\r\n"
    assert play.session.transaction is None
    assert play.session.ledger.is_idle


def test_exec_and_discard_without_multi_are_answered_by_the_server() -> None:
    play = opened().client(b"EXEC\r\nDISCARD\r\n")
    assert play.to_backend() == b"EXEC\r\nDISCARD\r\n"
    assert play.server(b"-ERR EXEC without MULTI\r\n" * 2).to_client() == b"-ERR EXEC without MULTI\r\n" * 2


def test_a_discard_in_flight_when_the_server_is_lost_has_happened() -> None:
    play = opened().client(b"MULTI\r\nSET a 1\r\nDISCARD\r\n")
    play.lose()
    assert play.to_client() == b"+OK\r\n+QUEUED\r\n+OK\r\n"
    assert not play.session.needs_backend


# -- subscriptions -----------------------------------------------------------------------------------------------------


def test_a_subscription_begins_after_all_earlier_replies() -> None:
    play = opened().client(b"GET a\r\nSUBSCRIBE c\r\n")
    assert play.to_backend() == b"GET a\r\n"
    assert play.server(b"$-1\r\n").to_backend() == b"SUBSCRIBE c\r\n"
    assert play.session.is_tied
    assert play.session.owes_nothing


def test_messages_of_a_subscription_are_passed_on_unchanged() -> None:
    play = subscribed()
    message = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n"
    assert play.server(message + message[:9]).to_client() == message
    assert play.server(message[9:] + b"-ERR x\r\n").to_client() == message + b"-ERR x\r\n"
    long = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$90\r\n"
    assert play.server(long).to_client() == long, "the received part of a message in RESP2"
    assert play.server(b"x" * 90 + b"\r\n").to_client() == b"x" * 90 + b"\r\n"
    assert play.client(b"PING\r\nUNSUBSCRIBE c\r\n").to_backend() == b"PING\r\nUNSUBSCRIBE c\r\n"


def test_a_subscriber_cannot_log_in_again() -> None:
    play = subscribed().client(b"AUTH p\r\nHELLO 3\r\n")
    assert play.to_client() == b"-ERR Command not allowed on a connection that has subscribed\r\n" * 2


def test_a_subscription_is_closed_when_its_server_is_left_or_lost() -> None:
    assert subscribed().release(NEW).session.wants_close
    play = subscribed()
    play.session.backend_lost(play.now)
    assert (play.session.wants_close, play.to_client()) == (True, b"")


# -- without a server --------------------------------------------------------------------------------------------------


def test_a_multi_that_waited_too_long_begins_a_transaction_that_cannot_run() -> None:
    play = opened().hold().client(b"MULTI\r\nSET a 1\r\n")
    play.now = 4.1
    play.session.tick(play.now)
    assert play.to_client() == NO_PRIMARY * 2
    play.release(OLD).client(b"EXEC\r\n")
    assert play.to_client() == PREVIOUS
    assert play.session.transaction is None
