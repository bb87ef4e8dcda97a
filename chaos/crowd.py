"""The crowd's process: ``python -m chaos.crowd DIR SEED``. Slow, rude and large clients of one database.

They run until its input ends. Then the process compares what was acknowledged with what is stored, and prints one JSON
object. The seed decides the behavior of each client in each turn. Memory is bounded: each client keeps one value at a time.
"""

import json
import random
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from chaos.load import Place, Work, client_of
from chaos.raw_connection import EndedBadly, ErrorReply, RawConnection, Reply, command, head_of_set
from chaos.verdict import ClientKind, Tally, TurnOutcome

DATABASE = "crowd"
HALVES_BYTES = 20 << 20
DOWNLOAD_BYTES = 50 << 20
UNREAD_BYTES = 1 << 20
UNREAD_COUNT = 40
BYTEWISE_BYTES = 2048
BYTEWISE_PAUSE_S = 0.001
READ_BYTES = {ClientKind.BYTEWISE: BYTEWISE_BYTES, ClientKind.UNREAD: UNREAD_BYTES, ClientKind.DOWNLOAD: DOWNLOAD_BYTES}
"""The clients that only read, and the size of their value."""
HALF_CLOSE_COUNT = 8
"""Number of concurrent connections."""
PIPELINE_COUNT = 20_000
SCRIPT = "redis.pcall('INCR', KEYS[1]); return redis.status_reply('OK')"
ATTEMPTS_MAX = 40
ATTEMPT_PAUSE_S = 0.25


def key(kind: ClientKind) -> str:
    """The key that a client of this kind writes or reads."""
    return f"crowd:{kind}"


