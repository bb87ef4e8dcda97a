"""A cluster can be copied out of and into every backend, and an interrupted copy is continued."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from shardwright.clock import SystemClock
from shardwright.model.cluster import Cluster, Node
from shardwright.model.codes import Code
from shardwright.model.database import ServerSecrets
from shardwright.model.ids import DatabaseUid, NodeUid
from shardwright.model.version import CLUSTER_VERSION
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.memory import MemoryStore
from shardwright.store.move import copy_store
from shardwright.store.protocol import PutKey, Store, StoreUnavailable, Transaction, TransactionResult
from shardwright.store.seal import KEY_BYTES, ClusterKey, Sealing
from tests.contract.store_worlds import WORLDS, World, run

pytestmark = pytest.mark.parametrize("backend", sorted(WORLDS))

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NODES = 200
_numbers = itertools.count()


def sealing(first: int) -> Sealing:
    return Sealing([ClusterKey.of(bytes([first]) * KEY_BYTES)], lambda size: next(_numbers).to_bytes(size, "big"))


ONE, OTHER = sealing(1), sealing(2)


class Interrupted:
    """Fails after its n-th transaction, as if its answer were lost."""

    def __init__(self, store: Store, at: int) -> None:
        self._store = store
        self._left = at

    async def transact(self, transaction: Transaction) -> TransactionResult:
        result = await self._store.transact(transaction)
        self._left -= 1
        if self._left == 0:
            raise StoreUnavailable(Code.STORE_UNAVAILABLE, "no answer")
        return result

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


async def fill(store: Store) -> None:
    made: list[StoredRecord] = [
        Cluster("c", NOW, "127.0.0.1", 9443, cluster_version=CLUSTER_VERSION),
        ServerSecrets(DatabaseUid(1), "app", "rep", "obs", "man", "seed"),
        *(Node(NodeUid(n), "127.0.0.1", NOW) for n in range(1, NODES + 1)),
    ]
    puts = [PutKey(k := keys.key_of(r), ONE.seal(k, records.encode(r))) for r in made]
    for first in range(0, len(puts), 100):
        await store.transact(Transaction(operations=tuple(puts[first : first + 100])))
    lease = await store.grant(timedelta(seconds=60))
    await store.transact(Transaction(operations=(PutKey(f"{keys.DAEMONS}00000001", b"{}", lease),)))


async def clear(store: Store, mine: Sealing) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    start: str | None = ""
    while start is not None:
        page = await store.range("", start=start)
        found |= {i.key: mine.open(i.key, i.value) for i in page.items if i.lease is None}
        start = page.next_start
    return found


async def copy(source: Store, target: object, mine: Sealing, theirs: Sealing) -> None:
    await copy_store(
        source,
        target,  # type: ignore[arg-type]
        lambda progress: None,
        source_sealing=mine,
        target_sealing=theirs,
        is_source_running=False,
    )


def test_a_cluster_goes_in_and_out_again(backend: str) -> None:
    async def scenario(world: World) -> None:
        first, last = MemoryStore(SystemClock()), MemoryStore(SystemClock())
        await fill(first)
        middle = await world.open()
        # Each attempt continues: the mark; the mark and the first batch; the mark, the second batch and the end.
        for at, is_complete in ((1, False), (2, False), (3, True)):
            with pytest.raises(StoreUnavailable):
                await copy(first, Interrupted(middle, at), ONE, OTHER)
            assert (await middle.get(keys.INCOMPLETE_COPY) is None) == is_complete
            assert (await middle.get(keys.CLUSTER) is not None) == is_complete
        await copy(first, middle, ONE, OTHER)
        assert await middle.get(keys.INCOMPLETE_COPY) is None
        assert await middle.get(f"{keys.DAEMONS}00000001") is None
        await copy(middle, last, OTHER, ONE)
        assert await clear(first, ONE) == await clear(middle, OTHER) == await clear(last, ONE)
        assert len(await clear(last, ONE)) == NODES + 2
        await first.close()
        await last.close()

    run(backend, scenario)
