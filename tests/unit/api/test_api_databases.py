"""Databases as intents: what is available, what is refused, what is written."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from shardwright.api.schemas.v1 import nodes
from shardwright.api.schemas.v1.databases import database, state_machines
from shardwright.api.schemas.v1.requests import DatabaseBody
from shardwright.api.schemas.v1.shards import shown
from shardwright.api.services import databases as service
from shardwright.api.services.intent import Intent, Look
from shardwright.errors import Refusal, Rejected
from shardwright.model.database import (
    AofPolicy,
    Database,
    DatabaseStatus,
    GroupPhase,
    Persistence,
    ServerKind,
    ServerSecrets,
    ShardWanted,
    SnapshotRule,
)
from shardwright.model.ids import ActionUid, DatabaseUid, GroupUid, NodeUid, ShardUid
from shardwright.model.move import MoveState
from shardwright.model.seen import ProcessState
from shardwright.model.view import Put
from shardwright.store.protocol import DeleteKey, ModifiedAt, PutKey
from testkit.builders import GB, MB, NOW, cluster
from testkit.moves import relocation
from tests.unit.api.api_looks import SECRETS, events_of, look_at, view_with_servers

UID = ActionUid("7b0d1c9e-0000-4000-8000-000000000001")


def create(seen: Look | None = None, *, is_dry_run: bool = False, **body: Any) -> Intent[Database]:
    wish = DatabaseBody.model_validate({"name": "orders", "memory_size": 100 * MB, **body})
    return service.create(seen or look_at(), wish, action_uid=UID, secrets=SECRETS, is_dry_run=is_dry_run)


def change(seen: Look, of: int = 1, **body: Any) -> Intent[Database]:
    return service.change(seen, DatabaseUid(of), DatabaseBody.model_validate(body), action_uid=UID)


def test_a_new_database_is_one_transaction() -> None:
    intent = create(replication=True, data_persistence="aof")
    made = intent.answer
    assert (made.status, made.port, made.port_was_given) == (DatabaseStatus.PENDING, 10_000, False)
    assert (made.server_kind, made.server_version) == (ServerKind.VALKEY, "9.1.2")
    assert made.action_uid == UID
    secrets = next(w.record for w in intent.writes if isinstance(w.record, ServerSecrets))
    assert secrets.database_uid == made.uid
    assert len(secrets.hash_seed) == 16
    assert intent.compares == (ModifiedAt("names/orders", 0), ModifiedAt("ports/10000", 0))
    assert intent.operations == (PutKey("names/orders", b"1"), PutKey("ports/10000", b"1"))
    (event,) = events_of(intent)
    assert (event.kind, event.by, event.action_uid) == ("bdb_create_request", "admin@example.com", UID)


def test_a_dry_run_writes_nothing() -> None:
    intent = create(is_dry_run=True)
    assert intent.answer.name == "orders"
    assert not intent.writes
    assert not intent.operations


@pytest.mark.parametrize(
    ("body", "refusal", "code"),
    [
        ({"name": ""}, Refusal.INVALID, "missing_db_name"),
        ({"name": "-a"}, Refusal.INVALID, "name_violation"),
        ({"name": "a_b"}, Refusal.INVALID, "name_violation"),
        ({"name": "a b"}, Refusal.INVALID, "name_violation"),
        ({"name": "ä"}, Refusal.INVALID, "name_violation"),
        ({"name": "a\n"}, Refusal.INVALID, "name_violation"),
        ({"name": "a" * 64}, Refusal.INVALID, "name_violation"),
        ({"memory_size": None}, Refusal.INVALID, "missing_memory_size"),
        ({"memory_size": 1}, Refusal.INVALID, "memory_size_too_small"),
        ({"memory_size": 3_999_999}, Refusal.INVALID, "memory_size_too_small"),
        ({"memory_size": 7_999_999, "replication": True}, Refusal.INVALID, "memory_size_too_small"),
        ({"memory_size": 40 * GB}, Refusal.NOT_ACCEPTABLE, "insufficient_resources"),
        ({"port": 9_999}, Refusal.NOT_ACCEPTABLE, "port_unavailable"),
        ({"port": 20_000}, Refusal.NOT_ACCEPTABLE, "port_unavailable"),
        ({"port": 10_050}, Refusal.NOT_ACCEPTABLE, "port_unavailable"),
        ({"shards_count": 2}, Refusal.NOT_ACCEPTABLE, "invalid_sharding"),
        ({"sharding": True}, Refusal.NOT_ACCEPTABLE, "invalid_sharding"),
        ({"oss_cluster": True}, Refusal.NOT_ACCEPTABLE, "invalid_oss_cluster_configuration"),
        ({"proxy_policy": "some"}, Refusal.INVALID, "invalid_proxy_policy"),
        ({"type": "memcached"}, Refusal.NOT_ACCEPTABLE, "invalid_configuration"),
        ({"tls_mode": "enabled"}, Refusal.NOT_ACCEPTABLE, "invalid_configuration"),
        ({"crdt": True}, Refusal.NOT_ACCEPTABLE, "invalid_configuration"),
        ({"default_user": False}, Refusal.NOT_ACCEPTABLE, "invalid_configuration"),
        ({"module_list": [{"module_name": "search"}]}, Refusal.NOT_ACCEPTABLE, "missing_module"),
        ({"data_persistence": "sometimes"}, Refusal.INVALID, "invalid_data_persistence"),
        ({"data_persistence": "snapshot"}, Refusal.INVALID, "invalid_data_persistence"),
        ({"aof_policy": "never"}, Refusal.INVALID, "invalid_data_persistence"),
        ({"eviction_policy": "oldest"}, Refusal.INVALID, "eviction_policy_violation"),
        ({"eviction_policy": "allkeys-lrm"}, Refusal.NOT_ACCEPTABLE, "eviction_policy_violation"),
        ({"rack_aware": True, "replication": True}, Refusal.NOT_ACCEPTABLE, "not_rack_aware"),
        ({"strict": True}, Refusal.NOT_ACCEPTABLE, "strict_needs_replication"),
        ({"server": "memcached"}, Refusal.NOT_ACCEPTABLE, "invalid_version"),
        ({"redis_version": "3.2"}, Refusal.NOT_ACCEPTABLE, "invalid_version"),
        ({"authentication_redis_pass": "a\nb"}, Refusal.INVALID, "invalid_parameter"),
        ({"shards_placement": "anywhere"}, Refusal.INVALID, "invalid_parameter"),
        ({"notify_keyspace_events": "KEq"}, Refusal.INVALID, "invalid_parameter"),
        ({"notify_keyspace_events": "KE"}, Refusal.INVALID, "invalid_parameter"),
        ({"notify_keyspace_events": "Ag$"}, Refusal.INVALID, "invalid_parameter"),
    ],
)
def test_unavailable_settings_are_refused(body: dict[str, Any], refusal: Refusal, code: str) -> None:
    with pytest.raises(Rejected) as refused:
        create(**body)
    assert (refused.value.refusal, refused.value.code) == (refusal, code)


def test_a_replica_needs_a_second_node() -> None:
    alone = look_at(view_with_servers(cluster(nodes=1)))
    assert create(alone).answer.has_replica is False
    with pytest.raises(Rejected, match="node") as refused:
        create(alone, replication=True)
    assert refused.value.code == "insufficient_resources"


@pytest.mark.parametrize(
    ("server", "version", "expected"),
    [
        (None, None, (ServerKind.VALKEY, "9.1.2")),
        ("redis", None, (ServerKind.REDIS, "7.2.4")),
        ("redis", "7.0", (ServerKind.REDIS, "7.0.15")),
        ("valkey", "9", (ServerKind.VALKEY, "9.1.2")),
    ],
)
def test_kind_and_version_are_chosen_once(server: str | None, version: str | None, expected: object) -> None:
    made = create(server=server, redis_version=version).answer
    assert (made.server_kind, made.server_version) == expected


def test_the_recorded_version_counts_until_a_node_has_reported() -> None:
    view = cluster(nodes=3).view
    assert view.cluster is not None
    recorded: dict[str, object] = {"server_kind": "redis", "server_version": "7.0.15"}
    fresh = replace(view, cluster=replace(view.cluster, options=recorded))
    assert create(look_at(fresh)).answer.server_version == "7.0.15"
    with pytest.raises(Rejected, match="Available: none"):
        create(look_at(fresh), server="valkey")


def test_names_and_ports_are_used_only_once() -> None:
    view = view_with_servers(cluster(nodes=3).with_database("orders"))
    with pytest.raises(Rejected, match="name") as refused:
        create(look_at(view), name="ORDERS")
    assert refused.value.refusal is Refusal.CONFLICT
    taken = view.databases[DatabaseUid(1)].port
    with pytest.raises(Rejected) as refused:
        create(look_at(view), name="other", port=taken)
    assert (refused.value.refusal, refused.value.code) == (Refusal.CONFLICT, "port_unavailable")


def test_the_lowest_free_port_is_chosen_and_one_stays_free() -> None:
    held = {f"ports__{port:05d}": "9" for port in range(10_000, 10_050)}
    assert create(look_at(None, **held)).answer.port == 10_051


def test_a_chosen_port_is_shown_and_an_automatic_one_is_not() -> None:
    look = look_at()
    cases: tuple[tuple[dict[str, Any], int], ...] = (({}, 0), ({"port": 12_345}, 12_345))
    for body, given in cases:
        made = create(look, **body).answer
        answer = database(made, look.view, shows_password=False)
        assert answer["port"] == given
        assert answer["endpoints"][0]["port"] == made.port
        assert "authentication_redis_pass" not in answer


def test_a_requested_uid_is_new_or_refused() -> None:
    view = view_with_servers(cluster(nodes=3).with_database("orders"))
    assert create(look_at(view), name="b", uid=7).answer.uid == 7
    with pytest.raises(Rejected) as refused:
        create(look_at(view), name="b", uid=1)
    assert refused.value.code == "uid_exists"


def test_a_change_waits_for_the_leader() -> None:
    seen = look_at(view_with_servers(cluster(nodes=3).with_database("orders")))
    intent = change(seen, data_persistence="snapshot", snapshot_policy=[{"secs": 60, "writes": 5}])
    new = intent.answer
    assert (new.status, new.persistence) == (DatabaseStatus.ACTIVE_CHANGE_PENDING, Persistence.SNAPSHOT)
    assert new.snapshot_rules == (SnapshotRule(60, 5),)
    (event,) = events_of(intent)
    assert "persistence" in event.text


def test_a_change_to_the_present_values_changes_nothing() -> None:
    view = view_with_servers(cluster(nodes=3).with_database("orders"))
    answer = database(view.databases[DatabaseUid(1)], view, shows_password=True)
    whole: dict[str, Any] = {key: value for key, value in answer.items() if key in DatabaseBody.model_fields}
    intent = change(look_at(view), **whole)
    assert intent.answer.status is DatabaseStatus.ACTIVE
    assert not intent.writes


def test_the_password_is_in_no_event() -> None:
    seen = look_at(view_with_servers(cluster(nodes=3).with_database("orders")))
    intent = change(seen, authentication_redis_pass="very secret")
    assert intent.answer.password == "very secret"
    assert "very secret" not in str(events_of(intent)) + repr(intent)


def test_a_new_name_replaces_the_old_one() -> None:
    seen = look_at(view_with_servers(cluster(nodes=3).with_database("orders")))
    intent = change(seen, name="invoices")
    assert intent.compares == (ModifiedAt("names/invoices", 0),)
    assert intent.operations == (DeleteKey("names/orders"), PutKey("names/invoices", b"1"))
    assert change(seen, name="Orders").operations == ()


@pytest.mark.parametrize("status", [s for s in DatabaseStatus if s is not DatabaseStatus.ACTIVE])
def test_a_busy_database_is_not_changed(status: DatabaseStatus) -> None:
    view = view_with_servers(cluster(nodes=3).with_database("orders", status=status))
    with pytest.raises(Rejected) as refused:
        change(look_at(view), eviction_policy="noeviction")
    assert (refused.value.refusal, refused.value.code) == (Refusal.CONFLICT, "db_busy")


def test_a_move_that_only_cleans_up_is_neither_busy_nor_shown() -> None:
    """An action completes when the node's last process has ended; its files may still wait for those of the new copy."""
    builder = cluster(nodes=3).with_database("orders", on=((2, 1),))
    left = replace(builder.view.shards[ShardUid(2)], wanted=ShardWanted.STOPPED)
    copy = replace(left, uid=ShardUid(3), node_uid=NodeUid(3), wanted=ShardWanted.RUNNING)
    move = relocation(state=MoveState.CLEANING, shard_uid=left.uid, new_shard_uid=copy.uid)
    builder = builder.with_records(left, copy).with_healthy_shard(3)
    leaving = view_with_servers(builder.with_move(move))
    assert [s.uid for s in shown(leaving, node_uid=1)] == [2]
    with pytest.raises(Rejected, match="is being moved"):
        change(look_at(leaving), eviction_policy="noeviction")
    gone = view_with_servers(builder.with_process(2, ProcessState.GONE).with_move(replace(move, has_left=True)))
    assert [s.uid for s in shown(gone, database_uid=1)] == [1, 3]
    assert shown(gone, node_uid=1) == []
    assert nodes.status(gone.nodes[NodeUid(1)], gone)["slave_shards"] == []
    assert change(look_at(gone), eviction_policy="noeviction").writes


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"port": 12_000}, "port_unavailable"),
        ({"uid": 9}, "invalid_configuration"),
        ({"server": "redis"}, "invalid_version"),
        ({"redis_version": "7.2"}, "invalid_version"),
        ({"memory_size": 90 * GB}, "insufficient_resources"),
        ({"shards_count": 3}, "invalid_sharding"),
    ],
)
def test_unavailable_changes_are_refused(body: dict[str, Any], code: str) -> None:
    seen = look_at(view_with_servers(cluster(nodes=3).with_database("orders")))
    with pytest.raises(Rejected) as refused:
        change(seen, **body)
    assert (refused.value.refusal, refused.value.code) == (Refusal.NOT_ACCEPTABLE, code)


