"""Whether a silent primary is out of everyone's reach: who still hears it, and since when the leader does not.

Called by ``parking.py`` and ``fencing.py``. The witnesses only keep a failover or a fence from beginning for no reason: a
primary that a replica or an endpoint process hears may serve. No data depends on them, or on these times.
"""

from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.database import Role, SlotGroup, reason_about
from shardwright.model.liveness import Silence, Silent
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import ProcessState
from shardwright.model.view import ClusterView
from shardwright.reconcile.copies import Copy, copies_of

CUT_OFF_AFTER = timedelta(seconds=3)
"""So long must the primary be silent for the leader, for every replica that answers, and for every endpoint process that
answers. Shorter, and a lost packet that is sent again would move roles."""
ASKED_FOR = timedelta(seconds=2)
"""So long must an endpoint process have asked the primary without an answer. It begins to ask when the leader does."""


def cut_off_since(primary: Copy) -> datetime | None:
    """Since when neither the server nor its machine's agent answers; None: one of them does, or was not asked yet. A server
    that is merely busy or hangs, on a machine that answers, is not cut off."""
    seen = primary.seen
    if seen is None or seen.machine_heard_since is not None or primary.process is not ProcessState.RUNNING:
        return None  # A process that no agent has reported is not looked for on its machine.
    match primary.liveness:
        case Silent(how=Silence.NO_ANSWER | Silence.UNREACHABLE | Silence.REFUSED):
            return seen.unanswered_since
    return None


def witness(group: SlotGroup, primary: Copy, silent_since: datetime, view: ClusterView) -> Reason | None:
    """Who still hears the primary, or has not said yet whether it does; None: no one who answers hears it."""
    for copy in copies_of(group, view):
        if copy.shard.uid != primary.shard.uid and _hears(copy, primary, silent_since, view):
            return _reachable(primary, f"its replica, shard {copy.shard.uid}, has heard of it in the last seconds")
    for endpoint in view.endpoints_of(group.database_uid):
        for node_uid in endpoint.nodes:
            process = view.endpoint_processes.get(node_uid)
            if process is None or not process.answers:
                continue
            silent_s = process.endpoint(endpoint.uid).server_silent_s
            if silent_s is None or timedelta(seconds=silent_s) < ASKED_FOR:
                return _reachable(primary, f"the endpoint process of node {node_uid} has reached it lately, or is asking")
    return None


def _hears(copy: Copy, primary: Copy, silent_since: datetime, view: ClusterView) -> bool:
    """Whether a replica that answers has heard of the primary in the last seconds. A link that is down was up until then: a
    server notices the silence of the other end only after ``repl-timeout``."""
    seen = copy.seen
    if seen is None or not copy.has_role(Role.REPLICA):
        return False
    node = view.nodes.get(primary.shard.node_uid)
    if node is None or (seen.primary_address, seen.primary_port) != (node.servers_at, primary.shard.port):
        return False
    heard_s = seen.heard_primary_s if seen.is_link_up else seen.link_down_s
    return timedelta(seconds=heard_s) < CUT_OFF_AFTER or seen.at < silent_since + CUT_OFF_AFTER


def _reachable(primary: Copy, text: str) -> Reason:
    said = f"shard {primary.shard.uid} does not answer the leader, but {text}"
    return reason_about(primary.shard, Code.PRIMARY_OUT_OF_REACH, said, Grade.SOFT_LIMIT)
