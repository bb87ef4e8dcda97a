"""The writers' and the checker's place: what is written to which database, and where its journal lies."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shardwright.testing.chaos.journal import ACCOUNTS, KEYS

TIMEOUT_S = 6.0
"""Longer than an endpoint holds a command."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the load does to one database. ``may_lose_tail``: its primary is killed too, and the default mode promises
    nothing about the last moment before."""

    name: str
    address: str
    port: int
    writers: int
    writes_per_s: float
    may_lose_tail: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Files that the processes of a run share."""

    directory: Path

    @property
    def works(self) -> Path:
        return self.directory / "works.json"

    @property
    def kills(self) -> Path:
        """Lines ``<database> <time>``: a primary is about to be killed."""
        return self.directory / "kills"

    def journal(self, work: Work, writer: int) -> Path:
        return self.directory / f"{work.name}-{writer}.journal"

    def write_works(self, works: list[Work]) -> None:
        """Tell the other processes what to do."""
        self.works.write_text(json.dumps([asdict(w) for w in works]))
        self.kills.touch()

    def read_works(self) -> list[Work]:
        """What they were told."""
        return [Work(**w) for w in json.loads(self.works.read_text())]

    def kills_of(self, work: Work) -> list[float]:
        """When primaries of the database were killed; empty where nothing may be lost."""
        lines = [line.split() for line in self.kills.read_text().splitlines()]
        return [float(at) for name, at in lines if name == work.name and work.may_lose_tail]


class _Connection(redis.Connection):
    """Counts how often it had to connect."""

    connects = 0

    def _connect(self) -> Any:
        self.connects += 1
        return super()._connect()  # type: ignore[no-untyped-call]


def connects_of(client: Any) -> int:
    """How often a client of ``client_of`` has connected: its one connection is kept, and connects again when it was lost."""
    return sum(c.connects for c in getattr(client.connection_pool, "_available_connections", []))


def client_of(work: Work) -> Any:
    """An ordinary client with one connection that repeats nothing."""
    pool = redis.ConnectionPool(
        connection_class=_Connection,
        host=work.address,
        port=work.port,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        socket_timeout=TIMEOUT_S,
        max_connections=1,
        decode_responses=True,
    )
    return redis.Redis.from_pool(pool)


def counter_key(writer: int, number: int) -> str:
    """One of a writer's counters."""
    return f"count:{{{writer}}}:{number}"


def account_key(writer: int, number: int) -> str:
    """One of a writer's accounts."""
    return f"account:{{{writer}}}:{number}"


def counter_keys(writer: int) -> list[str]:
    """All of them."""
    return [counter_key(writer, n) for n in range(KEYS)]


def account_keys(writer: int) -> list[str]:
    """All of them."""
    return [account_key(writer, n) for n in range(ACCOUNTS)]


def list_key(writer: int) -> str:
    """What a writer appended."""
    return f"list:{{{writer}}}"


def transfers_key(writer: int) -> str:
    """What a writer transferred."""
    return f"transfers:{{{writer}}}"
