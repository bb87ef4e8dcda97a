"""Where copies and endpoints go, and what is said when they go nowhere."""

from dataclasses import replace
from typing import Any

from shardwright.model.action import ActionName
from shardwright.model.codes import Code
from shardwright.model.database import Database, ShardWanted
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.move import MoveState, Relocation
from shardwright.model.reason import Grade
from shardwright.model.seen import ProcessState
from shardwright.plan.placement import Placed, Unplaceable, place_copy, place_database, place_endpoint
from testkit.builders import GB, MB, ClusterBuilder, cluster
from testkit.moves import relocation

G1 = GroupUid("1:1")


def new_database(builder: ClusterBuilder, **changes: object) -> Database:
    template = cluster(3).with_database(on=((1, 2),)).view.databases[DatabaseUid(1)]
    return replace(template, uid=DatabaseUid(99), **changes)  # type: ignore[arg-type]


def copy_for_shard_1(builder: ClusterBuilder, **options: object) -> NodeUid | Unplaceable:
    view = builder.view
    database = view.databases[DatabaseUid(1)]
    leaving = view.shards[ShardUid(1)]
    return place_copy(view, view.groups[G1], database=database, leaving=leaving, **options)  # type: ignore[arg-type]


def refusal(found: object) -> Unplaceable:
    assert isinstance(found, Unplaceable), found
    return found


def grades(found: Unplaceable) -> dict[tuple[int | None, str], Grade]:
    return {(r.node_uid, str(r.code)): r.grade for r in found.reasons}


def moving(shard: int, to_node: int, **changes: Any) -> Relocation:
    """A shard of node 1 goes to another node."""
    return relocation(**{"shard_uid": ShardUid(shard), "from_node": NodeUid(1), "to_node": NodeUid(to_node), **changes})


# -- a new database --------------------------------------------------------------------------------------------------------


def test_copies_of_a_new_database_lie_on_different_nodes_and_even_out_memory() -> None:
    builder = cluster(3).with_database(on=((1, 2),))
    found = place_database(builder.view, new_database(builder))
    assert isinstance(found, Placed)
    assert found.groups == ((NodeUid(3), NodeUid(1)),)
    assert found.endpoint_node == 3


def test_primaries_even_out_between_nodes_that_are_about_equally_full() -> None:
    builder = cluster(2).with_database(on=((1, 2),))
    found = place_database(builder.view, new_database(builder))
    assert isinstance(found, Placed)
    assert found.groups[0][0] == 2


def test_the_primary_gives_way_so_that_the_replica_finds_a_rack_of_its_own() -> None:
    # Alone the primary would go to node 3, the emptiest; then racks b could hold no replica.
    builder = cluster(3, racks=("a", "b", "b")).with_database(on=((1,),), memory_bytes=GB)
    builder = builder.with_node_changed(2, shards_max=0)
    found = place_database(builder.view, new_database(builder, is_rack_aware=True))
    assert isinstance(found, Placed)
    assert set(found.groups[0]) == {1, 3}


def test_a_replicated_database_needs_two_nodes() -> None:
    found = refusal(place_database(cluster(1).view, new_database(cluster(1))))
    assert found.reasons[0].remedy == "add a node"


def test_a_new_database_is_judged_by_provisioned_memory_whatever_the_policy_says() -> None:
    builder = cluster(2, memory_bytes=150 * MB).with_policy(evict_node_use_free_memory=True)
    builder = builder.with_database(on=((1, 2),), memory_bytes=200 * MB)
    builder = builder.with_free_memory(1, 100 * GB).with_free_memory(2, 100 * GB)
    assert refusal(place_database(builder.view, new_database(builder))).reasons[0].code == Code.INSUFFICIENT_MEMORY


# -- one copy --------------------------------------------------------------------------------------------------------------


def test_a_copy_goes_to_the_node_without_one() -> None:
    assert copy_for_shard_1(cluster(3).with_database(on=((1, 2),))) == 3


