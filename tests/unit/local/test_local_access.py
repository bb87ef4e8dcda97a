"""How a local cluster reaches its records: its key, and the move from its file into an etcd."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shardwright.errors import Permanent, Refusal, Rejected
from shardwright.local import creation
from shardwright.local.access import (
    ensure_key,
    etcd_settings,
    has_cluster,
    record_place,
    sealing_of,
    set_file_aside,
    store_settings,
)
from shardwright.local.config import read_all
from shardwright.local.creation import UpOptions
from shardwright.local.layout import Layout, layout_of, purge
from shardwright.local.move_store import Moved, move_store
from shardwright.local.stop import read_recorded
from shardwright.local.up import prepare
from shardwright.machine.lock import try_lock
from shardwright.model.account import User
from shardwright.model.codes import Code
from shardwright.store.admission import check_store
from shardwright.store.open import open_store
from shardwright.store.protocol import StoreUnavailable
from shardwright.store.seal import IN_CLEAR, Sealing
from shardwright.store.settings import EtcdSettings, SqliteSettings, StoreSettings


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


ETCD = EtcdSettings(("http://127.0.0.1:1",))


def moved(layout: Layout, target: EtcdSettings = ETCD) -> Moved:
    return asyncio.run(move_store(layout.directory, target, lambda p: None))


@pytest.mark.server
def test_a_cluster_that_somebody_works_on_is_not_moved(layout: Layout, tmp_path: Path) -> None:
    lock = try_lock(layout.lock)
    assert lock is not None
    try:
        with pytest.raises(Rejected) as refused:
            moved(layout)
    finally:
        os.close(lock)
    assert refused.value.code == "busy"
    with pytest.raises(Rejected, match="no cluster"):
        moved(layout_of(tmp_path / "none"))


@pytest.mark.server
def test_a_move_to_an_etcd_that_does_not_answer_changes_nothing(layout: Layout) -> None:
    with pytest.raises(StoreUnavailable):
        moved(layout)
    assert not layout.store_place.exists()
    assert layout.store.exists()
    start_again(layout)


def test_an_interrupted_move_is_completed_and_not_repeated(tmp_path: Path) -> None:
    made = layout_of(tmp_path)
    for end in ("", "-wal"):
        made.store.with_name(f"store.db{end}").write_text(end)
    record_place(made, ETCD)
    assert has_cluster(made)
    assert moved(made).records is None
    assert not made.store.exists()
    assert (tmp_path / "store.db.moved-wal").read_text() == "-wal"
    with pytest.raises(Rejected) as refused:
        moved(made)
    assert refused.value.code == "already_moved"
    assert str(made.store_place) in refused.value.text
    made.store.touch()
    with pytest.raises(Rejected, match="already"):
        moved(made, EtcdSettings(("http://127.0.0.1:2",)))
    assert made.store.exists(), "not this etcd: the refusal changes nothing"
    assert set_file_aside(made)
    assert not set_file_aside(made)


def test_a_file_is_not_set_aside_without_an_etcd(tmp_path: Path) -> None:
    made = layout_of(tmp_path)
    made.store.touch()
    assert not set_file_aside(made)
    assert made.store.exists()
    assert store_settings(made) == SqliteSettings(made.store)


def test_the_place_of_the_etcd_is_kept_and_private(tmp_path: Path) -> None:
    made = layout_of(tmp_path)
    assert not has_cluster(made)
    settings = EtcdSettings(("https://a:1", "https://b:2"), tmp_path / "ca", tmp_path / "cert", tmp_path / "key")
    record_place(made, settings)
    assert store_settings(made) == settings
    assert made.store_place.stat().st_mode & 0o777 == 0o600
    record_place(made, ETCD)
    assert store_settings(made) == ETCD


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"endpoints": []}',
        b'{"endpoints": [1]}',
        b'{"endpoints": ["ftp://a"]}',
        b'{"endpoints": ["https://a:1"]}',
        b'{"endpoints": ["http://a:1"], "ca": 1}',
        b'{"endpoints": ["http://a:x"]}',
    ],
)
def test_an_unusable_place_is_named_and_is_not_taken_for_none(tmp_path: Path, content: bytes) -> None:
    made = layout_of(tmp_path)
    made.store_place.write_bytes(content)
    with pytest.raises(Permanent) as refused:
        store_settings(made)
    assert refused.value.code == Code.STORE_SETTINGS_INVALID
    assert str(made.store_place) in refused.value.text
    assert asyncio.run(read_recorded(made)).nodes == (), "it must be possible to stop the cluster"


def test_options_become_settings_or_a_refusal(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).touch()
    ca, cert, key = (tmp_path / name for name in ("ca", "cert", "key"))
    assert etcd_settings(["https://a:1"], ca, cert, key) == EtcdSettings(("https://a:1",), ca, cert, key)
    relative = Path(os.path.relpath(ca))
    assert etcd_settings(["https://a:1"], relative, cert, key).ca == ca
    for endpoints, authority in (
        ([], ca),
        (["a"], ca),
        (["http://a"], ca),
        (["https://a"], None),
        (["https://a"], tmp_path),
    ):
        with pytest.raises(Rejected) as refused:
            etcd_settings(endpoints, authority, cert, key)
        assert refused.value.refusal is Refusal.INVALID
