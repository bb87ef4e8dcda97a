"""An endpoint process is replaced only while no role and no endpoint is about to pass."""

from dataclasses import replace

import pytest

from shardwright.model.database import Handoff, LeavingNode
from shardwright.model.ids import GroupUid, NodeUid, ShardUid
from shardwright.model.move import Move, MoveState
from shardwright.model.parking import Parking
from shardwright.model.view import ClusterView
from shardwright.reconcile.replacement import replacement_waits_for
from testkit.builders import NOW, cluster
from testkit.moves import handoff_move, rebind, relocation

BUILDER = cluster(3).with_database(on=((1, 2),))
"""Its endpoint is served by node 1 alone."""
N1, N2, N3 = NodeUid(1), NodeUid(2), NodeUid(3)
GROUP = BUILDER.view.groups[GroupUid("1:1")]


def test_nothing_stands_against_it_at_rest() -> None:
    assert [replacement_waits_for(BUILDER.view, node) for node in (N1, N2, N3)] == [None, None, None]


def test_a_node_without_a_record_replaces_nothing() -> None:
    assert replacement_waits_for(ClusterView(), N1) is not None
    assert replacement_waits_for(BUILDER.view, NodeUid(9)) is not None


@pytest.mark.parametrize(
    ("move", "waits"),
    [
        (handoff_move(), False),
        (handoff_move(state=MoveState.HANDOFF), True),
        (handoff_move(state=MoveState.DONE), False),
        (relocation(state=MoveState.SYNCING), False),
        (relocation(state=MoveState.READY), True),
        (relocation(state=MoveState.CLEANING), False),
    ],
)
def test_a_role_that_is_about_to_pass_is_waited_for_where_it_is_served(move: Move, waits: bool) -> None:
    view = BUILDER.with_move(move).view
    assert (replacement_waits_for(view, N1) is not None) is waits
    assert replacement_waits_for(view, N3) is None, "it does not serve the database"


def test_an_endpoint_that_passes_is_waited_for_on_both_of_its_nodes() -> None:
    view = BUILDER.with_move(rebind()).view
    assert replacement_waits_for(view, N1) is not None
    assert replacement_waits_for(view, N3) is not None
    assert replacement_waits_for(view, N2) is None


def test_clients_that_are_being_sent_away_are_waited_for() -> None:
    (endpoint,) = BUILDER.view.endpoints.values()
    both = replace(endpoint, nodes=(N1, N2), leaving=(LeavingNode(N2, NOW),))
    assert replacement_waits_for(BUILDER.with_records(both).view, N2) is None, "it still accepts clients"
    closing = replace(both, leaving=(LeavingNode(N2, NOW, is_closing=True),))
    view = BUILDER.with_records(closing).view
    assert (replacement_waits_for(view, N2) is None, replacement_waits_for(view, N1) is None) == (False, True)


def test_an_intent_without_a_move_is_waited_for_too() -> None:
    handoff = Handoff(ShardUid(1), ShardUid(2), generation=2, term=1, intended_at=NOW)
    parking = Parking(ShardUid(1), term=1, began_at=NOW)
    for group in (replace(GROUP, handoff=handoff), replace(GROUP, parking=parking)):
        view = BUILDER.with_records(group).view
        assert "database 1" in (replacement_waits_for(view, N1) or "")
        assert replacement_waits_for(view, N2) is None
