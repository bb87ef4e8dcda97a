"""What a new server connection is asked, and which server receives no client's command."""

import pytest

from shardwright.endpoint.resp import CommandScanner, bulk, encode_command, split_arguments
from shardwright.endpoint.setup import ConnectionState, Setup, check_info, hello_with_id

HELLO = b"*2\r\n$2\r\nid\r\n:9\r\n"
NAME = encode_command(b"CLIENT", b"SETNAME", b"me")


def info(*, run_id: str = "abc", role: str = "master", loading: int = 0, more: str = "") -> bytes:
    return bulk(f"# Server\r\nrun_id:{run_id}\r\n# Persistence\r\nloading:{loading}\r\nrole:{role}\r\n{more}".encode())


def commands(setup: Setup) -> list[list[bytes]]:
    found, start = [], 0
    for end, _ in CommandScanner().scan(setup.sent):
        found.append(split_arguments(setup.sent[start:end]))
        start = end
    return found


def answered(*replies: bytes, state: ConnectionState | None = None, run_id: str = "abc") -> Setup:
    """The setup after these replies; the last of them is the last expected one, or the setup has failed."""
    setup = Setup("secret", state or ConnectionState(), run_id=run_id)
    for number, reply in enumerate(replies, start=1):
        is_last = setup.reply(reply)
        assert is_last == (number == len(commands(setup)))
    return setup


def test_a_new_connection_logs_in_verifies_the_server_and_restores_the_clients_state() -> None:
    state = ConnectionState(protocol=3, database=5, settings={"SETNAME": NAME})
    assert commands(Setup("secret", state, run_id="")) == [
        [b"HELLO", b"3", b"AUTH", b"application", b"secret"],
        [b"INFO", b"server", b"replication", b"persistence"],
        [b"SELECT", b"5"],
        [b"CLIENT", b"CAPA", b"redirect"],
        [b"CLIENT", b"SETNAME", b"me"],
    ]


def test_an_open_primary_is_used_although_it_refuses_some_settings() -> None:
    unknown = b"-ERR unknown subcommand\r\n"
    setup = answered(HELLO, info(), b"+OK\r\n", unknown, unknown, state=ConnectionState(settings={"SETNAME": NAME}))
    assert (setup.failure, setup.busy, setup.hello) == ("", b"", HELLO)


def test_a_server_that_refuses_the_login_or_the_database_is_not_used() -> None:
    refused = answered(b"-WRONGPASS invalid username-password pair\r\n", b"-NOAUTH\r\n")
    assert refused.failure == "the server refuses the endpoint's login: WRONGPASS invalid username-password pair", (
        "the first cause"
    )
    lost = answered(HELLO, info(), b"-ERR DB index is out of range\r\n")
    assert lost.failure == "the server refuses the selected database: ERR DB index is out of range"


def test_a_busy_server_cannot_be_verified_but_is_no_failure() -> None:
    busy = b"-BUSY Redis is busy running a script\r\n"
    setup = answered(HELLO, busy, busy, busy)
    assert (setup.failure, setup.busy) == ("", busy)


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        (info(), ""),
        (info(run_id="abcd"), "another server process answers at its address"),
        (info(role="slave"), "the server is a replica"),
        (info(loading=1), "the server is loading"),
        (info(more="min_slaves_good_slaves:0\r\n"), "the server is fenced"),
        (info(more="min_replicas_good_replicas:2\r\n"), "the server is fenced"),
        (b"-NOPERM no\r\n", "the server refuses INFO: NOPERM no"),
        (info(run_id="abcd", role="slave"), "another server process answers at its address"),
    ],
)
def test_which_servers_receive_commands(said: bytes, failure: str) -> None:
    assert check_info(said, run_id="abc") == failure
    assert answered(HELLO, said).failure == failure


def test_an_unknown_run_id_is_not_checked_but_everything_else_is() -> None:
    assert check_info(info(run_id="other"), run_id="") == ""
    assert check_info(info(run_id="other", role="slave"), run_id="") == "the server is a replica"


def test_a_hello_contains_an_id_that_no_handoff_changes() -> None:
    hello = b"%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$2\r\nid\r\n:7\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n"
    assert hello_with_id(hello, 12_345) == hello.replace(b":7\r\n", b":12345\r\n")
    assert hello_with_id(b"+OK\r\n", 5) == b"+OK\r\n"
