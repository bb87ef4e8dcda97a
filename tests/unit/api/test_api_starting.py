"""A waiting database: what the API reports about it, and the decision to continue with one copy."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from shardwright.api.errors import Unavailable
from shardwright.api.schemas.v1.databases import database as shown
from shardwright.api.schemas.v1.requests import StartBody
from shardwright.api.services import starting as service
from shardwright.api.services.availability import check_database
from shardwright.errors import Refusal, Rejected
from shardwright.model.codes import Code
from shardwright.model.database import AofPolicy, Damage, DatabaseStatus, GroupPhase, Persistence, SlotGroup
from shardwright.model.event import Severity
from shardwright.model.ids import DatabaseUid, GroupUid, ShardUid
from shardwright.model.reason import Reason
from shardwright.model.seen import Health
from testkit.builders import NOW, ClusterBuilder, cluster
from tests.unit.api.api_looks import events_of, look_at

GROUP, UID = GroupUid("1:1"), DatabaseUid(1)
REASON = Reason(Code.COPY_OUT_OF_REACH, "shard 1 does not run", remedy="start the daemon of node 1", node_uid=None)


def waiting(**changes: Any) -> ClusterBuilder:
    """Shard 1, the primary, is on a dead node; shard 2 is loaded; database 2 is healthy."""
    builder = cluster(nodes=3).with_database("orders", on=((1, 2),), persistence=Persistence.AOF)
    builder = builder.with_database("other", on=((2, 3),)).with_dead_node(1)
    group = replace(builder.view.groups[GROUP], phase=GroupPhase.STARTING, starting_since=NOW, waits_for=(REASON,))
    builder = builder.with_server(1, served_at=NOW - timedelta(minutes=5), served_offset=1_200, served_keys=7)
    return builder.with_server(2, keys=6, served_at=NOW, served_offset=1_000, served_keys=6).with_records(
        replace(group, **changes)
    )


def start(builder: ClusterBuilder, copy: int | None = 2, uid: int = 1) -> Any:
    return service.start(look_at(builder.view), DatabaseUid(uid), StartBody(from_copy=copy))


def test_the_database_shows_what_it_waits_for_and_the_data_of_its_copies() -> None:
    view = waiting().view
    (told,) = shown(view.databases[UID], view, shows_password=False)["waiting"]
    assert [r["code"] for r in told["reasons"]] == ["copy_out_of_reach"]
    lost, loaded = told["copies"]
    assert (lost["state"], lost["role"], lost["keys"], lost["served_keys"]) == ("out_of_reach", "master", None, 7)
    assert (loaded["state"], loaded["role"], loaded["keys"], loaded["in_sync"]) == ("loaded", "slave", 6, True)
    assert "200 bytes behind" in loaded["may_lack"]
    assert "waiting" not in shown(view.databases[DatabaseUid(2)], view, shows_password=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"aof_policy": AofPolicy.EVERY_SECOND}, "last one or two seconds"),
        ({"persistence": Persistence.SNAPSHOT}, "last snapshot"),
        ({"persistence": Persistence.DISABLED}, "keeps no file"),
    ],
)
def test_the_data_that_a_copy_may_lack_follows_from_its_persistence(changes: dict[str, Any], said: str) -> None:
    view = waiting().with_database_changed(1, **changes).view
    (told,) = shown(view.databases[UID], view, shows_password=False)["waiting"]
    assert said in told["copies"][1]["may_lack"]


def test_the_loss_of_a_copy_that_was_not_in_sync_is_unknown() -> None:
    builder = waiting()
    builder = builder.with_records(replace(builder.view.shards[ShardUid(2)], in_sync_generation=-1))
    (told,) = shown(builder.view.databases[UID], builder.view, shows_password=False)["waiting"]
    assert "is unknown" in told["copies"][1]["may_lack"]


def test_the_availability_shows_the_cause_with_its_remedy() -> None:
    view = waiting().view
    with pytest.raises(Unavailable) as refused:
        check_database(view, view.databases[UID])
    assert refused.value.code == "bdb_unavailable"
    assert REASON.text in refused.value.text
    assert refused.value.extra["remedy"] == REASON.remedy


def test_the_decision_is_recorded_with_the_user_and_the_possible_loss() -> None:
    intent = start(waiting())
    (group,) = [w.record for w in intent.writes if isinstance(w.record, SlotGroup)]
    assert (group.start_from, group.phase) == (2, GroupPhase.STARTING)
    (event,) = events_of(intent)
    assert (event.kind, event.by, event.severity) == ("bdb_start_from_copy_request", "admin@example.com", Severity.WARNING)
    assert "200 bytes behind" in event.text


def test_a_repetition_changes_nothing() -> None:
    assert not start(waiting(start_from=ShardUid(2))).writes
    served = waiting(phase=GroupPhase.SERVING, primary=ShardUid(2), waits_for=())
    assert not start(served).writes


def test_a_database_that_is_being_deleted_waits_for_nothing() -> None:
    view = waiting().with_database_changed(1, status=DatabaseStatus.DELETE_PENDING).view
    assert "waiting" not in shown(view.databases[UID], view, shows_password=False)


def damaged(damage: Damage = Damage.APPEND_ONLY_FILE, **changes: Any) -> ClusterBuilder:
    """Shard 2 cannot load its files either."""
    builder = waiting(**changes).with_dead_shard(2)
    return builder.with_records(replace(builder.view.shards[ShardUid(2)], damage=damage))


def cut(builder: ClusterBuilder) -> Any:
    return service.start(look_at(builder.view), UID, StartBody(from_copy=2, cut_damaged_tail=True))


def test_a_damaged_copy_is_shown_as_such() -> None:
    view = damaged().view
    (told,) = shown(view.databases[UID], view, shows_password=False)["waiting"]
    assert (told["copies"][1]["state"], told["copies"][1]["damage"]) == ("damaged", "append_only_file")


def test_the_damaged_end_of_a_copy_can_be_cut() -> None:
    intent = cut(damaged())
    (group,) = [w.record for w in intent.writes if isinstance(w.record, SlotGroup)]
    assert (group.start_from, group.start_cuts) == (2, True)
    assert "the original file is kept" in events_of(intent)[0].text
    assert not cut(damaged(start_from=ShardUid(2), start_cuts=True)).writes


def test_the_cut_can_be_requested_after_a_failed_attempt() -> None:
    assert cut(damaged(start_from=ShardUid(2))).writes


@pytest.mark.parametrize("builder", [waiting(), damaged(Damage.SNAPSHOT), damaged(Damage.INCOMPLETE)])
def test_only_the_damaged_end_of_an_append_only_file_can_be_cut(builder: ClusterBuilder) -> None:
    with pytest.raises(Rejected) as refused:
        cut(builder)
    assert (refused.value.refusal, refused.value.code) == (Refusal.CONFLICT, "copy_not_damaged")


def test_a_damaged_copy_is_not_used_as_it_is() -> None:
    with pytest.raises(Rejected) as refused:
        start(damaged())
    assert refused.value.code == "copy_not_loaded"
    assert "cut_damaged_tail" in refused.value.remedy


@pytest.mark.parametrize(
    ("builder", "copy", "uid", "refusal", "code"),
    [
        (waiting(), None, 1, Refusal.INVALID, "invalid_parameter"),
        (waiting(), 99, 1, Refusal.INVALID, "shard_not_exist"),
        (waiting(), 3, 1, Refusal.INVALID, "shard_not_exist"),
        (waiting(), 2, 9, Refusal.NOT_FOUND, "db_not_found"),
        (waiting(), 4, 2, Refusal.CONFLICT, "db_not_waiting"),
        (waiting(waits_for=()), 2, 1, Refusal.CONFLICT, "db_not_waiting"),
        (waiting(), 1, 1, Refusal.CONFLICT, "copy_not_loaded"),
        (waiting().with_server(2, health=Health.LOADING), 2, 1, Refusal.CONFLICT, "copy_not_loaded"),
        (waiting().with_database_changed(1, status=DatabaseStatus.DELETE_PENDING), 2, 1, Refusal.CONFLICT, "db_busy"),
    ],
)
def test_refusals(builder: ClusterBuilder, copy: int | None, uid: int, refusal: Refusal, code: str) -> None:
    with pytest.raises(Rejected) as refused:
        start(builder, copy, uid)
    assert (refused.value.refusal, refused.value.code) == (refusal, code)
