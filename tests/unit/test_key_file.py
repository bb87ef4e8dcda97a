"""The file with the cluster key: one writer at a time, readable by its owner only, and never quoted."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from shardwright.errors import Permanent, Transient
from shardwright.key_file import KeyFile, Keys, ensure_sealing, new_key, read_sealing
from shardwright.model.codes import Code
from shardwright.store.seal import IN_CLEAR

FIRST, SECOND = new_key(), new_key()


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    found = KeyFile(tmp_path / "cluster.key")
    found.change(lambda _: (FIRST,))
    return found


def test_a_changed_file_is_private_and_has_the_keys_in_order(file: KeyFile) -> None:
    assert file.change(lambda found: (SECOND, *found)) == (SECOND, FIRST)
    assert file.read() == (SECOND, FIRST)
    assert read_sealing(file.path).uids == (SECOND.uid, FIRST.uid)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    before = file.path.stat().st_ino
    file.change(lambda found: found)
    assert file.path.stat().st_ino == before, "nothing to change is no write"


def test_a_file_that_another_daemon_changes_is_left_alone(file: KeyFile) -> None:
    descriptor = os.open(file.path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(Transient) as refused:
            file.change(lambda _: (SECOND,))
        assert refused.value.code is Code.CLUSTER_KEY_AWAITED
    finally:
        os.close(descriptor)
    assert file.change(lambda _: (SECOND,)) == (SECOND,)


def test_a_change_that_fails_leaves_the_file(file: KeyFile) -> None:
    def fails(found: Keys) -> Keys:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        file.change(fails)
    assert file.read() == (FIRST,)


def test_without_a_file_there_are_no_keys(tmp_path: Path) -> None:
    assert KeyFile(tmp_path / "cluster.key").read() == ()
    assert read_sealing(tmp_path / "cluster.key") is IN_CLEAR
    made = ensure_sealing(tmp_path / "cluster.key")
    assert made.uid is not None
    assert ensure_sealing(tmp_path / "cluster.key").uids == made.uids


def test_an_open_or_damaged_file_is_refused_without_quoting_it(file: KeyFile) -> None:
    file.path.write_text("hunter2\n")
    with pytest.raises(Permanent) as refused:
        file.read()
    assert (refused.value.code, "hunter2" in refused.value.text) == (Code.CLUSTER_KEY_UNUSABLE, False)
    file.path.chmod(0o640)
    with pytest.raises(Permanent) as exposed:
        file.change(lambda _: (FIRST,))
    assert "chmod 600" in exposed.value.text