def test_the_least_memory_counts_every_copy() -> None:
    assert create(memory_size=4_000_000).writes
    assert create(memory_size=8_000_000, replication=True).writes
    assert create(memory_size=0, replication=True).writes
    with pytest.raises(Rejected, match=r"at least 8000000 bytes \(4000000 for each of 2 copies\), or 0"):
        create(memory_size=5_000_000, replication=True)


def test_a_change_cannot_make_memory_too_small() -> None:
    alone = look_at(view_with_servers(cluster(nodes=3).with_database("orders", on=((1,),), memory_bytes=6_000_000)))
    for body in ({"memory_size": 2_000_000}, {"replication": True}):
        with pytest.raises(Rejected) as refused:
            change(alone, **body)
        assert (refused.value.refusal, refused.value.code) == (Refusal.INVALID, "memory_size_too_small")
    assert change(alone, memory_size=8_000_000, replication=True).writes


def test_a_database_that_is_already_too_small_can_be_changed() -> None:
    small = look_at(view_with_servers(cluster(nodes=3).with_database("orders", on=((1,),), memory_bytes=2_000_000)))
    assert change(small, memory_size=2_000_000, eviction_policy="noeviction").writes
    assert change(small, memory_size=0).writes


def test_growth_is_measured_on_every_node() -> None:
    view = view_with_servers(cluster(nodes=2).with_database("orders", memory_bytes=2 * GB))
    seen = look_at(view)
    assert change(seen, memory_size=8 * GB).answer.shard_memory_bytes == 4 * GB
    with pytest.raises(Rejected, match="growth"):
        change(seen, memory_size=8 * GB + 2 * MB)


