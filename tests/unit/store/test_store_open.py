"""The seam between the daemon and the kinds of store."""

import ast
import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import shardwright
from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.store.etcd_members import EtcdMembers
from shardwright.store.open import for_election, open_members, open_store
from shardwright.store.protocol import PutKey, Transaction
from shardwright.store.settings import POLL_S, POLL_SELDOM_S, EtcdSettings, SqliteSettings
from shardwright.store.sqlite import SqliteStore

SOURCE = Path(shardwright.__file__).parent
BACKENDS = {
    "shardwright.store.sqlite",
    "shardwright.store.sqlite_file",
    "shardwright.store.sqlite_sql",
    "shardwright.store.memory",
    "shardwright.store.etcd",
    "shardwright.store.etcd_members",
    "shardwright.store.etcd_wire",
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_no_module_outside_the_store_imports_a_backend() -> None:
    outside = [p for p in SOURCE.rglob("*.py") if p.relative_to(SOURCE).parts[0] != "store"]
    assert len(outside) > 100
    assert {str(p.relative_to(SOURCE)): BACKENDS & set(imported(p)) for p in outside if BACKENDS & set(imported(p))} == {}
    assert BACKENDS & set(imported(SOURCE / "store" / "open.py")), "the check finds imports"


def test_it_opens_the_file_that_the_settings_name(tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = SqliteSettings(tmp_path / "store.db")
        first, second = await open_store(settings), await open_store(for_election(settings))
        try:
            assert isinstance(first, SqliteStore)
            await first.transact(Transaction(operations=(PutKey("a", b"1"),)))
            found = await second.get("a")
            assert found is not None
            assert found.value == b"1"
        finally:
            await first.close()
            await second.close()

    asyncio.run(scenario())


def test_an_election_may_poll_more_seldom() -> None:
    settings = SqliteSettings(Path("store.db"))
    assert settings.poll_s == POLL_S
    assert for_election(settings) == replace(settings, poll_s=POLL_SELDOM_S)


def test_the_interval_of_the_settings_is_the_stores(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = await open_store(SqliteSettings(tmp_path / "store.db", poll_s=0.5))
        assert isinstance(store, SqliteStore)
        assert store._poll_s == 0.5
        await store.close()

    asyncio.run(scenario())


def test_an_election_uses_the_same_etcd() -> None:
    settings = EtcdSettings(("http://127.0.0.1:2379",))
    assert for_election(settings) == settings


def test_only_an_etcd_has_members() -> None:
    assert open_members(SqliteSettings(Path("store.db"))) is None
    assert isinstance(open_members(EtcdSettings(("http://127.0.0.1:2379",))), EtcdMembers)
    with pytest.raises(Permanent) as refused:
        open_members(EtcdSettings(("ftp://127.0.0.1",)))
    assert refused.value.code is Code.STORE_SETTINGS_INVALID
