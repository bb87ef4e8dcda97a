"""Scenarios on a real etcd of one or three members, in the daemons' event loop. Ends what it starts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from shardwright.store.etcd import EtcdStore
from shardwright.store.protocol import PutKey, Transaction
from shardwright.store.settings import EtcdLimits
from testkit.etcd import PATIENT, EtcdCluster

IMPATIENT = EtcdLimits()
"""As in a daemon."""


def on_three(tmp_path: Path, scenario: Callable[[EtcdCluster], Awaitable[None]]) -> None:
    """Run a scenario on three members with certificates, in the daemons' event loop."""

    async def main() -> None:
        async with asyncio.timeout(120), EtcdCluster(tmp_path / "etcd", count=3, tls=True) as etcd:
            await scenario(etcd)

    uvloop.run(main())


def on_one(tmp_path: Path, scenario: Callable[[EtcdCluster], Awaitable[None]], *, quota_bytes: int = 2**31) -> None:
    async def main() -> None:
        async with asyncio.timeout(120), EtcdCluster(tmp_path / "etcd", quota_bytes=quota_bytes) as etcd:
            await scenario(etcd)

    uvloop.run(main())


@asynccontextmanager
async def opened(etcd: EtcdCluster, first: int = 0, *, limits: EtcdLimits = PATIENT) -> AsyncIterator[EtcdStore]:
    store = await EtcdStore.open(etcd.settings(first, limits=limits))
    try:
        yield store
    finally:
        await store.close()


def put(key: str, value: bytes = b"") -> Transaction:
    return Transaction(operations=(PutKey(key, value),))
