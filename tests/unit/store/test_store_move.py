"""Copying a cluster into another store: complete or marked as incomplete, whatever interrupts it."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shardwright.clock import SystemClock
from shardwright.errors import Permanent, Rejected
from shardwright.model.cluster import Cluster, Counters, Node
from shardwright.model.codes import Code
from shardwright.model.database import ServerSecrets
from shardwright.model.ids import DatabaseUid, NodeUid
from shardwright.model.version import CLUSTER_VERSION, FIRST_CLUSTER_VERSION
from shardwright.store import keys, records
from shardwright.store.admission import check_store
from shardwright.store.keys import StoredRecord
from shardwright.store.memory import MemoryStore
from shardwright.store.move import Copied, batches, copy_store
from shardwright.store.open import open_store
from shardwright.store.protocol import (
    DeleteKey,
    KeyValue,
    Operation,
    PutKey,
    Store,
    StoreUnavailable,
    Transaction,
    TransactionResult,
)
from shardwright.store.seal import IN_CLEAR, KEY_BYTES, ClusterKey, Sealing, is_sealed, to_seal_again
from shardwright.store.settings import SqliteSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLUSTER = Cluster("c", NOW, "127.0.0.1", 9443, cluster_version=CLUSTER_VERSION)
SECRETS = ServerSecrets(DatabaseUid(1), "app", "rep", "obs", "man", "seed")
PLACE = keys.key_of(SECRETS)


def key(first: int) -> Sealing:
    numbers = itertools.count()
    return Sealing([ClusterKey.of(bytes([first] * KEY_BYTES))], lambda size: next(numbers).to_bytes(size, "big"))


OURS, THEIRS = key(1), key(2)


class Killed(Exception):
    """The copying process is killed."""


class DyingStore:
    """Kills its user at the n-th transaction, before or after it happens. Otherwise the store behind it."""

    def __init__(self, store: Store, *, at: int, after: bool) -> None:
        self._store = store
        self._left = at
        self._after = after

    async def transact(self, transaction: Transaction) -> TransactionResult:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed
        result = await self._store.transact(transaction)
        if self._left == 0:
            raise Killed
        return result

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


@asynccontextmanager
async def opened(kind: str, directory: Path) -> AsyncIterator[Store]:
    store: Store
    if kind == "memory":
        store = MemoryStore(SystemClock())
    else:
        store = await open_store(SqliteSettings(directory / f"{kind}.db"))
    try:
        yield store
    finally:
        await store.close()


Scenario = Callable[[Store, Store], Awaitable[None]]
BETWEEN = [("memory", "memory"), ("sqlite", "memory"), ("memory", "sqlite"), ("sqlite", "sqlite-2")]
both = pytest.mark.parametrize("kinds", BETWEEN, ids=" to ".join)


def run(kinds: tuple[str, str], directory: Path, scenario: Scenario) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), opened(kinds[0], directory) as source, opened(kinds[1], directory) as target:
            await scenario(source, target)

    asyncio.run(main())


async def write(store: Store, *operations: Operation) -> None:
    for batch in batches(operations, reserved_bytes=0):
        assert (await store.transact(Transaction(operations=batch))).succeeded


async def fill(store: Store, sealing: Sealing = OURS, *, cluster: Cluster = CLUSTER, nodes: int = 300) -> None:
    """A cluster with many records, secrets, and keys that belong to a lease."""
    made: list[StoredRecord] = [cluster, Counters(), *(Node(NodeUid(n), "127.0.0.1", NOW) for n in range(1, nodes + 1))]
    secrets = [replace(SECRETS, database_uid=DatabaseUid(n)) for n in range(1, 20)]
    puts = [PutKey(keys.key_of(r), records.encode(r)) for r in made]
    puts += [PutKey(p, sealing.seal(p, records.encode(r))) for r in secrets if (p := keys.key_of(r))]
    await write(store, *puts, PutKey(keys.TERM, b"7"))
    lease = await store.grant(timedelta(seconds=60))
    await write(store, PutKey(keys.LEADER, b"{}", lease), PutKey(f"{keys.DAEMONS}00000001", b"{}", lease))


async def items(store: Store) -> dict[str, KeyValue]:
    found: dict[str, KeyValue] = {}
    start: str | None = ""
    while start is not None:
        page = await store.range("", start=start)
        found |= {item.key: item for item in page.items}
        start = page.next_start
    return found


async def clear(store: Store, sealing: Sealing) -> dict[str, bytes]:
    return {k: sealing.open(k, i.value) for k, i in (await items(store)).items() if i.lease is None}


async def copy(
    source: Store,
    target: object,
    *,
    source_sealing: Sealing = OURS,
    target_sealing: Sealing = THEIRS,
    is_source_running: bool = False,
    said: list[Copied] | None = None,
) -> Copied:
    return await copy_store(
        source,
        target,  # type: ignore[arg-type]
        (lambda p: None) if said is None else said.append,
        source_sealing=source_sealing,
        target_sealing=target_sealing,
        is_source_running=is_source_running,
    )


async def is_complete(source: Store, target: Store) -> bool:
    await check_store(target, THEIRS)
    return await clear(target, THEIRS) == await clear(source, OURS)


@both
def test_everything_but_leased_keys_is_copied_and_sealed_again(kinds: tuple[str, str], tmp_path: Path) -> None:
    async def scenario(source: Store, target: Store) -> None:
        await fill(source)
        said: list[Copied] = []
        before = await items(source)
        done = await copy(source, target, said=said)
        assert await is_complete(source, target)
        assert await items(source) == before, "the source is only read"
        found = await items(target)
        assert keys.LEADER not in found
        assert keys.INCOMPLETE_COPY not in found
        assert found[keys.TERM].value == b"7"
        assert is_sealed(found[PLACE].value)
        assert THEIRS.uid is not None
        assert to_seal_again(found.values(), THEIRS.uid) == ()
        assert done == said[-1] == Copied(len(found), len(found))
        assert [p.records for p in said] == sorted(p.records for p in said)
        assert len(said) > 3, "several batches"
        assert await copy(source, target) == done, "it may be repeated after its end"

    run(kinds, tmp_path, scenario)


@both
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_copy_that_is_killed_at_any_batch_is_refused_and_continues(
    kinds: tuple[str, str], after: bool, tmp_path: Path
) -> None:
    async def scenario(source: Store, target: Store) -> None:
        await fill(source)
        kills = 0
        for at in itertools.count(1):
            await write(target, *(DeleteKey(k) for k in await items(target)))
            try:
                await copy(source, DyingStore(target, at=at, after=after))
            except Killed:
                kills += 1
            else:
                break
            await assert_marked(target, is_empty=at == 1 and not after)
            assert await copy(source, target)
            assert await is_complete(source, target), f"killed at transaction {at}"
        assert kills >= 5, "a mark, several batches and the end"

    async def assert_marked(target: Store, *, is_empty: bool) -> None:
        held = await items(target)
        if is_empty or keys.CLUSTER in held:
            assert not held or keys.INCOMPLETE_COPY not in held
            return
        assert keys.INCOMPLETE_COPY in held
        with pytest.raises(Permanent) as refused:
            await check_store(target, THEIRS)
        assert refused.value.code == Code.STORE_INCOMPLETE

    run(kinds, tmp_path, scenario)


def test_a_copy_that_is_killed_again_and_again_ends(tmp_path: Path) -> None:
    async def scenario(source: Store, target: Store) -> None:
        await fill(source)
        for _ in range(20):
            try:
                await copy(source, DyingStore(target, at=2, after=True))
            except Killed:
                continue
            break
        assert await is_complete(source, target)

    run(("memory", "memory"), tmp_path, scenario)


def test_what_changed_between_two_attempts_is_copied_too(tmp_path: Path) -> None:
    async def scenario(source: Store, target: Store) -> None:
        await fill(source)
        with pytest.raises(Killed):
            await copy(source, DyingStore(target, at=4, after=True))
        changed = Node(NodeUid(2), "127.0.0.9", NOW)
        await write(source, DeleteKey(f"{keys.NODES}00000001"), PutKey(keys.key_of(changed), records.encode(changed)))
        await copy(source, target)
        assert await is_complete(source, target)
        assert f"{keys.NODES}00000001" not in await items(target)

    run(("memory", "memory"), tmp_path, scenario)


def test_another_key_after_an_interruption_seals_everything_again(tmp_path: Path) -> None:
    async def scenario(source: Store, target: Store) -> None:
        await fill(source)
        with pytest.raises(Killed):
            await copy(source, DyingStore(target, at=4, after=True), target_sealing=key(3))
        await copy(source, target)
        assert await is_complete(source, target)

    run(("memory", "memory"), tmp_path, scenario)


async def _refused(source: Store, target: Store, code: str, **options: object) -> None:
    before = await items(target)
    with pytest.raises((Rejected, Permanent)) as refused:
        await copy(source, target, **options)  # type: ignore[arg-type]
    assert refused.value.code == code
    assert "hunter2" not in refused.value.text
    assert await items(target) == before, "a refusal writes nothing"


@both
def test_what_is_refused(kinds: tuple[str, str], tmp_path: Path) -> None:
    async def scenario(source: Store, target: Store) -> None:
        await _refused(source, target, "no_cluster")
        await fill(source)
        await _refused(source, target, "cluster_running", is_source_running=True)
        await _refused(source, target, Code.SECRET_KEY_MISSING, source_sealing=THEIRS)
        await _refused(source, target, Code.SECRET_KEY_MISSING, source_sealing=IN_CLEAR)
        await _refused(source, target, "target_without_key", target_sealing=IN_CLEAR)
        await write(target, PutKey("foreign", b"hunter2"))
        await _refused(source, target, "target_not_empty")
        await write(target, DeleteKey("foreign"), PutKey(keys.INCOMPLETE_COPY, b"another cluster"))
        await _refused(source, target, "target_not_empty")
        await write(source, PutKey(keys.INCOMPLETE_COPY, b"x"))
        await _refused(source, target, Code.STORE_INCOMPLETE)

    run(kinds, tmp_path, scenario)


def test_another_cluster_is_not_empty(tmp_path: Path) -> None:
    async def scenario(source: Store, target: Store) -> None:
        await fill(source)
        await copy(source, target)
        await write(source, PutKey(keys.TERM, b"8"))
        await _refused(source, target, "target_not_empty")

    run(("memory", "memory"), tmp_path, scenario)


@pytest.mark.parametrize("version", [FIRST_CLUSTER_VERSION, CLUSTER_VERSION + 1])
def test_the_version_must_permit_it(version: int, tmp_path: Path) -> None:
    async def scenario(source: Store, target: Store) -> None:
        await fill(source, IN_CLEAR, cluster=replace(CLUSTER, cluster_version=version))
        code = "cluster_version_too_old" if version < CLUSTER_VERSION else Code.STORE_SCHEMA_TOO_NEW
        await _refused(source, target, code)
        if version < CLUSTER_VERSION:
            await copy(source, target, source_sealing=IN_CLEAR, target_sealing=IN_CLEAR)
            assert await clear(target, IN_CLEAR) == await clear(source, IN_CLEAR)

    run(("memory", "memory"), tmp_path, scenario)


def test_secrets_in_clear_are_sealed_for_a_target_with_a_key(tmp_path: Path) -> None:
    async def scenario(source: Store, target: Store) -> None:
        await fill(source, IN_CLEAR)
        await copy(source, target, source_sealing=IN_CLEAR)
        assert await is_complete(source, target)
        assert all(is_sealed(i.value) for k, i in (await items(target)).items() if k.startswith("secrets/"))

    run(("memory", "memory"), tmp_path, scenario)


class MeddledStore(MemoryStore):
    """Another process writes at the n-th transaction."""

    def __init__(self, at: int, meddle: Callable[[], Awaitable[None]]) -> None:
        super().__init__(SystemClock())
        self.left, self.meddle = at, meddle

    async def transact(self, transaction: Transaction) -> TransactionResult:
        self.left -= 1
        if self.left == 0:
            await self.meddle()
        return await super().transact(transaction)


def test_a_source_that_changes_meanwhile_is_noticed() -> None:
    async def scenario() -> None:
        source = MemoryStore(SystemClock())
        await fill(source)
        target = MeddledStore(3, lambda: write(source, PutKey("names/hunter2", b"1")))
        with pytest.raises(Permanent) as refused:
            await copy(source, target)
        assert refused.value.code == Code.STORE_COPY_DIFFERS
        assert keys.INCOMPLETE_COPY in await items(target)
        await copy(source, target)
        assert await is_complete(source, target)
        await source.close()
        await target.close()

    asyncio.run(scenario())


def test_a_target_that_another_process_writes_is_noticed() -> None:
    async def scenario() -> None:
        source = MemoryStore(SystemClock())
        await fill(source)
        target: MeddledStore
        target = MeddledStore(3, lambda: MemoryStore.transact(target, Transaction((), (PutKey("x", b"y"),))))  # type: ignore[arg-type,return-value]
        with pytest.raises(Permanent) as refused:
            await copy(source, target)
        assert (refused.value.code, "x" in refused.value.text) == (Code.STORE_COPY_DIFFERS, True)
        other = MeddledStore(3, lambda: copy_again(source, other))
        with pytest.raises(Rejected) as busy:
            await copy(source, other)
        assert busy.value.code == "busy"
        assert await is_complete(source, other), "the later copy won"
        for store in (source, target, other):
            await store.close()

    async def copy_again(source: Store, target: MeddledStore) -> None:
        target.left = 0
        await copy(source, target)

    asyncio.run(scenario())


def test_a_store_that_is_lost_leaves_the_mark(tmp_path: Path) -> None:
    class LostStore(DyingStore):
        async def transact(self, transaction: Transaction) -> TransactionResult:
            try:
                return await super().transact(transaction)
            except Killed:
                raise StoreUnavailable(Code.STORE_UNAVAILABLE, "gone") from None

    async def scenario(source: Store, target: Store) -> None:
        await fill(source)
        with pytest.raises(StoreUnavailable):
            await copy(source, LostStore(target, at=3, after=True))
        await copy(source, target)
        assert await is_complete(source, target)

    run(("memory", "memory"), tmp_path, scenario)
