"""DELETE on an action: stop, undo, delete the result."""

import pytest

from shardwright.api.services import node_actions
from shardwright.errors import Rejected
from shardwright.model.action import Action, ActionName, ActionStatus
from shardwright.model.cluster import Node
from shardwright.model.ids import ActionUid, NodeUid
from shardwright.model.view import ClusterView, Put
from testkit.builders import cluster
from tests.unit.api.api_looks import look_at

N1 = NodeUid(1)


def live() -> ClusterView:
    return cluster(3).with_database(on=((1, 2),)).with_action(ActionName.MAINTENANCE_ON, 1, status=ActionStatus.RUNNING).view


def cancelled(view: ClusterView, mode: str | None) -> tuple[Action, ClusterView]:
    intent = node_actions.cancel_or_forget(look_at(view), N1, "maintenance_on", mode=mode)
    return intent.answer, view.with_writes(intent.writes)


@pytest.mark.parametrize(("mode", "undoes"), [(None, False), ("stop", False), ("undo", True)])
def test_modes(mode: str | None, undoes: bool) -> None:
    shown, after = cancelled(live(), mode)
    assert shown.status == ActionStatus.CANCELLING
    assert after.actions[ActionUid("action-1")].is_undo_wanted is undoes


def test_a_repeated_request_changes_nothing_and_a_stop_may_become_an_undo_but_not_the_reverse() -> None:
    _, stopped = cancelled(live(), "stop")
    assert cancelled(stopped, "stop")[1] == stopped
    _, undone = cancelled(stopped, "undo")
    assert undone.actions[ActionUid("action-1")].is_undo_wanted
    assert cancelled(undone, "stop")[1] == undone
    assert cancelled(undone, "undo")[1] == undone


def test_unknown_mode_and_an_action_that_has_ended() -> None:
    with pytest.raises(Rejected) as error:
        cancelled(live(), "backwards")
    assert error.value.code == "invalid_parameter"
    ended = cluster(3).with_action(ActionName.MAINTENANCE_ON, 1, status=ActionStatus.COMPLETED).view
    with pytest.raises(Rejected) as error:
        cancelled(ended, "undo")
    assert error.value.code == "action_ended"


def test_a_removal_remembers_whether_the_node_was_open() -> None:
    intent = node_actions.start(look_at(), N1, "remove", b"", uid=ActionUid("a"))
    records = [w.record for w in intent.writes if isinstance(w, Put)]
    assert [r.was_closed for r in records if isinstance(r, Action)] == [False]
    assert [r.is_closed for r in records if isinstance(r, Node)] == [True]
    assert intent.answer.was_closed is False
