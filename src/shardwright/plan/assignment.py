"""Assigns target nodes to all copies that must leave a node: even first, then tight, then with chains of displaced copies.

Called by ``evacuate`` with the leaving copies, the largest first. Notes the result in the ledger; proposes nothing itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shardwright.model.cluster import Node
from shardwright.model.database import DatabaseStatus, GroupPhase, Shard, ShardWanted
from shardwright.model.ids import EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.plan.chains import STEPS_MAX, Item, Rearrangement, Room, SearchBudget, rearrange
from shardwright.plan.explain import Unplaceable
from shardwright.plan.ledger import CopyRequest, Ledger, Load
from shardwright.plan.placement import choose_copy, copy_request
from shardwright.plan.standing import answers

Failures = Mapping[ShardUid | EndpointUid, Mapping[NodeUid, int]]
"""Number of failed attempts per subject and target."""

ROOMS_MAX = 12
"""Nodes that a search for chains examines; in larger clusters, those with the most room."""
RESIDENTS_MAX = 96
"""Copies that may step aside; beyond this number, only a few of every size are considered."""
RESIDENTS_PER_SIZE = 2
LEAVERS_MAX = 32
"""Leaving copies that one search rearranges together; beyond this number, only those that found no other place."""
STEPS_OF_ONE = STEPS_MAX // 8
"""Steps for the search for a single copy's place."""
FAILURES_MAX = 3
"""A copy that failed to step aside this often is not asked again."""

ENDING = frozenset({DatabaseStatus.DELETE_PENDING, DatabaseStatus.CREATION_FAILED})


@dataclass(frozen=True, slots=True)
class Leaver:
    """A copy that must leave, and its placement request."""

    shard: Shard
    request: CopyRequest


@dataclass(slots=True)
class Assignment:
    """Target node of each copy."""

    places: dict[ShardUid, NodeUid] = field(default_factory=dict)
    refused: dict[ShardUid, Unplaceable] = field(default_factory=dict)
    displaced: list[tuple[Leaver, NodeUid]] = field(default_factory=list)
    """Copies of other nodes that step aside, in the order in which they should begin."""
    later: set[ShardUid] = field(default_factory=set)
    """Copies whose target has room only after another copy, displaced or already moving, has left."""
    _noted: list[tuple[CopyRequest, NodeUid]] = field(default_factory=list)

    @property
    def firm(self) -> int:
        """Number of copies without a place that waiting would not help."""
        return sum(not refusal.passes_by_itself for refusal in self.refused.values())

    def note(self, ledger: Ledger, request: CopyRequest, node_uid: NodeUid) -> None:
        """Reserve room in the ledger."""
        ledger.place(request, node_uid)
        self._noted.append((request, node_uid))

    def take_back(self, ledger: Ledger) -> None:
        """Release all room that was reserved."""
        for request, node_uid in reversed(self._noted):
            ledger.take_back(request, node_uid)
        self._noted.clear()


def assign(ledger: Ledger, leavers: Sequence[Leaver], failures: Failures, *, budget: SearchBudget) -> Assignment:
    """Find a node for every leaver. Deterministic; if some must stay behind, the variant that leaves fewer behind wins."""
    even = _fill(ledger, leavers, failures, is_tight=False)
    if not even.firm:
        return even
    even.take_back(ledger)
    tight = _fill(ledger, leavers, failures, is_tight=True)
    if not tight.firm:
        return tight
    kept = tight
    if len(leavers) <= LEAVERS_MAX:
        tight.take_back(ledger)
        if _with_chains(ledger, leavers, failures, found := Assignment(), budget=budget):
            return found
        kept = even if even.firm <= tight.firm else tight
        return _fill(ledger, leavers, failures, is_tight=kept is tight)
    one = SearchBudget(0)
    for leaver in leavers:
        # One at a time: each chain is small, and a copy without a chain does not block the others.
        refusal = kept.refused.get(leaver.shard.uid)
        if refusal is None or refusal.passes_by_itself or budget.steps <= 0:
            continue
        one.steps = given = min(STEPS_OF_ONE, budget.steps)
        if _with_chains(ledger, [leaver], failures, kept, budget=one):
            del kept.refused[leaver.shard.uid]
        budget.steps -= max(given - one.steps, 1)
    return kept


