"""Which replica may take over, by what is known of the primary's end."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.model.event import Event
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.view import Put
from testkit.builders import NOW, ClusterBuilder
from testkit.groups import decide, group_after, replicated


@pytest.mark.parametrize(
    ("link_down_s", "clock_s", "takes_over"), [(12, 0, True), (14, 0, False), (14, 60, True), (14, -60, True)]
)
def test_an_agent_that_saw_the_end_says_how_long_before_it_the_link_was_lost(
    link_down_s: int, clock_s: int, takes_over: bool
) -> None:
    """It saw the primary end 10 s ago. A clock that is not the leader's says nothing."""
    builder = replicated().with_dead_shard(1).with_server(2, is_link_up=False, link_down_s=link_down_s)
    off = timedelta(seconds=clock_s)
    view = builder.view
    ended = replace(view.processes[ShardUid(1)], ended_at=NOW - timedelta(seconds=10))
    report = replace(view.node_seen[NodeUid(1)], at=NOW + off)
    view = view.changed(processes={**view.processes, ShardUid(1): ended}, node_seen={**view.node_seen, NodeUid(1): report})
    seen = replace(view.servers[ShardUid(1)], unanswered_since=NOW - timedelta(seconds=10))
    view = view.changed(servers={**view.servers, ShardUid(1): seen})
    decision = decide(ClusterBuilder(view))
    after = group_after(decision)
    assert after is not None
    assert after.primary == (2 if takes_over else 1)
    long_ago = NOW - timedelta(seconds=20)
    for heard_since, is_heir in ((long_ago, True), (None, takes_over), (NOW - timedelta(seconds=8), takes_over)):
        silent = replace(seen, unanswered_since=long_ago, machine_heard_since=heard_since)
        after = group_after(decide(ClusterBuilder(view.changed(servers={**view.servers, ShardUid(1): silent}))))
        assert after is not None
        told = "its replica lost it when it stood still, not when it ended, unless its machine was silent too"
        assert after.primary == (2 if is_heir else 1), told
    if takes_over:
        (event,) = [w.record for w in decision.writes if isinstance(w, Put) and isinstance(w.record, Event)]
        assert "whose process has ended (its agent observed its end at" in event.text
