"""What a new leader writes for a handoff that another leader began."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from shardwright.model.database import GroupPhase, Handoff, Shard, SlotGroup
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import GroupUid, ShardUid
from shardwright.model.seen import Health, ProcessState
from shardwright.model.view import ClusterView, Delete, Put, Write
from shardwright.moves import handoff_recovery as records
from shardwright.moves.handoff_rules import EndpointsState
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP = GroupUid("1:1")
OLD, NEW = ShardUid(1), ShardUid(2)
INTENT = Handoff(OLD, NEW, 2, 7, NOW, 1, 1)


def pending() -> ClusterBuilder:
    """Shard 1 is to hand over to shard 2, in generation 2."""
    builder = cluster(3).with_database(on=((1, 2),))
    return builder.with_records(replace(builder.view.groups[GROUP], handoff=INTENT))


def after(view: ClusterView, writes: Sequence[Write]) -> tuple[SlotGroup, dict[ShardUid, Shard], Event]:
    events = [w.record for w in writes if isinstance(w, Put) and isinstance(w.record, Event)]
    assert len(events) == 1
    changed = view.with_writes(writes)
    return changed.groups[GROUP], dict(changed.shards), events[0]


def test_both_shards_must_be_on_record() -> None:
    assert records.are_recorded(pending().view, INTENT)
    for uid in (OLD, NEW):
        gone = pending().view.with_writes((Delete(pending().view.shards[uid]),))
        assert not records.are_recorded(gone, INTENT)


@pytest.mark.parametrize(
    ("incarnation", "state", "has_ended"),
    [
        (1, ProcessState.RUNNING, False),
        (1, ProcessState.GONE, True),
        (0, ProcessState.RUNNING, False),
        (0, ProcessState.GONE, True),
        (2, ProcessState.RUNNING, True),
        (2, ProcessState.UNKNOWN, True),
    ],
)
def test_a_process_has_ended_when_its_agent_says_so_or_another_incarnation_is_on_record(
    incarnation: int, state: ProcessState, has_ended: bool
) -> None:
    view = pending().with_process(OLD, state).view
    assert records.has_ended(view, view.shards[OLD], incarnation) is has_ended


def test_a_silent_process_has_not_ended() -> None:
    view = pending().with_server(OLD, health=Health.TIMEOUT).view
    assert not records.has_ended(view, view.shards[OLD], 1)


def test_clients_reached_the_candidate_last_once_an_endpoint_was_released_to_it() -> None:
    assert {held: records.last_to_serve(INTENT, held) for held in EndpointsState} == {
        EndpointsState.NEW: NEW,
        EndpointsState.HELD: OLD,
        EndpointsState.OLD: OLD,
    }


def test_the_old_primary_serves_again_with_a_later_generation_than_any_endpoint_has() -> None:
    view = pending().view
    group, shards, event = after(view, records.failed_back(view, GROUP, INTENT, NOW))
    assert (group.primary, group.generation, group.handoff, group.phase) == (OLD, 3, None, GroupPhase.SERVING)
    assert (shards[OLD].in_sync_generation, shards[NEW].in_sync_generation) == (3, 1)
    assert (event.kind, event.severity, event.database_uid) == (EventKind.HANDOFF_RECOVERY, Severity.WARNING, 1)


@pytest.mark.parametrize("last", [OLD, NEW])
def test_a_group_without_a_process_starts_over_from_the_copy_that_served_last(last: ShardUid) -> None:
    view = pending().view
    group, shards, event = after(view, records.started_over(view, GROUP, INTENT, last, "no process is left", NOW))
    assert (group.primary, group.generation, group.handoff) == (last, 2, None)
    assert (group.phase, group.starting_since) == (GroupPhase.STARTING, NOW)
    assert {uid: s.in_sync_generation for uid, s in shards.items()} == {OLD: 1, NEW: 1, last: 2}
    assert event.text.endswith("no process is left")


def test_without_a_record_of_one_shard_the_group_keeps_its_primary_and_starts_over() -> None:
    view = pending().view.with_writes((Delete(pending().view.shards[NEW]),))
    group, shards, event = after(view, records.started_over(view, GROUP, INTENT, None, records.NOT_RECORDED, NOW))
    assert (group.primary, group.phase, group.generation) == (OLD, GroupPhase.STARTING, 2)
    assert shards == {OLD: view.shards[OLD]}
    assert records.NOT_RECORDED in event.text


@pytest.mark.parametrize("change", ["another_handoff", "no_handoff", "no_group"])
def test_nothing_is_written_when_the_handoff_is_no_longer_pending(change: str) -> None:
    builder = pending()
    group = builder.view.groups[GROUP]
    changes: dict[str, Write] = {
        "another_handoff": Put(replace(group, handoff=replace(INTENT, generation=9))),
        "no_handoff": Put(replace(group, handoff=None)),
        "no_group": Delete(group),
    }
    view = builder.view.with_writes((changes[change],))
    assert records.failed_back(view, GROUP, INTENT, NOW) == ()
    assert records.started_over(view, GROUP, INTENT, OLD, "why", NOW) == ()


def test_what_another_writer_changed_meanwhile_is_kept() -> None:
    """The writes are built from the newest records: a loss that was recorded during the look stays on record."""
    view = pending().view
    view = view.with_writes((Put(replace(view.shards[OLD], missing_since=NOW)),))
    for writes in (
        records.failed_back(view, GROUP, INTENT, NOW),
        records.started_over(view, GROUP, INTENT, OLD, "no process is left", NOW),
    ):
        assert view.with_writes(writes).shards[OLD].missing_since == NOW


def test_a_copy_that_lost_its_record_meanwhile_does_not_return() -> None:
    view = pending().view.with_writes((Delete(pending().view.shards[OLD]),))
    assert records.failed_back(view, GROUP, INTENT, NOW) == ()
    assert records.started_over(view, GROUP, INTENT, OLD, "no process is left", NOW) == ()


def test_the_reason_of_an_undo_names_the_row_of_the_table() -> None:
    reason = records.undo_reason("the candidate is still a replica")
    assert (reason.code, reason.text.partition("; ")[2]) == ("handoff_undone", "the candidate is still a replica")
