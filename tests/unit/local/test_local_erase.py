"""A purge of a cluster on etcd: everything is deleted, or what remains is named."""

import asyncio
from pathlib import Path

from shardwright.clock import SystemClock
from shardwright.local.access import record_place
from shardwright.local.down import bring_down
from shardwright.local.erase import erase, erase_records
from shardwright.local.layout import layout_of
from shardwright.store import keys
from shardwright.store.memory import MemoryStore
from shardwright.store.protocol import DeleteKey, PutKey, Transaction, TransactionResult
from shardwright.store.settings import EtcdSettings


class RecordingStore(MemoryStore):
    """Keeps what was written first."""

    first: Transaction | None = None

    async def transact(self, transaction: Transaction) -> TransactionResult:
        self.first = self.first or transaction
        return await super().transact(transaction)


def test_everything_is_deleted_and_the_cluster_first() -> None:
    async def scenario() -> None:
        store = RecordingStore(SystemClock())
        for part in range(3):
            puts = tuple(PutKey(f"events/{part}/{n:03d}", b"x") for n in range(100))
            await store.transact(Transaction((), (*puts, PutKey(keys.CLUSTER, b"x"))))
        store.first = None
        await erase(store)
        assert store.first == Transaction((), (DeleteKey(keys.CLUSTER),))
        assert (await store.range("")).items == ()
        await erase(store)

    asyncio.run(scenario())


def test_a_cluster_on_a_file_has_nothing_elsewhere(tmp_path: Path) -> None:
    assert asyncio.run(erase_records(layout_of(tmp_path))) == ""


def test_a_purge_without_an_answer_of_etcd_deletes_the_files_and_says_what_remains(tmp_path: Path) -> None:
    layout = layout_of(tmp_path / "c")
    layout.directory.mkdir(mode=0o700)
    layout.lock.touch()
    record_place(layout, EtcdSettings(("http://127.0.0.1:1",)))
    stopped = asyncio.run(bring_down(layout.directory, is_purge=True, confirm=lambda d: None, say=lambda t: None))
    assert stopped.existed
    assert "127.0.0.1:1" in stopped.kept_in_etcd
    assert not layout.directory.exists()
