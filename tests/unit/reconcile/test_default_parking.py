"""A database in default mode whose primary's machine is out of reach, while its lease is in force."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from shardwright.clock import SLEW
from shardwright.endpoint.lease import PROOF_S
from shardwright.model.codes import Code
from shardwright.model.commands import Park, SwitchOff
from shardwright.model.database import SlotGroup
from shardwright.model.decision import Decision
from shardwright.model.event import Event, EventKind
from shardwright.model.ids import DatabaseUid, GroupUid, NodeUid, ShardUid
from shardwright.model.lease import Lease, Waiver
from shardwright.model.parking import Parked, Parking
from shardwright.model.seen import EndpointProcessSeen, EndpointSeen, EndpointState, Health
from shardwright.reconcile.group import decide_group
from shardwright.reconcile.parking import HEIR_WAITS
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP, PRIMARY, REPLICA, THIRD = GroupUid("1:1"), ShardUid(1), ShardUid(2), ShardUid(3)
HISTORY = "replication-1:1"
IN_FORCE = Lease(5, is_needed=True)


def cut_off(*, copies: int = 2, lease: Lease | None = IN_FORCE) -> ClusterBuilder:
    builder = cluster(nodes=4, leader=2).with_database(on=(tuple(range(1, copies + 1)),))
    settings = builder.view.databases[DatabaseUid(1)].settings_fingerprint
    builder = builder.with_records(
        *(replace(s, settings=settings) for s in builder.view.shards.values()),
        replace(builder.view.groups[GROUP], lease=lease),
    )
    builder = builder.with_server(
        PRIMARY,
        health=Health.TIMEOUT,
        unanswered_since=NOW - timedelta(seconds=3.2),
        replication_id="",
        replication_id_lately=HISTORY,
    )
    for uid in range(2, copies + 1):
        builder = builder.with_server(uid, heard_primary_s=4, offset=1000 + uid)
    seen = EndpointSeen(next(iter(builder.view.endpoints)), EndpointState.LISTENING, generation=1, server_silent_s=3.0)
    processes = {
        NodeUid(n): EndpointProcessSeen(NodeUid(n), NOW, answers=n != 1, endpoints=(seen,) if n != 1 else ())
        for n in (1, 2, 3, 4)
    }
    return ClusterBuilder(replace(builder.view, endpoint_processes=processes))


def decide(builder: ClusterBuilder, now: datetime = NOW) -> Decision:
    return decide_group(builder.view.groups[GROUP], builder.view, now)


def after(decision: Decision) -> SlotGroup | None:
    return next((w.record for w in decision.writes if isinstance(w.record, SlotGroup)), None)


def parked(uid: int, offset: int = 1000) -> Parked:
    return Parked(ShardUid(uid), 1, HISTORY, offset)


def parking(builder: ClusterBuilder, *copies: Parked, term: int = 1, **changes: Any) -> ClusterBuilder:
    group = builder.view.groups[GROUP]
    return builder.with_records(replace(group, parking=replace(Parking(PRIMARY, term, NOW, copies), **changes)))


def test_the_heir_waits_for_longer_than_a_proof_holds() -> None:
    """Whatever the leader's clock does, and with half a percent between the clocks of two machines."""
    assert HEIR_WAITS.total_seconds() / (1 + SLEW) > 1.01 * PROOF_S + 0.3


def test_it_begins_while_the_lease_is_in_force() -> None:
    group = after(decide(cut_off()))
    assert group is not None
    assert group.parking == Parking(PRIMARY, 1, NOW)


@pytest.mark.parametrize(
    "lease",
    [None, Lease(5), Lease(5, is_needed=True, waived=(Waiver(NodeUid(1), "i1"),))],
    ids=["no lease", "no proofs", "a process may serve without"],
)
def test_not_while_a_process_may_answer_without_a_proof(lease: Lease | None) -> None:
    decision = decide(cut_off(lease=lease))
    assert after(decision) is None
    assert decision.commands == (), "its node has a daemon"


def test_not_without_a_copy_that_was_in_sync() -> None:
    builder = cut_off()
    late = replace(builder.view.shards[REPLICA], in_sync_generation=0)
    decision = decide(builder.with_records(late))
    assert after(decision) is None
    assert [r.code for r in decision.reasons][:1] == [Code.PRIMARY_OUT_OF_REACH]


def test_other_copies_are_parked_first() -> None:
    assert decide(parking(cut_off())).commands == (Park(REPLICA),)


