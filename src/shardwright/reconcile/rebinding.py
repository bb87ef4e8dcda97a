"""Endpoints of a dead node: rebound to another node, as a move of the cluster itself.

Called by the leader each turn. If a node has no daemon and its endpoint process does not answer, the endpoint is unserved,
and nothing on the node will restart that process. A daemon that returns in time restarts it itself: the end of the lease
and the move's wait for a silent process give it that time. A process that was merely paused passes the endpoint on with its
connections when it resumes. Only endpoints with proxy policy ``single`` move: of the others, the other nodes serve them.
"""

from collections import Counter
from datetime import datetime
from functools import partial

from shardwright.model.database import DatabaseStatus, Endpoint
from shardwright.model.decision import Decision
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import NodeUid, uid_of_move
from shardwright.model.move import MoveState, Rebind
from shardwright.model.reason import Reason
from shardwright.model.serving import policy_of
from shardwright.model.view import ClusterView, Put, Write
from shardwright.plan.ledger import Ledger
from shardwright.plan.placement import Unplaceable, choose_endpoint
from shardwright.reconcile.repair import LOOK_AGAIN, nodes_being_emptied, number_of, retry_at

_ENDING = (DatabaseStatus.DELETE_PENDING, DatabaseStatus.CREATION_FAILED)
BEGUN_AT_ONCE = 20
"""Limit of rebinds that begin in one decision, two records each; below the store's limit for one transaction."""


def decide_rebinding(view: ClusterView, now: datetime) -> Decision:
    """Begin a rebind for each endpoint whose node is dead, and name the endpoints without another node."""
    stranded = _stranded(view)
    if not stranded:
        return Decision()
    ledger = Ledger(view)
    writes: list[Write] = []
    reasons: list[Reason] = []
    wake_at = now + LOOK_AGAIN
    for endpoint in stranded:
        rebinds = [m for m in view.moves.values() if isinstance(m, Rebind) and m.endpoint_uid == endpoint.uid]
        moves = [m for m in rebinds if m.action_uid is None]
        due = retry_at(moves, now)
        if now < due:
            wake_at = min(wake_at, due)
            continue
        failures = Counter(m.to_node for m in moves if m.state is MoveState.FAILED)
        choose = partial(
            choose_endpoint,
            ledger,
            near=ledger.primary_nodes(endpoint.database_uid),
            leaving=endpoint.nodes[0],
            failures=failures,
            bound=endpoint,
        )
        found = choose()
        if isinstance(found, Unplaceable):
            # Clients wait: a node with a step-down in progress is better than none.
            found = choose(also_leaving=True)
        if isinstance(found, Unplaceable):
            reasons.extend(found.reasons)
            continue
        ledger.place_endpoint(found)
        writes += _begin(endpoint, found, 1 + max((number_of(m) for m in moves), default=0), now)
    return Decision(writes=tuple(writes), reasons=tuple(reasons), wake_at=wake_at)


def _stranded(view: ClusterView) -> list[Endpoint]:
    """Unserved endpoints without a move or a process that could recover; at most as many as may begin at once. A node that
    has not been observed since a change of leader does not count as dead."""
    silent = {uid for uid, process in view.endpoint_processes.items() if not process.answers}
    dead = {uid for uid in silent & view.nodes.keys() if view.is_away(uid)} - nodes_being_emptied(view)
    if not dead:
        return []
    moving = {m.endpoint_uid for m in view.live_moves() if isinstance(m, Rebind)}
    bound = (e for uid in sorted(dead) for e in view.endpoints_on(uid))
    return [e for e in bound if e.uid not in moving and _is_movable(e, view)][:BEGUN_AT_ONCE]


def _is_movable(endpoint: Endpoint, view: ClusterView) -> bool:
    if len(endpoint.nodes) != 1 or not policy_of(endpoint, view).is_single:
        return False
    database = view.databases.get(endpoint.database_uid)
    has_served = any(g.generation > 0 for g in view.groups_of(endpoint.database_uid))
    return database is not None and has_served and database.status not in _ENDING


def _begin(endpoint: Endpoint, target: NodeUid, number: int, now: datetime) -> tuple[Write, ...]:
    source = endpoint.nodes[0]
    move = Rebind(
        uid=uid_of_move(f"rebind-{endpoint.uid}", number),
        action_uid=None,
        state=MoveState.PLANNED,
        database_uid=endpoint.database_uid,
        endpoint_uid=endpoint.uid,
        from_node=source,
        to_node=target,
        created_at=now,
        state_since=now,
    )
    text = f"node {source} no longer serves endpoint {endpoint.uid}: it moves to node {target}"
    event = Event(
        now, EventKind.ENDPOINT_REBIND, Severity.WARNING, text, node_uid=target, database_uid=endpoint.database_uid
    )
    return (Put(move), Put(event))
