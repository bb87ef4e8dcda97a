"""Input that is not a valid command: the endpoint answers and closes like a bare server of the same kind."""

import asyncio
import random
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from shardwright.endpoint.ledger import OUTCOME_UNKNOWN
from shardwright.endpoint.resp import ReplyScanner, bulk, encode_command
from shardwright.errors import Rejected
from shardwright.model.database import ServerKind
from shardwright.server.binaries import find_server
from tests.integration.endpoint_harness import PASSWORD, World, endpoint_world, wait_until
from tests.integration.server_harness import both_servers, free_port, loopback_address

pytestmark = pytest.mark.server

ECHO = encode_command(b"ECHO", b"the end")
ECHOED = bulk(b"the end")
QUIET_S = 0.3
"""A bare server that is silent for this time waits for more input."""
ANSWER_S = 15.0
SEED = 20261128
MUTANTS = 250
TOO_LONG = b"x" * 70_000

PING = encode_command(b"PING")
PONG = b"+PONG\r\n"
MULTI = encode_command(b"MULTI")
EXEC = encode_command(b"EXEC")

CASES: dict[str, bytes] = {
    "an HTTP request": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
    "an HTTP header": b"hOsT: x\r\n",
    "an HTTP word as an array": encode_command(b"post", b"/"),
    "an HTTP header as an array": encode_command(b"HOST:"),
    "an HTTP word with a NUL": encode_command(b"POST\0x"),
    "an HTTP word in quotes": b'"P\\x4fST" x\r\n',
    "an HTTP word in a transaction": MULTI + encode_command(b"POST"),
    "a GET of HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no colon": b"HOST x\r\n",
    "a negative count": b"*-1\r\n*-5\r\n*-9223372036854775808\r\n",
    "a count of 0": b"*0\r\n",
    "no count": b"*\r\n",
    "letters for a count": b"*x\r\n",
    "a count with a zero ahead": b"*01\r\n",
    "a count with a sign": b"*+1\r\n",
    "a negative zero": b"*-0\r\n",
    "a count with a blank": b"* 1\r\n",
    "a count without CR": b"*1\n$4\r\nPING\r\n",
    "a count of a million and one": b"*1048577\r\n",
    "the largest count": b"*2147483647\r\n",
    "a larger count": b"*2147483648\r\n",
    "an endless count": b"*" + b"1" * 70_000,
    "another type": b"*1\r\n:4\r\n",
    "a line for a type": b"*1\r\n\r\n\r\n",
    "a line feed for a type": b"*1\r\n\n\r\n",
    "a byte for a type": b"*1\r\n\xff\r\n",
    "a negative length": b"*1\r\n$-1\r\n",
    "no length": b"*1\r\n$\r\n",
    "letters for a length": b"*1\r\n$x\r\n",
    "a length with a zero ahead": b"*1\r\n$04\r\nPING\r\n",
    "half a gigabyte and one": b"*1\r\n$536870913\r\n",
    "an endless length": b"*1\r\n$" + b"1" * 70_000,
    "another end of an argument": b"*1\r\n$4\r\nPINGXX",
    "an empty name": encode_command(b""),
    "an empty name with an argument": encode_command(b"", b"a"),
    "an endless line": TOO_LONG,
    "a long line": b"ECHO " + b"x" * 65_000 + b"\r\n",
    "a quote that is open": b'ECHO "a\r\n',
    "an apostrophe that is open": b"ECHO 'a\r\n",
    "a quote in a word": b'ECHO a"b\r\n',
    "a quote with a word after it": b'ECHO "a"b\r\n',
    "a quoted name": b'"P\\x49NG"\r\n',
    "a name half quoted": b'PI"NG"\r\n',
    "an empty quoted name": b'"" a\r\n',
    "escapes": b'ECHO "\\x41\\n\\r\\t\\b\\a\\q\\\\\\""\r\n',
    "an escape between apostrophes": b"ECHO 'it\\'s'\r\n",
    "a backslash without quotes": b"ECHO a\\b\r\n",
    "empty lines": b"\r\n\n  \r\n",
    "a line without CR": b"PING\n",
    "a CR within a line": b"ECHO a\rb\r\n",
    "other blanks": b"\x0bECHO\x0ba\x0c\r\n\tPING\t\r\n",
    "a NUL within a line": b"ECHO a\0b\r\n",
    "QUIT, and more": encode_command(b"QUIT") + encode_command(b"SET", b"never", b"1"),
    "QUIT with an argument": encode_command(b"QUIT", b"x"),
    "QUIT in a transaction": MULTI + encode_command(b"QUIT"),
    "RESET with an argument": encode_command(b"RESET", b"x"),
    "HELLO with a zero ahead": encode_command(b"HELLO", b"02"),
    "an error after a command": PING + b"*x\r\n" + encode_command(b"SET", b"never", b"1"),
    "an error after a write": encode_command(b"SET", b"k", b"1") + b"*1\r\n$x\r\n" + encode_command(b"SET", b"never", b"2"),
    "an error in a transaction": MULTI + encode_command(b"SET", b"never", b"1") + b"*x\r\n" + EXEC,
    "what TLS begins with": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n" + b"a" * 40,
    "a reply": b"+OK\r\n",
    "a command with line ends": encode_command(b"FOO\r\nBAR", b"x"),
}
STRANGERS_CASES: dict[str, bytes] = {
    "ten arguments": b"*10\r\n",
    "eleven arguments": b"*11\r\n",
    "16 KiB": b"*1\r\n$16384\r\n",
    "more than 16 KiB": b"*1\r\n$16385\r\n",
    "eleven arguments after a login": encode_command(b"AUTH", PASSWORD.encode()) + encode_command(b"MGET", *[b"k"] * 15),
    "eleven arguments after a wrong login": encode_command(b"AUTH", b"no") + encode_command(b"MGET", *[b"k"] * 15),
    "an HTTP request": b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
    "letters for a count": b"*x\r\n",
    "a quote that is open": b'GET "a\r\n',
    "an endless line": TOO_LONG,
    "an empty name": encode_command(b""),
    "QUIT": encode_command(b"QUIT"),
    "a login that is left": encode_command(b"AUTH", PASSWORD.encode()) + encode_command(b"RESET") + PING,
}
VALID = (
    PING,
    encode_command(b"ECHO", b"a" * 120),
    encode_command(b"SET", b"mutants", b"1", b"XX"),
    encode_command(b"STRLEN", b"mutants"),
    b"PING\r\n",
    b'ECHO "a \\x41"\r\n',
    b"ECHO 'b'\r\n",
    b"*0\r\n\r\n",
)


