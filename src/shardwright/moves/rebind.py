"""A rebind's next step: the endpoint process of another node takes over an endpoint with its clients. Pure.

One total table says what to do with the processes of both nodes as they are seen. The source passes connections on; the
target is bound on record when it serves the endpoint, or when the source has nothing to pass on. Between two machines no
connection is passed: the target serves at an address of its own, then the source closes.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from shardwright.model.codes import Code
from shardwright.model.commands import DropEndpoint, PassEndpoint
from shardwright.model.database import Endpoint
from shardwright.model.decision import Decision
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import EndpointUid
from shardwright.model.move import MoveState, Rebind
from shardwright.model.reason import Reason
from shardwright.model.seen import EndpointProcessSeen, EndpointState
from shardwright.model.serving import policy_of
from shardwright.model.view import ClusterView, Put, Write
from shardwright.moves.life import AGENT_ABSENT_LIMIT, age, end, enter, reason


class Source(StrEnum):
    """The endpoint at the process that it leaves."""

    SERVES = "serves"
    """The process accepts connections."""
    PASSES = "passes"
    """The process accepts no connection and still has some."""
    BARRED = "barred"
    """The process cannot listen, because another process does, and has no connection."""
    OUT = "out"
    """The process has passed everything on, or it started after that."""
    ENDED = "ended"
    SILENT = "silent"
    """The process does not answer or was not seen yet: it may have connections. If it hangs, its agent kills it."""


class TargetState(StrEnum):
    """The endpoint at the process that takes it over."""

    SERVES = "serves"
    COMING = "coming"
    """The process does not serve it yet; a process that does not run is started."""
    AWAY = "away"
    """The process does not answer, and no daemon could start one."""
    LOST = "lost"
    """It has been away for longer than ``AGENT_ABSENT_LIMIT``."""


class RebindStep(StrEnum):
    """What the move does next."""

    BIND = "bind"
    """Record that the target serves the endpoint."""
    PASS = "pass"
    """Tell the source to pass its connections on."""
    CLOSE = "close"
    """Tell the source to close its connections: its clients reach the target, on another machine."""
    WAIT = "wait"
    DONE = "done"
    CANCEL = "cancel"
    GIVE_UP = "give_up"
    """End without a change: the target is lost."""
    GIVE_BACK = "give_back"
    """Record that the source serves the endpoint again, and end: the target is lost."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What decides the next step of a rebind that has begun."""

    source: Source
    target: TargetState
    is_bound: bool
    """The record names the target."""
    is_source_member: bool
    is_cancel_wanted: bool
    is_far: bool = False
    """The two nodes are on different machines."""


@dataclass(frozen=True, slots=True)
class RebindRule:
    """A row of the table. None matches everything; the first matching row applies."""

    source: tuple[Source, ...] | None
    target: tuple[TargetState, ...] | None
    is_bound: bool | None
    step: RebindStep
    why: str
    is_source_member: bool | None = None
    is_cancel_wanted: bool | None = None
    is_far: bool | None = None

    def matches(self, found: Situation) -> bool:
        """Whether the row applies, if none before it does."""
        return (
            (self.source is None or found.source in self.source)
            and (self.target is None or found.target in self.target)
            and self.is_bound in (None, found.is_bound)
            and self.is_source_member in (None, found.is_source_member)
            and self.is_cancel_wanted in (None, found.is_cancel_wanted)
            and self.is_far in (None, found.is_far)
        )


RULES: tuple[RebindRule, ...] = (
    RebindRule(None, (TargetState.SERVES,), False, RebindStep.BIND,
         "clients already reach the target"),
    RebindRule((Source.OUT, Source.ENDED), (TargetState.COMING,), False, RebindStep.BIND,
         "the source has nothing to pass on, so the target serves without it"),
    RebindRule((Source.OUT, Source.ENDED, Source.BARRED), (TargetState.SERVES,), True, RebindStep.DONE,
         "no client is connected through the source"),
    RebindRule(None, (TargetState.SERVES,), True, RebindStep.DONE,
         "nothing on a removed node is waited for", is_source_member=False),
    RebindRule((Source.SILENT,), (TargetState.SERVES,), True, RebindStep.DONE,
         "nothing is passed between machines; what it may still serve there ends when it answers", is_far=True),
    RebindRule((Source.SILENT,), (TargetState.COMING,), False, RebindStep.BIND,
         "the target listens at another machine's address, whatever the source does", is_far=True),
    RebindRule((Source.ENDED, Source.SILENT), (TargetState.LOST,), None, RebindStep.GIVE_UP,
         "neither node can serve the endpoint: another node is chosen"),
    RebindRule((Source.ENDED, Source.SILENT), None, None, RebindStep.WAIT,
         "a source that does not answer takes no command"),
    RebindRule((Source.SERVES,), None, False, RebindStep.CANCEL,
         "the source serves as before", is_cancel_wanted=True),
    RebindRule(None, (TargetState.LOST,), False, RebindStep.GIVE_UP,
         "the record still names the source"),
    RebindRule(None, (TargetState.LOST,), True, RebindStep.GIVE_BACK,
         "the source serves it again; connections held by a target that was merely paused return when it continues"),
    RebindRule((Source.SERVES, Source.PASSES, Source.BARRED), (TargetState.COMING,), False, RebindStep.BIND,
         "each machine has addresses of its own: the target listens beside the source", is_far=True),
    RebindRule((Source.SERVES, Source.PASSES), (TargetState.SERVES,), True, RebindStep.CLOSE,
         "nothing is passed between machines: the clients connect to the target", is_far=True),
    RebindRule((Source.SERVES, Source.PASSES), None, None, RebindStep.WAIT,
         "the source serves its clients until the target serves", is_far=True),
    RebindRule((Source.SERVES, Source.PASSES), None, None, RebindStep.PASS,
         "the source has the listener or connections"),
    RebindRule(None, None, None, RebindStep.WAIT,
         "the source is done, and the target does not serve yet"),
)  # fmt: skip


