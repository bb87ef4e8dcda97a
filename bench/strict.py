"""Part 6: what strict mode costs, beside default mode and beside a bare client that sends its writes and WAIT itself.

Latency of one connection, and throughput of several, writes only. All sides take turns in one run, on two copies each.
"""

import asyncio
import multiprocessing as mp
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Any, cast

import uvloop

from bench.bare import BareServers, wait_for
from bench.clients import ClientFailed
from bench.context import Context, free_address
from bench.figures import Figure, PartResult, median, spread, tidy
from bench.wire import encode
from demo.cluster import DemoCluster

NAME = "strict"
MEMORY_BYTES = 256 << 20
VALUE = b"x" * 100
KEYS = 10_000
ROUNDS = 2
SECONDS = 0.6
STRICT, DEFAULT, BY_HAND, DIRECT = "strict", "default", "write + WAIT", "direct"
SIDES = (STRICT, DEFAULT, BY_HAND, DIRECT)
_OK = b"+OK\r\n"
_CONFIRMED = b":1\r\n"
_WAIT = encode(b"WAIT", b"1", b"2000")


@dataclass(frozen=True, slots=True)
class Case:
    """How many clients, and how many writes each sends at a time."""

    connections: int
    pipeline: int

    @property
    def name(self) -> str:
        """For the report."""
        many = "1 connection" if self.connections == 1 else f"{self.connections} connections"
        return many if self.pipeline == 1 else f"{many}, pipeline {self.pipeline}"


CASES = (Case(1, 1), Case(16, 1), Case(16, 16))


@dataclass(slots=True)
class Sample:
    """One run: writes per second, and how long each batch took (milliseconds)."""

    per_second: float
    lasted_ms: "array[float]" = field(default_factory=lambda: array("d"))


Samples = dict[tuple[Case, str], list[Sample]]


def measure(context: Context) -> PartResult:
    """Run it. Raises DemoFailed, BareFailed, ClientFailed, OSError."""
    rounds, seconds = (1, 0.3) if context.is_quick else (ROUNDS, SECONDS)
    samples: Samples = {(case, side): [] for case in CASES for side in SIDES}
    with context.cluster() as cluster, BareServers(context.binary, address=free_address()) as servers:
        primary, replica = (servers.start(memory_bytes=MEMORY_BYTES) for _ in range(2))
        replica.follow(primary)
        wait_for("the replica's link", replica.is_in_sync)
        bare = (primary.address, primary.port)
        where = {STRICT: _product(cluster, is_strict=True), DEFAULT: _product(cluster, is_strict=False)}
        where |= {BY_HAND: bare, DIRECT: bare}
        for number in range(1, rounds + 1):
            context.say(f"{', '.join(case.name for case in CASES)}; round {number} of {rounds}")
            for case in CASES:
                for side in SIDES:
                    samples[case, side].append(drive(where[side], case, seconds, waits=side == BY_HAND))
    return report(samples)


def report(samples: Samples) -> PartResult:
    """Pure: the figures of each case."""
    part = PartResult(NAME)
    for case in dict.fromkeys(case for case, _ in samples):
        rates = {side: median([s.per_second for s in samples[case, side]]) for side in SIDES}
        times = {side: spread([ms for s in samples[case, side] for ms in s.lasted_ms]) for side in SIDES}
        what = "write" if case.pipeline == 1 else "batch"
        for name, unit, found in (
            (f"{case.name}: {what} p50", "ms", {side: t.p50 for side, t in times.items()}),
            (f"{case.name}: {what} p99", "ms", {side: t.p99 for side, t in times.items()}),
            (f"{case.name}: writes", "/s", rates),
        ):
            part.figures.append(Figure(name, unit, found[STRICT], found[DEFAULT], DEFAULT, found[BY_HAND], BY_HAND))
        part.details[case.name] = {
            side: {"per_second": tidy(rates[side]), f"{what}_ms": times[side].as_json()} for side in SIDES
        }
    part.notes = [
        "strict and default are databases of the product behind its endpoint; write + WAIT is a client connected to a bare "
        "primary with a replica, which sends WAIT 1 behind each batch; values of 100 bytes, no persistence",
        "without endpoint and without WAIT: "
        + ", ".join(
            f"{case.name} {median([s.per_second for s in samples[case, DIRECT]]):,.0f}/s"
            for case in dict.fromkeys(case for case, _ in samples)
        ),
    ]
    return part