def test_a_replica_added_later_needs_room() -> None:
    view = view_with_servers(cluster(nodes=1).with_database("orders", on=((1,),)))
    with pytest.raises(Rejected, match="replica") as refused:
        change(look_at(view), replication=True)
    assert refused.value.code == "insufficient_resources"


def test_rack_awareness_needs_copies_in_different_racks() -> None:
    builder = cluster(nodes=0).with_node(rack="a").with_node(rack="a").with_node(rack="b")
    same = view_with_servers(builder.with_database("orders", on=((1, 2),)))
    with pytest.raises(Rejected) as refused:
        change(look_at(same), rack_aware=True)
    assert refused.value.code == "rack_awareness_violation"
    apart = view_with_servers(builder.with_database("orders", on=((1, 3),)))
    assert change(look_at(apart), rack_aware=True).answer.is_rack_aware


def test_strict_mode_and_replication_are_changed_in_order() -> None:
    assert create(strict=True, replication=True).answer.is_strict
    alone = view_with_servers(cluster(nodes=3).with_database("orders", on=((1,),)))
    pair = view_with_servers(cluster(nodes=3).with_database("orders", on=((1, 2),)))
    for view, body in (
        (alone, {"strict": True}),
        (alone, {"strict": True, "replication": True}),
        (pair, {"strict": True, "replication": False}),
    ):
        with pytest.raises(Rejected) as refused:
            change(look_at(view), **body)
        assert (refused.value.refusal, refused.value.code) == (Refusal.NOT_ACCEPTABLE, "strict_needs_replication")
        assert "replication to true" in refused.value.remedy
    made = change(look_at(pair), strict=True)
    assert made.answer.is_strict
    active = pair.with_writes([Put(replace(made.answer, status=DatabaseStatus.ACTIVE))])
    with pytest.raises(Rejected, match="strict needs replication"):
        change(look_at(active), replication=False)
    assert not change(look_at(active), replication=False, strict=False).answer.has_replica


