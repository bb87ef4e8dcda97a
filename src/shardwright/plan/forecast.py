"""Cost and risks of a plan: time, pause, copies of each slot group, memory on each target, limitations of a server.

Called for previews of actions. Reads the view and the proposals; decides nothing and writes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shardwright.model.codes import Code
from shardwright.model.database import Database, Persistence, ServerKind, ShardWanted
from shardwright.model.ids import DatabaseUid, GroupUid, NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView
from shardwright.plan.eta import DEFAULTS, Rates, Schedule, measured
from shardwright.plan.ledger import Ledger
from shardwright.plan.proposal import MoveProposal, RebindProposal, RelocationProposal
from shardwright.plan.standing import Standing, answers, standing_of

BufferBytes = Callable[[Database, int], int]
"""Upper bound of a copy's replication buffers, from its database and the node's free memory."""

_DUAL_CHANNEL_SINCE = (8, 0)
_HASH_SEED_SINCE = (9, 1)


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """A move of the plan with its expected time."""

    proposal: MoveProposal
    begins_s: float
    seconds: float
    pause_ms: float
    """How long writers of the database wait; 0: the role does not change hands."""


@dataclass(frozen=True, slots=True)
class GroupCopies:
    """Number of in-sync copies of a slot group."""

    group_uid: GroupUid
    database_uid: DatabaseUid
    before: int
    during: int
    """The minimum during the plan, without failures."""
    after: int
    if_off: int
    """Of the copies afterwards, those that remain if the action's node is switched off."""


@dataclass(frozen=True, slots=True)
class TargetMemory:
    """Memory that the plan needs on one node, in bytes."""

    node_uid: NodeUid
    capacity: int
    provisioned_before: int
    provisioned_after: int
    data: int
    """Current size of the arriving copies."""
    copy_on_write: int
    """Upper bound while the largest arriving copy that persists or serves a sync forks."""
    buffers: int
    """Upper bound of the replication buffers and backlogs of the copies that arrive at the same time."""
    free: int
    """Measured on the machine; 0: unknown."""

    @property
    def peak(self) -> int:
        """Memory that may be needed in addition to the current usage."""
        return self.data + self.copy_on_write + self.buffers


@dataclass(frozen=True, slots=True)
class Forecast:
    """The expected cost and the risks of one plan."""

    moves: tuple[PlannedMove, ...] = ()
    seconds: float = 0.0
    groups: tuple[GroupCopies, ...] = ()
    targets: tuple[TargetMemory, ...] = ()
    warnings: tuple[Reason, ...] = ()
    rates: Rates = DEFAULTS


NO_FORECAST = Forecast()


def forecast(
    view: ClusterView, node_uid: NodeUid, proposals: Sequence[MoveProposal], *, buffer_bytes: BufferBytes
) -> Forecast:
    """Forecast a plan. ``node_uid`` is the action's node."""
    rates = measured(view.moves.values())
    schedule = Schedule(rates, syncs_max=view.policy.max_slave_full_syncs)
    planned = []
    for proposal in proposals:
        slot = schedule.add(proposal)
        pause_ms = rates.pause_ms if proposal.changes_role else 0.0
        planned.append(PlannedMove(proposal, slot.begins_s, slot.ends_s - slot.begins_s, pause_ms))
    ledger = Ledger(view, by_free_memory=view.policy.evict_node_use_free_memory)
    targets = _targets(view, ledger, proposals, buffer_bytes)
    groups = _groups(view, ledger, node_uid, proposals)
    warnings = (*_memory_warnings(targets), *_copy_warnings(groups), *_version_warnings(view, proposals))
    return Forecast(tuple(planned), schedule.end_s, groups, targets, warnings, rates)


# -- copies ------------------------------------------------------------------------------------------------------------


def _groups(
    view: ClusterView, ledger: Ledger, node_uid: NodeUid, proposals: Sequence[MoveProposal]
) -> tuple[GroupCopies, ...]:
    found = []
    touched = [p.group_uid for p in proposals if not isinstance(p, RebindProposal)]
    here = [s.group_uid for s in view.shards_on(node_uid)]
    for uid in dict.fromkeys((*touched, *here)):
        group = view.groups.get(uid)
        if group is None:
            continue
        nodes = _nodes_in_sync(view, ledger, uid)
        before = during = len(nodes)
        for proposal in proposals:
            if not isinstance(proposal, RelocationProposal) or proposal.group_uid != uid:
                continue
            nodes = [*nodes, proposal.to_node]  # the new copy first, then the old one leaves
            if proposal.from_node in nodes:
                nodes.remove(proposal.from_node)
            during = min(during, len(nodes))
        if_off = sum(uid != node_uid for uid in nodes)
        found.append(GroupCopies(uid, group.database_uid, before, during, len(nodes), if_off))
    return tuple(found)


def _nodes_in_sync(view: ClusterView, ledger: Ledger, uid: GroupUid) -> list[NodeUid]:
    group = view.groups[uid]
    primary = None if group.primary is None else view.shards.get(group.primary)
    found = []
    for shard in ledger.shards_of.get(uid, []):
        if shard.wanted != ShardWanted.RUNNING or primary is None:
            continue
        if shard.uid == primary.uid:
            is_good = answers(view, shard) is not False
        else:
            is_good = standing_of(view, shard, primary) == Standing.PROVEN
        if is_good:
            found.append(shard.node_uid)
    return found


