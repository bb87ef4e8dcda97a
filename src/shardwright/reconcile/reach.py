"""Whether a silent copy is out of everyone's reach: who still hears it, and since when the leader does not.

Called by ``parking.py`` and ``fencing.py`` for primaries, and by ``repair.py`` for replicas. The witnesses only keep a
failover, a fence or a rebuild from beginning for no reason: a primary that a replica or an endpoint process hears may serve,
and a replica that its primary hears confirms writes. No data depends on them, or on these times.
"""

from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.database import GroupPhase, Role, Shard, SlotGroup, reason_about
from shardwright.model.ids import NodeUid
from shardwright.model.liveness import Silence, Silent
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import Health, ProcessState, ReplicaSeen, ServerSeen
from shardwright.model.view import ClusterView
from shardwright.plan.standing import SEEN_LATELY
from shardwright.reconcile.copies import Copy, copies_of

CUT_OFF_AFTER = timedelta(seconds=3)
"""So long must the primary be silent for the leader, for every replica that answers, and for every endpoint process that
answers. Shorter, and a lost packet that is sent again would move roles."""
ASKED_FOR = timedelta(seconds=2)
"""So long must an endpoint process have asked the primary without an answer. It begins to ask when the leader does."""
UNHEARD_AFTER = timedelta(seconds=5)
"""So long must the machine of a strict database's only replica be silent for the leader before the replica counts as lost.
Longer than most pauses of a machine; a quarter of the time for which an endpoint keeps writes back. A machine that comes
back just then costs one full sync."""

REPLICA_SILENT_S = 3
"""By its primary's word. A replica reports once per second, also when it has nothing new."""


# -- a primary ---------------------------------------------------------------------------------------------------------


def cut_off_since(copy: Copy) -> datetime | None:
    """Since when neither the server nor its machine's agent answers; None: one of them does, or was not asked yet. A server
    that is merely busy or hangs, on a machine that answers, is not cut off."""
    seen = copy.seen
    if seen is None or seen.machine_heard_since is not None or copy.process is not ProcessState.RUNNING:
        return None  # A process that no agent has reported is not looked for on its machine.
    match copy.liveness:
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


# -- a replica ---------------------------------------------------------------------------------------------------------


def is_unheard(view: ClusterView, shard: Shard, now: datetime) -> bool:
    """Whether the copy was the last one to confirm the writes of a strict database and has become unheard: neither the
    leader, which asks its server, its node's agent and its node's endpoint process, nor the primary, by its own report of
    this moment, hears of it. Its clients wait, so it is not waited for as long as for others. That is no proof of its end.

    The leader's own silence does not suffice: it may be the one that is cut off. Nor does the primary's word, which may be a
    minute old, or of a primary that is cut off. If half of the nodes are silent, the cause is probably nearer to the leader.
    """
    seen = view.servers.get(shard.uid)
    if seen is None or seen.unanswered_since is None:
        return False
    since = _machine_silent_since(view, shard)
    if since is None or now < since + UNHEARD_AFTER or seen.at < since + CUT_OFF_AFTER:
        return False
    database, primary = view.databases.get(shard.database_uid), _serving_primary(view, shard)
    if database is None or not database.is_strict or primary is None:
        return False
    is_alone = abs(now - primary.at) <= SEEN_LATELY and all(map(_is_silent, primary.replicas))
    return is_alone and 2 * len(silent_nodes(view)) < len(view.nodes)


def _is_silent(replica: ReplicaSeen) -> bool:
    """Whether its primary has not heard of it lately. A replica in the middle of a full sync is not silent: its primary does
    not count the time."""
    return replica.state == "online" and replica.lag_s is not None and replica.lag_s >= REPLICA_SILENT_S


def silent_nodes(view: ClusterView) -> set[NodeUid]:
    """Nodes whose endpoint process has not answered the leader the last time. It is asked once per second, and answers also
    while its daemon is busy or is started again."""
    return {uid for uid, process in view.endpoint_processes.items() if process.silent_since and uid in view.nodes}


def _machine_silent_since(view: ClusterView, shard: Shard) -> datetime | None:
    """Since when neither the server, nor the agent, nor the endpoint process of its node answers the leader; None: one of
    them does, or was not asked yet."""
    group, process = view.groups.get(shard.group_uid), view.endpoint_processes.get(shard.node_uid)
    if group is None or process is None or process.silent_since is None:
        return None
    copy = next((copy for copy in copies_of(group, view) if copy.shard.uid == shard.uid), None)
    since = None if copy is None else cut_off_since(copy)
    return None if since is None else max(since, process.silent_since)


def _serving_primary(view: ClusterView, replica: Shard) -> ServerSeen | None:
    """The primary of the replica's group, if it serves."""
    group = view.groups.get(replica.group_uid)
    if group is None or group.phase is not GroupPhase.SERVING or group.primary in (None, replica.uid):
        return None
    seen = view.servers.get(group.primary) if group.primary is not None else None
    return seen if seen is not None and seen.health is Health.OK and seen.role is Role.PRIMARY else None
