"""What the tests of a restore have in common: a lost store, and what a daemon does first. No daemon runs."""

import asyncio
import shutil
from datetime import UTC, datetime
from pathlib import Path

from shardwright.key_file import read_sealing
from shardwright.machine.processes import end
from shardwright.model.cluster import Node
from shardwright.model.seen import ProcessIdentity
from shardwright.model.store_member import StoreMember
from shardwright.node.preflight import look_at_machine
from shardwright.node.restore import Examined, examine
from shardwright.node.settings import NodeSettings
from shardwright.node.settings_file import load_settings
from shardwright.node.store_wait import wait_for_store
from shardwright.store import records
from shardwright.store.etcd import EtcdStore
from shardwright.store.open import open_members
from shardwright.store.whole import Whole, read_whole
from tests.integration.founding_harness import First, store_of

NOW = datetime(2026, 11, 29, 20, tzinfo=UTC)


def said(_: str) -> None: ...


def store_dir(settings: NodeSettings) -> Path:
    return settings.directories.etcd / "member"


def examined(settings: NodeSettings, file: Path) -> Examined:
    return examine(settings, file, look_at_machine(), say=said, now=NOW)


def as_daemon(settings: NodeSettings) -> NodeSettings:
    """What the daemon does first, until the store is there."""
    settings = load_settings(settings.directories.configuration / "node.toml")

    async def wait() -> None:
        async with asyncio.timeout(60):
            await wait_for_store(settings, read_sealing(settings.directories.cluster_key), say=said)

    asyncio.run(wait())
    return settings


def whole_of(settings: NodeSettings) -> tuple[Whole, str]:
    """All of the store, and its etcd's id."""

    async def read() -> tuple[Whole, str]:
        store = await EtcdStore.open(store_of(settings))
        try:
            return await read_whole(store), store.cluster_id
        finally:
            await store.close()

    return asyncio.run(read())


def members_of(settings: NodeSettings) -> dict[str, StoreMember]:
    async def ask() -> dict[str, StoreMember]:
        members = open_members(store_of(settings))
        assert members is not None
        try:
            return {member.name: member for member in await members.members()}
        finally:
            await members.close()

    return asyncio.run(ask())


def node_in(whole: Whole, uid: int) -> Node:
    item = whole.items[f"nodes/{uid:08d}"]
    node = records.decode(item.key, item.value)
    assert isinstance(node, Node)
    return node


def lose(*processes: ProcessIdentity, data: tuple[NodeSettings, ...] = ()) -> None:
    """End members of the store, and destroy the data of some."""
    for process in processes:
        asyncio.run(end(process, 0.0))
    for settings in data:
        shutil.rmtree(store_dir(settings))


def etcd_of(first: First) -> ProcessIdentity:
    return first.etcds._running[0]
