"""The smallest remedy that makes a plan possible: found by adding an imaginary node and planning again.

Called for explanations only. Writes nothing; the imaginary node never leaves this module.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from shardwright.model.cluster import DaemonPresence, Node
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.reason import Reason
from shardwright.model.view import ClusterView
from shardwright.plan.ledger import Ledger
from shardwright.plan.proposal import Unplaced

_ROOM = frozenset(
    {Code.INSUFFICIENT_MEMORY, Code.RACK_CONFLICT, Code.NO_OTHER_NODE, Code.NODE_HAS_COPY, Code.NODE_WITHOUT_RACK}
)
"""Codes that room on an additional node can resolve."""
_NEW_RACK = "\0another"

PlanAnew = Callable[[ClusterView], Sequence[Unplaced]]
"""Everything that has no place in another view."""


def room_remedy(view: ClusterView, unplaced: Sequence[Unplaced], plan_anew: PlanAnew, now: datetime) -> str:
    """``add 3.2 GB outside rack b``; empty if more room would not help, or would not help everything."""
    lacking = [u.shard_uid for u in unplaced if u.shard_uid is not None and u.reason.code in _ROOM]
    if not lacking or len(lacking) != len(unplaced):
        return ""
    ledger = Ledger(view, by_free_memory=view.policy.evict_node_use_free_memory)
    size = sum(_size(view, ledger, uid) for uid in lacking)
    racks = sorted({rack for uid in lacking for rack in _racks_of_others(view, uid)})
    if plan_anew(_with_node(view, size, now)):
        return ""
    where = f" outside rack {' and '.join(racks)}" if racks else ""
    return f"add {_gigabytes(size)}{where}: a node, or memory on one that holds no copy of the same data"


def _size(view: ClusterView, ledger: Ledger, uid: ShardUid) -> int:
    shard = view.shards.get(uid)
    database = None if shard is None else view.databases.get(shard.database_uid)
    return 0 if shard is None or database is None else ledger.size_of_copy(database, shard.group_uid)


def _racks_of_others(view: ClusterView, uid: ShardUid) -> set[str]:
    """Racks that the copy cannot use because another copy is there."""
    shard = view.shards.get(uid)
    database = None if shard is None else view.databases.get(shard.database_uid)
    if shard is None or database is None or not database.is_rack_aware:
        return set()
    others = (s for s in view.shards_of_group(shard.group_uid) if s.uid != uid)
    return {rack for s in others if s.node_uid in view.nodes and (rack := view.nodes[s.node_uid].rack)}


def _with_node(view: ClusterView, size: int, now: datetime) -> ClusterView:
    uid = NodeUid(max(view.nodes, default=0) + 1)
    node = Node(uid, "", now, rack=_NEW_RACK, memory_bytes=size, shards_max=1_000_000, endpoints_max=1_000_000)
    daemon = DaemonPresence(uid, 0, 0, "", 0, "", "", now)
    return replace(view, nodes={**view.nodes, uid: node}, daemons={**view.daemons, uid: daemon})


def _gigabytes(size: int) -> str:
    """Rounded up, so that the stated size is sufficient."""
    if size < 1 << 30:
        return f"{-(-size // (1 << 20))} MB"
    tenths = -(-size * 10 // (1 << 30))
    return f"{tenths // 10}.{tenths % 10} GB"


def distinct(reasons: Sequence[Reason]) -> list[str]:
    """The remedies of the reasons, each once, in order."""
    return list(dict.fromkeys(r.remedy for r in reasons if r.remedy))
