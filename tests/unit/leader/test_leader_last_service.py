"""What is published of a copy that does not serve any more: what was last known of it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.leader.publish import with_last_service
from shardwright.model.database import GroupPhase, Role
from shardwright.model.ids import GroupUid, ShardUid
from shardwright.model.seen import Health, ServerSeen
from testkit.builders import NOW, ClusterBuilder, cluster

PAIR = cluster(nodes=3).with_database(on=((1, 2),))


def published(builder: ClusterBuilder, uid: int, before: ServerSeen | None = None) -> ServerSeen:
    return with_last_service(builder.view.servers[ShardUid(uid)], before, builder.view)


@pytest.mark.parametrize("uid", [1, 2])
def test_a_copy_that_serves_is_known_from_now(uid: int) -> None:
    seen = published(PAIR.with_server(uid, keys=7, offset=1_234), uid)
    assert (seen.served_at, seen.served_keys, seen.served_offset) == (NOW, 7, 1_234)


@pytest.mark.parametrize(
    "changes", [{"health": Health.REFUSED}, {"is_link_up": False}, {"is_syncing": True}, {"role": Role.PRIMARY}]
)
def test_one_that_does_not_is_known_from_before_also_in_another_incarnation(changes: dict[str, object]) -> None:
    before = published(PAIR.with_server(2, keys=7), 2)
    later = PAIR.with_server(2, incarnation=2, keys=0, offset=0, at=NOW + timedelta(minutes=1), **changes)
    seen = published(later, 2, before)
    assert (seen.served_at, seen.served_keys, seen.served_offset, seen.keys) == (NOW, 7, 1_000, 0)
    assert published(later, 2).served_at is None


def test_while_a_group_starts_no_copy_serves() -> None:
    group = replace(PAIR.view.groups[GroupUid("1:1")], phase=GroupPhase.STARTING)
    assert published(PAIR.with_records(group), 1).served_at is None
