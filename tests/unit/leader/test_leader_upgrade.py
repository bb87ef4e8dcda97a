"""A leader prepares for an upgrade: the backup first, then the note, then the newer records.

On a store in memory, in virtual time.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from shardwright.errors import Permanent
from shardwright.leader.upgrade import AGAIN_S, LOOK_S
from shardwright.model.cluster import Cluster
from shardwright.model.codes import Code
from shardwright.model.event import Event, EventKind
from shardwright.model.version import CLUSTER_VERSION
from shardwright.store import keys, records
from shardwright.store.protocol import PutKey
from testkit.builders import ClusterBuilder
from tests.unit.leader.test_leader_loop import Leading, settled


class Backups:
    """Writes none, and knows which were wanted."""

    def __init__(self) -> None:
        self.wanted: list[str] = []
        self.failure = ""
        self.place = "/backups/one"

    async def __call__(self, version: str) -> str:
        self.wanted.append(version)
        if self.failure:
            raise Permanent(Code.BACKUP_NOT_SEALED, self.failure)
        return self.place


def of_versions(program: str, records_version: int, *, prepared_for: str) -> ClusterBuilder:
    """Three nodes with daemons of this version; the records have the version before it."""
    builder = settled()
    assert builder.view.cluster is not None
    cluster = replace(builder.view.cluster, cluster_version=records_version - 1, prepared_for=prepared_for)
    builder = builder.with_records(cluster)
    daemons = {
        uid: replace(daemon, version=program, cluster_version=records_version)
        for uid, daemon in builder.view.daemons.items()
    }
    return ClusterBuilder(builder.view.changed(daemons=daemons))


@pytest.fixture
def backups() -> Backups:
    return Backups()


@pytest.fixture
def leading(backups: Backups) -> Iterator[Leading]:
    made = Leading(of_versions("0.2.0", CLUSTER_VERSION, prepared_for="0.1.0").view, back_up=backups)
    yield made
    made.end()


def record_of(leading: Leading) -> Cluster:
    found = leading.mirror.view().cluster
    assert found is not None
    return found


def told(leading: Leading) -> list[EventKind]:
    wanted = (EventKind.UPGRADE_PREPARED, EventKind.BACKUP_FAILED, EventKind.CLUSTER_VERSION_RAISED)
    return [e.kind for e in leading.mirror.records(keys.EVENTS) if isinstance(e, Event) and e.kind in wanted]


def test_the_backup_comes_once_and_before_the_newer_records(leading: Leading, backups: Backups) -> None:
    leading.run_for(5 * LOOK_S)
    assert backups.wanted == ["0.2.0"]
    assert (record_of(leading).prepared_for, record_of(leading).cluster_version) == ("0.2.0", CLUSTER_VERSION)
    assert told(leading) == [EventKind.UPGRADE_PREPARED, EventKind.CLUSTER_VERSION_RAISED]
    (event,) = [e for e in leading.mirror.records(keys.EVENTS) if isinstance(e, Event) and e.kind in told(leading)[:1]]
    assert backups.place in event.text


def test_without_a_backup_the_records_stay_and_it_is_tried_again(leading: Leading, backups: Backups) -> None:
    backups.failure = "the disk is full"
    leading.run_for(2 * AGAIN_S + 2 * LOOK_S)
    assert len(backups.wanted) == 3
    assert (record_of(leading).prepared_for, record_of(leading).cluster_version) == ("0.1.0", CLUSTER_VERSION - 1)
    assert told(leading) == [EventKind.BACKUP_FAILED], "one event for one cause"
    backups.failure = ""
    leading.run_for(AGAIN_S + LOOK_S)
    assert told(leading)[1:] == [EventKind.UPGRADE_PREPARED, EventKind.CLUSTER_VERSION_RAISED]


def test_a_note_that_an_older_daemon_loses_costs_another_backup(leading: Leading, backups: Backups) -> None:
    leading.run_for(2 * LOOK_S)
    lost = replace(record_of(leading), prepared_for="")
    leading.change(PutKey(keys.CLUSTER, records.encode(lost)))
    leading.run_for(2 * LOOK_S)
    assert backups.wanted == ["0.2.0", "0.2.0"]
    assert record_of(leading).prepared_for == "0.2.0"


def test_a_cluster_that_keeps_no_backups_only_notes_it(leading: Leading, backups: Backups) -> None:
    backups.place = ""
    leading.run_for(2 * LOOK_S)
    assert told(leading) == [EventKind.UPGRADE_PREPARED, EventKind.CLUSTER_VERSION_RAISED]
