"""The smallest thing that would make a plan possible, said so that it is enough."""

from dataclasses import replace

import pytest

from shardwright.model.codes import Code
from shardwright.model.ids import ShardUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView
from shardwright.plan.proposal import Unplaced
from shardwright.plan.remedy import distinct, room_remedy
from testkit.builders import GB, MB, NOW, cluster


def lacking(code: Code = Code.INSUFFICIENT_MEMORY, uid: int = 1) -> Unplaced:
    return Unplaced(Reason(code, "no place", Grade.HARD_LIMIT), ShardUid(uid))


def fits(view: ClusterView) -> tuple[Unplaced, ...]:
    return ()


@pytest.mark.parametrize(
    ("memory_bytes", "said"),
    [(200 * MB, "200 MB"), (200 * MB + 1, "201 MB"), (GB, "1.0 GB"), (GB + 1, "1.1 GB"), (3 * GB + GB // 2, "3.5 GB")],
)
def test_the_room_that_is_missing_is_rounded_up(memory_bytes: int, said: str) -> None:
    view = cluster(3).with_database(on=((1,),), memory_bytes=memory_bytes).view
    assert (
        room_remedy(view, [lacking()], fits, NOW)
        == f"add {said}: a node, or memory on one that holds no copy of the same data"
    )


def test_copies_are_added_up_and_the_racks_of_their_others_are_named() -> None:
    builder = cluster(3, racks=("a", "b", "c")).with_database(on=((1, 2),), memory_bytes=400 * MB, is_rack_aware=True)
    builder = builder.with_database(on=((2, 3),), memory_bytes=200 * MB, is_rack_aware=True)
    said = room_remedy(builder.view, [lacking(uid=1), lacking(Code.RACK_CONFLICT, uid=3)], fits, NOW)
    assert said.startswith("add 300 MB outside rack b and c: ")
    careless = builder.with_database_changed(1, is_rack_aware=False).with_database_changed(2, is_rack_aware=False)
    assert room_remedy(careless.view, [lacking(uid=1)], fits, NOW).startswith("add 200 MB: ")


def test_what_room_cannot_help_against_has_no_such_remedy() -> None:
    view = cluster(3).with_database(on=((1,),)).view
    assert room_remedy(view, [], fits, NOW) == ""
    assert room_remedy(view, [lacking(Code.NODE_DOWN)], fits, NOW) == ""
    assert room_remedy(view, [lacking(), lacking(Code.NODE_DOWN)], fits, NOW) == ""
    assert room_remedy(view, [lacking()], lambda other: [lacking()], NOW) == "", "not even a further node helps"


def test_it_is_tried_with_a_further_node_of_exactly_that_size() -> None:
    view = cluster(3).with_database(on=((1,),), memory_bytes=200 * MB).view
    tried: list[ClusterView] = []

    def plan_anew(other: ClusterView) -> tuple[Unplaced, ...]:
        tried.append(other)
        return ()

    room_remedy(view, [lacking()], plan_anew, NOW)
    (imagined,) = tried
    (further,) = imagined.nodes.keys() - view.nodes.keys()
    assert imagined.nodes[further].memory_bytes == 200 * MB
    assert further in imagined.daemons
    assert replace(imagined, nodes=view.nodes, daemons=view.daemons) == view


def test_remedies_are_named_once_each_in_their_order() -> None:
    reasons = [Reason(Code.NODE_DOWN, "x", remedy=remedy) for remedy in ("b", "", "a", "b")]
    assert distinct(reasons) == ["b", "a"]
