"""From a backup to the records with which a cluster goes on."""

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.errors import Rejected
from shardwright.model.action import ActionName, ActionStatus
from shardwright.model.cluster import Cluster, ClusterKind, Counters, DeclaredOff, Node, Restored
from shardwright.model.codes import Code
from shardwright.model.database import Database, DatabaseStatus, GroupPhase, Handoff, SlotGroup
from shardwright.model.event import Event, EventKind
from shardwright.model.ids import ActionUid, GroupUid, NodeUid, ShardUid, uid_of_move
from shardwright.model.lease import Lease, Waiver
from shardwright.model.move import HandoffMove, MoveState
from shardwright.model.seen import NodeSeen, ProcessSeen, ProcessState
from shardwright.model.store_member import StoreRole
from shardwright.model.version import CLUSTER_VERSION, FIRST_CLUSTER_VERSION, fields_too_new
from shardwright.model.view import ClusterView
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.raising import GENERATIONS, LEASES, NUMBERS, TERMS, Raised, Restore, raised
from testkit.builders import NOW, ClusterBuilder, cluster

LATER = NOW + timedelta(hours=3)
RESTORE = Restore("5eed", NodeUid(2), LATER, NOW)
GROUP = GroupUid("1:1")


def builder() -> ClusterBuilder:
    made = cluster(nodes=3).with_database("orders", on=((1, 2),))
    for uid in (1, 2, 3):
        made = made.with_node_changed(uid, store_role=StoreRole.VOTER)
    return made


def items_of(view: ClusterView, *more: StoredRecord) -> dict[str, bytes]:
    """What the store has of this view, without what is bound to leases."""
    clusters = Cluster("prod", NOW, "10.0.0.1", 9443, cluster_version=CLUSTER_VERSION, kind=ClusterKind.MACHINES)
    found: list[StoredRecord] = [clusters, view.policy, view.counters, *more]
    for table in (view.nodes, view.databases, view.groups, view.shards, view.endpoints, view.actions, view.moves):
        found += table.values()
    return {keys.key_of(record): records.encode(record) for record in found} | {keys.TERM: b"7"}


def after(view: ClusterView, *more: StoredRecord, extra: dict[str, bytes] | None = None) -> Raised:
    numbers = itertools.count()
    return raised(items_of(view, *more) | (extra or {}), RESTORE, random_text=lambda: f"{next(numbers):08x}")


def record(result: Raised, key: str) -> StoredRecord | str:
    return records.decode(key, result.items[key])


def test_what_only_grows_is_raised_beyond_what_may_have_been_given_since() -> None:
    before = builder().view
    result = after(before)
    assert result.items[keys.TERM] == str(7 + TERMS).encode()
    counters = record(result, keys.COUNTERS)
    assert isinstance(counters, Counters)
    assert counters.next_shard == before.counters.next_shard + NUMBERS
    assert counters.next_node == before.counters.next_node + NUMBERS
    restored = record(result, keys.RESTORED)
    assert restored == Restored("5eed", LATER, NOW, before.counters.next_shard)


def test_every_group_is_compared_again_and_no_role_is_pending() -> None:
    view = builder().view
    handoff = Handoff(ShardUid(1), ShardUid(2), 2, 7, NOW)
    result = after(replace(view, groups={GROUP: replace(view.groups[GROUP], handoff=handoff)}))
    group = record(result, f"groups/{GROUP}")
    assert isinstance(group, SlotGroup)
    assert (group.phase, group.is_restored, group.handoff) == (GroupPhase.STARTING, True, None)
    assert group.generation == view.groups[GROUP].generation + GENERATIONS
    assert group.primary == view.groups[GROUP].primary, "the last choice where no copy leads"
    assert group.starting_since == LATER
    database = record(result, "databases/00000001")
    assert isinstance(database, Database)
    assert database.status is DatabaseStatus.ACTIVE_CHANGE_PENDING, "its copies are counted again"


@pytest.mark.parametrize("lease", [None, Lease(7, True)])
def test_any_process_may_serve_without_a_proof(lease: Lease | None) -> None:
    """What they were told since the backup is not known."""
    view = builder().view
    group = record(after(replace(view, groups={GROUP: replace(view.groups[GROUP], lease=lease)})), f"groups/{GROUP}")
    assert isinstance(group, SlotGroup)
    version = LEASES + (0 if lease is None else 7)
    assert group.lease == Lease(version, False, tuple(Waiver(uid, "") for uid in sorted(view.nodes)))


def test_every_machine_has_to_say_what_runs_there_and_one_has_the_store() -> None:
    result = after(builder().view)
    nodes = [record(result, f"nodes/{uid:08d}") for uid in (1, 2, 3)]
    assert all(isinstance(node, Node) and node.awaits_survey for node in nodes)
    assert [node.store_role for node in nodes if isinstance(node, Node)] == [
        StoreRole.NONE,
        StoreRole.VOTER,
        StoreRole.NONE,
    ]


