"""The cluster's version is raised when every daemon is new, and only then."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from shardwright.leader.turn import DECIDERS, decide_turn
from shardwright.model.cluster import Cluster, DaemonPresence, Node
from shardwright.model.decision import NOTHING
from shardwright.model.event import Event, EventKind
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView, Put
from shardwright.reconcile.version import decide_version

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLUSTER = Cluster("c", NOW, "127.0.0.1", 9443, options={"a": 1}, prepared_for="0")


def view_of(*versions: int | None, cluster_version: int = 1, removed: int | None = None) -> ClusterView:
    """A node for each version; None: it has no daemon. ``removed``: the version of a daemon whose node was removed."""
    uids = [NodeUid(n) for n in range(1, len(versions) + 1)]
    present = {uid: version for uid, version in zip(uids, versions, strict=True) if version is not None}
    if removed is not None:
        present[NodeUid(99)] = removed
    return ClusterView(
        cluster=replace(CLUSTER, cluster_version=cluster_version),
        nodes={uid: Node(uid, f"127.0.0.{uid}", NOW) for uid in uids},
        daemons={uid: DaemonPresence(uid, 1, 1, "b", 1, "0", "", NOW, cluster_version=v) for uid, v in present.items()},
    )


@pytest.mark.parametrize(
    ("view", "raised_to"),
    [
        (view_of(2, 2, 2), 2),
        (view_of(2, 3, 4), 2),
        (view_of(2, 1, 2), None),
        (view_of(2, None, 2), None),
        (view_of(2, 2, 2, cluster_version=2), None),
        (view_of(1, 1, 1, cluster_version=2), None),
        (view_of(3, 3, cluster_version=2), 3),
        (view_of(2, 2, removed=1), None),
        (view_of(2, 2, removed=3), 2),
        (view_of(), None),
        (ClusterView(daemons=view_of(2).daemons, nodes=view_of(2).nodes), None),
    ],
)
def test_it_is_the_least_of_all_daemons_and_never_falls(view: ClusterView, raised_to: int | None) -> None:
    decision = decide_version(view, NOW)
    if raised_to is None:
        assert decision == NOTHING
        return
    (put, event) = decision.writes
    assert isinstance(event.record, Event)
    assert event.record.kind is EventKind.CLUSTER_VERSION_RAISED
    assert put == Put(replace(CLUSTER, cluster_version=raised_to)), "nothing else of the record changes"
    assert decide_version(view.with_writes([put]), NOW) == NOTHING


def test_a_leaders_turn_raises_it() -> None:
    view = view_of(2, 2)
    turn = decide_turn(view, NOW, DECIDERS, singly=False)
    batch = next(turn)
    written = [w.record for w in batch.writes if isinstance(w.record, Cluster)]
    assert [c.cluster_version for c in written] == [2]
