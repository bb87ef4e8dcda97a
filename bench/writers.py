"""Writers for bare servers: the same clients, commands and pace as the demonstration's, but they redirect themselves.

Each writer is connected to both servers from the start and goes to the other one when its server refuses a write (READONLY:
it was not executed). That is the best any client can do, so what it measures is the floor. Runs as a process of its own.
"""

import multiprocessing as mp
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from demo.load import Calls, Outcome

KEYS_PER_WRITER = 500
VALUE = "x" * 16
PATIENCE_S = 10.0
"""A write that no server takes for so long is an error."""
REFUSED_WAIT_S = 0.0002
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class BareWork:
    """What the writers do. ``writes_per_s`` is per writer."""

    servers: tuple[Address, Address]
    writers: int
    writes_per_s: float


class _Writer(threading.Thread):
    """Counts, appends to a list and sets keys, and knows what of it was acknowledged."""

    def __init__(self, number: int, work: BareWork, stop: threading.Event) -> None:
        super().__init__(name=f"bare-writer-{number}", daemon=True)
        self.number = number
        self.stop = stop
        self.calls = Calls()
        self.acked = 0
        self.counted = 0
        self.appended: list[int] = []
        self.errors = 0
        self.texts: list[str] = []
        self._pace_s = 1 / work.writes_per_s
        self._clients = [_client(address) for address in work.servers]
        self._current = 0

    def run(self) -> None:
        """The thread's body."""
        turn, due = 0, time.monotonic()
        while not self.stop.is_set():
            turn += 1
            began, start = time.time(), time.perf_counter()
            try:
                self._write(turn)
            except redis.RedisError as e:
                self.errors += 1
                self.texts.append(f"{self.name}: {type(e).__name__}: {e}")
            else:
                self.calls.lasted.append(time.perf_counter() - start)
                self.calls.began.append(began)
                self._acknowledge(turn)
            due = max(due + self._pace_s, time.monotonic() - 0.05)
            time.sleep(max(0.0, due - time.monotonic()))

    def _write(self, turn: int) -> None:
        """One write, at whichever server takes it."""
        deadline = time.monotonic() + PATIENCE_S
        refusals = 0
        while True:
            try:
                self._send(self._clients[self._current], turn)
                return
            except redis.ReadOnlyError:
                if time.monotonic() > deadline:
                    raise
                self._current = 1 - self._current
                refusals += 1
                if refusals > 1:
                    time.sleep(REFUSED_WAIT_S)

    def _send(self, client: Any, turn: int) -> None:
        match turn % 3:
            case 0:
                client.incr(f"count:{self.number}")
            case 1:
                client.rpush(f"list:{self.number}", turn)
            case _:
                client.set(f"key:{self.number}:{turn % KEYS_PER_WRITER}", f"{turn:012d}{VALUE}")

    def _acknowledge(self, turn: int) -> None:
        self.acked += 1
        if turn % 3 == 0:
            self.counted += 1
        elif turn % 3 == 1:
            self.appended.append(turn)

    def check(self, outcome: Outcome) -> None:
        """Compare what was acknowledged with what the primary holds."""
        client = next(c for c in self._clients if c.info("replication")["role"] == "master")
        count = int(client.get(f"count:{self.number}") or 0)
        if count < self.counted:
            outcome.lost.append(f"{self.name}: counter shows {count}, {self.counted} increments were acknowledged")
        stored = {int(x) for x in client.lrange(f"list:{self.number}", 0, -1)}
        outcome.lost.extend(f"{self.name}: list lacks {turn}" for turn in self.appended if turn not in stored)

    def close(self) -> None:
        """Close its connections."""
        for client in self._clients:
            client.close()


def _client(address: Address) -> Any:
    return redis.Redis(
        host=address[0],
        port=address[1],
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        socket_timeout=PATIENCE_S,
        max_connections=1,
        decode_responses=True,
    )


def _serve(work: BareWork, pipe: Pipe) -> None:
    # As in the demonstration's load: other writers must not wait long for this process's own lock.
    sys.setswitchinterval(0.0005)
    stop = threading.Event()
    writers = [_Writer(n, work, stop) for n in range(work.writers)]
    for writer in writers:
        writer.start()
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        if order == "acked":
            pipe.send(sum(w.acked for w in writers))
            continue
        stop.set()
        outcome = Outcome()
        for writer in writers:
            writer.join(timeout=PATIENCE_S + 1)
            outcome.acked += writer.acked
            outcome.errors += writer.errors
            outcome.error_texts += writer.texts
            writer.check(outcome)
            writer.close()
        outcome.calls = {"bare": [w.calls for w in writers]}
        pipe.send(outcome)
        return


class BareLoad:
    """A running load on two bare servers. Ends with its parent."""

    def __init__(self, work: BareWork) -> None:
        context = mp.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(work, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def acked(self) -> int:
        """Writes acknowledged so far. Raises EOFError when the load has died."""
        self._pipe.send("acked")
        return int(self._pipe.recv())

    def finish(self) -> Outcome:
        """Stop, read back, and tell. Raises EOFError when the load has died."""
        self._pipe.send("finish")
        outcome: Outcome = self._pipe.recv()
        self._process.join(timeout=10)
        return outcome

    def kill(self) -> None:
        """End it at once."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join(timeout=5)