def _product(cluster: DemoCluster, *, is_strict: bool) -> tuple[str, int]:
    name = STRICT if is_strict else DEFAULT
    database: dict[str, Any] = cluster.create_database(
        name=name, memory_size=2 * MEMORY_BYTES, replication=True, strict=is_strict
    )
    endpoint = database["endpoints"][0]
    return str(endpoint["addr"][0]), int(endpoint["port"])


# -- the client ----------------------------------------------------------------------------------------------------------


class _Writer(asyncio.Protocol):
    """One connection: sends a batch of SETs, waits for all replies, notes the time, sends the next."""

    def __init__(self, number: int, pipeline: int, lasted_ms: "array[float]", *, waits: bool) -> None:
        keys = (b"key:%06d" % ((number * 31 + n) % KEYS) for n in range(pipeline))
        self._batch = b"".join(encode(b"SET", key, VALUE) for key in keys) + (_WAIT if waits else b"")
        self._expected = _OK * pipeline + (_CONFIRMED if waits else b"")
        self._lasted_ms = lasted_ms
        self._heard = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None
        self.batches = 0
        self.error = ""
        self.is_over = asyncio.Event()
        self.should_stop = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class does not inherit from it
        self._send()

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if len(self._heard) < len(self._expected) and data[:1] != b"-":
            return
        if self._heard != self._expected:
            self._end(f"the server answered {self._heard[:200]!r}")
            return
        self._lasted_ms.append((time.perf_counter() - self._sent_at) * 1000)
        self.batches += 1
        if self.should_stop:
            self._end("")
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_over.is_set():
            self._end(f"a connection was closed: {exc}")

    def _send(self) -> None:
        assert self._transport is not None
        self._heard = b""
        self._sent_at = time.perf_counter()
        self._transport.write(self._batch)

    def _end(self, error: str) -> None:
        self.error = self.error or error
        self.is_over.set()
        assert self._transport is not None
        self._transport.close()


async def _load(
    address: tuple[str, int], connections: int, pipeline: int, seconds: float, waits: bool
) -> tuple[int, float, bytes, str]:
    loop = asyncio.get_running_loop()
    lasted_ms = array("d")
    writers = [_Writer(number, pipeline, lasted_ms, waits=waits) for number in range(connections)]
    for writer in writers:
        await loop.create_connection(lambda w=writer: w, *address)  # type: ignore[misc]
    await asyncio.sleep(seconds / 10)
    # Warm by now: what came before is left out.
    before, began = sum(w.batches for w in writers), time.perf_counter()
    first = len(lasted_ms)
    await asyncio.sleep(seconds)
    count, took_s = sum(w.batches for w in writers) - before, time.perf_counter() - began
    found = lasted_ms[first:].tobytes()
    for writer in writers:
        writer.should_stop = True
    async with asyncio.timeout(30):
        await asyncio.gather(*(w.is_over.wait() for w in writers))
    errors = [w.error for w in writers if w.error]
    return count * pipeline, took_s, found, errors[0] if errors else ""


def _run(pipe: Pipe, address: tuple[str, int], connections: int, pipeline: int, seconds: float, waits: bool) -> None:
    try:
        pipe.send(uvloop.run(_load(address, connections, pipeline, seconds, waits)))
    except (OSError, TimeoutError) as e:
        pipe.send((0, 1.0, b"", f"{type(e).__name__}: {e}"))


def drive(address: tuple[str, int], case: Case, seconds: float, *, waits: bool) -> Sample:
    """One run, in a process of its own. Raises ClientFailed."""
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    arguments: Sequence[object] = (theirs, address, case.connections, case.pipeline, seconds, waits)
    process = context.Process(target=_run, args=arguments, daemon=True)
    process.start()
    theirs.close()
    try:
        writes, took_s, lasted, error = ours.recv()
    except EOFError:
        raise ClientFailed("the client ended without a word") from None
    finally:
        ours.close()
        process.join(timeout=10)
        process.kill()
    if error:
        raise ClientFailed(error)
    times = array("d")
    times.frombytes(lasted)
    return Sample(writes / took_s, times)
