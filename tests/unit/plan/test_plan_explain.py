"""How the refusals of all candidates become one sentence."""

from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.plan.explain import unplaceable


def lacks(node: int, grade: Grade = Grade.HARD_LIMIT) -> Reason:
    return Reason(Code.INSUFFICIENT_MEMORY, f"node {node} lacks memory", grade, remedy="add memory", node_uid=NodeUid(node))


def test_the_node_that_comes_nearest_is_named_first() -> None:
    found = unplaceable([(10, (lacks(1), lacks(1))), (20, (lacks(2, Grade.SOFT_LIMIT),))])
    assert [r.node_uid for r in found.reasons] == [2, 1, 1]
    assert found.passes_by_itself
    assert found.as_reason("shard 7").text.startswith("shard 7 cannot be placed: node 2 lacks memory")


def test_without_a_candidate_a_node_is_missing() -> None:
    found = unplaceable([])
    assert [r.code for r in found.reasons] == [Code.NO_OTHER_NODE]
    assert not found.passes_by_itself


def test_where_nothing_stands_in_the_way_it_is_what_else_is_placed_there() -> None:
    alone = unplaceable([(0, ())])
    assert [r.code for r in alone.reasons] == [Code.INSUFFICIENT_MEMORY]
    assert alone.passes_by_itself
    beside = unplaceable([(10, (lacks(1),)), (0, ())])
    assert beside.passes_by_itself
    assert beside.as_reason("shard 7").text.endswith("node 1 lacks memory")
