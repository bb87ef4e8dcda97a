"""Whether a server that is asked directly may be given commands, however its answers are cut."""

from dataclasses import replace

import pytest

from shardwright.endpoint.probe import Answers
from shardwright.endpoint.protocol import Target
from shardwright.endpoint.resp import ProtocolError, bulk
from shardwright.model.ids import ShardUid

TARGET = Target(ShardUid(1), 1, "127.0.0.1", 1001, "abc")
HELLO = b"*2\r\n$2\r\nid\r\n:9\r\n"
BUSY = b"-BUSY Valkey is busy running a script\r\n"


def info(*, run_id: str = "abc", role: str = "master", more: str = "") -> bytes:
    return bulk(f"# Server\r\nrun_id:{run_id}\r\nrole:{role}\r\nloading:0\r\n{more}".encode())


def verdict(data: bytes, *, target: Target = TARGET, piece: int = 1 << 20) -> str | None:
    """Behind the first piece that settles it; what comes later is not looked at."""
    answers = Answers(target, "secret")
    for start in range(0, len(data), piece):
        if (found := answers.feed(data[start : start + piece])) is not None:
            return found
    return None


@pytest.mark.parametrize("piece", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize(
    ("said", "why"),
    [
        (HELLO + info() + b"+OK\r\n+OK\r\n", ""),
        (HELLO + info() + b"+OK\r\n-ERR unknown subcommand\r\n", ""),
        (HELLO + info(role="slave"), "the server is a replica"),
        (HELLO + info(more="min_slaves_good_slaves:0\r\n"), "the server is fenced"),
        (HELLO + info(run_id="other"), "another server process answers at its address"),
        (b"-WRONGPASS no\r\n", "the server refuses the endpoint's login: WRONGPASS no"),
        (HELLO + BUSY * 3, "-BUSY Valkey is busy running a script"),
    ],
)
def test_what_is_said_counts_however_it_is_cut(said: bytes, why: str, piece: int) -> None:
    assert verdict(said, piece=piece) == why


def test_nothing_is_known_before_the_last_answer() -> None:
    for said in (b"", HELLO, HELLO + info(), HELLO + info() + b"+OK\r\n", HELLO + BUSY * 2, (HELLO + info())[:-1]):
        assert verdict(said) is None


def test_a_process_that_nobody_has_seen_yet_is_not_asked_who_it_is() -> None:
    assert verdict(HELLO + info(run_id="other") + b"+OK\r\n" * 2, target=replace(TARGET, run_id="")) == ""


def test_what_is_no_reply_is_an_error_of_the_protocol() -> None:
    with pytest.raises(ProtocolError):
        verdict(b"SSH-2.0-OpenSSH_9.2\r\n")


def test_no_clients_state_is_given_to_a_server_that_is_only_asked() -> None:
    request = Answers(TARGET, "secret").request
    assert request.count(b"CLIENT") == 1
    assert b"SELECT\r\n$1\r\n0\r\n" in request
