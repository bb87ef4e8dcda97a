"""Writers and readers: ordinary redis-py clients with retries switched off, each acknowledged write recorded.

Runs as a process of its own, so that what its clients measure is not what the rest of the demonstration costs. Also what the
benchmarks use as load.
"""

import math
import multiprocessing as mp
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, ClassVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

KEYS_PER_WRITER = 500
ERROR_TEXTS_MAX = 20


@dataclass(frozen=True, slots=True)
class Work:
    """What the load does to one database. ``writes_per_s`` is per writer."""

    name: str
    address: str
    port: int
    writers: int
    readers: int
    writes_per_s: float
    value_bytes: int = 16
    others: tuple[str, ...] = ()
    """Further addresses that serve the database."""


@dataclass(slots=True)
class Calls:
    """Every write call of one writer: when it began (wall time, seconds) and how long it took (seconds)."""

    began: "array[float]" = field(default_factory=lambda: array("d"))
    lasted: "array[float]" = field(default_factory=lambda: array("d"))


@dataclass(slots=True)
class Outcome:
    """What the load saw, and what a check of the data found."""

    acked: int = 0
    reads: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stale_reads: int = 0
    errors: int = 0
    error_texts: list[str] = field(default_factory=list)
    disconnects: int = 0
    calls: dict[str, list[Calls]] = field(default_factory=dict)


class _CountingConnection(redis.Connection):
    """Counts how often a client had to connect. Takes the first address that accepts it, as for a name with several."""

    connects: ClassVar[Counter[str]] = Counter()

    def __init__(self, *, addresses: Sequence[str], **options: Any) -> None:
        super().__init__(host=addresses[0], **options)  # type: ignore[no-untyped-call]
        self.addresses = addresses

    def _connect(self) -> Any:
        _CountingConnection.connects[threading.current_thread().name] += 1
        for number, address in enumerate(self.addresses):
            self.host = address
            try:
                return super()._connect()  # type: ignore[no-untyped-call]
            except OSError:
                if number == len(self.addresses) - 1:
                    raise
        return None


def client_of(work: Work, number: int = 0) -> Any:
    """One client with one connection that repeats nothing. ``number``: clients with different ones prefer different
    addresses."""
    addresses = (work.address, *work.others)
    first = number % len(addresses)
    pool = redis.ConnectionPool(
        connection_class=_CountingConnection,
        addresses=(*addresses[first:], *addresses[:first]),
        port=work.port,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        socket_timeout=5,
        max_connections=1,
        decode_responses=True,
    )
    return redis.Redis(connection_pool=pool)