@pytest.mark.parametrize("status", [s for s in DatabaseStatus if s is not DatabaseStatus.DELETE_PENDING])
def test_delete(status: DatabaseStatus) -> None:
    view = view_with_servers(cluster(nodes=3).with_database("orders", status=status))
    intent = service.delete(look_at(view), DatabaseUid(1), action_uid=UID)
    assert intent.answer.status is DatabaseStatus.DELETE_PENDING
    assert not intent.operations, "names and ports stay reserved until the database is gone"
    again = service.delete(look_at(view.with_writes([Put(intent.answer)])), DatabaseUid(1), action_uid=ActionUid("x"))
    assert again.answer == intent.answer
    assert not again.writes


def test_unknown_databases() -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: change(look_at(), 9),
        lambda: service.delete(look_at(), DatabaseUid(9), action_uid=UID),
    )
    for call in calls:
        with pytest.raises(Rejected) as refused:
            call()
        assert refused.value.code == "db_not_found"


def test_state_machines_follow_from_the_log() -> None:
    look = look_at()
    intent = create(look)
    events = events_of(intent)
    view = look.view.with_writes(intent.writes)
    (machine,) = state_machines(events, view, NOW)
    assert (machine["name"], machine["status"], machine["object_name"]) == ("SMCreateBDB", "active", "bdb:1")
    made = intent.answer
    for status, expected in ((DatabaseStatus.ACTIVE, "completed"), (DatabaseStatus.CREATION_FAILED, "failed")):
        later = view.with_writes([Put(replace(made, status=status, failure="no room"))])
        assert state_machines(events, later, NOW)[0]["status"] == expected
    assert state_machines(events, look.view, NOW)[0]["status"] == "completed", (
        "a missing database means that the deletion is completed"
    )