def test_a_node_that_takes_nothing_is_named_with_what_would_open_it() -> None:
    builder = cluster(5).with_database(on=((1, 2),)).with_node_changed(3, is_quorum_only=True)
    builder = builder.with_node_changed(4, is_closed=True).without_daemon(5)
    found = refusal(copy_for_shard_1(builder))
    assert grades(found) == {
        (2, Code.NODE_HAS_COPY): Grade.HARD_LIMIT,
        (3, Code.NODE_IN_MAINTENANCE): Grade.CONFIGURATION,
        (4, Code.NODE_CLOSED): Grade.CONFIGURATION,
        (5, Code.NODE_DOWN): Grade.HARD_LIMIT,
    }
    reason = found.as_reason("shard 1", shard_uid=ShardUid(1))
    assert reason.remedy == "end the maintenance of node 3 (maintenance_off)"
    assert reason.grade == Grade.CONFIGURATION
    assert "node 5 has no running daemon" in reason.text


def test_a_node_whose_daemon_has_just_ended_is_waited_for() -> None:
    builder = cluster(3).with_database(on=((1, 2),)).without_daemon(3)
    found = refusal(copy_for_shard_1(ClusterBuilder(builder.view.changed(returning=frozenset({NodeUid(3)})))))
    assert grades(found)[3, Code.NODE_DOWN] == Grade.SOFT_LIMIT
    assert found.passes_by_itself
    back = builder.with_daemon(3)
    assert copy_for_shard_1(ClusterBuilder(back.view.changed(returning=frozenset({NodeUid(3)})))) == 3


def test_a_cluster_without_another_node_says_so() -> None:
    found = refusal(copy_for_shard_1(cluster(1).with_database(on=((1,),))))
    assert [(r.code, r.remedy) for r in found.reasons] == [(Code.NO_OTHER_NODE, "add a node")]


def test_memory_that_is_missing_is_counted() -> None:
    builder = cluster(3).with_node_changed(3, memory_bytes=60 * MB).with_database(on=((1, 2),))
    found = refusal(copy_for_shard_1(builder)).nearest
    assert [(r.node_uid, r.code, r.grade) for r in found] == [(3, Code.INSUFFICIENT_MEMORY, Grade.HARD_LIMIT)]
    assert "lacks 40 MiB of the 100 MiB" in found[0].text


def test_exactly_enough_memory_is_enough() -> None:
    builder = cluster(3).with_node_changed(3, memory_bytes=100 * MB).with_database(on=((1, 2),))
    assert copy_for_shard_1(builder) == 3


def test_a_database_without_limit_counts_as_what_it_uses() -> None:
    builder = cluster(3).with_node_changed(3, memory_bytes=70 * MB)
    builder = builder.with_database(on=((1, 2),), memory_bytes=0, used_bytes=71 * MB)
    assert refusal(copy_for_shard_1(builder)).nearest[0].code == Code.INSUFFICIENT_MEMORY
    assert copy_for_shard_1(builder.with_server(1, used_memory_bytes=70 * MB).with_server(2, used_memory_bytes=70 * MB)) == 3


def test_a_copy_on_its_way_counts_at_its_target_before_its_record_exists() -> None:
    builder = cluster(3).with_node_changed(3, memory_bytes=150 * MB)
    builder = builder.with_database(on=((1, 2),)).with_database(on=((1, 2),))
    other = moving(3, 3, group_uid=GroupUid("2:1"), database_uid=DatabaseUid(2))
    assert copy_for_shard_1(builder) == 3
    assert refusal(copy_for_shard_1(builder.with_move(other))).nearest[0].code == Code.INSUFFICIENT_MEMORY


def test_memory_of_a_copy_that_leaves_becomes_free_by_itself() -> None:
    builder = cluster(4).with_database(on=((1, 2),)).with_database(on=((3,),), memory_bytes=4 * GB)
    builder = builder.with_node_changed(4, is_closed=True)
    hard = refusal(copy_for_shard_1(builder))
    assert not hard.passes_by_itself
    leaving = moving(
        3,
        2,
        state=MoveState.SYNCING,
        group_uid=GroupUid("2:1"),
        database_uid=DatabaseUid(2),
        from_node=NodeUid(3),
        new_shard_uid=ShardUid(3),
    )
    soft = refusal(copy_for_shard_1(builder.with_move(leaving)))
    assert soft.passes_by_itself
    assert soft.nearest[0].grade == Grade.SOFT_LIMIT