class _Client(threading.Thread):
    """What writers and readers have in common."""

    def __init__(self, name: str, work: Work, stop: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.work = work
        self.stop = stop
        self.errors = 0
        self.texts: list[str] = []

    def note(self, what: str, error: Exception) -> None:
        self.errors += 1
        if len(self.texts) < ERROR_TEXTS_MAX:
            self.texts.append(f"{time.strftime('%H:%M:%S')} {self.name} {what}: {type(error).__name__}: {error}")


class _Writer(_Client):
    """Counts, appends to a list, and sets keys; knows what of it was acknowledged and what is in doubt."""

    def __init__(self, number: int, work: Work, stop: threading.Event) -> None:
        super().__init__(f"{work.name}-writer-{number}", work, stop)
        self.number = number
        self.calls = Calls()
        self.acked = 0
        self.counted = 0
        self.in_doubt = 0
        self.appended: list[int] = []
        self.unsure: set[int] = set()
        self.latest: dict[str, int] = {}

    def run(self) -> None:
        client = client_of(self.work, self.number)
        turn, due = 0, time.monotonic()
        filler = "x" * max(0, self.work.value_bytes - 12)
        while not self.stop.is_set():
            turn += 1
            kind = turn % 3
            try:
                began = time.time()
                start = time.perf_counter()
                if kind == 0:
                    client.incr(f"count:{self.number}")
                elif kind == 1:
                    client.rpush(f"list:{self.number}", turn)
                else:
                    client.set(self._key(turn), f"{turn:012d}{filler}")
                self.calls.lasted.append(time.perf_counter() - start)
                self.calls.began.append(began)
                self._acknowledge(kind, turn)
            except redis.RedisError as e:
                self.note(("incr", "rpush", "set")[kind], e)
                self._doubt(kind, turn)
            due = max(due + 1 / self.work.writes_per_s, time.monotonic() - 0.05)
            time.sleep(max(0.0, due - time.monotonic()))
        client.close()

    def _key(self, turn: int) -> str:
        return f"key:{self.number}:{turn % KEYS_PER_WRITER}"

    def _acknowledge(self, kind: int, turn: int) -> None:
        self.acked += 1
        if kind == 0:
            self.counted += 1
        elif kind == 1:
            self.appended.append(turn)
        else:
            self.latest[self._key(turn)] = turn

    def _doubt(self, kind: int, turn: int) -> None:
        if kind == 0:
            self.in_doubt += 1
        elif kind == 1:
            self.unsure.add(turn)
        else:
            # An overwrite in doubt says nothing about the older one: leave the key out of the check.
            self.latest.pop(self._key(turn), None)

    def check(self, outcome: Outcome) -> None:
        """Compare what was acknowledged with what is stored."""
        client = client_of(self.work)
        where = f"{self.work.name} writer {self.number}"
        count = int(client.get(f"count:{self.number}") or 0)
        if count < self.counted:
            outcome.lost.append(f"{where}: counter shows {count}, {self.counted} increments were acknowledged")
        if count > self.counted + self.in_doubt:
            outcome.doubled.append(f"{where}: counter shows {count}, {self.counted} increments were acknowledged")
        stored = [int(x) for x in client.lrange(f"list:{self.number}", 0, -1)]
        times = Counter(stored)
        outcome.lost.extend(f"{where}: list lacks {turn}" for turn in self.appended if turn not in times)
        outcome.doubled.extend(f"{where}: list has {turn} {n} times" for turn, n in times.items() if n > 1)
        for key, turn in self.latest.items():
            value = client.get(key)
            if value is None or int(value[:12]) < turn:
                outcome.lost.append(f"{where}: {key} holds {value[:12] if value else None}, {turn} was acknowledged")
        client.close()


class _Reader(_Client):
    """Reads counters; a value lower than what its writer had acknowledged before the read is stale."""

    def __init__(self, number: int, work: Work, writers: list[_Writer], stop: threading.Event) -> None:
        super().__init__(f"{work.name}-reader-{number}", work, stop)
        self.number = number
        self.writers = writers
        self.reads = 0
        self.stale = 0

    def run(self) -> None:
        client = client_of(self.work, self.number)
        while not self.stop.is_set():
            writer = self.writers[self.reads % len(self.writers)]
            known = writer.counted
            try:
                value = int(client.get(f"count:{writer.number}") or 0)
                self.reads += 1
                self.stale += value < known
            except redis.RedisError as e:
                self.note("get", e)
            time.sleep(0.01)
        client.close()


def _serve(works: list[Work], pipe: Connection) -> None:
    sys.setswitchinterval(0.0005)
    stop = threading.Event()
    writers: dict[str, list[_Writer]] = {}
    readers: list[_Reader] = []
    for work in works:
        group = [_Writer(n, work, stop) for n in range(work.writers)]
        writers[work.name] = group
        readers += [_Reader(n, work, group, stop) for n in range(work.readers)]
    clients: list[_Client] = [*(w for group in writers.values() for w in group), *readers]
    for client in clients:
        client.start()
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        if order == "acked":
            pipe.send(sum(w.acked for group in writers.values() for w in group))
            continue
        stop.set()
        for client in clients:
            client.join(timeout=10)
        pipe.send(_outcome(writers, readers))
        return


def _outcome(writers: dict[str, list[_Writer]], readers: list[_Reader]) -> Outcome:
    outcome = Outcome()
    every = [w for group in writers.values() for w in group]
    outcome.disconnects = sum(max(0, n - 1) for n in _CountingConnection.connects.values())
    for client in (*every, *readers):
        outcome.errors += client.errors
        outcome.error_texts += client.texts
    for writer in every:
        outcome.acked += writer.acked
        writer.check(outcome)
    outcome.reads = sum(r.reads for r in readers)
    outcome.stale_reads = sum(r.stale for r in readers)
    outcome.calls = {name: [w.calls for w in group] for name, group in writers.items()}
    return outcome


class Load:
    """A running load. Ends with its parent."""

    def __init__(self, works: list[Work]) -> None:
        context = mp.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(works, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def acked(self) -> int:
        """Writes acknowledged so far. Raises EOFError when the load has died."""
        self._pipe.send("acked")
        return int(self._pipe.recv())

    def finish(self) -> Outcome:
        """Stop, read everything back, and tell. Raises EOFError when the load has died."""
        self._pipe.send("finish")
        outcome: Outcome = self._pipe.recv()
        self._process.join(timeout=10)
        return outcome

    def kill(self) -> None:
        """End it at once."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join(timeout=5)


def longest_overlapping(calls: list[Calls], began: float, ended: float) -> float:
    """The longest call, in seconds, that overlaps the time between the two instants (wall time); NaN when none does."""
    longest = math.nan
    for one in calls:
        for start, lasted in zip(one.began, one.lasted, strict=True):
            if start <= ended and start + lasted >= began and not lasted <= longest:
                longest = lasted
    return longest
