"""One turn of one action: collects the writes and commands of one decision, and changes the action's own record.

Called by the modules of the four actions and by ``advance.py``; pure like them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from shardwright.model.action import (
    ACTION_TRANSITIONS,
    Action,
    ActionName,
    ActionStatus,
    Step,
)
from shardwright.model.cluster import Node
from shardwright.model.codes import Code
from shardwright.model.commands import Command, YieldLeadership
from shardwright.model.decision import Decision
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView, Delete, Put, Record, Write

LOOK_AGAIN = timedelta(seconds=1)
"""Polling interval for conditions that are only observed, not stored."""
REASONS_MAX = 100
"""Limit per record; a node holds at most this many shards."""
MESSAGE_REASONS_MAX = 20


class Turn:
    """Collects one decision. ``view`` includes the writes made so far."""

    def __init__(self, action: Action, view: ClusterView, now: datetime) -> None:
        self.before = action
        self.action = action
        self.view = view
        self.now = now
        self._writes: list[Write] = []
        self._commands: list[Command] = []
        self._wake_at: datetime | None = None

    @property
    def node_uid(self) -> NodeUid:
        """The node of the action."""
        return self.action.node_uid

    @property
    def node(self) -> Node:
        """Its record; the action holds the node's lock, so the record exists until the action itself deletes it."""
        return self.view.nodes[self.action.node_uid]

    @property
    def is_leading(self) -> bool:
        """Whether the node's daemon leads the cluster."""
        return self.view.leadership is not None and self.view.leadership.node_uid == self.node_uid

    # -- collecting ----------------------------------------------------------------------------------------------------

    def put(self, record: Record) -> None:
        """Create or replace a record."""
        self._write(Put(record))

    def delete(self, record: Record) -> None:
        """Delete a record."""
        self._write(Delete(record))

    def command(self, command: Command) -> None:
        """Issue a command after the writes are committed."""
        self._commands.append(command)

    def change(self, **changes: Any) -> None:
        """Change the action's record."""
        if all(getattr(self.action, name) == value for name, value in changes.items()):
            return
        self.action = replace(self.action, **changes)

    def wake_at(self, at: datetime) -> None:
        """Look again at this time at the latest."""
        self._wake_at = at if self._wake_at is None else min(self._wake_at, at)

    def event(self, kind: EventKind, severity: Severity, text: str) -> None:
        """Append to the event log."""
        event = Event(
            self.now,
            kind,
            severity,
            text,
            node_uid=self.node_uid,
            action_uid=self.action.uid,
            by=self.action.requested_by,
        )
        self._writes.append(Put(event))

    def decision(self) -> Decision:
        """The result. The action's record is written only if it changed."""
        writes = list(self._writes)
        if self.action != self.before:
            writes.append(Put(self.action))
        return Decision(tuple(writes), tuple(self._commands), self._wake_at, self.action.reasons)

    def _write(self, write: Write) -> None:
        self._writes.append(write)
        self.view = self.view.with_writes((write,))

    # -- life cycle ----------------------------------------------------------------------------------------------------

    def become(self, status: ActionStatus) -> None:
        """Change the status; only legal transitions are allowed."""
        assert status in ACTION_TRANSITIONS[self.action.status], f"{self.action.status} cannot become {status}"
        self.change(status=status)

    def begin_step(self, name: str, text: str = "") -> None:
        """Note that a step begins now and that the previous one has ended."""
        self.end_step()
        self.change(steps=(*self.action.steps, Step(name, self.now, text=text)))

    def note_step(self, name: str, text: str = "") -> None:
        """Note a step that takes no time."""
        self.end_step()
        self.change(steps=(*self.action.steps, Step(name, self.now, self.now, text)))

    def end_step(self, text: str = "") -> None:
        """Note that the open step has ended."""
        steps = self.action.steps
        if steps and steps[-1].ended_at is None:
            last = replace(steps[-1], ended_at=self.now, text=text or steps[-1].text)
            self.change(steps=(*steps[:-1], last))

    def blocked(self, reasons: Iterable[Reason]) -> None:
        """Show the reasons for waiting, and look again soon."""
        self.change(reasons=_bounded(reasons))
        if self.action.reasons:
            self.wake_at(self.now + LOOK_AGAIN)

    def complete(self, *, reasons: Iterable[Reason] = ()) -> None:
        """The action ends successfully."""
        self.end_step()
        self.become(ActionStatus.COMPLETED)
        self.change(progress=100.0, ended_at=self.now, reasons=_bounded(reasons))
        self.event(_COMPLETED_KINDS[self.action.name], Severity.INFO, f"{_title(self.action)} completed")

    def fail(self, code: Code, text: str, *, reasons: Iterable[Reason] = ()) -> None:
        """The action ends without success. ``text`` states what failed and the state in which the node is left."""
        self.end_step("failed")
        self.become(ActionStatus.FAILED)
        kept = _bounded(reasons)
        message = _message(text, kept)
        self.change(ended_at=self.now, error_code=code, error_message=message, reasons=kept)
        kind = (
            EventKind.CLUSTER_NODE_REMOVE_FAILED
            if self.action.name == ActionName.REMOVE
            else EventKind.CLUSTER_NODE_OPERATION_FAILED
        )
        self.event(kind, Severity.ERROR, f"{_title(self.action)} failed: {message}")

    def cancelled(self, *, reasons: Iterable[Reason] = ()) -> None:
        """The action ends by request. ``reasons`` name everything that could not be put back."""
        self.end_step("undone" if self.action.is_undo_wanted else "cancelled")
        self.become(ActionStatus.CANCELLED)
        self.change(ended_at=self.now, reasons=_bounded(reasons))
        is_removal = self.action.name == ActionName.REMOVE
        kind = EventKind.CLUSTER_NODE_REMOVE_ABORT_COMPLETED if is_removal else EventKind.CLUSTER_NODE_OPERATION_FAILED
        self.event(kind, Severity.INFO if is_removal else Severity.WARNING, f"{_title(self.action)} was {_how(self.action)}")

    def yields(self) -> bool:
        """Give up leadership while the node leads; True as long as the action must wait for another leader."""
        if not self.is_leading:
            return False
        others = [uid for uid in self.view.daemons if uid != self.node_uid]
        if others:
            # Without another daemon, this one would become leader again immediately and yield again, endlessly.
            self.command(YieldLeadership())
        remedy = "" if others else "start the daemon of another node"
        text = f"node {self.node_uid} leads and waits for another daemon to take over"
        self.blocked([Reason(Code.LEADERSHIP_NOT_YIELDED, text, Grade.SOFT_LIMIT, remedy=remedy, node_uid=self.node_uid)])
        return True


def _bounded(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    return tuple(dict.fromkeys(reasons))[:REASONS_MAX]


def _message(text: str, reasons: Sequence[Reason]) -> str:
    shown = reasons[:MESSAGE_REASONS_MAX]
    parts = [text, *(f"{r.text} (remedy: {r.remedy})" if r.remedy else r.text for r in shown)]
    if len(reasons) > MESSAGE_REASONS_MAX:
        parts.append(f"and {len(reasons) - MESSAGE_REASONS_MAX} more")
    return "; ".join(parts)


def _how(action: Action) -> str:
    return "cancelled and undone" if action.is_undo_wanted else "cancelled"


def _title(action: Action) -> str:
    return f"{action.name} of node {action.node_uid}"


_COMPLETED_KINDS = {
    ActionName.REMOVE: EventKind.CLUSTER_NODE_REMOVE_COMPLETED,
    ActionName.MAINTENANCE_ON: EventKind.NODE_MAINTENANCE_ON_COMPLETED,
    ActionName.MAINTENANCE_OFF: EventKind.NODE_MAINTENANCE_OFF_COMPLETED,
    ActionName.STEP_DOWN: EventKind.NODE_STEP_DOWN_COMPLETED,
}
