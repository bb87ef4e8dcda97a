"""``change_master``: who may be asked for, what is written, and how it is shown."""

from dataclasses import replace

import pytest

from shardwright.api.errors import STATUS_OF
from shardwright.api.schemas.v1.actions import cluster_action
from shardwright.api.schemas.v1.requests import ChangeLeaderBody, read_body
from shardwright.api.services.leader_change import NAME, find, forget, request
from shardwright.errors import Rejected
from shardwright.model.action import ActionStatus
from shardwright.model.ids import NodeUid
from shardwright.model.leader_change import LeaderChange
from shardwright.model.view import ClusterView, Delete, Put
from testkit.builders import NOW, ClusterBuilder, cluster
from tests.unit.api.api_looks import events_of, look_at

LED = cluster(3, leader=1)
WISH = LeaderChange(NodeUid(2), 1, NOW, "admin@example.com")


def body(text: str) -> ChangeLeaderBody:
    return read_body(ChangeLeaderBody, text.encode())


def refused(view: ClusterView, text: str, name: str = NAME) -> tuple[int, str]:
    with pytest.raises(Rejected) as found:
        request(look_at(view), name, body(text))
    return STATUS_OF[found.value.refusal], found.value.code


@pytest.mark.parametrize("text", ['{"node_uid": "2"}', '{"node_uid": 2}'])
def test_the_node_is_named_by_a_string_or_a_number(text: str) -> None:
    intent = request(look_at(LED.view), NAME, body(text))
    assert intent.answer == WISH, "with the term of the leader that is to yield"
    assert intent.writes[0] == Put(WISH)
    assert [(e.kind, e.node_uid, e.by) for e in events_of(intent)] == [("leader_change_request", 2, "admin@example.com")]


def test_the_leader_is_the_leader_already() -> None:
    answer = request(look_at(LED.view), NAME, body('{"node_uid": "1"}')).answer
    assert (answer.status, answer.ended_at) == (ActionStatus.COMPLETED, NOW)


def test_without_a_leader_the_wish_is_for_the_next_election() -> None:
    assert request(look_at(cluster(3).view.changed(leadership=None)), NAME, body('{"node_uid": "2"}')).answer.term == 0


def test_a_repeated_request_changes_nothing_and_another_one_replaces_it() -> None:
    view = LED.with_records(WISH).view
    assert request(look_at(view), NAME, body('{"node_uid": "2"}')).writes == ()
    assert request(look_at(view), NAME, body('{"node_uid": "3"}')).answer.node_uid == 3
    over = LED.with_records(replace(WISH, status=ActionStatus.FAILED)).view
    assert request(look_at(over), NAME, body('{"node_uid": "2"}')).writes != ()


@pytest.mark.parametrize(
    "text", ["", "{}", '{"node_uid": ""}', '{"node_uid": "two"}', '{"node_uid": "²"}', '{"node_uid": "-1"}']
)
def test_a_request_that_names_no_node_is_malformed(text: str) -> None:
    assert refused(LED.view, text) == (400, "invalid_parameter")


def test_what_cannot_lead_is_refused() -> None:
    assert refused(LED.view, '{"node_uid": "9"}') == (404, "node_not_found")
    assert refused(LED.without_daemon(2).view, '{"node_uid": "2"}') == (406, "leader_not_available")
    leaving = LED.with_node_changed(2, is_decommissioning=True)
    assert refused(leaving.view, '{"node_uid": "2"}') == (406, "leader_not_available")
    assert refused(LED.view, '{"node_uid": "2"}', "change_slave") == (404, "invalid_action")


def test_it_is_shown_while_it_runs_and_afterwards() -> None:
    assert cluster_action(NAME, WISH) == {
        "name": "change_master",
        "status": "queued",
        "progress": 0.0,
        "node_uid": "2",
        "requested": "2026-01-02T03:04:05Z",
        "ended": None,
    }
    failed = cluster_action(NAME, replace(WISH, status=ActionStatus.FAILED, ended_at=NOW, error_message="it was away"))
    assert (failed["status"], failed["error_code"], failed["error_message"]) == (
        "failed",
        "leader_not_changed",
        "it was away",
    )
    done = cluster_action(NAME, replace(WISH, status=ActionStatus.COMPLETED, ended_at=NOW))
    assert (done["progress"], done.get("error_code")) == (100.0, None)


def found(builder: ClusterBuilder) -> LeaderChange:
    return find(look_at(builder.view), NAME)


def test_the_result_can_be_read_and_deleted_and_a_wish_withdrawn() -> None:
    with pytest.raises(Rejected) as none:
        found(LED)
    assert none.value.code == "action_not_found"
    over = replace(WISH, status=ActionStatus.COMPLETED, ended_at=NOW)
    assert found(LED.with_records(over)) == over
    gone = forget(look_at(LED.with_records(over).view), NAME)
    assert (gone.writes, gone.answer) == ((Delete(over),), over)
    withdrawn = forget(look_at(LED.with_records(WISH).view), NAME)
    assert withdrawn.writes[0] == Delete(WISH)
    assert withdrawn.answer.status is ActionStatus.CANCELLED
    assert len(events_of(withdrawn)) == 1
