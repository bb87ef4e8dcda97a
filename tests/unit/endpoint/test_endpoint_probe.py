"""Whether a probed server may receive commands, however its answers are split."""

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
    """The verdict after the first piece that decides it; later pieces are not processed."""
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
def test_the_verdict_does_not_depend_on_the_split(said: bytes, why: str, piece: int) -> None:
    assert verdict(said, piece=piece) == why


def test_there_is_no_verdict_before_the_last_answer() -> None:
    for said in (b"", HELLO, HELLO + info(), HELLO + info() + b"+OK\r\n", HELLO + BUSY * 2, (HELLO + info())[:-1]):
        assert verdict(said) is None


def test_an_unknown_run_id_is_not_checked() -> None:
    assert verdict(HELLO + info(run_id="other") + b"+OK\r\n" * 2, target=replace(TARGET, run_id="")) == ""


def test_bytes_that_are_not_a_reply_are_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        verdict(b"SSH-2.0-OpenSSH_9.2\r\n")


def test_a_probe_sends_no_clients_state() -> None:
    request = Answers(TARGET, "secret").request
    assert request.count(b"CLIENT") == 1
    assert b"SELECT\r\n$1\r\n0\r\n" in request