def _fill(ledger: Ledger, leavers: Sequence[Leaver], failures: Failures, *, is_tight: bool) -> Assignment:
    found = Assignment()
    for leaver in leavers:
        shard, request = leaver.shard, leaver.request
        chosen = choose_copy(ledger, request, failures=failures.get(shard.uid), is_tight=is_tight)
        if not isinstance(chosen, Unplaceable):
            found.note(ledger, request, chosen)
            found.places[shard.uid] = chosen
            continue
        found.refused[shard.uid] = chosen
        awaited = chosen.nearest[0].node_uid
        if chosen.passes_by_itself and awaited is not None:
            # It waits for room there: a smaller copy must not take that room.
            found.note(ledger, request, awaited)
    return found


# -- chains ------------------------------------------------------------------------------------------------------------


def _with_chains(
    ledger: Ledger, leavers: Sequence[Leaver], failures: Failures, found: Assignment, *, budget: SearchBudget
) -> bool:
    """Add places for all leavers to ``found``. Returns False and adds nothing if there is no solution."""
    problem = _Problem(ledger, leavers, failures)
    solution = rearrange(problem.rooms, problem.items, budget=budget)
    if solution is None:
        return False
    _take_over(ledger, problem, solution, found)
    return True


def _take_over(ledger: Ledger, problem: "_Problem", solution: Rearrangement, found: Assignment) -> None:
    for number, room in solution.targets.items():
        leaver, node_uid = problem.leavers[number], problem.nodes[room].uid
        found.note(ledger, leaver.request, node_uid)
        if number not in solution.early:
            found.later.add(leaver.shard.uid)
        if problem.items[number].must_leave:
            found.places[leaver.shard.uid] = node_uid
        else:
            found.displaced.append((leaver, node_uid))


