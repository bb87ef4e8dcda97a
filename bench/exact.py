"""The planner beside an exact solver (HiGHS, through scipy) on small clusters: what it misses, what it moves too much.

The solver has the rules of its own, from the records, and shares no code with the planner. First it looks for any final
placement that obeys the rules: none means that no plan exists, and the least transfer of one is a lower bound. Where the
planner finds nothing although a placement exists, the solver looks for the moves themselves, step by step. scipy is a
development dependency only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from shardwright.model.ids import GroupUid, NodeUid
from shardwright.model.view import ClusterView

OPTIMAL = 0
INFEASIBLE = 2


@dataclass(frozen=True, slots=True)
class Best:
    """The solver's answer. ``extra_bytes``: what copies of other nodes must transfer at least; None: no placement exists."""

    extra_bytes: int | None


class _Rows:
    """A sparse system of inequalities under construction."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, float]] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def add(self, terms: Sequence[tuple[int, float]], low: float, high: float) -> None:
        row = len(self.low)
        self.entries += [(row, column, value) for column, value in terms]
        self.low.append(low)
        self.high.append(high)

    def constraint(self, columns: int) -> LinearConstraint:
        rows, found, values = zip(*self.entries, strict=True)
        matrix = coo_array((values, (rows, found)), shape=(len(self.low), columns)).tocsr()
        return LinearConstraint(matrix, np.array(self.low), np.array(self.high))


class _Facts:
    """What the rules need of a cluster."""

    def __init__(self, view: ClusterView, leaving: NodeUid) -> None:
        self.view = view
        self.leaving = leaving
        self.shards = sorted(view.shards.values(), key=lambda s: s.uid)
        self.nodes = sorted(view.nodes.values(), key=lambda n: n.uid)
        self.sizes = [view.databases[s.database_uid].shard_memory_bytes / 2**20 for s in self.shards]
        self.costs = [view.servers[s.uid].used_memory_bytes / 2**20 for s in self.shards]
        self.groups: dict[GroupUid, list[int]] = {}
        for number, shard in enumerate(self.shards):
            self.groups.setdefault(shard.group_uid, []).append(number)
        self.racks: dict[str, list[int]] = {}
        for number, node in enumerate(self.nodes):
            self.racks.setdefault(node.rack, []).append(number)

    def is_rack_aware(self, group: GroupUid) -> bool:
        return self.view.databases[self.view.groups[group].database_uid].is_rack_aware

    def memory(self, node: int) -> float:
        return self.nodes[node].memory_bytes / 2**20


def solve(view: ClusterView, leaving: NodeUid) -> Best:
    """The least that other copies must transfer so that everything has a place without the leaving node."""
    facts = _Facts(view, leaving)
    count, width = len(facts.shards), len(facts.nodes)
    rows = _Rows()

    def x(shard: int, node: int) -> int:
        return shard * width + node

    for s in range(count):
        rows.add([(x(s, n), 1) for n in range(width)], 1, 1)
    for number, node in enumerate(facts.nodes):
        is_leaving = node.uid == leaving
        rows.add([(x(s, number), facts.sizes[s]) for s in range(count)], 0, 0 if is_leaving else facts.memory(number))
        rows.add([(x(s, number), 1) for s in range(count)], 0, 0 if is_leaving else node.shards_max)
    for group, members in facts.groups.items():
        places = list(facts.racks.values()) if facts.is_rack_aware(group) else [[n] for n in range(width)]
        for nodes in places:
            rows.add([(x(s, n), 1) for s in members for n in nodes], 0, 1)
    cost = np.zeros(count * width)
    for s, shard in enumerate(facts.shards):
        if shard.node_uid != leaving:
            for n in range(width):
                if facts.nodes[n].uid != shard.node_uid:
                    cost[x(s, n)] = facts.costs[s]
    found = _milp(cost, rows)
    return Best(None if found is None else round(float(cost @ np.round(found)) * 2**20))


def is_reachable(view: ClusterView, leaving: NodeUid, *, steps: int) -> bool:
    """Whether at most so many single moves, each with room for the new copy while the old one is still there, empty the
    node. May take long: one variable per step, shard and node."""
    facts = _Facts(view, leaving)
    count, width = len(facts.shards), len(facts.nodes)
    rows = _Rows()

    def place(step: int, shard: int, node: int) -> int:
        return (step * count + shard) * width + node

    total = (steps + 1) * count * width

    def comes(step: int, shard: int, node: int) -> int:
        return total + (step * count + shard) * width + node

    for number, shard in enumerate(facts.shards):
        for node in range(width):
            is_here = facts.nodes[node].uid == shard.node_uid
            rows.add([(place(0, number, node), 1)], is_here, is_here)
            if facts.nodes[node].uid == leaving:
                rows.add([(place(steps, number, node), 1)], 0, 0)
    for step in range(steps):
        rows.add([(comes(step, s, n), 1) for s in range(count) for n in range(width)], 0, 1)
        for s in range(count):
            rows.add([(place(step + 1, s, n), 1) for n in range(width)], 1, 1)
            for n in range(width):
                # It is there afterwards only if it was there or comes.
                terms = [(place(step + 1, s, n), 1), (place(step, s, n), -1), (comes(step, s, n), -1)]
                rows.add(terms, -2, 0)
                rows.add([(comes(step, s, n), 1), (place(step + 1, s, n), -1)], -1, 0)
                if facts.nodes[n].uid == leaving:
                    rows.add([(comes(step, s, n), 1)], 0, 0)
        _add_step_rules(rows, facts, step, place, comes)
    columns = total + steps * count * width
    return _milp(np.zeros(columns), rows) is not None


def _add_step_rules(rows: _Rows, facts: _Facts, step: int, place: Any, comes: Any) -> None:
    count, width = len(facts.shards), len(facts.nodes)
    for number, node in enumerate(facts.nodes):
        both = [(place(step, s, number), s) for s in range(count)] + [(comes(step, s, number), s) for s in range(count)]
        rows.add([(column, facts.sizes[s]) for column, s in both], 0, facts.memory(number))
        rows.add([(column, 1) for column, _ in both], 0, node.shards_max)
    for group, members in facts.groups.items():
        places = list(facts.racks.values()) if facts.is_rack_aware(group) else [[n] for n in range(width)]
        for nodes in places:
            # A copy that comes beside the one that it replaces is no conflict; beside another one it is.
            for s in members:
                others = [(place(step, o, n), 1) for o in members if o != s for n in nodes]
                rows.add([(comes(step, s, n), 1) for n in nodes] + others, 0, 1)


def _milp(cost: Any, rows: _Rows) -> Any:
    columns = len(cost)
    found = milp(
        cost,
        constraints=rows.constraint(columns),
        integrality=np.ones(columns),
        bounds=Bounds(0, 1),
        options={"time_limit": 60.0, "mip_rel_gap": 0.0},
    )
    if found.status == INFEASIBLE:
        return None
    if found.status != OPTIMAL:
        raise RuntimeError(f"the solver gave up: {found.message}")
    return found.x
