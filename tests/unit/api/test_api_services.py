"""Node actions, nodes, snapshots, users, options: pure decisions."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.api.auth import basic_credentials
from shardwright.api.schemas.v1.requests import NewNodeBody, NodeBody, UserBody
from shardwright.api.services import cluster as options
from shardwright.api.services import node_actions, nodes, users
from shardwright.api.services.intent import Look
from shardwright.errors import Refusal, Rejected
from shardwright.model.account import ManagementRole
from shardwright.model.action import ActionName, ActionStatus
from shardwright.model.cluster import Node, RemovedNode, Snapshot
from shardwright.model.database import Role
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import ActionUid, NodeUid, UserUid
from shardwright.model.view import Put
from shardwright.store.keys import REMOVE_LOCK
from shardwright.store.protocol import DeleteKey, ModifiedAt, PutKey
from testkit.builders import GB, NOW, cluster
from tests.unit.api.api_looks import events_of, look_at, user, view_with_servers

UID = ActionUid("7b0d1c9e-0000-4000-8000-000000000001")
ONE = NodeUid(1)


def refusal(call: object) -> tuple[Refusal, str]:
    with pytest.raises(Rejected) as refused:
        call()  # type: ignore[operator]
    return refused.value.refusal, refused.value.code


# -- node actions ------------------------------------------------------------------------------------------------------


def test_an_action_locks_its_node() -> None:
    intent = node_actions.start(look_at(), ONE, "maintenance_on", b"", uid=UID)
    assert intent.answer.status is ActionStatus.QUEUED
    assert intent.answer.requested_by == "admin@example.com"
    assert ModifiedAt("locks/nodes/00000001", 0) in intent.compares
    assert ModifiedAt("nodes/00000001", 5) in intent.compares, "the node must still exist"
    assert intent.operations == (
        PutKey("locks/nodes/00000001", UID.encode()),
        PutKey("last_actions/00000001/maintenance_on", UID.encode()),
    )
    assert [e.kind for e in events_of(intent)] == ["maintenance_on_request"]


@pytest.mark.parametrize("word", ["remove", "remove_node"])
def test_a_removal_closes_the_node_and_locks_the_cluster(word: str) -> None:
    intent = node_actions.start(look_at(), ONE, word, b"{}", uid=UID)
    assert intent.answer.name is ActionName.REMOVE
    (node,) = (w.record for w in intent.writes if isinstance(w.record, Node))
    assert node.is_closed
    assert ModifiedAt(REMOVE_LOCK, 0) in intent.compares
    assert PutKey(REMOVE_LOCK, UID.encode()) in intent.operations
    assert [e.kind for e in events_of(intent)] == ["node_remove_request"]


@pytest.mark.parametrize(
    ("node", "word", "raw", "expected"),
    [
        (9, "remove", b"", (Refusal.NOT_FOUND, "node_not_found")),
        (9, "drain", b"", (Refusal.NOT_FOUND, "node_not_found")),
        (1, "drain", b"", (Refusal.INVALID, "invalid_action")),
        (1, "step_down", b"", (Refusal.INVALID, "invalid_action")),
        (1, "REMOVE", b"", (Refusal.INVALID, "invalid_action")),
        (1, "remove", b"[]", (Refusal.INVALID, "invalid_request")),
        (1, "remove", b'{"wait_for_persistence":0}', (Refusal.INVALID, "invalid_parameter")),
    ],
)
def test_actions_that_do_not_start(node: int, word: str, raw: bytes, expected: object) -> None:
    assert refusal(lambda: node_actions.start(look_at(), NodeUid(node), word, raw, uid=UID)) == expected


def test_one_live_action_per_node_and_one_removal_per_cluster() -> None:
    busy = look_at(cluster(nodes=3).with_action(ActionName.MAINTENANCE_ON, 1).view)
    expected = (Refusal.CONFLICT, "node_action_in_progress")
    assert refusal(lambda: node_actions.start(busy, ONE, "enslave_node", b"", uid=UID)) == expected
    node_actions.start(busy, NodeUid(2), "maintenance_on", b"", uid=UID)
    removing = look_at(cluster(nodes=3).with_action(ActionName.REMOVE, 1).view, **{"locks__remove": "action-1"})
    expected = (Refusal.CONFLICT, "remove_in_progress")
    assert refusal(lambda: node_actions.start(removing, NodeUid(2), "remove", b"", uid=UID)) == expected
    node_actions.start(removing, NodeUid(2), "maintenance_on", b"", uid=UID)


def test_a_cancellation_is_a_wish_and_is_recorded_once() -> None:
    look = look_at(cluster(nodes=3).with_action(ActionName.REMOVE, 1, status=ActionStatus.RUNNING).view)
    intent = node_actions.cancel_or_forget(look, ONE, "remove")
    assert intent.answer.status is ActionStatus.CANCELLING
    (record,) = (w.record for w in intent.writes if w.record is not events_of(intent)[0])
    assert (record.status, record.cancel_requested_by) == (ActionStatus.RUNNING, "admin@example.com")  # type: ignore[union-attr]
    assert [e.kind for e in events_of(intent)] == ["node_abort_remove_request"]
    again = node_actions.cancel_or_forget(look_at(look.view.with_writes(intent.writes)), ONE, "remove")
    assert again.answer.status is ActionStatus.CANCELLING
    assert not again.writes


@pytest.mark.parametrize("status", [s for s in ActionStatus if s.is_terminal])
def test_a_result_is_deleted_but_the_record_stays(status: ActionStatus) -> None:
    look = look_at(cluster(nodes=3).with_action(ActionName.STEP_DOWN, 2, status=status).view)
    intent = node_actions.cancel_or_forget(look, NodeUid(2), "enslave_node")
    assert intent.answer.status is status
    assert intent.operations == (DeleteKey("last_actions/00000002/step_down"),)
    assert [type(w.record) for w in intent.writes] == [Event]


def test_actions_of_a_removed_node_stay_readable_for_a_while() -> None:
    view = cluster(nodes=3).with_action(ActionName.REMOVE, 3, status=ActionStatus.COMPLETED).view
    gone = {uid: node for uid, node in view.nodes.items() if uid != 3}
    three = NodeUid(3)
    for kept_for, is_kept in ((timedelta(hours=1), True), (timedelta(hours=-1), False)):
        removed = {three: RemovedNode(three, NOW, NOW + kept_for)}
        look = look_at(replace(view, nodes=gone, removed_nodes=removed))
        assert bool(node_actions.of_all_nodes(look)) is is_kept
        if is_kept:
            assert len(node_actions.of_node(look, three)) == 1
            assert node_actions.find(look, three, "remove").status is ActionStatus.COMPLETED
            expected = (Refusal.NOT_FOUND, "node_not_found")
            assert refusal(lambda look=look: node_actions.start(look, three, "remove", b"", uid=UID)) == expected
        else:
            assert refusal(lambda look=look: node_actions.of_node(look, three)) == (Refusal.NOT_FOUND, "node_not_found")


# -- nodes -------------------------------------------------------------------------------------------------------------


def test_a_new_node_gets_the_next_uid_and_address() -> None:
    intent = nodes.add(look_at(), NewNodeBody())
    assert (intent.answer.uid, intent.answer.address, intent.answer.memory_bytes) == (4, "127.0.0.4", 4 * GB)
    given = nodes.add(look_at(), NewNodeBody(rack_id="r", memory=GB, addr="127.9.9.9")).answer
    assert (given.rack, given.memory_bytes, given.address) == ("r", GB, "127.9.9.9")


def test_the_address_of_a_removed_node_is_not_used_again() -> None:
    view = cluster(nodes=3).view
    without_last = replace(view, nodes={uid: n for uid, n in view.nodes.items() if uid != 3})
    assert nodes.add(look_at(without_last), NewNodeBody()).answer.address == "127.0.0.4"


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "localhost", "", "127.0.0.300", "::1"])
def test_bad_addresses(address: str) -> None:
    assert refusal(lambda: nodes.add(look_at(), NewNodeBody(addr=address)))[1] == "invalid_address"


def test_opening_a_node_undoes_both_marks() -> None:
    view = cluster(nodes=3).with_node_changed(1, is_closed=True, is_quorum_only=True).view
    node = nodes.change(look_at(view), ONE, NodeBody(accept_servers=True)).answer
    assert node.accepts_placement
    busy = cluster(nodes=3).with_action(ActionName.REMOVE, 1).view
    expected = (Refusal.CONFLICT, "node_action_in_progress")
    assert refusal(lambda: nodes.change(look_at(busy), ONE, NodeBody(accept_servers=True))) == expected


def test_only_an_empty_node_can_be_closed() -> None:
    view = cluster(nodes=3).with_database("a", on=((1,),)).view
    expected = (Refusal.NOT_ACCEPTABLE, "node_already_populated")
    assert refusal(lambda: nodes.change(look_at(view), ONE, NodeBody(accept_servers=False))) == expected
    assert nodes.change(look_at(view), NodeUid(3), NodeBody(accept_servers=False)).answer.is_closed


def test_node_changes() -> None:
    look = look_at(cluster(nodes=3).with_database("a", on=((1,),)).view)
    changed = nodes.change(
        look, NodeUid(2), NodeBody(max_listeners=5, rack_id="r", max_redis_forks=2, external_addr=["a.example.com"])
    )
    assert (changed.answer.endpoints_max, changed.answer.rack) == (5, "r")
    assert changed.answer.options == {"max_redis_forks": 2}
    assert changed.answer.external_addresses == ("a.example.com",)
    assert not nodes.change(look, NodeUid(2), NodeBody()).writes
    assert refusal(lambda: nodes.change(look, ONE, NodeBody(rack_id="r")))[1] == "node_already_has_rack_id"
    assert refusal(lambda: nodes.change(look, ONE, NodeBody(addr="127.0.0.9")))[1] == "node_not_offline"


@pytest.mark.parametrize(
    ("address", "is_accepted"),
    [
        ("203.0.113.7", True),
        ("fd00::7", True),
        ("a.example.com", True),
        ("host", True),
        ("203.0.113.700", False),
        ("0.0.0.0", False),
        ("::", False),
        ("224.0.0.1", False),
        ("a b", False),
        ("-a.example.com", False),
        ("a..b", False),
        ("", False),
        ("https://203.0.113.7", False),
    ],
)
def test_an_external_address_is_one_that_a_client_can_use(address: str, is_accepted: bool) -> None:
    look, body = look_at(cluster(nodes=3).view), NodeBody(external_addr=["203.0.113.9", address])
    if is_accepted:
        assert nodes.change(look, ONE, body).answer.external_addresses == ("203.0.113.9", address)
    else:
        assert refusal(lambda: nodes.change(look, ONE, body)) == (Refusal.INVALID, "invalid_parameter")


def test_snapshots() -> None:
    view = cluster(nodes=3).with_database("a", on=((1, 2),)).view
    taken = nodes.take_snapshot(look_at(view), ONE, "before-patching").answer
    assert [(s.shard_uid, s.role) for s in taken.shards] == [(1, Role.PRIMARY)]
    assert taken.endpoints == ("1:1",)
    look = look_at(view.with_writes([Put(taken), Put(Snapshot(ONE, "maintenance_mode_x", NOW))]))
    assert refusal(lambda: nodes.take_snapshot(look, ONE, "before-patching"))[1] == "snapshot_exists"
    assert nodes.delete_snapshot(look, ONE, "before-patching").answer == taken
    assert refusal(lambda: nodes.delete_snapshot(look, ONE, "maintenance_mode_x"))[0] is Refusal.FORBIDDEN
    assert refusal(lambda: nodes.delete_snapshot(look, ONE, "none"))[1] == "snapshot_not_found"
    for bad in ("maintenance_mode_y", "a b", ".", "", "a" * 129, "a\n"):
        assert refusal(lambda bad=bad: nodes.take_snapshot(look, ONE, bad))[1] == "invalid_snapshot_name"


# -- users -------------------------------------------------------------------------------------------------------------


def people() -> Look:
    admin, manager = user(1), user(2, ManagementRole.USER_MANAGER)
    return look_at(replace(cluster(nodes=1).view, users={admin.uid: admin, manager.uid: manager}))


def test_a_new_user() -> None:
    body = UserBody(email="New@Example.com", password="long enough", role="db_viewer", name="New")
    intent = users.create(people(), body, user(1), password_hash="hashed")
    assert (intent.answer.role, intent.answer.password_hash) == (ManagementRole.DB_VIEWER, "hashed")
    assert intent.compares == (ModifiedAt("emails/new@example.com", 0),)
    assert "long enough" not in repr(intent)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_email"),
        ({"email": "nobody"}, "invalid_email"),
        ({"email": "a b@c"}, "invalid_email"),
        ({"email": "a:b@c.d"}, "invalid_email"),
        ({"email": "USER1@example.com"}, "email_already_exists"),
        ({"password": None}, "invalid_parameter"),
        ({"password": "short"}, "password_not_complex"),
        ({"role": None}, "invalid_parameter"),
        ({"role": "king"}, "invalid_parameter"),
        ({"role_uids": [9], "role": None}, "role_not_exist"),
        ({"role_uids": [1, 2], "role": None}, "invalid_configuration"),
        ({"role_uids": [1]}, "conflicting_parameters"),
        ({"auth_method": "external"}, "invalid_configuration"),
    ],
)
def test_bad_users(body: dict[str, object], code: str) -> None:
    whole = {"email": "a@b.c", "password": "long enough", "role": "db_viewer", **body}
    wish = UserBody.model_validate(whole if body else {})
    assert refusal(lambda: users.create(people(), wish, user(1), password_hash="x"))[1] == code


def test_complex_passwords_when_asked_for() -> None:
    view = cluster(nodes=1).view
    assert view.cluster is not None
    strict = replace(view, cluster=replace(view.cluster, options={"password_complexity": True, "password_min_length": 10}))
    assert users.checked_password(strict, "Abcdefgh1!") == "Abcdefgh1!"
    for bad in ("Abcdefg1!", "abcdefgh1!", "Abcdefghi!", "Abcdefghi1"):
        assert refusal(lambda bad=bad: users.checked_password(strict, bad))[1] == "password_not_complex"


def test_the_last_admin_stays() -> None:
    look = people()
    expected = (Refusal.NOT_ACCEPTABLE, "change_last_admin_role_not_allowed")
    assert refusal(lambda: users.delete(look, UserUid(1), user(1))) == expected
    demotion = UserBody(role="db_viewer")
    assert refusal(lambda: users.change(look, UserUid(1), demotion, user(1), password_hash=None)) == expected
    second = user(3)
    two = look_at(look.view.with_writes([Put(second)]))
    intent = users.delete(two, UserUid(1), second)
    assert [c.key for c in intent.compares] == ["users/00000003"], "the other admin must still be there"


def test_a_user_manager_does_not_touch_admins() -> None:
    look, manager = people(), user(2, ManagementRole.USER_MANAGER)
    expected = (Refusal.FORBIDDEN, "unauthorized_action")
    assert refusal(lambda: users.delete(look, UserUid(1), manager)) == expected
    promote = UserBody(role="admin")
    assert refusal(lambda: users.change(look, UserUid(2), promote, manager, password_hash=None)) == expected
    wish = UserBody(email="a@b.c", password="long enough", role="admin")
    assert refusal(lambda: users.create(look, wish, manager, password_hash="x")) == expected


def test_user_changes() -> None:
    look = people()
    intent = users.change(look, UserUid(2), UserBody(name="N", role_uids=[5]), user(1), password_hash="new")
    assert (intent.answer.name, intent.answer.role, intent.answer.password_hash) == ("N", ManagementRole.DB_VIEWER, "new")
    assert not users.change(look, UserUid(2), UserBody(), user(1), password_hash=None).writes
    moved = UserBody(email="other@example.com")
    code = refusal(lambda: users.change(look, UserUid(2), moved, user(1), password_hash=None))[1]
    assert code == "email_change_not_allowed"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("Bearer abc", None),
        ("Basic", None),
        ("Basic !!!", None),
        ("Basic Og==", None),
        ("Basic YWJj", None),
        ("Basic YUBiLmM6cDp3", ("a@b.c", "p:w")),
        ("basic YUBiLmM6cDp3", ("a@b.c", "p:w")),
        ("Basic YTrk", ("a", "ä")),
    ],
)
def test_basic_credentials(header: str | None, expected: object) -> None:
    assert basic_credentials(header) == expected


# -- options and the log -----------------------------------------------------------------------------------------------


def test_cluster_options() -> None:
    look = look_at()
    intent = options.change_options(look, {"password_min_length": 12, "name": look.view.cluster.name, "novelty": 1})  # type: ignore[union-attr]
    assert intent.answer.options["password_min_length"] == 12
    assert len(intent.writes) == 2
    assert not options.change_options(look, {"email_alerts": False}).writes, "the default is no change"
    assert not options.change_options(look, {"email_alerts": True}, is_dry_run=True).writes
    for bad, code in (
        ({"password_min_length": "12"}, "invalid_parameter"),
        ({"password_min_length": True}, "invalid_parameter"),
        ({"password_min_length": 0}, "invalid_parameter"),
        ({"name": "other"}, "invalid_configuration"),
        ({"cm_port": 1}, "invalid_configuration"),
        ({"alert_settings": {"node_failed": "yes"}}, "invalid_parameter"),
    ):
        assert refusal(lambda bad=bad: options.change_options(look, bad))[1] == code


def test_policy() -> None:
    look = look_at()
    given: dict[str, object] = {
        "persistent_node_removal": True,
        "slave_ha_grace_period": 5,
        "max_redis_forks": 3,
        "novelty": 1,
    }
    new = options.change_policy(look, given).answer
    assert (new.persistent_node_removal, new.slave_ha_grace_period_s, new.extra) == (True, 5, {"max_redis_forks": 3})
    assert not options.change_policy(look, {"slave_ha": look.view.policy.slave_ha}).writes
    for bad in ({"slave_ha": 1}, {"max_redis_forks": -1}, {"max_redis_forks": 1.0}, {"default_shards_placement": "x"}):
        assert refusal(lambda bad=bad: options.change_policy(look, bad))[1] == "invalid_parameter"


def test_log_lines() -> None:
    events = [Event(NOW + timedelta(seconds=n), EventKind.FAILOVER, Severity.INFO, f"e{n}") for n in range(5)]

    def texts(**parameters: str) -> list[str]:
        return [e.text for e in options.log_lines(events, options.log_query(parameters))]

    assert texts() == ["e0", "e1", "e2", "e3", "e4"]
    assert texts(order="desc", limit="2", offset="1") == ["e3", "e2"]
    assert texts(stime="2026-01-02T03:04:07Z", etime="2026-01-02T03:04:08+00:00") == ["e2", "e3"]
    assert texts(limit="0") == []
    for bad in ({"order": "up"}, {"limit": "-1"}, {"limit": "x"}, {"stime": "yesterday"}, {"offset": "1.5"}):
        assert refusal(lambda bad=bad: options.log_query(bad))[1] == "invalid_parameter"


def test_views_with_servers_are_used() -> None:
    assert all(seen.servers for seen in view_with_servers(cluster(nodes=2)).node_seen.values())