@dataclass(frozen=True)
class Received:
    """The replies to one input and to the ECHO after it, and whether the connection was closed."""

    data: bytes
    is_closed: bool

    @property
    def kinds(self) -> tuple[bytes, ...]:
        """Each reply as it arrived; of an error only whether it is a protocol error, because the texts differ between
        servers."""
        start, kinds = 0, []
        for end in ReplyScanner().scan(self.data):
            reply, start = self.data[start:end], end
            kinds.append(re.sub(rb"^(-ERR Protocol error|-).*", rb"\1", reply, flags=re.DOTALL))
        return tuple(kinds)


async def talk(address: str, port: int, data: bytes, *, like: Received | None = None) -> Received:
    """Send, and listen until the outcome is clear. ``like``: the outcome on a bare server; a slow machine gets the time to
    reach the same."""
    reader, writer = await asyncio.open_connection(address, port)
    received = b""
    try:
        writer.write(data + (b"" if TOO_LONG in data else ECHO))
        while not received.endswith(ECHOED):
            waits_too = like is not None and not like.is_closed and not like.data.endswith(ECHOED)
            is_patient = like is not None and not (
                waits_too and len(Received(received, is_closed=False).kinds) >= len(like.kinds)
            )
            more = await asyncio.wait_for(reader.read(65536), ANSWER_S if is_patient else QUIET_S)
            if not more:
                return Received(received, is_closed=True)
            received += more
    except TimeoutError:
        pass
    except ConnectionError:
        return Received(received, is_closed=True)
    finally:
        writer.close()
    return Received(received, is_closed=False)


def differences(bare: tuple[str, int], world: World, inputs: Mapping[str, bytes]) -> dict[str, tuple[Received, Received]]:
    """The inputs, by name, whose replies or ends differ between the bare server and the endpoint."""

    async def compare(data: bytes) -> tuple[Received, Received]:
        expected = await talk(*bare, data)
        return expected, await talk(world.address, world.port, data, like=expected)

    async def compare_all() -> list[tuple[Received, Received]]:
        return await asyncio.gather(*(compare(data) for data in inputs.values()))

    found = dict(zip(inputs, asyncio.run(compare_all()), strict=True))
    return {name: (a, b) for name, (a, b) in found.items() if not is_like(b, a)}


def is_like(received: Received, bare: Received) -> bool:
    """A server that detects an attack discards its earlier replies; the endpoint does not."""
    return received.is_closed == bare.is_closed and (received.kinds == bare.kinds or (bare.is_closed and not bare.data))


@contextmanager
def bare_server(kind: ServerKind, directory: Path, *options: str) -> Iterator[tuple[str, int]]:
    """A server with its default configuration, without anything of the product; its address and port."""
    try:
        path = find_server(kind).path
    except Rejected as missing:
        pytest.skip(f"{kind}: {missing.text}")
    directory.mkdir()
    address = loopback_address()
    port = free_port(address)
    command = [path, "--bind", address, "--port", str(port), "--save", "", "--dir", str(directory), *options]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: is_up(address, port), state=lambda: process.poll())
        yield address, port
    finally:
        process.terminate()
        process.wait(10)


def is_up(address: str, port: int) -> bool:
    try:
        with redis.Redis(host=address, port=port) as client:
            client.ping()
    except redis.AuthenticationError:
        return True
    except redis.ConnectionError:
        return False
    return True


