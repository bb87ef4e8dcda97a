"""Backups: what is in one, and that a file is believed as a whole or not at all."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.backup_files import keep_newest, list_backups, load_backup, newest_at, write_backup
from shardwright.errors import Rejected
from shardwright.model.cluster import Cluster
from shardwright.model.codes import Code
from shardwright.model.ids import LeaseId, NodeUid
from shardwright.model.version import CLUSTER_VERSION
from shardwright.store import keys, records
from shardwright.store.backup import Backup, backup_of, content_of, read_backup, read_header
from shardwright.store.protocol import KeyValue
from shardwright.store.seal import MAGIC

NOW = datetime(2026, 11, 29, 19, 0, 1, tzinfo=UTC)
CLUSTER = Cluster("prod", NOW, "10.0.0.1", 9443, cluster_version=CLUSTER_VERSION)
ITEMS = (
    KeyValue(keys.CLUSTER, records.encode(CLUSTER), 2, 2),
    KeyValue(keys.CLUSTER_ID, b"c0ffee", 2, 2),
    KeyValue("secrets/00000001", MAGIC + bytes(range(60)), 3, 3),
    KeyValue(keys.TERM, b"7", 3, 4),
    KeyValue(keys.LEADER, b'{"node_uid":1,"term":7}', 4, 4, LeaseId(5)),
)


def backup(*items: KeyValue) -> Backup:
    return backup_of(items or ITEMS, revision=4, node_uid=NodeUid(1), at=NOW)


def code_of(content: bytes) -> str:
    with pytest.raises(Rejected) as refused:
        read_backup(content, name="FILE")
    assert "FILE" in refused.value.text
    assert refused.value.remedy
    return refused.value.code


def test_a_backup_comes_back_without_what_is_bound_to_a_lease() -> None:
    found = read_backup(content_of(backup()), name="FILE")
    assert found == backup()
    assert set(found.items) == {keys.CLUSTER, keys.CLUSTER_ID, "secrets/00000001", keys.TERM}
    header = found.header
    assert (header.cluster, header.cluster_id, header.cluster_version) == ("prod", "c0ffee", CLUSTER_VERSION)
    assert (header.revision, header.at, header.node_uid, header.records) == (4, NOW, 1, 4)


@given(at=st.integers(min_value=0), mask=st.integers(1, 255))
def test_no_byte_can_be_changed(at: int, mask: int) -> None:
    content = bytearray(content_of(backup()))
    content[at % len(content)] ^= mask
    assert code_of(bytes(content)) in (Code.BACKUP_DAMAGED, Code.BACKUP_FOREIGN, Code.BACKUP_TOO_NEW)


@given(length=st.integers(min_value=0))
def test_a_truncated_file_is_refused(length: int) -> None:
    content = content_of(backup())
    assert code_of(content[: length % len(content)]) in (Code.BACKUP_DAMAGED, Code.BACKUP_FOREIGN)


def test_a_file_with_lines_of_another_is_refused() -> None:
    lines = content_of(backup()).splitlines(keepends=True)
    assert code_of(b"".join(lines[:2] + lines[3:])) == Code.BACKUP_DAMAGED
    assert code_of(b"".join(lines) + b"\n") == Code.BACKUP_DAMAGED
    assert code_of(b"".join(lines) + lines[1]) == Code.BACKUP_DAMAGED


@pytest.mark.parametrize("content", [b"", b"\n", b"hello\n", b"[]\n", b'{"a": 1}\n', b"\x00\xff" * 50, b"[" * 100_000])
def test_what_is_no_backup_is_said_so(content: bytes) -> None:
    assert code_of(content) == Code.BACKUP_FOREIGN


@pytest.mark.parametrize(
    "change",
    [
        lambda head: {**head, "shardwright_backup": 2},
        lambda head: {**head, "shardwright_backup": "x"},
        lambda head: {**head, "cluster_version": CLUSTER_VERSION + 1},
    ],
)
def test_a_newer_file_is_refused_before_it_is_read(change: Callable[[dict[str, object]], dict[str, object]]) -> None:
    first, _, rest = content_of(backup()).partition(b"\n")
    assert code_of(json.dumps(change(json.loads(first))).encode() + b"\n" + rest) == Code.BACKUP_TOO_NEW


def test_only_a_whole_clusters_records_make_a_backup() -> None:
    for items in (ITEMS[1:], (*ITEMS, KeyValue(keys.INCOMPLETE_COPY, b"prod", 4, 4))):
        with pytest.raises(Rejected) as refused:
            backup(*items)
        assert refused.value.code == "no_cluster"
    with pytest.raises(Rejected) as refused:
        backup(*ITEMS, KeyValue("users/00000001", b'{"password_hash": "argon"}', 4, 4))
    assert refused.value.code == Code.BACKUP_NOT_SEALED


def test_a_file_is_private_and_listed(tmp_path: Path) -> None:
    directory = tmp_path / "backups"
    assert (list_backups(directory), newest_at(directory)) == ([], None)
    path = write_backup(directory, backup())
    assert path.name == "cluster-20261129T190001Z.backup"
    assert (path.stat().st_mode & 0o777, directory.stat().st_mode & 0o777) == (0o600, 0o700)
    assert load_backup(path) == backup()
    assert list(directory.iterdir()) == [path], "no temporary file is left"
    (directory / "other.backup").write_bytes(b"nonsense\n")
    kept = list_backups(directory)
    assert [one.header for one in kept] == [backup().header, None]
    assert newest_at(directory) == NOW
    assert read_header(b"nonsense") is None


def test_the_newest_are_kept_and_foreign_files_too(tmp_path: Path) -> None:
    made = backup()
    for hour in range(5):
        write_backup(tmp_path, Backup(replace(made.header, at=NOW + timedelta(hours=hour)), made.items))
    foreign = tmp_path / "cluster-mine.backup"
    foreign.write_bytes(b"")
    assert keep_newest(tmp_path, 2) == 3
    assert keep_newest(tmp_path, 2) == 0
    assert newest_at(tmp_path) == NOW + timedelta(hours=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cluster-20261129T220001Z.backup",
        "cluster-20261129T230001Z.backup",
        "cluster-mine.backup",
    ]


def test_an_absent_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(Rejected) as refused:
        load_backup(tmp_path / "absent")
    assert refused.value.code == Code.BACKUP_UNREADABLE
