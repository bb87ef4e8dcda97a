"""A small blocking client of our own: single commands to servers, and the fast filling of a database.

Not redis-py: what the benchmark does by hand should cost next to nothing.
"""

import random
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Self

VALUE_BYTES = 1024
BATCH_KEYS = 100
BATCHES_IN_FLIGHT = 16
"""Replies are small, so so many never fill the server's output buffer."""
TIMEOUT_S = 30.0
_POOL_BYTES = 4 << 20


class ServerError(Exception):
    """The server answered with an error; the text is its words."""


class Connection:
    """One connection. Raises OSError when it breaks, ServerError when the server refuses."""

    def __init__(self, address: str, port: int) -> None:
        self._socket = socket.create_connection((address, port), timeout=TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._reader.close()
        self._socket.close()

    def call(self, *words: str | int) -> str:
        """Send one command; its reply as text (the elements of an array are joined by line breaks)."""
        self.send(encode(*(str(w).encode() for w in words)))
        return self.reply()

    def send(self, data: bytes) -> None:
        """Send bytes that hold whole commands."""
        self._socket.sendall(data)

    def reply(self) -> str:
        """Read one reply."""
        line = self._reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        kind, text = line[:1], line[1:-2].decode(errors="replace")
        if kind == b"-":
            raise ServerError(text)
        if kind == b"$" and text != "-1":
            return self._reader.read(int(text) + 2)[:-2].decode(errors="replace")
        if kind == b"*" and text != "-1":
            return "\n".join(self.reply() for _ in range(int(text)))
        return text

    def info(self, section: str) -> dict[str, str]:
        """One section of INFO."""
        lines = self.call("INFO", section).splitlines()
        return {name: value for name, mark, value in (line.partition(":") for line in lines) if mark}


def encode(*words: bytes) -> bytes:
    """One command on the wire."""
    return b"".join((b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)))


def fill(address: str, port: int, *, total_bytes: int, seed: int) -> None:
    """Write ``total_bytes`` of random values of 1 KB each. The same seed gives the same data."""
    in_flight = 0
    with Connection(address, port) as connection:
        for batch in _batches(total_bytes // VALUE_BYTES, seed):
            connection.send(batch)
            in_flight += 1
            if in_flight == BATCHES_IN_FLIGHT:
                connection.reply()
                in_flight -= 1
        for _ in range(in_flight):
            connection.reply()
        keys = int(connection.call("DBSIZE"))
    if keys != total_bytes // VALUE_BYTES:
        raise ServerError(f"{keys} keys are stored, {total_bytes // VALUE_BYTES} were written")


def _batches(keys: int, seed: int) -> Iterator[bytes]:
    """Commands that set so many keys. Values are windows of a random pool: making each one would take too long."""
    chance = random.Random(seed)
    pool = chance.randbytes(_POOL_BYTES)
    for first in range(0, keys, BATCH_KEYS):
        words = [b"MSET"]
        for number in range(first, min(first + BATCH_KEYS, keys)):
            at = chance.randrange(_POOL_BYTES - VALUE_BYTES)
            words += (b"key:%08d" % number, pool[at : at + VALUE_BYTES])
        yield encode(*words)