def test_a_replacement_that_had_not_begun_is_left_to_an_operator() -> None:
    """The replaced node may run again, or may have left: the backup does not know."""
    word = DeclaredOff(NOW, "admin@example.com")
    made = builder().with_node_changed(1, declared_off=word).with_node_changed(3, replaces=NodeUid(1))
    old, new = (record(after(made.view), f"nodes/{uid:08d}") for uid in (1, 3))
    assert isinstance(old, Node)
    assert isinstance(new, Node)
    assert (old.declared_off, new.replaces) == (None, None)


def test_actions_and_moves_that_were_under_way_end_and_say_why() -> None:
    made = builder().with_action(ActionName.MAINTENANCE_ON, 1, status=ActionStatus.RUNNING, was_quorum_only=False)
    made = made.with_node_changed(1, is_quorum_only=True)
    (uid,) = made.view.actions
    move = HandoffMove(
        uid=uid_of_move(uid, 1),
        action_uid=ActionUid(uid),
        state=MoveState.HANDOFF,
        database_uid=made.view.groups[GROUP].database_uid,
        from_node=NodeUid(1),
        to_node=NodeUid(2),
        created_at=NOW,
        state_since=NOW,
        group_uid=GROUP,
        shard_uid=ShardUid(1),
        new_shard_uid=ShardUid(2),
    )
    result = after(made.view, move)
    assert (result.actions, result.moves) == ((uid,), (move.uid,))
    action = record(result, f"actions/{uid}")
    assert getattr(action, "status", None) is ActionStatus.FAILED
    assert getattr(action, "error_code", None) == Code.RESTORED_FROM_BACKUP
    assert "2026-01-02" in getattr(action, "error_message", "")
    ended = record(result, f"moves/{move.uid}")
    assert isinstance(ended, HandoffMove)
    assert (ended.state, ended.ended_at, ended.reasons[0].code) == (MoveState.FAILED, LATER, Code.RESTORED_FROM_BACKUP)
    node = record(result, "nodes/00000001")
    assert isinstance(node, Node)
    assert not node.is_quorum_only, "as before the action"
    assert not any(key.startswith("locks/") for key in result.items)


def test_a_removal_that_was_under_way_leaves_the_node_as_it_was() -> None:
    made = builder().with_action(ActionName.REMOVE, 1, status=ActionStatus.RUNNING, was_closed=False)
    made = made.with_node_changed(1, is_closed=True, is_decommissioning=True)
    node = record(after(made.view), "nodes/00000001")
    assert isinstance(node, Node)
    assert (node.is_closed, node.is_decommissioning) == (False, False)


def test_what_was_only_true_then_is_left_out() -> None:
    dropped = ("seen/servers/00000001", "troubles/00000001", "locks/nodes/00000001", "join_tokens/a", keys.LEADER_CHANGE)
    result = after(builder().view, extra={key: b"x" for key in dropped} | {keys.CLUSTER_ID: b"c0ffee"})
    assert not set(dropped) & set(result.items)
    assert result.items[keys.CLUSTER_ID] == b"c0ffee"


def test_only_lasting_reports_of_processes_are_kept() -> None:
    said = tuple(
        ProcessSeen(ShardUid(number), 1, state) for number, state in enumerate((ProcessState.RUNNING, ProcessState.ABSENT))
    )
    seen = record(after(builder().view, NodeSeen(NodeUid(1), NOW, said)), "seen/nodes/00000001")
    assert isinstance(seen, NodeSeen)
    assert [process.state for process in seen.processes] == [ProcessState.RUNNING]


def test_the_log_says_it() -> None:
    result = after(builder().view)
    events = [record(result, key) for key in result.items if key.startswith(keys.EVENTS)]
    assert [event.kind for event in events if isinstance(event, Event)] == [EventKind.CLUSTER_RESTORED]
    assert result.databases == ("orders",)


def test_an_unreadable_record_stays_as_it_is() -> None:
    result = after(builder().view, extra={"shards/00000077": b"{"})
    assert result.items["shards/00000077"] == b"{"


def test_nothing_is_written_that_an_older_daemon_would_lose() -> None:
    result = after(builder().view)
    node = record(result, "nodes/00000001")
    assert fields_too_new(node, CLUSTER_VERSION) == ()
    assert "awaits_survey" in fields_too_new(node, FIRST_CLUSTER_VERSION)


def test_the_backup_must_know_the_node_and_the_store_must_be_the_clusters_own() -> None:
    view = builder().view
    with pytest.raises(Rejected) as refused:
        raised(items_of(view), replace(RESTORE, node_uid=NodeUid(9)), random_text=str)
    assert refused.value.code == Code.BACKUP_OF_ANOTHER_CLUSTER
    with pytest.raises(Rejected) as refused:
        after(cluster(nodes=3).view)
    assert refused.value.code == Code.STORE_NOT_RESTORABLE
    without = {key: value for key, value in items_of(view).items() if key != keys.CLUSTER}
    with pytest.raises(Rejected) as refused:
        raised(without, RESTORE, random_text=str)
    assert refused.value.code == "no_cluster"
