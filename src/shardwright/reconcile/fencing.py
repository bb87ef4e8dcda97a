"""When the leader has a silent machine switched off: a copy there keeps a database from continuing, and nothing proves that
the copy has ended.

Called by ``group.py``. The hooks that switch a machine off are the operator's (``machine/fence_hooks.py``); without them, an
operator declares the node off. A machine is left alone while anything of it is heard, and if switching it off would bring
no database back.
"""

from datetime import datetime

from shardwright.model.commands import SwitchOff
from shardwright.model.database import Database, SlotGroup
from shardwright.model.ids import NodeUid
from shardwright.model.seen import answers
from shardwright.model.view import ClusterView
from shardwright.reconcile.copies import Copy
from shardwright.reconcile.parking import awaited_copies, is_in_force, without_heir
from shardwright.reconcile.reach import CUT_OFF_AFTER, cut_off_since, witness


def decide_fencing(
    group: SlotGroup, database: Database, primary: Copy, view: ClusterView, now: datetime
) -> tuple[SwitchOff, ...]:
    """The machines to switch off for this group's failover. If it needs no proof of the primary's end, only those of other
    copies that are out of reach together with the primary."""
    if group.parking is not None:
        blocking = {shard.node_uid for shard in awaited_copies(group, view)}
    elif not is_in_force(group, database) and _is_to_be_replaced(group, database, primary, view, now):
        blocking = {primary.shard.node_uid}
    else:
        return ()
    return tuple(SwitchOff(uid) for uid in sorted(blocking) if _is_silent(uid, view))


def _is_to_be_replaced(group: SlotGroup, database: Database, primary: Copy, view: ClusterView, now: datetime) -> bool:
    silent_since = cut_off_since(primary)
    if silent_since is None or now < silent_since + CUT_OFF_AFTER:
        return False
    return witness(group, primary, silent_since, view) is None and without_heir(group, database, primary, view) is None


def _is_silent(uid: NodeUid, view: ClusterView) -> bool:
    """Whether the node is away, and nothing on it answers the leader: neither a server nor the endpoint process."""
    if not view.is_away(uid) or view.is_off(uid) or uid not in view.nodes:
        return False
    servers = (view.servers.get(shard.uid) for shard in view.shards_on(uid))
    process = view.endpoint_processes.get(uid)
    return not any(seen is not None and answers(seen) for seen in servers) and not (process is not None and process.answers)