def test_the_wait_is_counted_from_a_turn_after_the_last_parking_was_on_record() -> None:
    """What a turn sees may be newer than its time."""
    seen = parking(cut_off(), parked(2))
    first = after(decide(seen))
    assert first is not None
    assert first.parking == Parking(PRIMARY, 1, NOW, (parked(2),), is_complete=True)
    later = NOW + timedelta(seconds=1)
    second = decide(seen.with_records(first), later)
    counted = after(second)
    assert counted is not None
    assert counted.parking is not None
    assert (counted.parking.counts_from, second.wake_at) == (later, later + HEIR_WAITS)


def test_no_copy_takes_over_before_the_last_proof_has_ended() -> None:
    waiting = parking(cut_off(), parked(2), is_complete=True, counts_from=NOW)
    early = decide(waiting, NOW + HEIR_WAITS - timedelta(seconds=0.01))
    assert (early.writes, early.wake_at) == ((), NOW + HEIR_WAITS)
    group = after(decide(waiting, NOW + HEIR_WAITS))
    assert group is not None
    assert (group.primary, group.generation, group.parking) == (REPLICA, 2, None)
    assert group.lease == Lease(6), "nothing proves yet that the new primary has a replica"


def test_a_copy_that_was_restarted_meanwhile_is_parked_again_and_the_wait_begins_anew() -> None:
    waiting = parking(cut_off(), parked(2), is_complete=True, counts_from=NOW)
    restarted = waiting.with_records(replace(waiting.view.shards[REPLICA], incarnation=2)).with_healthy_shard(2)
    decision = decide(restarted, NOW + HEIR_WAITS)
    assert decision.commands == (Park(REPLICA),)
    group = after(decision)
    assert group is not None
    assert group.parking == Parking(PRIMARY, 1, NOW, (parked(2),))


def test_a_later_leader_begins_anew() -> None:
    waiting = parking(cut_off(), parked(2), term=0, is_complete=True, counts_from=NOW - timedelta(seconds=9))
    group = after(decide(waiting))
    assert group is not None
    assert group.parking == Parking(PRIMARY, 1, NOW)


def test_the_copy_with_the_highest_offset_takes_over_if_one_was_in_sync() -> None:
    builder = parking(cut_off(copies=3), parked(2, 1000), parked(3, 1001), is_complete=True, counts_from=NOW)
    new = replace(builder.view.shards[THIRD], in_sync_generation=0)
    group = after(decide(builder.with_records(new), NOW + HEIR_WAITS))
    assert group is not None
    assert group.primary == THIRD
    none = builder.with_records(new, replace(builder.view.shards[REPLICA], in_sync_generation=0))
    decision = decide(none, NOW + HEIR_WAITS)
    assert after(decision) is None
    assert [r.code for r in decision.reasons] == [Code.PRIMARY_OUT_OF_REACH]


def test_it_is_withdrawn_when_the_primary_answers_again() -> None:
    waiting = parking(cut_off(), parked(2), is_complete=True, counts_from=NOW).with_healthy_shard(1)
    decision = decide(waiting, NOW + timedelta(seconds=2))
    group = after(decision)
    assert group is not None
    assert (group.parking, group.lease) == (None, IN_FORCE)
    assert [w.record.kind for w in decision.writes if isinstance(w.record, Event)] == [EventKind.FAILOVER_WITHDRAWN]


def test_with_a_proof_of_its_end_no_copy_waits() -> None:
    waiting = parking(cut_off(), parked(2), is_complete=True, counts_from=NOW).with_dead_shard(1)
    ended = replace(waiting.view.shards[PRIMARY], ended_since=NOW - timedelta(seconds=1), missing_since=NOW)
    waiting = waiting.with_records(ended).with_server(REPLICA, is_link_up=False, link_down_s=1, primary_port=1)
    group = after(decide(waiting, NOW + timedelta(seconds=0.5)))
    assert group is not None
    assert (group.primary, group.generation) == (REPLICA, 2)


def test_the_machine_of_the_primary_is_not_switched_off_while_proofs_are_in_force() -> None:
    builder = cut_off()
    daemons = {uid: d for uid, d in builder.view.daemons.items() if uid != 1}
    view = replace(builder.view, daemons=daemons)
    assert not any(isinstance(c, SwitchOff) for c in decide(ClusterBuilder(view)).commands)
    without = cut_off(lease=None)
    view = replace(without.view, daemons=daemons)
    assert SwitchOff(NodeUid(1)) in decide(ClusterBuilder(view)).commands
