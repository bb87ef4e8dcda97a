"""What a daemon must not work on, before its start and while it runs."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shardwright.clock import SystemClock
from shardwright.daemon_config import DaemonConfig
from shardwright.errors import Permanent
from shardwright.model.cluster import Cluster
from shardwright.model.codes import Code
from shardwright.model.database import ServerSecrets
from shardwright.model.ids import DatabaseUid, NodeUid
from shardwright.model.version import CLUSTER_VERSION
from shardwright.store import keys, records
from shardwright.store.admission import check_store
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.open import open_store
from shardwright.store.protocol import DeleteKey, Operation, PutKey, Store, Transaction
from shardwright.store.seal import IN_CLEAR, KEY_BYTES, ClusterKey, Sealing
from shardwright.store.settings import SqliteSettings
from shardwright.wiring import run_daemon

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLUSTER = Cluster("c", NOW, "127.0.0.1", 9443, cluster_version=CLUSTER_VERSION)
SECRETS = ServerSecrets(DatabaseUid(1), "app", "rep", "obs", "man", "seed")
PLACE = keys.key_of(SECRETS)
MINE = Sealing([ClusterKey.of(bytes(KEY_BYTES))], bytes)
OTHERS = Sealing([ClusterKey.of(bytes(range(KEY_BYTES)))], bytes)

GOOD = (
    PutKey(keys.CLUSTER, records.encode(CLUSTER)),
    PutKey(PLACE, MINE.seal(PLACE, records.encode(SECRETS))),
)
NEWER = PutKey(keys.CLUSTER, records.encode(replace(CLUSTER, cluster_version=CLUSTER_VERSION + 1)))
BAD: dict[str, tuple[PutKey, Code]] = {
    "a newer version": (NEWER, Code.STORE_SCHEMA_TOO_NEW),
    "a newer version with a record that cannot be read": (
        PutKey(keys.CLUSTER, json.dumps({"cluster_version": CLUSTER_VERSION + 5}).encode()),
        Code.STORE_SCHEMA_TOO_NEW,
    ),
    "an incomplete copy": (PutKey(keys.INCOMPLETE_COPY, b"c"), Code.STORE_INCOMPLETE),
    "a secret of another key": (
        PutKey("secrets/00000002", OTHERS.seal("secrets/00000002", b"{}")),
        Code.SECRET_KEY_MISSING,
    ),
}


def run(scenario: Callable[[Store], Awaitable[None]]) -> None:
    async def main() -> None:
        store = MemoryStore(SystemClock())
        async with asyncio.timeout(10):
            await scenario(store)
        await store.close()

    asyncio.run(main())


async def write(store: Store, *operations: Operation) -> int:
    return (await store.transact(Transaction(operations=operations))).revision


@pytest.mark.parametrize("what", sorted(BAD))
def test_a_daemon_is_refused_before_its_start(what: str) -> None:
    async def scenario(store: Store) -> None:
        bad, code = BAD[what]
        await write(store, *GOOD)
        await check_store(store, MINE)
        await write(store, bad)
        with pytest.raises(Permanent) as refused:
            await check_store(store, MINE)
        assert refused.value.code == code
        assert code.remedy in refused.value.text

    run(scenario)


@pytest.mark.parametrize("what", sorted(BAD))
@pytest.mark.parametrize("is_there_first", [True, False])
def test_a_mirror_ends_before_it_shows_what_it_must_not(what: str, is_there_first: bool) -> None:
    async def scenario(store: Store) -> None:
        bad, code = BAD[what]
        before = await write(store, *GOOD)
        if is_there_first:
            await write(store, bad)
        mirror = Mirror(store, sealing=MINE)
        task = asyncio.ensure_future(mirror.run())
        if not is_there_first:
            await mirror.ready()
            assert mirror.cluster_version == CLUSTER_VERSION
            await write(store, bad)
        with pytest.raises(Permanent) as refused:
            await task
        assert refused.value.code == code
        assert mirror.revision == (0 if is_there_first else before), "it shows nothing of it"

    run(scenario)


def test_the_first_version_and_clear_values_are_admitted() -> None:
    async def scenario(store: Store) -> None:
        await write(store, PutKey(keys.CLUSTER, b'{"name": "old"}'), PutKey(PLACE, records.encode(SECRETS)))
        for sealing in (IN_CLEAR, MINE):
            await check_store(store, sealing)
        await write(store, PutKey(keys.CLUSTER, b"{"))
        await check_store(store, MINE)

    run(scenario)


def test_a_damaged_secret_is_skipped_and_stops_nothing() -> None:
    async def scenario(store: Store) -> None:
        other = replace(SECRETS, database_uid=DatabaseUid(2))
        sealed = MINE.seal(PLACE, records.encode(SECRETS))
        moved, cut = keys.key_of(other), "secrets/00000003"
        await write(store, *GOOD, PutKey(moved, sealed), PutKey(cut, sealed[:10]))
        await check_store(store, MINE)
        mirror = Mirror(store, sealing=MINE)
        task = asyncio.ensure_future(mirror.run())
        await mirror.ready()
        assert mirror.view().secrets == {SECRETS.database_uid: SECRETS}
        await write(store, DeleteKey(moved), DeleteKey(cut))
        await mirror.fresh()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(scenario)


@pytest.mark.parametrize("what", sorted(BAD))
def test_the_daemon_ends_with_the_reason(what: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        bad, code = BAD[what]
        settings = SqliteSettings(tmp_path / "store.db")
        store = await open_store(settings)
        await write(store, *GOOD, *((bad,) if bad.key != keys.CLUSTER else ()))
        if bad.key == keys.CLUSTER:
            await write(store, bad)
        await store.close()
        config = DaemonConfig(
            node_uid=NodeUid(1),
            addresses=("127.0.0.1",),
            api_port=1,
            api_certificate=tmp_path / "cert.pem",
            api_key=tmp_path / "key.pem",
            store=settings,
            sealing=MINE,
            directory=tmp_path,
            endpoint_directory=tmp_path,
            run_directory=tmp_path / "run",
        )
        async with asyncio.timeout(20):
            with pytest.raises(Permanent) as refused:
                await run_daemon(config)
        assert refused.value.code == code

    asyncio.run(scenario())
