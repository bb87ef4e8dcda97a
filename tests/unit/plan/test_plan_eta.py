"""Rates from moves that ended, and the time that moves to come take at these rates."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, MoveUid, NodeUid, ShardUid
from shardwright.model.move import MoveState, Relocation
from shardwright.plan.eta import DEFAULTS, Rates, Schedule, expected_end, measured
from shardwright.plan.proposal import HandoffProposal, RebindProposal, RelocationProposal
from testkit import moves
from testkit.builders import MB, NOW

RATES = Rates(bytes_per_s=100 * MB, launch_s=0.25, start_s=1.0, leave_s=0.5, handoff_s=0.25, rebind_s=0.25)


def relocated(number: int, size: int, *, sync_s: float, leave_s: float = 0.5, launch_s: float = 0.25) -> Relocation:
    begun = NOW + timedelta(minutes=number)
    synced_from = begun + timedelta(seconds=launch_s)
    ready = synced_from + timedelta(seconds=sync_s)
    left = ready + timedelta(seconds=leave_s)
    return moves.relocation(
        uid=MoveUid(f"a-{number}"), state=MoveState.DONE, created_at=begun, state_since=begun,
        started_at=begun, sync_began_at=synced_from,
        ready_at=ready, left_at=left, ended_at=left + timedelta(seconds=30), bytes_total=size,
    )  # fmt: skip


def relocation(number: int, size: int = 100 * MB) -> RelocationProposal:
    return RelocationProposal(
        database_uid=DatabaseUid(number), group_uid=GroupUid(f"{number}:1"), shard_uid=ShardUid(number),
        from_node=NodeUid(1), to_node=NodeUid(2), bytes_total=size, hands_over=True,
    )  # fmt: skip


def test_without_moves_the_defaults_stand() -> None:
    assert measured([]) == DEFAULTS
    assert not measured([]).is_measured


def test_large_moves_measure_the_rate_small_ones_the_start() -> None:
    moves = [relocated(n, MB, sync_s=1.0) for n in range(3)] + [relocated(n, 400 * MB, sync_s=5.0) for n in range(4, 7)]
    rates = measured(moves)
    assert (rates.launch_s, rates.start_s) == (0.25, 1.0)
    assert rates.bytes_per_s == pytest.approx(100 * MB)
    assert rates.leave_s == 0.5, "the files that go later hold nobody up"
    assert rates.is_measured


def test_one_stalled_sync_does_not_spoil_the_rate() -> None:
    moves = [relocated(n, 100 * MB, sync_s=1.3) for n in range(5)] + [relocated(9, 100 * MB, sync_s=60)]
    assert measured(moves).bytes_per_s == pytest.approx(100 * MB)


def test_syncs_share_their_lanes_and_endpoints_come_after_roles() -> None:
    schedule = Schedule(RATES, syncs_max=2)
    slots = [schedule.add(relocation(n)) for n in (1, 2, 3)]
    assert [s.begins_s for s in slots] == [0.0, 0.0, 2.0], "the third server is started while it waits for its sync"
    rebind = RebindProposal(
        database_uid=DatabaseUid(3), endpoint_uid=EndpointUid("3:1"), from_node=NodeUid(1), to_node=NodeUid(2)
    )
    endpoint = schedule.add(rebind)
    assert (endpoint.begins_s, endpoint.ends_s) == (4.5, 4.75), "behind the role, not behind the old copy's end"
    assert schedule.end_s == 4.75


def test_one_change_of_a_group_at_a_time() -> None:
    schedule = Schedule(RATES, syncs_max=0)
    handoff = HandoffProposal(
        database_uid=DatabaseUid(1), group_uid=GroupUid("1:1"), shard_uid=ShardUid(1), new_shard_uid=ShardUid(2),
        from_node=NodeUid(1), to_node=NodeUid(2),
    )  # fmt: skip
    schedule.add(handoff)
    assert schedule.add(relocation(1)).begins_s == 0.25


def test_a_move_under_way_counts_with_what_is_left_of_it() -> None:
    move = replace(
        relocated(0, 100 * MB, sync_s=2.0),
        state=MoveState.SYNCING, ready_at=None, left_at=None, ended_at=None,
    )  # fmt: skip
    ends = [expected_end([move], [], RATES, syncs_max=2, now=NOW + timedelta(seconds=s)) for s in (0.0, 1.0, 1.9)]
    assert ends[0] == ends[1] == ends[2] == NOW + timedelta(seconds=2.85)
    late = expected_end([move], [], RATES, syncs_max=2, now=NOW + timedelta(seconds=60))
    assert late > NOW + timedelta(seconds=60)
