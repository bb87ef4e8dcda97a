"""The nodes in an endpoint's record: brought in line with ``serving_nodes``, one safe step at a time.

Called by the leader each turn, before ``endpoint.py`` tells the processes. The order is: a node that should serve is added
at once; a node that should not serve leaves only while another one serves. It stays in the record until no client can be
connected through it, so that a handoff holds its process to the end. Rebinds write the record of a ``single`` endpoint
themselves.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.database import Database, DatabaseStatus, Endpoint, LeavingNode
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.ids import NodeUid
from shardwright.model.move import Rebind
from shardwright.model.seen import EndpointProcessSeen, EndpointState
from shardwright.model.serving import listening_address, serving_nodes
from shardwright.model.view import ClusterView, Put
from shardwright.moves.life import AGENT_ABSENT_LIMIT

LOOK_AGAIN = timedelta(seconds=1)


def decide_serving(endpoint: Endpoint, view: ClusterView, now: datetime) -> Decision:
    """Add nodes, let nodes leave, and take out those that have left. Nothing while a handoff is pending (it has chosen the
    processes that it holds), while a rebind moves the endpoint, or before a restored group is open: what serves is not known
    then."""
    database = view.databases.get(endpoint.database_uid)
    if database is None or _is_being_changed(endpoint, database, view):
        return NOTHING
    wanted = serving_nodes(database, view, endpoint.nodes)
    if not wanted:
        return NOTHING
    kept: list[NodeUid] = []
    leaving: list[LeavingNode] = []
    for uid in sorted({*endpoint.nodes, *wanted}):
        if uid in wanted:
            kept.append(uid)
            continue
        way_out = _next_of(endpoint, uid, wanted, view, now)
        if way_out is not None:
            kept.append(uid)
            leaving.append(way_out)
    after = replace(endpoint, nodes=tuple(kept), leaving=tuple(leaving))
    wake_at = now + LOOK_AGAIN if leaving else None
    return Decision(writes=() if after == endpoint else (Put(after),), wake_at=wake_at)


def _is_being_changed(endpoint: Endpoint, database: Database, view: ClusterView) -> bool:
    if database.status in (DatabaseStatus.DELETE_PENDING, DatabaseStatus.CREATION_FAILED):
        return True
    if any(g.handoff is not None or g.is_restored for g in view.groups_of(database.uid)):
        return True
    return any(isinstance(m, Rebind) and m.endpoint_uid == endpoint.uid for m in view.live_moves())


def _next_of(
    endpoint: Endpoint, uid: NodeUid, wanted: Iterable[NodeUid], view: ClusterView, now: datetime
) -> LeavingNode | None:
    """The next state of a node that should not serve; None: it leaves the record."""
    process = view.endpoint_processes.get(uid)
    if uid not in view.nodes or (process is not None and process.has_ended and uid not in view.daemons):
        return None
    way_out = endpoint.leaving_of(uid) or LeavingNode(uid, now)
    if way_out.is_closing:
        return None if _has_left(endpoint, uid, process, way_out, view, now) else way_out
    until = way_out.since + timedelta(seconds=view.policy.drain_clients_s)
    is_over = now >= until or _is_unused(endpoint, process, way_out)
    if is_over and any(_takes_over(endpoint, other, uid, view) for other in wanted):
        return LeavingNode(uid, now, is_closing=True)
    return way_out


def _takes_over(endpoint: Endpoint, uid: NodeUid, leaving: NodeUid, view: ClusterView) -> bool:
    """Whether clients of the leaving node are served by this one: it listens, or only the leaving node keeps its address
    occupied."""
    process = view.endpoint_processes.get(uid)
    if process is None or not process.answers:
        return False
    state = process.endpoint(endpoint.uid).state
    is_barred = listening_address(endpoint, uid, view) == listening_address(endpoint, leaving, view)
    return state is EndpointState.LISTENING or (state is EndpointState.BIND_FAILED and is_barred)


def _is_unused(endpoint: Endpoint, process: EndpointProcessSeen | None, way_out: LeavingNode) -> bool:
    """Whether no client is connected through the process. An answer from before the node began to leave says nothing:
    clients may have connected since."""
    if process is None or not process.answers:
        return process is not None and process.has_ended
    return process.at > way_out.since and process.endpoint(endpoint.uid).connections == 0


def _has_left(
    endpoint: Endpoint,
    uid: NodeUid,
    process: EndpointProcessSeen | None,
    way_out: LeavingNode,
    view: ClusterView,
    now: datetime,
) -> bool:
    """Whether no client can be connected through the process any more: it accepts none and has none. A silent process of a
    node without a daemon is given up after a while; if it returns, it is told to close its connections."""
    if process is None or not process.answers:
        is_dead = view.is_away(uid) and now - way_out.since >= AGENT_ABSENT_LIMIT
        return is_dead or (process is not None and process.has_ended)
    seen = process.endpoint(endpoint.uid)
    return seen.state is not EndpointState.LISTENING and seen.connections == 0