def mutants(count: int) -> dict[str, bytes]:
    """One to three valid commands with one to three bytes changed, removed or inserted."""
    dice = random.Random(SEED)
    found: dict[str, bytes] = {}
    while len(found) < count:
        data = bytearray(b"".join(dice.choices(VALID, k=dice.randint(1, 3))))
        for _ in range(dice.randint(1, 3)):
            at = dice.randrange(len(data))
            data[at : at + dice.randint(0, 1)] = bytes(dice.choices(b"*$\r\n0123456789-+:\"'\\ xP", k=dice.randint(0, 1)))
        found[repr(bytes(data))] = bytes(data)
    return found


@both_servers
def test_invalid_commands_end_like_on_a_bare_server(kind: ServerKind, tmp_path: Path) -> None:
    with bare_server(kind, tmp_path / "bare") as bare, endpoint_world(kind, tmp_path, password="") as world:
        assert differences(bare, world, CASES) == {}
        with world.connect() as client:
            assert client.exists("never") == 0
            assert client.get("k") == "1"


@both_servers
@pytest.mark.proof
def test_clients_without_a_login_are_limited_like_on_a_bare_server(kind: ServerKind, tmp_path: Path) -> None:
    guard = ("--requirepass", PASSWORD)
    with bare_server(kind, tmp_path / "bare", *guard) as bare, endpoint_world(kind, tmp_path) as world:
        assert differences(bare, world, STRANGERS_CASES) == {}


@both_servers
def test_damaged_commands_end_like_on_a_bare_server(kind: ServerKind, tmp_path: Path) -> None:
    inputs = mutants(MUTANTS)
    if kind is ServerKind.REDIS:  # it skips two bytes wherever CR and LF belong; the endpoint is as strict as the other kind
        inputs = {name: data for name, data in inputs.items() if not re.search(rb"\r(?!\n)", data)}
    with bare_server(kind, tmp_path / "bare") as bare, endpoint_world(kind, tmp_path, password="") as world:
        assert differences(bare, world, inputs) == {}


@both_servers
def test_commands_after_an_http_request_are_not_executed(kind: ServerKind, tmp_path: Path) -> None:
    with endpoint_world(kind, tmp_path, password="") as world, world.connect() as client, world.raw() as browser:
        browser.sendall(b"SET before 1\r\nPOST / HTTP/1.1\r\nHost: x\r\n")
        assert browser.recv(100) == b"+OK\r\n"
        assert browser.recv(100) == b""
        browser.sendall(b"SET pwned 1\r\n")
        assert (client.get("before"), client.exists("pwned")) == ("1", 0)


@both_servers
def test_a_client_that_sends_no_more_is_still_answered(kind: ServerKind, tmp_path: Path) -> None:
    """Like ``printf 'PING\r\n' | nc``. A blocking command ends then, as on a server."""
    with endpoint_world(kind, tmp_path, password="") as world:
        for data, expected in (
            (b"SET a 1\r\nGET a\r\n", b"+OK\r\n$1\r\n1\r\n"),
            (encode_command(b"SET", b"b", b"x" * 3_000_000) + b"GET b\r\n", b"+OK\r\n" + bulk(b"x" * 3_000_000)),
            (b"PING\r\nGET", b"+PONG\r\n"),
            (b"BLPOP nothing 0\r\n", b""),
            (b"", b""),
        ):
            with world.raw() as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                received = b""
                while more := client.recv(65536):
                    received += more
                assert received == expected
        wait_until(lambda: world.status().endpoints[0].connections == 0, state=world.status)


@both_servers
def test_many_clients_that_send_no_more_at_once_are_all_answered(kind: ServerKind, tmp_path: Path) -> None:
    """Their end is seen while the process still keeps what they have sent, because other clients have their turn."""
    count = 2_000
    with endpoint_world(kind, tmp_path, password="") as world, ExitStack() as stack:
        clients = [stack.enter_context(world.raw()) for _ in range(40)]
        for client in clients:
            client.sendall(PING)
            assert client.recv(100) == PONG
        for client in clients:
            client.sendall(PING * count)
            client.shutdown(socket.SHUT_WR)
        for client in clients:
            received = b""
            while more := client.recv(65536):
                received += more
            assert received == PONG * count


@both_servers
def test_a_server_that_closes_a_connection_on_its_own_closes_the_client(kind: ServerKind, tmp_path: Path) -> None:
    with endpoint_world(kind, tmp_path, password="") as world, world.raw() as client, world.connect() as other:
        other.set("a", "1")
        client.sendall(encode_command(b"BLPOP", b"nothing", b"0"))
        wait_until(lambda: world.primary.info()["blocked_clients"] == "1", state=world.primary.info)
        world.primary.ask("CLIENT", "KILL", "USER", "application")
        assert client.recv(1000) == OUTCOME_UNKNOWN
        client.sendall(encode_command(b"SET", b"never", b"1"))
        assert client.recv(1000) == b""
        assert other.exists("never") == 0
        assert other.get("a") == "1"  # it had no command in flight when its connection was closed, and notices nothing
