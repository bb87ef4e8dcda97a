"""How a new agent restores its predecessor's shards from files, processes and the last report."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from shardwright.agent.launch import Stage, StartRecord, write_record
from shardwright.agent.shards import ShardProcesses
from shardwright.clock import SystemClock
from shardwright.machine.processes import identity_of
from shardwright.model.database import Damage
from shardwright.model.ids import ShardUid
from shardwright.model.seen import ProcessIdentity, ProcessSeen, ProcessState
from shardwright.reconcile.shard import LocalShard, LocalState

DEAD = ProcessIdentity(2**22 - 1, "another boot", 5, "/usr/bin/valkey-server", "/data/1")
ONE = ShardUid(1)


def me() -> ProcessIdentity:
    """A process that certainly runs."""
    found = identity_of(os.getpid())
    assert found is not None
    return found


def record(directory: Path, stage: Stage, identity: ProcessIdentity | None = None, **changes: object) -> StartRecord:
    """Write the record of incarnation 2 in the shard's directory."""
    made = StartRecord(2, stage, "/usr/bin/valkey-server", identity, **changes)  # type: ignore[arg-type]
    (directory / "1").mkdir()
    write_record(directory / "1", made)
    return made


def found(directory: Path, reported: Sequence[ProcessSeen] = ()) -> list[LocalShard]:
    async def run() -> list[LocalShard]:
        shards = ShardProcesses(directory, SystemClock(), lambda: None)
        await shards.load(reported)
        local = shards.local()
        shards.close()
        return local

    return asyncio.run(run())


def test_without_files_and_reports_there_are_no_shards(tmp_path: Path) -> None:
    assert found(tmp_path / "none") == found(tmp_path) == []


def test_only_directories_of_shards_are_read(tmp_path: Path) -> None:
    for name in ("1", "x", "lost+found"):
        (tmp_path / name).mkdir()
    (tmp_path / "2").write_text("a file")
    (tmp_path / "3").symlink_to(tmp_path / "1")
    assert found(tmp_path) == [LocalShard(ONE, LocalState.FILES)]


def test_a_running_server_is_adopted_with_the_text_of_its_start(tmp_path: Path) -> None:
    record(tmp_path, Stage.STARTED, me(), text="cut 5 bytes")
    assert found(tmp_path) == [LocalShard(ONE, LocalState.RUNNING, 2, me(), "cut 5 bytes")]


@pytest.mark.parametrize("changes", [{"start_ticks": 1}, {"boot_id": "x"}, {"executable": "/x"}, {"directory": "/x"}])
def test_a_process_with_only_the_same_pid_is_not_adopted(tmp_path: Path, changes: dict[str, object]) -> None:
    record(tmp_path, Stage.STARTED, replace(me(), **changes))  # type: ignore[arg-type]
    assert found(tmp_path) == [LocalShard(ONE, LocalState.GONE, 2, text="ended while no daemon ran")]


def test_a_failed_start_stays_failed(tmp_path: Path) -> None:
    record(tmp_path, Stage.FAILED, text="no room", damage=Damage.SNAPSHOT)
    assert found(tmp_path) == [LocalShard(ONE, LocalState.FAILED, 2, text="no room", damage=Damage.SNAPSHOT)]


def test_an_intended_start_that_did_not_happen_is_not_repeated(tmp_path: Path) -> None:
    record(tmp_path, Stage.INTENDED)
    (local,) = found(tmp_path)
    assert (local.state, local.incarnation) == (LocalState.GONE, 2)
    assert "died during its start" in local.text


def reported(state: ProcessState, incarnation: int = 3, **changes: object) -> ProcessSeen:
    return replace(ProcessSeen(ONE, incarnation, state, DEAD), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("has_files", [False, True])
@pytest.mark.parametrize("state", [ProcessState.RUNNING, ProcessState.GONE])
def test_a_start_whose_record_was_lost_is_not_repeated(tmp_path: Path, state: ProcessState, has_files: bool) -> None:
    if has_files:
        (tmp_path / "1").mkdir()
    (local,) = found(tmp_path, [reported(state)])
    assert (local.state, local.incarnation, local.identity) == (LocalState.GONE, 3, None)


def test_a_running_server_without_files_is_adopted(tmp_path: Path) -> None:
    assert found(tmp_path, [reported(ProcessState.RUNNING, identity=me())]) == [LocalShard(ONE, LocalState.RUNNING, 3, me())]


@pytest.mark.parametrize(
    "seen",
    [
        reported(ProcessState.GONE, files_are_deleted=True),
        reported(ProcessState.FAILED),
        reported(ProcessState.ABSENT),
        reported(ProcessState.UNKNOWN),
    ],
)
def test_a_report_of_a_shard_that_never_ran_or_is_deleted_has_no_effect(tmp_path: Path, seen: ProcessSeen) -> None:
    assert found(tmp_path, [seen]) == []


def test_the_later_incarnation_of_file_and_report_counts(tmp_path: Path) -> None:
    record(tmp_path, Stage.FAILED, text="no room")
    for incarnation, state in ((1, LocalState.FAILED), (2, LocalState.FAILED), (3, LocalState.GONE)):
        (local,) = found(tmp_path, [reported(ProcessState.GONE, incarnation)])
        assert local.state is state
        assert local.incarnation == max(incarnation, 2)
