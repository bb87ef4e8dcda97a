import os
from pathlib import Path

import pytest

from shardwright.model.database import Persistence
from shardwright.server.files import ASIDE_MAX, forget_old_asides, prepare_directory, put_aside

NOW = 1_800_000_000


def _snapshot(directory: Path, began: int) -> None:
    header = b"REDIS0010\xfa\tredis-ver\x067.0.15\xfa\nredis-bits\xc0@\xfa\x05ctime\xc2" + began.to_bytes(4, "little")
    (directory / "dump.rdb").write_bytes(header + b"\xfa\x08used-mem\xc2\0\0\0\0\xff")


def _aof(directory: Path, written: int) -> None:
    aof = directory / "appendonlydir"
    aof.mkdir()
    for name in ("appendonly.aof.3.base.rdb", "appendonly.aof.4.incr.aof"):
        (aof / name).write_bytes(b"")
        os.utime(aof / name, (written, written))
    manifest = "file appendonly.aof.3.base.rdb seq 3 type b\nfile appendonly.aof.4.incr.aof seq 4 type i\n"
    (aof / "appendonly.aof.manifest").write_text(manifest)
    (aof / "temp-appendonly.aof.incr").write_bytes(b"of a rewrite that did not finish")


def _files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("persistence", list(Persistence))
def test_an_empty_directory(persistence: Persistence, tmp_path: Path) -> None:
    assert prepare_directory(tmp_path, persistence, kept=persistence) is (persistence == Persistence.AOF)
    assert _files(tmp_path) == []


def test_without_persistence_nothing_is_left_to_load(tmp_path: Path) -> None:
    _snapshot(tmp_path, NOW)
    _aof(tmp_path, NOW)
    (tmp_path / "temp-17.rdb").touch()
    (tmp_path / "server.log").touch()
    assert prepare_directory(tmp_path, Persistence.DISABLED, kept=Persistence.DISABLED) is False
    assert _files(tmp_path) == ["server.log"]


@pytest.mark.parametrize(
    ("snapshot", "aof", "is_remade"),
    [(NOW, NOW - 1, True), (NOW, None, True), (NOW, NOW, False), (NOW, NOW + 1, False), (None, NOW, False)],
)
def test_an_append_only_file_is_made_from_a_newer_snapshot(
    snapshot: int | None, aof: int | None, is_remade: bool, tmp_path: Path
) -> None:
    if snapshot is not None:
        _snapshot(tmp_path, snapshot)
    if aof is not None:
        _aof(tmp_path, aof)
    for _ in range(2):
        assert prepare_directory(tmp_path, Persistence.AOF, kept=Persistence.AOF) is True
    base = tmp_path / "appendonlydir" / "appendonly.aof.1.base.rdb"
    assert base.exists() is is_remade
    if is_remade:
        assert base.read_bytes() == (tmp_path / "dump.rdb").read_bytes()
        assert _files(tmp_path / "appendonlydir") == ["appendonly.aof.1.base.rdb", "appendonly.aof.manifest"]


@pytest.mark.parametrize(
    ("snapshot", "aof", "starts_with_aof"),
    [(NOW, NOW - 1, False), (NOW, None, False), (NOW, NOW + 1, True), (None, NOW, True)],
)
def test_with_snapshots_a_newer_append_only_file_is_loaded_first(
    snapshot: int | None, aof: int | None, starts_with_aof: bool, tmp_path: Path
) -> None:
    if snapshot is not None:
        _snapshot(tmp_path, snapshot)
    if aof is not None:
        _aof(tmp_path, aof)
    before = _files(tmp_path)
    assert prepare_directory(tmp_path, Persistence.SNAPSHOT, kept=Persistence.SNAPSHOT) is starts_with_aof
    assert _files(tmp_path) == before


def test_an_append_only_file_without_a_manifest_counts_as_none(tmp_path: Path) -> None:
    _aof(tmp_path, NOW)
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").unlink()
    assert prepare_directory(tmp_path, Persistence.SNAPSHOT, kept=Persistence.SNAPSHOT) is False


@pytest.mark.parametrize("persistence", list(Persistence))
def test_files_of_a_server_without_persistence_are_outdated(persistence: Persistence, tmp_path: Path) -> None:
    _snapshot(tmp_path, NOW)
    _aof(tmp_path, NOW + 1)
    starts_with_aof = prepare_directory(tmp_path, persistence, kept=Persistence.DISABLED)
    assert starts_with_aof is (persistence is Persistence.AOF)
    assert _files(tmp_path) == []


@pytest.mark.parametrize(("kept", "starts_with_aof"), [(Persistence.AOF, True), (Persistence.SNAPSHOT, False)])
def test_kept_files_are_loaded_although_persistence_is_now_disabled(
    kept: Persistence, starts_with_aof: bool, tmp_path: Path
) -> None:
    _snapshot(tmp_path, NOW)
    if starts_with_aof:
        _aof(tmp_path, NOW + 1)
    before = _files(tmp_path)
    assert prepare_directory(tmp_path, Persistence.DISABLED, kept=kept) is starts_with_aof
    assert _files(tmp_path) == before


def test_damaged_files_are_put_aside_and_the_server_starts_without_data(tmp_path: Path) -> None:
    _snapshot(tmp_path, NOW)
    _aof(tmp_path, NOW)
    (tmp_path / "server.log").touch()
    before = _files(tmp_path)
    for _ in range(2):  # also after a crash before the start
        put_aside(tmp_path, 7)
        assert prepare_directory(tmp_path, Persistence.AOF, kept=Persistence.AOF) is True
    assert _files(tmp_path) == sorted(name if name == "server.log" else f"damaged-7/{name}" for name in before)


def test_nothing_is_put_aside_without_files(tmp_path: Path) -> None:
    put_aside(tmp_path, 7)
    assert list(tmp_path.iterdir()) == []


def test_only_the_latest_damaged_files_are_kept(tmp_path: Path) -> None:
    for incarnation in (2, 9, 10, 11):
        _snapshot(tmp_path, NOW)
        put_aside(tmp_path, incarnation)
        forget_old_asides(tmp_path)
    assert ASIDE_MAX == 2
    assert _files(tmp_path) == ["damaged-10/dump.rdb", "damaged-11/dump.rdb"]