def test_all_settings_reach_the_record() -> None:
    made = create(
        data_persistence="aof",
        aof_policy="appendfsync-always",
        eviction_policy="allkeys-lfu",
        authentication_redis_pass="pw",
        notify_keyspace_events="KEAA",
        slave_ha=False,
    ).answer
    assert (made.persistence, made.aof_policy, made.eviction_policy) == (Persistence.AOF, AofPolicy.ALWAYS, "allkeys-lfu")
    assert (made.password, made.notify_keyspace_events) == ("pw", "KEA")
    assert made.options == {"slave_ha": False}


def test_a_moving_database_is_deleted_only_if_it_cannot_be_served() -> None:
    """A move may wait for a node that never returns; then deletion is the only way out."""
    move = relocation(state=MoveState.SYNCING, shard_uid=ShardUid(1), new_shard_uid=ShardUid(2))
    builder = cluster(nodes=3).with_database("orders", on=((1, 2),)).with_move(move)
    with pytest.raises(Rejected, match="is being moved"):
        service.delete(look_at(builder.view), DatabaseUid(1), action_uid=UID)
    starting = replace(builder.view.groups[GroupUid("1:1")], phase=GroupPhase.STARTING)
    intent = service.delete(look_at(builder.with_records(starting).view), DatabaseUid(1), action_uid=UID)
    assert intent.answer.status is DatabaseStatus.DELETE_PENDING