def pattern(size: int) -> bytes:
    """A value of this size that is not uniform."""
    block = random.Random(size).randbytes(1 << 16)
    return (block * (size // len(block) + 1))[:size]


class Client(threading.Thread):
    """One client of the crowd. ``turn_pause_s``: minimum and maximum pause between two turns."""

    kind: ClientKind
    turn_pause_s = (0.05, 0.5)

    def __init__(self, work: Work, seed: int, stop: threading.Event) -> None:
        super().__init__(name=f"crowd-{self.kind}", daemon=True)
        self.tally = Tally(self.kind)
        self.stop = stop
        self._work = work
        self.chance = random.Random(f"{self.kind} {seed}")
        self._connection: RawConnection | None = None

    def run(self) -> None:
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                self.turn()
                self.tally.end_turn(TurnOutcome.DONE, "")
            except EndedBadly as e:
                after_s = time.monotonic() - began
                self.tally.end_turn(e.outcome, f"{time.strftime('%H:%M:%S')} after {after_s:.1f} s {e}")
                self.leave()
            self.stop.wait(self.chance.uniform(*self.turn_pause_s))
        self.leave()

    def turn(self) -> None:
        """One turn. Raises EndedBadly."""
        raise NotImplementedError

    def connection(self) -> RawConnection:
        """The connection of the previous turn, or a new one."""
        if self._connection is None:
            self._connection = RawConnection(self._work)
        return self._connection

    def leave(self) -> None:
        """Close the connection; the next turn opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def expect(self, reply: Reply, is_right: Callable[[Any], bool]) -> None:
        """Note a reply that does not belong to the request. Raises EndedBadly for an error reply."""
        if isinstance(reply, ErrorReply):
            raise EndedBadly(TurnOutcome.REFUSED, reply)
        if not is_right(reply):
            self.tally.wrong.append(f"{self.name}: {reply!r:.100}")

    def read_stored(self, client: Any) -> int | None:
        """The stored part of its writes; None: it writes nothing. Raises RedisError."""
        return None


class Halves(Client):
    """Sometimes the pause before its second half exceeds the limit of any action."""

    kind = ClientKind.HALVES

    def turn(self) -> None:
        value = memoryview(b"%020d" % (self.tally.sent + 1) + pattern(HALVES_BYTES - 20))
        connection = self.connection()
        half = HALVES_BYTES // 2
        pause_s = self.chance.uniform(0.2, 3.0) if self.chance.random() < 0.8 else self.chance.uniform(10.0, 120.0)
        connection.send(head_of_set(key(self.kind), HALVES_BYTES))
        connection.send(value[:half])
        connection.rest(pause_s, self.stop)
        self.tally.sent += 1
        connection.send(value[half:])
        connection.send(b"\r\n")
        self.expect(connection.reply(), lambda reply: reply == b"OK")
        self.tally.acked = self.tally.sent

    def read_stored(self, client: Any) -> int:
        return int(client.getrange(key(self.kind), 0, 19) or 0)


class Bytewise(Client):
    kind = ClientKind.BYTEWISE

    def turn(self) -> None:
        connection = self.connection()
        connection.send(command("GET", key(self.kind)))
        value = pattern(BYTEWISE_BYTES)
        wanted = b"$%d\r\n%s\r\n" % (len(value), value)
        for at in range(len(wanted)):
            byte = connection.byte()
            if not byte:
                raise EndedBadly(TurnOutcome.CUT if at else TurnOutcome.CLOSED, f"after {at} bytes")
            if byte != wanted[at : at + 1]:
                self.tally.wrong.append(f"{self.name}: byte {at} is {byte!r}")
                raise EndedBadly(TurnOutcome.REFUSED, f"byte {at} is {byte!r}")
            time.sleep(BYTEWISE_PAUSE_S)


class Unread(Client):
    kind = ClientKind.UNREAD

    def turn(self) -> None:
        connection = self.connection()
        connection.send(command("GET", key(self.kind)) * UNREAD_COUNT)
        self.stop.wait(self.chance.uniform(1.0, 8.0))
        if self.chance.random() < 0.5:
            self.leave()
            return
        wanted = pattern(UNREAD_BYTES)
        for _ in range(UNREAD_COUNT):
            self.expect(connection.reply(), lambda reply: reply == wanted)


class HalfClose(Client):
    """Opens a connection for every command, several at a time, so that some are always being opened."""

    kind = ClientKind.HALF_CLOSE
    turn_pause_s = (0.0, 0.05)

    def turn(self) -> None:
        connections: list[RawConnection] = []
        try:
            for _ in range(HALF_CLOSE_COUNT):
                connections.append(RawConnection(self._work))
                self.tally.sent += 1
                connections[-1].send(command("INCR", key(self.kind)))
                connections[-1].stop_sending()
            for connection in connections:
                self.expect(connection.reply(), lambda reply: isinstance(reply, int))
                self.tally.acked += 1
        finally:
            for connection in connections:
                connection.close()

    def read_stored(self, client: Any) -> int:
        return int(client.get(key(self.kind)) or 0)


class Download(Client):
    kind = ClientKind.DOWNLOAD
    turn_pause_s = (0.2, 1.0)

    def turn(self) -> None:
        connection = self.connection()
        connection.send(command("GET", key(self.kind)))
        wanted = zlib.crc32(pattern(DOWNLOAD_BYTES))
        self.expect(connection.reply(), lambda reply: isinstance(reply, bytes) and zlib.crc32(reply) == wanted)


class Pipeline(Client):
    kind = ClientKind.PIPELINE
    turn_pause_s = (0.5, 2.0)

    def turn(self) -> None:
        connection = self.connection()
        self.tally.sent += PIPELINE_COUNT
        sending = connection.send_behind(command("INCR", key(self.kind)) * PIPELINE_COUNT)
        refused = None
        for _ in range(PIPELINE_COUNT):
            reply = connection.reply()
            if isinstance(reply, ErrorReply):
                refused = reply
            else:
                self.tally.acked += 1
        sending.join()
        if refused is not None:
            raise EndedBadly(TurnOutcome.REFUSED, refused)

    def read_stored(self, client: Any) -> int:
        return int(client.get(key(self.kind)) or 0)


class Script(Client):
    """Its OK counts as an acknowledgment, so a server that refused the write must not send it."""

    kind = ClientKind.SCRIPT
    turn_pause_s = (0.002, 0.01)

    def turn(self) -> None:
        connection = self.connection()
        self.tally.sent += 1
        connection.send(command("EVAL", SCRIPT, "1", key(self.kind)))
        self.expect(connection.reply(), lambda reply: reply == b"OK")
        self.tally.acked += 1

    def read_stored(self, client: Any) -> int:
        return int(client.get(key(self.kind)) or 0)


CLIENTS: tuple[type[Client], ...] = (Halves, Bytewise, Unread, HalfClose, Download, Pipeline, Script)


def attempt(work: Work, do: Callable[[Any], Any]) -> Any:
    """The result of ``do`` with an ordinary client, retried for a limited time. Raises RedisError."""
    for turn in range(ATTEMPTS_MAX):
        client = client_of(work)
        try:
            return do(client)
        except redis.RedisError:
            if turn == ATTEMPTS_MAX - 1:
                raise
            time.sleep(ATTEMPT_PAUSE_S)
        finally:
            client.close()
    raise AssertionError("not reached")


class Crowd:
    """The clients of one database, started by the constructor and checked by ``finish``."""

    def __init__(self, work: Work, seed: int, kinds: tuple[type[Client], ...] = CLIENTS) -> None:
        self._work = work
        self._stop = threading.Event()
        attempt(work, lambda client: client.delete(*(key(one.kind) for one in kinds)))  # the counts of an earlier crowd
        values = {key(kind): pattern(size) for kind, size in READ_BYTES.items() if any(c.kind is kind for c in kinds)}
        if values:
            attempt(work, lambda client: client.mset(values))
        self.clients = [client(work, seed, self._stop) for client in kinds]
        for client in self.clients:
            client.start()

    def finish(self) -> list[Tally]:
        """Stop the clients and read the stored values. Raises RedisError if the database cannot be read."""
        self._stop.set()
        for client in self.clients:
            client.join(timeout=60)
            client.tally.stored = attempt(self._work, client.read_stored)
        return [client.tally for client in self.clients]


def shown(tally: Tally) -> dict[str, Any]:
    """A tally for the result of a run."""
    figures = {
        name: getattr(tally, name) for name in ("acked", "sent", "stored", "lost", "doubled", "noticed", "wrong", "texts")
    }
    return {"outcomes": dict(tally.outcomes), **figures}


def main() -> None:
    """Run until standard input ends."""
    place, seed = Place(Path(sys.argv[1])), int(sys.argv[2])
    crowd = Crowd(next(w for w in place.read_works() if w.name == DATABASE), seed)
    sys.stdin.read()
    print(json.dumps({tally.kind: shown(tally) for tally in crowd.finish()}), flush=True)


if __name__ == "__main__":
    main()
