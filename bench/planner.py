"""The planner at scale, from records in memory: seconds, memory, bytes beside what must leave, how even memory is after.

``--exact N`` adds N small clusters beside an exact solver: what was missed, what was moved too much.
"""

import gc
import random
import statistics
import time
import tracemalloc
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from bench.clusters import AT, MIB, Shape, make_cluster
from bench.context import Context
from bench.figures import Figure, PartResult, at_most
from shardwright.api.services.explain import explain
from shardwright.api.services.intent import Look
from shardwright.model.ids import NodeUid
from shardwright.model.move import MoveKind
from shardwright.model.view import ClusterView
from shardwright.plan.evacuate import EvacuationPlan, EvacuationScope, plan_evacuations

NAME = "planner"
SEED = 1
SMALL = ((100, 10_000),)
LARGE = ((1_000, 100_000), (1_000, 1_000_000))
EVACUATED = (1, 10, 50)
SECONDS_MAX = {(1_000, 100_000): 1.0, (1_000, 1_000_000): 10.0}
FULL_AT = 0.80
EXPLAIN_S_MAX = 1.0


def measure(context: Context) -> PartResult:
    """See the module's text."""
    result = PartResult(NAME)
    result.notes.append("a view without indices is given; making them counts as planning")
    for nodes, shards in SMALL if context.is_quick else (*SMALL, *LARGE):
        context.say(f"{nodes:,} nodes, {shards:,} shards, 60 to 95 % full")
        view = make_cluster(Shape(nodes, shards, racks=20), SEED)
        for count in EVACUATED:
            _measure_plan(result, view, count, name=f"{nodes:,}/{shards:,}, {count} of them")
        if len(view.shards) <= LARGE[0][1]:
            _measure_explain(result, view, name=f"{nodes:,}/{shards:,}")
        del view
        gc.collect()
    nodes, shards = SMALL[0] if context.is_quick else LARGE[0]
    _measure_bytes(result, make_cluster(Shape(nodes, shards, racks=20, fill_min=FULL_AT, fill_max=FULL_AT), SEED))
    if context.exact:
        _measure_exactness(result, context)
    return result


def _measure_plan(result: PartResult, view: ClusterView, count: int, *, name: str) -> None:
    leaving = [NodeUid(n) for n in range(1, count + 1)]
    given = marked(view, leaving)
    began, cpu_began = time.perf_counter(), time.process_time()
    plans = plan_evacuations(given, leaving, EvacuationScope())
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    limit = SECONDS_MAX.get((len(view.nodes), len(view.shards))) if count == 1 else None
    goal = None if limit is None else at_most(seconds, limit, "s")
    result.figures.append(Figure(f"plan {name}", "s", seconds, goal=goal))
    moved, bound, extra = transfers(view, plans.values(), leaving)
    before, after = spread_of(view, (), leaving), spread_of(view, plans.values(), leaving)
    unplaced = sum(len(p.unplaced) for p in plans.values())
    result.details[name] = {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "moves": sum(len(p.moves) for p in plans.values()),
        "unplaced": unplaced,
        "moved_bytes": moved,
        "bound_bytes": bound,
        "of_it_stepped_aside_bytes": extra,
        "memory_spread_before_percent": round(before, 2),
        "memory_spread_after_percent": round(after, 2),
    }
    if count == 1 and len(view.shards) <= LARGE[0][1]:
        # Tracing slows the planner down several times, so that it is a run of its own.
        tracemalloc.start()
        plan_evacuations(marked(view, leaving), leaving, EvacuationScope())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        result.figures.append(Figure(f"memory for {name}", "MB", peak / 1e6))
    result.figures.append(Figure(f"bytes moved, {name}", "× bound", moved / bound))
    text = f"{name}: {unplaced} without a place, spread of memory {before:.1f} % before, {after:.1f} % after"
    result.notes.append(text)


def _measure_explain(result: PartResult, view: ClusterView, *, name: str) -> None:
    """What ``GET /v1/nodes/{uid}/explain`` decides, without HTTP and JSON, on a view that has answered before."""
    look = Look(view, lambda key: None, lambda key: 1, AT, "bench")
    for word in ("maintenance_on", "remove"):
        began = time.perf_counter()
        found = explain(look, NodeUid(1), word)
        seconds = time.perf_counter() - began
        result.figures.append(Figure(f"explain {word}, {name}", "s", seconds, goal=at_most(seconds, EXPLAIN_S_MAX, "s")))
        result.notes.append(f"explain {word}, {name}: the answer is {found.verdict}")


