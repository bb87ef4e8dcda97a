"""The client of the endpoint's part: many connections with a pipeline, half SET and half GET, for some seconds.

``redis-benchmark`` where it is on PATH, because it costs less than what it measures; else an asyncio client of our own.
The same one measures both sides.
"""

import asyncio
import csv
import io
import multiprocessing as mp
import shutil
import subprocess
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import cast

import uvloop

from bench.wire import encode

VALUE = b"x" * 100
KEYS = 10_000
PROBE_REQUESTS = 20_000
"""A first short run tells how many requests fill the wanted time."""
_OK = b"+OK\r\n"
_FOUND = b"$%d\r\n%b\r\n" % (len(VALUE), VALUE)


class ClientFailed(Exception):
    """The client could not run, or got errors; the text says what."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """What one run found."""

    commands: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Commands per second."""
        return self.commands / self.seconds


def client_name() -> str:
    """Which client will be used."""
    return "redis-benchmark" if shutil.which("redis-benchmark") else "own"


def drive(address: str, port: int, *, connections: int, pipeline: int, seconds: float) -> Throughput:
    """About so many seconds of load, half SET and half GET. Raises ClientFailed."""
    program = shutil.which("redis-benchmark")
    if program is None:
        return _drive_own(address, port, connections, pipeline, seconds)
    first = _drive_program(program, address, port, connections, pipeline, PROBE_REQUESTS)
    requests = max(PROBE_REQUESTS, int(first.per_second * seconds / 2))
    return _drive_program(program, address, port, connections, pipeline, requests)


# -- redis-benchmark -----------------------------------------------------------------------------------------------------


def _drive_program(program: str, address: str, port: int, connections: int, pipeline: int, requests: int) -> Throughput:
    """``requests`` SETs, then as many GETs."""
    command = [program, "-h", address, "-p", str(port), "-c", str(connections), "-P", str(pipeline), "-n", str(requests)]
    command += ["-t", "set,get", "-d", str(len(VALUE)), "-r", str(KEYS), "--csv"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    rates = rates_of(done.stdout)
    if done.returncode != 0 or sorted(rates) != ["GET", "SET"]:
        raise ClientFailed(f"redis-benchmark failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    return Throughput(2 * requests, sum(requests / rate for rate in rates.values()))


def rates_of(text: str) -> dict[str, float]:
    """Pure: requests per second of each test in the program's CSV."""
    found = {}
    for row in csv.reader(io.StringIO(text)):
        if len(row) >= 2 and row[0] in ("SET", "GET"):
            found[row[0]] = float(row[1])
    return found


# -- our own -------------------------------------------------------------------------------------------------------------


class _Client(asyncio.Protocol):
    """One connection: sends a batch, waits for all its replies, sends the next. Replies have known lengths."""

    def __init__(self, number: int, pipeline: int) -> None:
        self.commands = 0
        self.error = ""
        self.is_over = asyncio.Event()
        self.should_stop = False
        self._transport: asyncio.Transport | None = None
        self._missing = 0
        key = b"key:%06d" % number
        put, get = encode(b"SET", key, VALUE), encode(b"GET", key)
        if pipeline == 1:
            self._batches = [(put, len(_OK), 1), (get, len(_FOUND), 1)]
        else:
            half = pipeline // 2
            self._batches = [((put + get) * half, (len(_OK) + len(_FOUND)) * half, 2 * half)]
        self._turn = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class does not inherit from it
        self._send()

    def data_received(self, data: bytes) -> None:
        if self._missing in self._whole and data[:1] == b"-":
            self._end(f"the server answered {data[:100]!r}")
            return
        self._missing -= len(data)
        if self._missing == 0:
            self.commands += self._batches[self._turn][2]
            self._turn = (self._turn + 1) % len(self._batches)
            if self.should_stop:
                self._end("")
            else:
                self._send()
        elif self._missing < 0:
            self._end("replies have another length than they should")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_over.is_set():
            self._end(f"a connection was closed: {exc}")

    @property
    def _whole(self) -> tuple[int, ...]:
        return tuple(length for _, length, _ in self._batches)

    def _send(self) -> None:
        assert self._transport is not None
        data, self._missing, _ = self._batches[self._turn]
        self._transport.write(data)

    def _end(self, error: str) -> None:
        self.error = self.error or error
        self.is_over.set()
        assert self._transport is not None
        self._transport.close()


async def _load(address: str, port: int, connections: int, pipeline: int, seconds: float) -> tuple[int, float, str]:
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    clients = [_Client(number, pipeline) for number in range(connections)]
    await asyncio.gather(*(loop.create_connection(lambda c=c: c, address, port) for c in clients))  # type: ignore[misc]
    await asyncio.sleep(seconds)
    for client in clients:
        client.should_stop = True
    async with asyncio.timeout(30):
        await asyncio.gather(*(c.is_over.wait() for c in clients))
    errors = [c.error for c in clients if c.error]
    return sum(c.commands for c in clients), time.perf_counter() - began, errors[0] if errors else ""


def _run_own(pipe: Pipe, address: str, port: int, connections: int, pipeline: int, seconds: float) -> None:
    try:
        pipe.send(uvloop.run(_load(address, port, connections, pipeline, seconds)))
    except (OSError, TimeoutError) as e:
        pipe.send((0, 0.0, f"{type(e).__name__}: {e}"))


def _drive_own(address: str, port: int, connections: int, pipeline: int, seconds: float) -> Throughput:
    """In a process of its own: what the client costs must not slow down what reads the clocks."""
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run_own, args=(theirs, address, port, connections, pipeline, seconds), daemon=True)
    process.start()
    theirs.close()
    try:
        commands, lasted, error = ours.recv()
    except EOFError:
        raise ClientFailed("the client ended without a word") from None
    finally:
        process.join(timeout=10)
        process.kill()
    if error:
        raise ClientFailed(error)
    return Throughput(commands, lasted)