class _Problem:
    """The numbers of a search, and the node and copy that each number stands for."""

    def __init__(self, ledger: Ledger, leavers: Sequence[Leaver], failures: Failures) -> None:
        self.ledger = ledger
        self.failures = failures
        pairs = _rooms(ledger, leavers)
        sources = {leaver.shard.node_uid for leaver in leavers}
        self.nodes: list[Node] = [n for n, _ in pairs] + [ledger.view.nodes[uid] for uid in sorted(sources)]
        self.index = {n.uid: number for number, n in enumerate(self.nodes)}
        self.rooms = [_room(n, load, ledger.by_free_memory) for n, load in pairs]
        self.rooms += [Room(-1, 0, -1, 0, ledger.view.nodes[uid].rack) for uid in sorted(sources)]
        self.leavers = [*leavers, *self._residents([n for n, _ in pairs], {x.shard.uid for x in leavers})]
        is_open = {n.uid for n, _ in ledger.open_nodes(needs_primary=True)}
        self._closed_to_primaries = frozenset(i for uid, i in self.index.items() if uid not in is_open)
        uids = {leaver.shard.uid for leaver in self.leavers}
        groups: dict[GroupUid, int] = {}
        self.items = [
            self._item(x, groups.setdefault(x.request.group_uid, len(groups)), uids, must_leave=number < len(leavers))
            for number, x in enumerate(self.leavers)
        ]

    def _residents(self, nodes: Sequence[Node], leaving: set[ShardUid]) -> list[Leaver]:
        """Copies that may step aside."""
        view, ledger = self.ledger.view, self.ledger
        found: list[Leaver] = []
        for node in nodes:
            here = [s for s in view.shards_on(node.uid) if s.uid not in leaving and self._may_step_aside(s)]
            for shard in here:
                is_primary = view.groups[shard.group_uid].primary == shard.uid
                database = view.databases[shard.database_uid]
                request = copy_request(ledger, database, shard.group_uid, leaving=shard, is_primary=is_primary)
                found.append(Leaver(shard, request))
        if len(found) <= RESIDENTS_MAX:
            return found
        of_size: dict[tuple[NodeUid, int], int] = {}
        kept = []
        for leaver in sorted(found, key=lambda x: (x.request.is_primary, x.shard.uid)):
            key = (leaver.shard.node_uid, leaver.request.size_bytes)
            of_size[key] = of_size.get(key, 0) + 1
            if of_size[key] <= RESIDENTS_PER_SIZE:
                kept.append(leaver)
        return kept[:RESIDENTS_MAX]

    def _may_step_aside(self, shard: Shard) -> bool:
        """Whether it is a healthy copy of a healthy group without pending changes."""
        view, ledger = self.ledger.view, self.ledger
        group, database = view.groups.get(shard.group_uid), view.databases.get(shard.database_uid)
        if shard.wanted != ShardWanted.RUNNING or group is None or database is None or database.status in ENDING:
            return False
        if group.phase != GroupPhase.SERVING or group.is_changing_roles:
            return False
        if group.uid in ledger.moves_of or group.uid in ledger.planned:
            return False
        primary = None if group.primary is None else view.shards.get(group.primary)
        if primary is None or not answers(view, primary):
            return False
        return sum(self.failures.get(shard.uid, {}).values()) < FAILURES_MAX

    def _item(self, leaver: Leaver, group: int, uids: set[ShardUid], *, must_leave: bool) -> Item:
        request, ledger = leaver.request, self.ledger
        held = ledger.copies_of(request.group_uid)
        others = {uid for shard, uid in held.items() if shard is None or shard not in uids}
        taken = others | ledger.ending_of(request.group_uid)
        avoided = {self.index[uid] for uid in taken if uid in self.index}
        if request.database.is_rack_aware:
            racks = {ledger.view.nodes[uid].rack for uid in others if uid in ledger.view.nodes} | {""}
            avoided |= {i for i, room in enumerate(self.rooms) if room.rack in racks}
        if request.is_primary:
            avoided |= self._closed_to_primaries
        if not must_leave:
            avoided |= {self.index[uid] for uid in self.failures.get(leaver.shard.uid, {}) if uid in self.index}
        # Between two copies of equal cost, the replica steps aside: no client has to switch servers.
        cost = ledger.used_bytes(request.group_uid) + (request.is_primary and not must_leave)
        return Item(
            request.size_bytes,
            self.index[leaver.shard.node_uid],
            group,
            must_leave,
            cost,
            request.database.is_rack_aware,
            frozenset(avoided),
        )


def _rooms(ledger: Ledger, leavers: Sequence[Leaver]) -> list[tuple[Node, Load]]:
    """Nodes that the search examines, by uid: all of them, or those with the most room."""
    found = ledger.open_nodes(needs_primary=False)
    sources = {leaver.shard.node_uid for leaver in leavers}
    found = [pair for pair in found if pair[0].uid not in sources and pair[1].available_bytes + pair[1].leaving_bytes >= 0]
    if len(found) <= ROOMS_MAX:
        return found
    ranked = sorted(found, key=lambda p: (-(p[1].available_bytes + p[1].leaving_bytes), p[0].uid))
    suitable = {n.uid for leaver in leavers[:ROOMS_MAX] for n, _ in ledger.suitable(leaver.request)}
    # Most of them for the leaving copies; the rest for displaced copies, wherever there is room.
    chosen = [p for p in ranked if p[0].uid in suitable][: ROOMS_MAX - ROOMS_MAX // 4]
    taken = {n.uid for n, _ in chosen}
    chosen += [p for p in ranked if p[0].uid not in taken][: ROOMS_MAX - len(chosen)]
    return sorted(chosen, key=lambda p: p[0].uid)


def _room(node: Node, load: Load, by_free_memory: bool) -> Room:
    # Free memory is a measured value: memory of leaving copies is not yet part of it and cannot be promised.
    leaving = 0 if by_free_memory else load.leaving_bytes
    memory, shards = load.available_bytes + leaving, node.shards_max - load.shards + load.leaving_shards
    if shards < 0:
        memory = -1
    return Room(memory, shards, load.available_bytes, node.shards_max - load.shards, node.rack)


__all__ = ["ENDING", "Assignment", "Failures", "Leaver", "assign"]