def _measure_bytes(result: PartResult, view: ClusterView) -> None:
    leaving = [NodeUid(1)]
    plans = plan_evacuations(marked(view, leaving), leaving, EvacuationScope())
    moved, bound, _ = transfers(view, plans.values(), leaving)
    name = f"bytes moved at {FULL_AT:.0%} full, {len(view.nodes):,}/{len(view.shards):,}, 1 node"
    result.figures.append(Figure(name, "× bound", moved / bound, goal=at_most(moved / bound, 1.01, "× bound")))
    if any(p.unplaced for p in plans.values()):
        result.troubles.append("at 80 % full a node's evacuation was refused")


def _measure_exactness(result: PartResult, context: Context) -> None:
    from bench import exact  # scipy takes a second to import

    context.say(f"{context.exact} small clusters beside an exact solver")
    found: Counter[str] = Counter()
    gaps: list[float] = []
    for seed in range(context.exact):
        view = small_cluster(seed)
        leaving = NodeUid(1 + seed % len(view.nodes))
        plan = plan_evacuations(view, [leaving], EvacuationScope())[leaving]
        best = exact.solve(view, leaving)
        if best.extra_bytes is None:
            found["no solution exists"] += 1
            if not plan.unplaced:
                result.troubles.append(f"small cluster {seed}: a plan where no placement exists")
            continue
        if plan.unplaced:
            is_missed = exact.is_reachable(view, leaving, steps=len(view.shards_on(leaving)) + 7)
            found["missed" if is_missed else "a placement, but no moves to it"] += 1
            continue
        moved, bound, extra = transfers(view, [plan], [leaving])
        found["solved"] += 1
        found["solved by stepping aside"] += extra > 0
        gaps.append((moved - bound - best.extra_bytes) / max(bound, 1))
    result.details["exact"] = dict(found)
    result.notes.append("small clusters: " + ", ".join(f"{count} {what}" for what, count in sorted(found.items())))
    result.figures.append(
        Figure("solvable small clusters missed", "", found["missed"], goal=at_most(found["missed"], 0, ""))
    )
    if gaps:
        # Half a byte of rounding in the solver's answer is no gap.
        real = [100 * gap for gap in gaps if gap > 1e-6]
        result.figures.append(Figure("more bytes than the best plan: how often", "%", 100 * len(real) / len(gaps)))
        result.figures.append(Figure("more bytes than the best plan: on average", "%", sum(real) / len(gaps)))
        result.figures.append(Figure("more bytes than the best plan: worst", "%", max(real, default=0.0)))


def small_cluster(seed: int) -> ClusterView:
    """3 to 6 nodes, 4 to 20 shards, 60 to 95 % full, racks in half of them, tight limits of shards in a third."""
    chance = random.Random(seed)
    nodes = chance.randint(3, 6)
    racks = chance.randint(2, nodes) if seed % 2 else 0
    fill = chance.uniform(0.60, 0.95)
    shape = Shape(
        nodes,
        chance.randint(4, 20),
        racks,
        fill_min=fill,
        fill_max=min(0.95, fill + 0.1),
        sizes_mib=(256, 512, 768, 1024, 1536, 2048, 3072),
        groups_max=3,
        shards_spare=chance.choice((None, None, 2)),
    )
    return make_cluster(shape, seed)


def marked(view: ClusterView, leaving: Sequence[NodeUid]) -> ClusterView:
    """The view in which the nodes are in maintenance, without any index."""
    nodes = {uid: replace(node, is_quorum_only=node.is_quorum_only or uid in leaving) for uid, node in view.nodes.items()}
    return replace(view, nodes=nodes, _indices={})


def transfers(view: ClusterView, plans: Collection[EvacuationPlan], leaving: Sequence[NodeUid]) -> tuple[int, int, int]:
    """Bytes that the plans transfer; those of all copies that leave, the least possible; and what other copies transfer."""
    unplaced = {u.shard_uid for p in plans for u in p.unplaced}
    moves = [m for p in plans for m in p.moves if m.kind == MoveKind.RELOCATE]
    leavers = [s for uid in leaving for s in view.shards_on(uid) if s.uid not in unplaced]
    bound = sum(view.servers[s.uid].used_memory_bytes for s in leavers)
    extra = sum(m.bytes_total for m in moves if m.from_node not in leaving)
    return sum(m.bytes_total for m in moves), bound, extra


def spread_of(view: ClusterView, plans: Collection[EvacuationPlan], leaving: Sequence[NodeUid]) -> float:
    """Standard deviation of how full the nodes that stay are, in percent of their memory."""
    held = Counter({uid: 0 for uid in view.nodes})
    for shard in view.shards.values():
        held[shard.node_uid] += view.databases[shard.database_uid].shard_memory_bytes
    for plan in plans:
        for move in plan.moves:
            if move.kind == MoveKind.RELOCATE:
                size = view.databases[move.database_uid].shard_memory_bytes
                held[move.to_node] += size
                held[move.from_node] -= size
    stay = [uid for uid in view.nodes if uid not in leaving]
    return statistics.pstdev(100 * held[uid] / max(view.nodes[uid].memory_bytes, MIB) for uid in stay)