# -- memory ------------------------------------------------------------------------------------------------------------


def _targets(
    view: ClusterView, ledger: Ledger, proposals: Sequence[MoveProposal], buffer_bytes: BufferBytes
) -> tuple[TargetMemory, ...]:
    arriving: dict[NodeUid, list[RelocationProposal]] = {}
    for proposal in proposals:
        if isinstance(proposal, RelocationProposal) and proposal.to_node in view.nodes:
            arriving.setdefault(proposal.to_node, []).append(proposal)
    return tuple(_target(view, ledger, uid, arriving[uid], buffer_bytes) for uid in sorted(arriving))


def _target(
    view: ClusterView, ledger: Ledger, uid: NodeUid, arriving: Sequence[RelocationProposal], buffer_bytes: BufferBytes
) -> TargetMemory:
    figures = view.figures.get(uid)
    free = 0 if figures is None else figures.memory_free_bytes
    at_once = view.policy.max_slave_full_syncs or len(arriving)
    provisioned = data = forks = 0
    buffers: list[int] = []
    for proposal in arriving:
        database = view.databases.get(proposal.database_uid)
        if database is None:
            continue
        provisioned += ledger.size_of_copy(database, proposal.group_uid)
        data += proposal.bytes_total
        buffers.append(buffer_bytes(database, free))
        if database.persistence != Persistence.DISABLED or proposal.hands_over:
            forks = max(forks, proposal.bytes_total)
    held = ledger.loads[uid].held_bytes
    return TargetMemory(
        uid,
        view.nodes[uid].memory_bytes,
        held,
        held + provisioned,
        data,
        forks,
        sum(sorted(buffers, reverse=True)[:at_once]),
        free,
    )


def _memory_warnings(targets: Sequence[TargetMemory]) -> list[Reason]:
    found = []
    for target in targets:
        if target.free and target.peak > target.free:
            text = (
                f"node {target.node_uid} may need {_mb(target.peak)} MiB at once and has {_mb(target.free)} MiB free: "
                "a sync may slow down or be repeated"
            )
            remedy = f"free {_mb(target.peak - target.free)} MiB on node {target.node_uid}, or move at low write load"
            found.append(Reason(Code.MEMORY_TIGHT, text, Grade.SOFT_LIMIT, remedy=remedy, node_uid=target.node_uid))
    return found


def _mb(size: int) -> int:
    return -(-size // (1024 * 1024))


# -- warnings ----------------------------------------------------------------------------------------------------------


def _copy_warnings(groups: Sequence[GroupCopies]) -> list[Reason]:
    found = []
    for database_uid in dict.fromkeys(g.database_uid for g in groups):
        own = [g for g in groups if g.database_uid == database_uid]
        remedy = f"enable replication of database {database_uid}"
        if any(g.before == 1 for g in own):
            text = f"database {database_uid} has one copy: until its move ends, only this copy holds the data"
            found.append(Reason(Code.SINGLE_COPY, text, Grade.CONFIGURATION, remedy=remedy, database_uid=database_uid))
        elif any(g.if_off < g.before for g in own if g.after):
            left = min(g.if_off for g in own)
            text = f"database {database_uid} would have {left} copies while the node is switched off"
            found.append(Reason(Code.FEWER_COPIES, text, Grade.CONFIGURATION, database_uid=database_uid))
    return found


def _version_warnings(view: ClusterView, proposals: Sequence[MoveProposal]) -> list[Reason]:
    found = []
    if any(p.changes_role for p in proposals):
        text = "a handoff does not copy scripts: EVALSHA may answer NOSCRIPT once, then clients load the script again"
        found.append(Reason(Code.SCRIPTS_NOT_PASSED_ON, text, Grade.SOFT_LIMIT))
    for uid in dict.fromkeys(p.database_uid for p in proposals):
        database = view.databases.get(uid)
        if database is None:
            continue
        own = [p for p in proposals if p.database_uid == uid]
        version = _version(database.server_version) if database.server_kind == ServerKind.VALKEY else (0, 0)
        name = f"database {uid} ({database.server_kind} {database.server_version})"
        if version < _HASH_SEED_SINCE and any(p.changes_role for p in own):
            text = f"{name}: a running SCAN may repeat or miss keys, because its cursor is not valid on the new primary"
            found.append(Reason(Code.SCAN_CURSORS, text, Grade.SOFT_LIMIT, database_uid=uid))
        if version < _DUAL_CHANNEL_SINCE and any(isinstance(p, RelocationProposal) for p in own):
            text = f"{name}: during a full sync the primary buffers all writes, which takes memory on its node"
            found.append(Reason(Code.SYNC_BUFFERS_AT_PRIMARY, text, Grade.SOFT_LIMIT, database_uid=uid))
    return found


def _version(version: str) -> tuple[int, int]:
    parts = [int(part) if part.isdigit() else 0 for part in version.split(".")[:2]]
    return (parts[0], parts[1] if len(parts) > 1 else 0)
