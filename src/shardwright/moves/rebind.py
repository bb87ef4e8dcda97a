"""A rebind's next step: another node's endpoint process takes over an endpoint, with its clients. Pure."""

from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.commands import PassEndpoint
from shardwright.model.decision import Decision
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import EndpointUid
from shardwright.model.move import MoveState, Rebind
from shardwright.model.reason import Reason
from shardwright.model.seen import EndpointProcessSeen, EndpointSeen, EndpointState
from shardwright.model.view import ClusterView, Put, Write
from shardwright.moves.life import AGENT_ABSENT_LIMIT, age, end, enter, reason


def decide_rebind(move: Rebind, view: ClusterView, now: datetime) -> Decision:
    """The next step of a live rebind."""
    endpoint = view.endpoints.get(move.endpoint_uid)
    if endpoint is None:
        return end(move, now, reason(move, Code.DATABASE_DELETED, "the endpoint has been deleted"))
    source = view.endpoint_processes.get(move.from_node)
    target = view.endpoint_processes.get(move.to_node)
    at_source = EndpointState.ABSENT if source is None else _state_of(source.endpoint(endpoint.uid))
    at_target = EndpointState.ABSENT if target is None else target.endpoint(endpoint.uid).state
    is_bound = endpoint.nodes == (move.to_node,)
    if move.state is MoveState.PLANNED:
        if move.is_cancel_wanted:
            return end(move, now)
        return Decision(writes=(Put(enter(move, MoveState.HANDOFF, now)),))
    is_target_away = move.to_node not in view.daemons and (target is None or not target.answers)
    is_target_lost = is_target_away and age(move, now) > AGENT_ABSENT_LIMIT
    is_out = not is_target_away and _source_is_out(source, at_source)
    if not is_bound and (at_target is EndpointState.LISTENING or is_out):
        return Decision(writes=(Put(replace(endpoint, nodes=(move.to_node,))),))
    has_left = _has_left(source, at_source, endpoint.uid)
    is_left = has_left or move.from_node not in view.nodes
    if is_bound and at_target is EndpointState.LISTENING and is_left:
        done = Put(enter(move, MoveState.DONE, now, reasons=()))
        return Decision(writes=(done, *_ended_clients(move, source, endpoint.uid, now)))
    if source is None or not source.answers:
        if is_target_lost:
            return end(move, now, _target_lost(move))
        return Decision(wake_at=now + timedelta(seconds=1))
    if move.is_cancel_wanted and not is_bound and at_source is EndpointState.LISTENING:
        return end(move, now)
    if is_target_lost:
        # The source serves it again. Connections held by a target that was merely paused return when it continues.
        back = (Put(replace(endpoint, nodes=(move.from_node,))),) if is_bound else ()
        return Decision(writes=(*back, *end(move, now, _target_lost(move)).writes))
    if not has_left:
        command = PassEndpoint(endpoint.uid, endpoint.database_uid, move.from_node, move.to_node)
        return Decision(commands=(command,), wake_at=now + timedelta(milliseconds=100))
    return Decision(wake_at=now + timedelta(seconds=1))


def _ended_clients(
    move: Rebind, source: EndpointProcessSeen | None, endpoint_uid: EndpointUid, now: datetime
) -> tuple[Write, ...]:
    """An event that names the clients whose connections could not be passed on."""
    ended = () if source is None else source.endpoint(endpoint_uid).ended
    if not ended:
        return ()
    text = f"endpoint {endpoint_uid} left node {move.from_node}; connections not passed on were closed: {', '.join(ended)}"
    event = Event(
        now, EventKind.CLIENTS_ENDED, Severity.WARNING, text, database_uid=move.database_uid, action_uid=move.action_uid
    )
    return (Put(event),)


def _target_lost(move: Rebind) -> Reason:
    text = f"node {move.to_node} has no running daemon and no endpoint process that could take the endpoint"
    return reason(move, Code.NODE_DOWN, text)


def _state_of(seen: EndpointSeen) -> EndpointState:
    """A source that has passed on everything counts as absent; the endpoint's reconciliation ends the rest."""
    is_empty = seen.state is EndpointState.DRAINING and seen.connections == 0
    return EndpointState.ABSENT if is_empty else seen.state


def _has_left(source: EndpointProcessSeen | None, at_source: EndpointState, uid: EndpointUid) -> bool:
    """Whether no client is connected through the source process. Its silence proves nothing. A process that was told to
    listen again, and cannot because another process listens, still has connections to pass on."""
    if source is None or not source.answers:
        return source is not None and source.has_ended
    cannot_listen = at_source is EndpointState.BIND_FAILED
    return at_source is EndpointState.ABSENT or (cannot_listen and source.endpoint(uid).connections == 0)


def _source_is_out(source: EndpointProcessSeen | None, at_source: EndpointState) -> bool:
    """Whether the source process has nothing to pass on: it has ended, or another process has replaced it. A process that
    is merely silent may still hold connections; its agent kills it if it hangs."""
    return source is not None and (source.has_ended or (source.answers and at_source is EndpointState.ABSENT))