def test_a_copy_that_is_being_deleted_counts_until_its_process_has_ended() -> None:
    builder = cluster(3).with_database(on=((1, 2),)).with_database(on=((3,),), memory_bytes=4 * GB)
    shard = builder.view.shards[ShardUid(3)]
    going = builder.with_records(replace(shard, wanted=ShardWanted.GONE))
    assert refusal(copy_for_shard_1(going)).passes_by_itself
    assert copy_for_shard_1(going.with_process(3, ProcessState.GONE)) == 3


def test_a_node_that_still_cleans_up_a_copy_of_the_group_gets_no_new_one_yet() -> None:
    builder = cluster(3).with_database(on=((1, 2),))
    old = replace(builder.view.shards[ShardUid(2)], uid=ShardUid(9), node_uid=NodeUid(3), wanted=ShardWanted.GONE)
    found = refusal(copy_for_shard_1(builder.with_records(old)))
    assert found.passes_by_itself


def test_limits_of_shards_and_endpoints_are_kept() -> None:
    builder = cluster(3).with_database(on=((1, 2),)).with_database(on=((3,),))
    builder = builder.with_node_changed(3, shards_max=1, endpoints_max=1).with_node_changed(2, endpoints_max=0)
    assert refusal(copy_for_shard_1(builder)).nearest[0].code == Code.SHARD_LIMIT
    database = builder.view.databases[DatabaseUid(1)]
    found = refusal(place_endpoint(builder.view, database, leaving=NodeUid(1)))
    assert {r.code for r in found.reasons} == {Code.ENDPOINT_LIMIT}


def test_racks_differ_when_the_database_wants_it() -> None:
    builder = cluster(4, racks=("a", "b", "b", "")).with_database(on=((1, 2),), is_rack_aware=True)
    found = refusal(copy_for_shard_1(builder))
    assert grades(found)[3, Code.RACK_CONFLICT] == Grade.HARD_LIMIT
    assert grades(found)[4, Code.NODE_WITHOUT_RACK] == Grade.CONFIGURATION
    assert copy_for_shard_1(builder.with_node_changed(3, rack="a")) == 3


def test_free_memory_decides_when_the_policy_says_so() -> None:
    builder = cluster(3).with_policy(evict_node_use_free_memory=True)
    builder = builder.with_database(on=((1, 2),), memory_bytes=100 * GB, used_bytes=50 * MB)
    builder = builder.with_node_changed(3, memory_bytes=60 * MB)
    assert copy_for_shard_1(builder) == 3, "nothing reported: memory minus what is used"
    assert copy_for_shard_1(builder.with_free_memory(3, 50 * MB)) == 3
    assert refusal(copy_for_shard_1(builder.with_free_memory(3, 49 * MB))).nearest[0].code == Code.INSUFFICIENT_MEMORY


def test_nodes_to_avoid_are_the_last_choice_but_a_choice() -> None:
    builder = cluster(4).with_database(on=((1, 2),))
    assert copy_for_shard_1(builder, avoid=(NodeUid(3),)) == 4
    assert copy_for_shard_1(builder, avoid=(NodeUid(3), NodeUid(4))) == 3


def test_a_node_that_another_action_empties_gets_nothing_meanwhile() -> None:
    builder = cluster(4).with_database(on=((1, 2),)).with_action(ActionName.MAINTENANCE_ON, 3)
    assert copy_for_shard_1(builder) == 4
    assert refusal(copy_for_shard_1(builder.with_node_changed(4, shards_max=0))).passes_by_itself
    stepping = cluster(3).with_database(on=((1, 2),)).with_action(ActionName.STEP_DOWN, 3)
    assert copy_for_shard_1(stepping) == 3, "a replica may go to a node that gives up its primaries"
    assert refusal(copy_for_shard_1(stepping, is_primary=True)).passes_by_itself


# -- endpoints -------------------------------------------------------------------------------------------------------------


def test_endpoints_even_out_then_stay_near_their_primary() -> None:
    builder = cluster(3).with_database(on=((3, 1),), endpoint_on=1)
    database = builder.view.databases[DatabaseUid(1)]
    assert place_endpoint(builder.view, database, leaving=NodeUid(1)) == 3
    busy = builder.with_database(on=((2, 1),), endpoint_on=3)
    assert place_endpoint(busy.view, database, leaving=NodeUid(1)) == 2
    assert builder.view.endpoints[EndpointUid("1:1")].nodes == (1,)
