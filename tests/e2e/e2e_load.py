"""A light load on one database by ordinary clients that repeat nothing; compares what was acknowledged with what is stored.

Used by the crash tests of this directory.
"""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from testkit.deadlines import Stopwatch, until
from tests.e2e.e2e_harness import BACK_S, LEASE_S


class _Connection(redis.Connection):
    """Counts its connects."""

    connects = 0

    def _connect(self) -> Any:
        self.connects += 1
        return super()._connect()  # type: ignore[no-untyped-call]


def client_of(database: dict[str, Any]) -> Any:
    """A client with one connection that repeats nothing."""
    endpoint = database["endpoints"][0]
    pool = redis.ConnectionPool(
        connection_class=_Connection,
        host=endpoint["addr"][0],
        port=endpoint["port"],
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        socket_timeout=6,
        max_connections=1,
        decode_responses=True,
    )
    return redis.Redis(connection_pool=pool)


@dataclass
class Tally:
    """What the writers observed since the last check, and the result of the comparison."""

    acked: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    reconnects: int = 0
    slowest_ms: float = 0.0

    def assert_unnoticed(self) -> "Tally":
        """Nothing is lost or doubled, and no client noticed anything."""
        noticed = self.errors or self.reconnects
        assert not noticed, self
        return self.assert_kept()

    def assert_kept(self) -> "Tally":
        """Nothing is lost or doubled; clients may have noticed something."""
        damage = self.lost or self.doubled
        assert not damage, self
        return self


class _Writer(threading.Thread):
    """Appends to a list and counts, in turn; records which writes were acknowledged and which are in doubt."""

    def __init__(self, number: int, database: dict[str, Any], rate: float) -> None:
        super().__init__(name=f"writer-{database['uid']}-{number}", daemon=True)
        self.keys = (f"list:{number}", f"count:{number}")
        self.may_write = threading.Event()
        self.is_parked = threading.Event()
        self.has_stopped = False
        self._client = client_of(database)
        self._pause_s = 1 / rate
        self._turn = 0
        self._connects = 0
        self.reset()

    def reset(self) -> None:
        self.appended: list[int] = []
        self.unsure: set[int] = set()
        self.counted = 0
        self.count_in_doubt = 0
        self.errors: list[str] = []
        self.slowest_s = 0.0

    def reconnects(self) -> int:
        """Number of reconnects since the last call."""
        pool = self._client.connection_pool
        # redis-py keeps one connection, and reconnects.
        connections = list(getattr(pool, "_available_connections", []))
        now: int = sum(c.connects for c in connections)
        fresh, self._connects = now - self._connects, now
        return fresh

    def run(self) -> None:
        while not self.has_stopped:
            if not self.may_write.is_set():
                self.is_parked.set()
                self.may_write.wait(0.1)
                continue
            self.is_parked.clear()
            self._write()
            time.sleep(self._pause_s)
        self._client.close()

    def _write(self) -> None:
        self._turn += 1
        is_append = self._turn % 2 == 0
        began = time.perf_counter()
        try:
            if is_append:
                self._client.rpush(self.keys[0], self._turn)
                self.appended.append(self._turn)
            else:
                self._client.incr(self.keys[1])
                self.counted += 1
        except redis.RedisError as e:
            self.errors.append(f"{time.strftime('%H:%M:%S')} {self.name}: {type(e).__name__}: {e}")
            if is_append:
                self.unsure.add(self._turn)
            else:
                self.count_in_doubt += 1
        self.slowest_s = max(self.slowest_s, time.perf_counter() - began)

    def compare(self, client: Any, tally: Tally) -> None:
        """Compare with the stored data."""
        stored = [int(x) for x in client.lrange(self.keys[0], 0, -1)]
        count = int(client.get(self.keys[1]) or 0)
        known = set(stored)
        tally.lost += [f"{self.name}: append {n}" for n in self.appended if n not in known]
        tally.doubled += (
            [f"{self.name}: append {n}" for n in known if stored.count(n) > 1] if len(known) < len(stored) else []
        )
        if count < self.counted:
            tally.lost.append(f"{self.name}: counted {self.counted}, stored {count}")
        if count > self.counted + self.count_in_doubt:
            tally.doubled.append(f"{self.name}: counted {self.counted} (+{self.count_in_doubt}), stored {count}")
        tally.acked += len(self.appended) + self.counted
        tally.errors += self.errors
        tally.reconnects += self.reconnects()
        tally.slowest_ms = max(tally.slowest_ms, self.slowest_s * 1000)


class Writers:
    """Some writers on one database. A check pauses them for a moment, so that it is exact; then they start again."""

    def __init__(self, database: dict[str, Any], *, writers: int = 2, rate: float = 100.0) -> None:
        self.database = database
        self._writers = [_Writer(n, database, rate) for n in range(writers)]
        for writer in self._writers:
            writer.may_write.set()
            writer.start()
        until("the writers to write", lambda: self.acked() > 20)
        self.check()

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.has_stopped = True
            writer.may_write.set()
        for writer in self._writers:
            writer.join(timeout=10)

    def acked(self) -> int:
        """Number of acknowledged writes since the last check."""
        return sum(len(w.appended) + w.counted for w in self._writers)

    def wait_for_progress(self, *, seconds: float = BACK_S) -> float:
        """Wait until each writer has had another write acknowledged. Returns the duration."""
        watch = Stopwatch()
        before = {w.name: len(w.appended) + w.counted for w in self._writers}
        until(
            "the writers to continue",
            lambda: all(len(w.appended) + w.counted > before[w.name] + 1 for w in self._writers),
            seconds=seconds,
            clock_s=LEASE_S,
            state=lambda: str([w.errors for w in self._writers]),
        )
        return watch.seconds

    def check(self, *, forget: bool = True) -> Tally:
        """Compare everything acknowledged since the last check with the stored data."""
        for writer in self._writers:
            writer.may_write.clear()
        for writer in self._writers:
            until("a writer to pause", writer.is_parked.is_set, seconds=10)
        tally = Tally()
        client = client_of(self.database)
        try:
            for writer in self._writers:
                writer.compare(client, tally)
                if forget:
                    client.delete(*writer.keys)
                    writer.reset()
        finally:
            client.close()
            for writer in self._writers:
                writer.is_parked.clear()
                writer.may_write.set()
        return tally
