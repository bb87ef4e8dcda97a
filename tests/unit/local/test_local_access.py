"""The cluster key of a local cluster: made once, private, and missed with a clear error."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shardwright.errors import Permanent, Rejected
from shardwright.local import creation
from shardwright.local.access import ensure_key, sealing_of, store_settings
from shardwright.local.config import read_all
from shardwright.local.creation import UpOptions
from shardwright.local.layout import Layout, layout_of, purge
from shardwright.local.lock import try_lock
from shardwright.local.move_store import move_store
from shardwright.local.stop import read_recorded
from shardwright.local.up import prepare
from shardwright.model.account import User
from shardwright.model.codes import Code
from shardwright.store.admission import check_store
from shardwright.store.open import open_store
from shardwright.store.seal import IN_CLEAR, Sealing
from shardwright.store.settings import SqliteSettings, StoreSettings


@pytest.fixture
def layout(tmp_path: Path, loopback_base: Callable[[], str]) -> Layout:
    """A new cluster that does not run."""
    base = loopback_base()
    _, lock = prepare(UpOptions(tmp_path / "c", nodes=2, endpoint_address=base, address_base=base), {})
    assert lock is not None
    os.close(lock)
    return layout_of(tmp_path / "c")


def start_again(layout: Layout) -> None:
    _, lock = prepare(replace(UpOptions(layout.directory)), {})
    assert lock is not None
    os.close(lock)


def users(settings: StoreSettings, sealing: Sealing) -> list[User]:
    async def read() -> list[User]:
        store = await open_store(settings)
        try:
            await check_store(store, sealing)
            return [r for r in await read_all(store, "users/", sealing) if isinstance(r, User)]
        finally:
            await store.close()

    return asyncio.run(read())


def test_a_key_is_made_once_and_used_again(tmp_path: Path) -> None:
    made = layout_of(tmp_path)
    assert sealing_of(made) is IN_CLEAR
    first = ensure_key(made)
    text = made.cluster_key.read_text()
    assert ensure_key(made).uid == first.uid == sealing_of(made).uid
    assert made.cluster_key.read_text() == text
    assert made.cluster_key.stat().st_mode & 0o777 == 0o600
    one, two = first.seal("secrets/1", b"x"), first.seal("secrets/1", b"x")
    assert one != two
    assert sealing_of(made).open("secrets/1", one) == b"x"


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"hunter2", 0o600, "line 1"),
        (b"\xff\xfe", 0o600, "text"),
        (b"00" * 32, 0o640, "chmod 600"),
        (b"", 0o600, "no cluster key"),
    ],
)
def test_an_unusable_key_file_is_named_and_not_quoted(tmp_path: Path, content: bytes, mode: int, said: str) -> None:
    made = layout_of(tmp_path)
    made.cluster_key.write_bytes(content)
    made.cluster_key.chmod(mode)
    with pytest.raises(Permanent) as refused:
        sealing_of(made)
    assert refused.value.code == Code.CLUSTER_KEY_UNUSABLE
    assert str(made.cluster_key) in refused.value.text
    assert said in refused.value.text
    assert "hunter2" not in refused.value.text


@pytest.mark.server
def test_a_cluster_whose_key_is_lost_does_not_start_but_can_be_stopped(layout: Layout) -> None:
    start_again(layout)
    aside = layout.directory / "aside"
    layout.cluster_key.rename(aside)
    with pytest.raises(Permanent) as refused:
        start_again(layout)
    assert refused.value.code == Code.SECRET_KEY_MISSING
    assert "users/00000001" in refused.value.text
    recorded = asyncio.run(read_recorded(layout))
    assert len(recorded.nodes) == 2, "what is not sealed is read"
    aside.rename(layout.cluster_key)
    start_again(layout)


@pytest.mark.server
def test_a_cluster_that_was_made_without_a_key_keeps_its_clear_values(
    tmp_path: Path, loopback_base: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creation, "ensure_key", lambda layout: IN_CLEAR)
    base = loopback_base()
    _, lock = prepare(UpOptions(tmp_path / "old", nodes=1, endpoint_address=base, address_base=base), {})
    assert lock is not None
    os.close(lock)
    monkeypatch.undo()
    old = layout_of(tmp_path / "old")
    start_again(old)
    assert not old.cluster_key.exists()
    (user,) = users(store_settings(old), sealing_of(old))
    assert user.password_hash.startswith("$argon2id$")
    ensure_key(old)
    start_again(old)
    assert users(store_settings(old), sealing_of(old)) == [user], "a key that comes later opens clear values too"


@pytest.mark.server
def test_a_purge_deletes_the_key(layout: Layout) -> None:
    assert purge(layout) == []
    assert not layout.directory.exists()


# -- moving the store ------------------------------------------------------------------------------------------------------


@pytest.mark.server
def test_a_stopped_cluster_moves_to_another_store_and_key(layout: Layout, tmp_path: Path) -> None:
    target = SqliteSettings(tmp_path / "target.db")
    other = layout_of(tmp_path)
    ensure_key(other)
    done = asyncio.run(move_store(layout.directory, target, other.cluster_key, lambda p: None))
    assert done.records == done.records_total > 0
    assert users(target, sealing_of(other)) == users(store_settings(layout), sealing_of(layout))
    with pytest.raises(Permanent):
        users(target, sealing_of(layout))
    start_again(layout)


@pytest.mark.server
def test_a_cluster_that_somebody_works_on_is_not_moved(layout: Layout, tmp_path: Path) -> None:
    target = SqliteSettings(tmp_path / "target.db")
    lock = try_lock(layout.lock)
    assert lock is not None
    try:
        with pytest.raises(Rejected) as refused:
            asyncio.run(move_store(layout.directory, target, layout.cluster_key, lambda p: None))
    finally:
        os.close(lock)
    assert refused.value.code == "busy"
    assert not target.path.exists()
    with pytest.raises(Rejected, match="no cluster"):
        asyncio.run(move_store(tmp_path / "none", target, layout.cluster_key, lambda p: None))
