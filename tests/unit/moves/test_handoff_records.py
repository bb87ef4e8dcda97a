"""What a handoff writes, and when it writes nothing because something changed meanwhile."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import pytest

from shardwright.errors import Transient
from shardwright.model.codes import Code
from shardwright.model.database import Handoff, Shard, SlotGroup
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import GroupUid, ShardUid
from shardwright.model.move import Evidence, HandoffMove, MoveState
from shardwright.model.reason import Reason
from shardwright.model.view import ClusterView, Put, Write
from shardwright.moves import handoff_records as records
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.moves import handoff_move

Kind = TypeVar("Kind")
GROUP = GroupUid("1:1")
OLD, NEW = ShardUid(1), ShardUid(2)
INTENT = Handoff(OLD, NEW, 2, 7, NOW, 1, 1)
MOVE = handoff_move(state=MoveState.HANDOFF)
EVIDENCE = Evidence(2, OLD, NEW, "run-1", "run-2", "repl-1", "repl-2", "repl-1", 10, 10, 1.5, 3.0, 4)


def ready() -> ClusterBuilder:
    """A slot group with two copies and the move that wants the handoff."""
    builder = cluster(3).with_database(on=((1, 2),)).with_move(MOVE)
    shards = (replace(builder.view.shards[uid], incarnation=1) for uid in (OLD, NEW))
    return builder.with_records(*shards)


def written(writes: Sequence[Write], kind: type[Kind]) -> Kind:

    (found,) = [w.record for w in writes if isinstance(w, Put) and isinstance(w.record, kind)]
    return found


def test_the_intent_is_written_with_its_move_so_that_a_cancel_is_a_conflict() -> None:
    writes = records.intended(ready().view, INTENT, GROUP)
    assert written(writes, SlotGroup).handoff == INTENT
    assert written(writes, HandoffMove) == MOVE


CHANGES: dict[str, tuple[str, Callable[[ClusterBuilder], ClusterBuilder]]] = {
    "the primary": ("group_changed", lambda b: b.with_records(replace(b.view.groups[GROUP], primary=NEW))),
    "a handoff": ("group_changed", lambda b: b.with_records(replace(b.view.groups[GROUP], handoff=INTENT))),
    "a process": ("server_restarted", lambda b: b.with_records(replace(b.view.shards[NEW], incarnation=2))),
    "a cancel": ("handoff_unwanted", lambda b: b.with_move(replace(MOVE, is_cancel_wanted=True))),
    "the state": ("handoff_unwanted", lambda b: b.with_move(replace(MOVE, state=MoveState.PLANNED))),
    "the move": ("handoff_unwanted", lambda b: b.with_move(replace(MOVE, new_shard_uid=ShardUid(9)))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_intended_when_something_changed(change: str) -> None:
    code, make = CHANGES[change]
    with pytest.raises(Transient) as refused:
        records.intended(make(ready()).view, INTENT, GROUP)
    assert refused.value.code == code


def intended() -> ClusterView:
    builder = ready()
    return builder.with_records(replace(builder.view.groups[GROUP], handoff=INTENT)).view


@pytest.mark.parametrize("forgets", [True, False])
def test_a_failed_attempt_is_noted_and_its_intent_forgotten_only_when_it_is_undone(forgets: bool) -> None:
    reasons = (Reason(Code.REPLICA_LAGS, "it lags"),)
    writes = records.failed(intended(), GROUP, reasons, NOW, forgets_intent=forgets)
    noted = written(writes, HandoffMove)
    assert (noted.attempts, noted.reasons, noted.not_before) == (1, reasons, NOW + timedelta(seconds=0.3))
    groups = [w.record for w in writes if isinstance(w, Put) and isinstance(w.record, SlotGroup)]
    assert [g.handoff for g in groups] == ([None] if forgets else [])


def test_a_completed_handoff_moves_the_role_and_keeps_its_evidence() -> None:
    writes = records.completed(intended(), GROUP, EVIDENCE, NOW)
    group = written(writes, SlotGroup)
    assert (group.primary, group.generation, group.handoff) == (NEW, 2, None)
    assert (group.replication_id, group.replication_id_before) == ("repl-2", "repl-1")
    assert written(writes, Shard).in_sync_generation == 2
    assert written(writes, HandoffMove).evidence == EVIDENCE
    event = written(writes, Event)
    assert (event.kind, event.severity, event.action_uid) == (EventKind.HANDOFF, Severity.INFO, "a")
    assert event.text == "shard 2 on node 2 took over from shard 1 on node 1; pause 3.0 ms"


def test_a_history_that_does_not_continue_is_an_error_and_no_hold_has_no_pause() -> None:
    evidence = replace(EVIDENCE, second_replication_id="another", pause_ms=None)
    event = written(records.completed(intended(), GROUP, evidence, NOW), Event)
    assert (event.kind, event.severity) == (EventKind.HANDOFF_UNVERIFIED, Severity.ERROR)
    assert "no endpoint held" in event.text
    assert "does not continue" in event.text
