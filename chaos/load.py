"""The files that writers and checker share: the work for each database, and the journals."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos.journal import ACCOUNTS, KEYS

TIMEOUT_S = 6.0
"""Longer than an endpoint holds a command."""
CONNECT_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Work:
    """The load on one database. ``may_lose_tail``: its primary may be killed, and in default mode the last moment before may
    be lost. ``others``: more addresses at which other nodes serve it."""

    name: str
    address: str
    port: int
    writers: int
    writes_per_s: float
    may_lose_tail: bool
    others: tuple[str, ...] = ()

    def address_of(self, attempt: int) -> str:
        """The address to try after so many that did not answer."""
        addresses = (self.address, *self.others)
        return addresses[attempt % len(addresses)]


@dataclass(frozen=True, slots=True)
class Place:
    """The files that the processes of a run share."""

    directory: Path

    @property
    def works(self) -> Path:
        return self.directory / "works.json"

    @property
    def kills(self) -> Path:
        """Lines ``<database> <time>``, written just before a primary is killed."""
        return self.directory / "kills"

    def journal(self, work: Work, writer: int) -> Path:
        return self.directory / f"{work.name}-{writer}.journal"

    def write_works(self, works: list[Work]) -> None:
        """Write the work for the other processes."""
        self.works.write_text(json.dumps([asdict(w) for w in works]))
        self.kills.touch()

    def read_works(self) -> list[Work]:
        """The work that was written."""
        found = json.loads(self.works.read_text())
        return [Work(**{**work, "others": tuple(work["others"])}) for work in found]

    def kills_of(self, work: Work) -> list[float]:
        """The times at which primaries of the database were killed; empty if nothing may be lost."""
        lines = [line.split() for line in self.kills.read_text().splitlines()]
        return [float(at) for name, at in lines if name == work.name and work.may_lose_tail]


class _Connection(redis.Connection):
    """Counts its connects."""

    connects = 0

    def _connect(self) -> Any:
        self.connects += 1
        return super()._connect()  # type: ignore[no-untyped-call]


def connects_of(client: Any) -> int:
    """Number of connects of a ``client_of`` client: it keeps one connection, and reconnects when it was lost."""
    return sum(c.connects for c in getattr(client.connection_pool, "_available_connections", []))


def client_of(work: Work, attempt: int = 0) -> Any:
    """An ordinary client with one connection that repeats nothing. ``attempt``: see ``Work.address_of``."""
    pool = redis.ConnectionPool(
        connection_class=_Connection,
        host=work.address_of(attempt),
        port=work.port,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        max_connections=1,
        decode_responses=True,
    )
    return redis.Redis.from_pool(pool)


def counter_key(writer: int, number: int) -> str:
    """A counter of a writer."""
    return f"count:{{{writer}}}:{number}"


def account_key(writer: int, number: int) -> str:
    """An account of a writer."""
    return f"account:{{{writer}}}:{number}"


def counter_keys(writer: int) -> list[str]:
    """All counters of a writer."""
    return [counter_key(writer, n) for n in range(KEYS)]


def account_keys(writer: int) -> list[str]:
    """All accounts of a writer."""
    return [account_key(writer, n) for n in range(ACCOUNTS)]


def list_key(writer: int) -> str:
    """The list to which a writer appends."""
    return f"list:{{{writer}}}"


def transfers_key(writer: int) -> str:
    """The list of a writer's transfers."""
    return f"transfers:{{{writer}}}"