def step_of(found: Situation) -> tuple[RebindStep, str]:
    """The next step, and the reason. Total: every situation has a row."""
    for rule in RULES:
        if rule.matches(found):
            return rule.step, rule.why
    raise AssertionError(f"no rule for {found}")


def decide_rebind(move: Rebind, view: ClusterView, now: datetime) -> Decision:
    """The next step of a live rebind."""
    endpoint = view.endpoints.get(move.endpoint_uid)
    if endpoint is None:
        return end(move, now, reason(move, Code.DATABASE_DELETED, "the endpoint has been deleted"))
    if not policy_of(endpoint, view).is_single:
        # The proxy policy changed when the move began: several nodes serve, and nothing is passed between them.
        return end(move, now)
    if move.state is MoveState.PLANNED:
        if move.is_cancel_wanted:
            return end(move, now)
        return Decision(writes=(Put(enter(move, MoveState.HANDOFF, now)),))
    step, _ = step_of(situation_of(move, endpoint, view, now))
    match step:
        case RebindStep.BIND:
            return Decision(writes=(Put(replace(endpoint, nodes=(move.to_node,), leaving=())),))
        case RebindStep.PASS:
            command = PassEndpoint(endpoint.uid, endpoint.database_uid, move.from_node, move.to_node)
            return Decision(commands=(command,), wake_at=now + timedelta(milliseconds=100))
        case RebindStep.CLOSE:
            return Decision(
                commands=(DropEndpoint(move.from_node, endpoint.uid),), wake_at=now + timedelta(milliseconds=100)
            )
        case RebindStep.WAIT:
            return Decision(wake_at=now + timedelta(seconds=1))
        case RebindStep.DONE:
            done = Put(enter(move, MoveState.DONE, now, reasons=()))
            return Decision(writes=(done, *_ended_clients(move, view, now)))
        case RebindStep.CANCEL:
            return end(move, now)
        case RebindStep.GIVE_UP:
            return end(move, now, _target_lost(move))
        case RebindStep.GIVE_BACK:
            back = Put(replace(endpoint, nodes=(move.from_node,), leaving=()))
            return Decision(writes=(back, *end(move, now, _target_lost(move)).writes))


def situation_of(move: Rebind, endpoint: Endpoint, view: ClusterView, now: datetime) -> Situation:
    """The situation of a rebind that has begun."""
    return Situation(
        source_state(view.endpoint_processes.get(move.from_node), endpoint.uid),
        _target_state(move, view, now),
        is_bound=endpoint.nodes == (move.to_node,),
        is_source_member=move.from_node in view.nodes,
        is_cancel_wanted=move.is_cancel_wanted,
        is_far=view.are_far(move.from_node, move.to_node),
    )


def source_state(process: EndpointProcessSeen | None, uid: EndpointUid) -> Source:
    """Classify the source. A process that was told to listen again, and cannot because another process listens, may still
    have connections to pass on."""
    if process is None or not process.answers:
        return Source.ENDED if process is not None and process.has_ended else Source.SILENT
    seen = process.endpoint(uid)
    match seen.state:
        case EndpointState.LISTENING:
            return Source.SERVES
        case EndpointState.DRAINING:
            # Without connections, the endpoint's reconciliation ends the rest.
            return Source.PASSES if seen.connections else Source.OUT
        case EndpointState.BIND_FAILED:
            return Source.PASSES if seen.connections else Source.BARRED
        case EndpointState.ABSENT:
            return Source.OUT


def _target_state(move: Rebind, view: ClusterView, now: datetime) -> TargetState:
    process = view.endpoint_processes.get(move.to_node)
    if process is not None and process.answers:
        is_served = process.endpoint(move.endpoint_uid).state is EndpointState.LISTENING
        return TargetState.SERVES if is_served else TargetState.COMING
    if not view.is_away(move.to_node):
        return TargetState.COMING
    return TargetState.LOST if age(move, now) > AGENT_ABSENT_LIMIT else TargetState.AWAY


def _ended_clients(move: Rebind, view: ClusterView, now: datetime) -> tuple[Write, ...]:
    """An event that names the clients whose connections could not be passed on."""
    source = view.endpoint_processes.get(move.from_node)
    ended = () if source is None else source.endpoint(move.endpoint_uid).ended
    if not ended:
        return ()
    closed = f"connections not passed on were closed: {', '.join(ended)}"
    text = f"endpoint {move.endpoint_uid} left node {move.from_node}; {closed}"
    event = Event(
        now, EventKind.CLIENTS_ENDED, Severity.WARNING, text, database_uid=move.database_uid, action_uid=move.action_uid
    )
    return (Put(event),)


def _target_lost(move: Rebind) -> Reason:
    text = f"node {move.to_node} has no running daemon and no endpoint process that could take the endpoint"
    return reason(move, Code.NODE_DOWN, text)
