"""What an upgrade waits for: nodes of an older version, nodes without a daemon, and the backup before it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from shardwright.model.cluster import Cluster, DaemonPresence, Node
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.version import release_of
from shardwright.model.view import ClusterView
from shardwright.plan.upgrade import newest_version, raised_version, upgrade_of, version_to_prepare

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD, NEW = ("0.1.0", 2), ("0.2.0", 3)


def view_of(*programs: tuple[str, int] | None, records: int = 2, prepared_for: str = "0.1.0") -> ClusterView:
    """A node for each program (its version, and the highest version of the records that it knows); None: no daemon."""
    uids = [NodeUid(number) for number in range(1, len(programs) + 1)]
    daemons = {
        uid: DaemonPresence(uid, 1, 1, "b", 1, program[0], "", NOW, cluster_version=program[1])
        for uid, program in zip(uids, programs, strict=True)
        if program is not None
    }
    cluster = Cluster("c", NOW, "10.0.0.1", 9443, cluster_version=records, prepared_for=prepared_for)
    return ClusterView(cluster=cluster, nodes={uid: Node(uid, f"10.0.0.{uid}", NOW) for uid in uids}, daemons=daemons)


@pytest.mark.parametrize(
    ("version", "release"),
    [("0.2.10", (0, 2, 10)), ("1.0.0+local.3", (1, 0, 0)), ("", ()), ("0.2.0.dev1", (0, 2, 0))],
)
def test_versions_are_compared_by_their_numbers(version: str, release: tuple[int, ...]) -> None:
    assert release_of(version) == release
    assert release_of("") < release_of("0") < release_of("0.9") < release_of("0.10") < release_of("1")


def test_without_an_upgrade_there_is_nothing_to_say() -> None:
    assert upgrade_of(view_of(OLD, OLD)) is None
    assert upgrade_of(view_of(OLD, None)) is None, "a node that is off is no upgrade"
    assert upgrade_of(view_of()) is None
    assert upgrade_of(ClusterView()) is None
    assert newest_version(view_of(None)) == ""


def test_a_newer_daemon_is_prepared_for_before_anything_else() -> None:
    view = view_of(OLD, NEW, OLD)
    assert newest_version(view) == "0.2.0"
    assert version_to_prepare(view) == "0.2.0"
    found = upgrade_of(view)
    assert found is not None
    assert (found.version, found.cluster_version) == ("0.2.0", 3)
    assert [(reason.code, reason.node_uid) for reason in found.reasons] == [
        (Code.NODE_OF_OLDER_VERSION, 1),
        (Code.NODE_OF_OLDER_VERSION, 3),
        (Code.UPGRADE_NOT_PREPARED, None),
    ]
    assert all(reason.remedy for reason in found.reasons)
    assert found.reasons[0].text == "node 1 runs 0.1.0"


def test_the_backup_is_wanted_once_for_each_version() -> None:
    assert version_to_prepare(view_of(NEW, NEW, prepared_for="0.2.0")) is None
    assert version_to_prepare(view_of(OLD, OLD, prepared_for="0.2.0")) is None, "the upgrade was taken back"
    assert version_to_prepare(view_of(OLD, prepared_for="")) == "0.1.0", "lost, or founded before there was such a note"
    assert version_to_prepare(view_of()) is None
    assert version_to_prepare(ClusterView(daemons=view_of(NEW).daemons)) is None


@pytest.mark.parametrize(
    ("view", "raised"),
    [
        (view_of(NEW, NEW, prepared_for="0.2.0"), 3),
        (view_of(NEW, NEW), None),
        (view_of(NEW, OLD, prepared_for="0.2.0"), None),
        (view_of(NEW, None, prepared_for="0.2.0"), None),
        (view_of(NEW, NEW, records=3, prepared_for="0.2.0"), None),
        (view_of(prepared_for="0.2.0"), None),
        (ClusterView(), None),
    ],
)
def test_the_records_get_the_version_when_every_daemon_has_it_and_the_backup_is_there(
    view: ClusterView, raised: int | None
) -> None:
    assert raised_version(view) == raised


def test_a_node_without_a_daemon_is_waited_for_and_named() -> None:
    found = upgrade_of(view_of(NEW, None, NEW, prepared_for="0.2.0"))
    assert found is not None
    (reason,) = found.reasons
    assert (reason.code, reason.node_uid) == (Code.NODE_DOWN, 2)


def test_an_upgrade_that_changes_no_records_ends_with_the_last_node() -> None:
    same = ("0.1.1", 2)
    found = upgrade_of(view_of(OLD, same, prepared_for="0.1.1"))
    assert found is not None
    assert found.cluster_version == 2
    assert upgrade_of(view_of(same, same, prepared_for="0.1.1")) is None


def test_when_all_is_there_the_leader_raises_the_version_next() -> None:
    found = upgrade_of(view_of(NEW, NEW, prepared_for="0.2.0"))
    assert found is not None
    assert found.reasons == ()
    view = view_of(NEW, NEW, prepared_for="0.2.0")
    assert view.cluster is not None
    assert upgrade_of(view.changed(cluster=replace(view.cluster, cluster_version=3))) is None
