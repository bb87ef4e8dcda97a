"""The word that a node's machine is off: what it permits, and when it ends."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.leader.turn import DECIDERS, decide_turn
from shardwright.model.cluster import ClusterKind, DeclaredOff
from shardwright.model.database import GroupPhase, SlotGroup
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import GroupUid, NodeUid, ShardUid
from shardwright.model.seen import Health, NodeSeen, ProcessIdentity, Sighting
from shardwright.model.view import Put
from shardwright.plan.absence import remedy_of_absence
from shardwright.reconcile.declarations import decide_declarations
from shardwright.reconcile.group import decide_group
from shardwright.reconcile.repair import decide_repair
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP, PRIMARY, REPLICA, ONE = GroupUid("1:1"), ShardUid(1), ShardUid(2), NodeUid(1)
WORD = DeclaredOff(NOW, "admin@example.com", "boot")
SILENT_FOR = timedelta(minutes=10)


def declared(
    word: DeclaredOff = WORD, *, link_down: timedelta = SILENT_FOR, answered: timedelta | None = SILENT_FOR
) -> ClusterBuilder:
    """The primary's machine has been silent for ten minutes, and was declared off now; it is recorded that it ended.
    ``answered``: how long ago this leader had the last answer; None: it is new."""
    builder = cluster(nodes=3).with_database(on=((1, 2),)).without_daemon(1).with_node_changed(1, declared_off=word)
    shard = replace(builder.view.shards[PRIMARY], missing_since=NOW - SILENT_FOR, ended_since=NOW - timedelta(seconds=1))
    builder = builder.with_records(shard).with_sighting(PRIMARY, Sighting.OFF)
    answered_at = None if answered is None else NOW - answered
    builder = builder.with_server(PRIMARY, health=Health.TIMEOUT, unanswered_since=NOW, answered_at=answered_at)
    return builder.with_server(REPLICA, is_link_up=False, link_down_s=int(link_down.total_seconds()))


def boot(builder: ClusterBuilder, boot_id: str) -> ClusterBuilder:
    """The agent of node 1 has reported in this boot."""
    seen = NodeSeen(ONE, NOW, daemon=ProcessIdentity(1, boot_id, 1, "", ""))
    return ClusterBuilder(replace(builder.view, node_seen={**builder.view.node_seen, ONE: seen}))


def primaries(builder: ClusterBuilder) -> list[ShardUid | None]:
    writes = decide_group(builder.view.groups[GROUP], builder.view, NOW).writes
    records = (w.record for w in writes if isinstance(w, Put))
    return [r.primary for r in records if isinstance(r, SlotGroup) and r.phase is GroupPhase.SERVING]


def test_the_replica_takes_over_although_its_link_was_lost_long_before_the_word() -> None:
    assert primaries(declared()) == [REPLICA]
    late = declared(link_down=SILENT_FOR + timedelta(seconds=20), answered=None)
    assert primaries(late) == [REPLICA], "this leader is new, and the loss was noted late"


def test_a_replica_that_had_lost_its_link_before_the_machine_fell_silent_does_not_take_over() -> None:
    for answered in (SILENT_FOR, None):
        assert primaries(declared(link_down=SILENT_FOR + timedelta(minutes=1), answered=answered)) == []
    heard = declared(link_down=SILENT_FOR + timedelta(seconds=15), answered=SILENT_FOR + timedelta(seconds=3))
    assert primaries(heard) == [], "this leader heard the primary when the link was lost"


def test_the_end_is_recorded_first() -> None:
    builder = declared()
    fresh = builder.with_records(replace(builder.view.shards[PRIMARY], ended_since=None))
    assert primaries(fresh) == []
    noted = [w.record for w in decide_repair(fresh.view, NOW).writes]
    assert noted == [replace(fresh.view.shards[PRIMARY], ended_since=NOW)]


def test_the_word_is_about_the_boot_in_which_it_was_given() -> None:
    assert boot(declared(), "boot").view.is_off(ONE)
    assert not boot(declared(), "another").view.is_off(ONE), "its agent has run since, although no leader saw its daemon"
    assert declared(replace(WORD, boot_id="")).view.is_off(ONE), "no agent has told a boot"
    assert not boot(declared().with_daemon(1), "boot").view.is_off(ONE), "it is not away"
    assert not cluster(nodes=3).without_daemon(1).view.is_off(ONE), "no one has said so"
    assert not declared().view.is_off(NodeUid(9))


@pytest.mark.parametrize(
    ("boot_id", "severity"), [("boot", Severity.ERROR), ("another", Severity.INFO), ("", Severity.INFO)]
)
def test_the_word_ends_when_the_nodes_daemon_runs(boot_id: str, severity: Severity) -> None:
    """A machine that has not booted since was not off."""
    builder = declared(replace(WORD, boot_id=boot_id))
    assert decide_declarations(builder.view, NOW).writes == ()
    after, event = (w.record for w in decide_declarations(builder.with_daemon(1).view, NOW).writes)
    assert after == replace(builder.view.nodes[ONE], declared_off=None)
    assert isinstance(event, Event)
    assert (event.kind, event.severity) == (EventKind.NODE_DECLARATION_ENDED, severity)


def test_the_word_ends_before_anything_else_is_decided() -> None:
    first = next(decide_turn(declared().with_daemon(1).view, NOW, DECIDERS, singly=True))
    assert next(iter(first.writes)).record == replace(declared().view.nodes[ONE], declared_off=None)


def test_people_are_told_what_they_can_do() -> None:
    builder = cluster(nodes=3).without_daemon(1)
    assert remedy_of_absence(builder.view, ONE) == "start the daemon of node 1"
    assert builder.view.cluster is not None
    machines = builder.with_records(replace(builder.view.cluster, kind=ClusterKind.MACHINES))
    assert remedy_of_absence(machines.view, ONE).endswith("if its machine is off: shardwright node declare-off 1")
    off = machines.with_node_changed(1, declared_off=WORD)
    assert remedy_of_absence(off.view, ONE).endswith("remove the node: shardwright node remove 1")
