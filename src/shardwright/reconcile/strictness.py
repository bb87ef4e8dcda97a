"""Whether strict mode is in force everywhere: no endpoint process answers a write of the database before a replica has it,
and a replica has what was answered before.

Called by ``database.py``. A failover without a proof of the primary's end (``parking.py``) is allowed only then: a process
that has missed a change of the mode would go on answering writes that only the old primary has, and a replica that hangs
during the change lacks writes that were answered in default mode.
"""

from datetime import datetime, timedelta

from shardwright.model.commands import ProveStrict
from shardwright.model.database import Database, GroupPhase, Role, SlotGroup
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.ids import NodeUid
from shardwright.model.seen import Health
from shardwright.model.view import ClusterView
from shardwright.reconcile.endpoint import is_mode_old

LOOK_AGAIN = timedelta(seconds=0.5)
"""Delay of the next look at the servers, if no replica has held everything."""


def decide_strictness(database: Database, view: ClusterView, now: datetime) -> Decision:
    """Have the servers looked at as soon as the processes of all nodes have shown the mode: also one whose endpoint was
    bound to another node may still have clients behind a cut of the network. The order is the point: what the primary holds
    is asked after the last process has shown it."""
    if not database.is_strict or database.is_strict_everywhere:
        return NOTHING
    if any(_may_be_in_default_mode(database, node, view) for node in view.nodes):
        return NOTHING
    if not all(_has_replica(group, view) for group in view.groups_of(database.uid)):
        return NOTHING
    return Decision(commands=(ProveStrict(database.uid),), wake_at=now + LOOK_AGAIN)


def _has_replica(group: SlotGroup, view: ClusterView) -> bool:
    """Whether the primary and a replica in sync answer."""
    if group.phase is not GroupPhase.SERVING or group.is_changing_roles:
        return False
    answering = {
        shard.uid: seen
        for shard in view.shards_of_group(group.uid)
        if (seen := view.servers.get(shard.uid)) is not None and seen.health is Health.OK
    }
    marked = [s for s in view.shards_of_group(group.uid) if s.in_sync_generation == group.generation]
    return group.primary in answering and any(s.uid in answering and answering[s.uid].role is Role.REPLICA for s in marked)


def _may_be_in_default_mode(database: Database, node: NodeUid, view: ClusterView) -> bool:
    """Whether the process on this node may not know of the mode: it is silent, or has not been asked since the change."""
    process = view.endpoint_processes.get(node)
    if process is None:
        return True
    if process.has_ended:
        return False
    if not process.answers or process.at <= database.changed_at:
        return True
    return any(is_mode_old(process.endpoint(e.uid), e, view) for e in view.endpoints_of(database.uid))
