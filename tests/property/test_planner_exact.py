"""The planner compared with an exact solver on small clusters: it finds every possible plan, with few extra bytes."""

import pytest

from bench import exact
from bench.planner import small_cluster, transfers
from shardwright.model.ids import NodeUid
from shardwright.plan.evacuate import EvacuationScope, plan_evacuation

FIRST, LAST = 10_000, 10_200


@pytest.mark.proof
def test_no_solvable_small_cluster_is_missed() -> None:
    for seed in range(FIRST, LAST):
        view = small_cluster(seed)
        leaving = NodeUid(1 + seed % len(view.nodes))
        plan = plan_evacuation(view, leaving, EvacuationScope())
        best = exact.solve(view, leaving)
        if best.extra_bytes is None:
            assert plan.unplaced, f"{seed}: a plan where no placement exists"
            continue
        if plan.unplaced:
            steps = len(view.shards_on(leaving)) + 7
            assert not exact.is_reachable(view, leaving, steps=steps), f"{seed}: a solution was missed"
            continue
        _, bound, extra = transfers(view, [plan], [leaving])
        assert extra <= best.extra_bytes + 0.25 * bound, f"{seed}: far from the best plan"
