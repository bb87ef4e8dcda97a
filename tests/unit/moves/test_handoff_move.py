"""A handoff's next step, from what is seen."""

from dataclasses import replace
from datetime import timedelta

from shardwright.model.codes import Code
from shardwright.model.commands import HandOff
from shardwright.model.database import Handoff, Role
from shardwright.model.decision import Decision
from shardwright.model.ids import ShardUid
from shardwright.model.move import MoveState
from shardwright.model.reason import Reason
from shardwright.moves.handoff import HANDOFF_ATTEMPTS_MAX
from shardwright.moves.handoff_rules import BUSY_CODE
from testkit.builders import NOW
from tests.unit.moves.moving import (
    GROUP,
    decide,
    handoff,
    move_after,
    replicated,
    with_new_copy,
)


def test_while_a_handoff_is_pending_nothing_else_is_decided() -> None:
    builder = with_new_copy(replicated())
    pending = replace(builder.view.groups[GROUP], handoff=Handoff(ShardUid(1), ShardUid(2), 9, 1, NOW))
    move = handoff()
    assert decide(builder.with_records(pending), replace(move, is_cancel_wanted=True)) == Decision()


def test_failed_handoffs_wait_and_end_but_a_busy_command_only_blocks() -> None:
    builder = replicated()
    move = handoff()
    waiting = replace(move, attempts=1, not_before=NOW + timedelta(seconds=1))
    assert decide(builder, waiting).wake_at == NOW + timedelta(seconds=1)
    spent = replace(move, attempts=HANDOFF_ATTEMPTS_MAX, reasons=(Reason(Code.REPLICA_LAGS, "it lags"),))
    assert move_after(decide(builder, spent)).state is MoveState.FAILED
    busy = replace(spent, reasons=(Reason(BUSY_CODE, "EVAL of 10.0.0.1 runs"),))
    assert decide(builder, busy).commands == (HandOff(GROUP, ShardUid(1), ShardUid(2)),)


def test_roles_that_changed_meanwhile_end_a_handoff() -> None:
    builder = replicated()
    group = replace(builder.view.groups[GROUP], primary=ShardUid(9))
    move = handoff()
    ended = move_after(decide(builder.with_records(group), move))
    assert (ended.state, [r.code for r in ended.reasons]) == (MoveState.FAILED, ["roles_changed"])
    assert builder.view.servers[ShardUid(1)].role is Role.PRIMARY
