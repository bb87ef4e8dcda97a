"""Moves: durable changes of place that serve an action or repair the cluster. One record for each kind of move.

A move of a slot group (``GroupMove``) is a handoff or a relocation; a rebind concerns an endpoint. Owns the legal
transitions of each kind. Must not decide anything: ``shardwright.moves`` does.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Literal

from shardwright.model.codes import Code
from shardwright.model.ids import ActionUid, DatabaseUid, EndpointUid, GroupUid, MoveUid, NodeUid, ShardUid
from shardwright.model.reason import Grade, Reason


class MoveKind(StrEnum):
    """The kind of change that a move makes."""

    HANDOFF = "handoff"
    """The primary role passes to an existing replica; all shards stay on their nodes."""
    RELOCATE = "relocate"
    """A new copy on another node replaces a copy and takes its role."""
    REBIND = "rebind"
    """Another node's endpoint process takes over an endpoint."""


class MoveState(StrEnum):
    """Life cycle of a move. A handoff and a rebind copy nothing and know only the states of ``PassingState``."""

    PLANNED = "planned"
    STARTING = "starting"
    """The new server process is starting."""
    SYNCING = "syncing"
    READY = "ready"
    """The new copy holds all data of the primary."""
    HANDOFF = "handoff"
    """The role or the endpoint passes from one node to the other."""
    CLEANING = "cleaning"
    """The new copy serves; the old one leaves once the new copy's own persistence is in place."""
    UNDOING = "undoing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the move has ended."""
        return self in (MoveState.DONE, MoveState.FAILED, MoveState.CANCELLED)


PassingState = Literal[MoveState.PLANNED, MoveState.HANDOFF, MoveState.DONE, MoveState.FAILED, MoveState.CANCELLED]
"""States of a move that only passes something on: a role or an endpoint."""

_ENDED: dict[MoveState, frozenset[MoveState]] = {state: frozenset() for state in MoveState if state.is_terminal}
_PASSING: dict[MoveState, frozenset[MoveState]] = {
    MoveState.PLANNED: frozenset({MoveState.HANDOFF, MoveState.CANCELLED, MoveState.FAILED}),
    MoveState.HANDOFF: frozenset({MoveState.DONE, MoveState.CANCELLED, MoveState.FAILED}),
    **_ENDED,
}
_RELOCATING: dict[MoveState, frozenset[MoveState]] = {
    MoveState.PLANNED: frozenset({MoveState.STARTING, MoveState.CANCELLED, MoveState.FAILED}),
    MoveState.STARTING: frozenset({MoveState.SYNCING, MoveState.UNDOING}),
    MoveState.SYNCING: frozenset({MoveState.READY, MoveState.UNDOING}),
    MoveState.READY: frozenset({MoveState.HANDOFF, MoveState.CLEANING, MoveState.UNDOING}),
    MoveState.HANDOFF: frozenset({MoveState.CLEANING, MoveState.UNDOING}),
    MoveState.CLEANING: frozenset({MoveState.DONE, MoveState.HANDOFF, MoveState.UNDOING}),
    MoveState.UNDOING: frozenset({MoveState.FAILED, MoveState.CANCELLED}),
    **_ENDED,
}
_COPIED = frozenset({MoveState.READY, MoveState.HANDOFF, MoveState.CLEANING, MoveState.DONE})
MOVE_TRANSITIONS: dict[MoveKind, dict[MoveState, frozenset[MoveState]]] = {
    MoveKind.HANDOFF: _PASSING,
    MoveKind.RELOCATE: _RELOCATING,
    MoveKind.REBIND: _PASSING,
}
"""Legal transitions of the state, for each kind of move."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The facts that prove that a handoff lost nothing."""

    generation: int
    from_shard: ShardUid
    to_shard: ShardUid
    from_run_id: str
    to_run_id: str
    replication_id_before: str
    replication_id_after: str
    second_replication_id: str
    """Of the new primary after the promotion; must equal ``replication_id_before``."""
    fenced_offset: int
    """Replication offset of the old primary, read after the hard fence."""
    promoted_offset: int
    """Offset of the candidate, queried directly before its promotion; at least ``fenced_offset``."""
    fence_ms: float
    """From the pause of the old primary to the confirmed promotion."""
    pause_ms: float | None
    """Longest hold at any endpoint, from hold to release, as measured by the endpoint; None if none held."""
    held_commands: int
    finished_by: str = "handoff"
    """``handoff``, or ``recovery`` if a new leader finished it."""
    began_at: datetime | None = None
    """When the endpoints were told to hold; None if a new leader finished the handoff."""
    released_at: datetime | None = None
    """When the endpoints were told to continue."""
    held_nodes: tuple[NodeUid, ...] = ()
    """Nodes whose endpoint process held the clients' commands; empty if a new leader finished the handoff."""
    not_held_nodes: tuple[NodeUid, ...] = ()
    """Nodes whose endpoint process was not held because it had ended."""
    not_released_nodes: tuple[NodeUid, ...] = ()
    """Nodes whose endpoint process did not answer the release. It asked the servers itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """The fields of every move."""

    uid: MoveUid
    action_uid: ActionUid | None
    """None: a move of the cluster itself (repair)."""
    database_uid: DatabaseUid
    from_node: NodeUid
    to_node: NodeUid
    created_at: datetime
    state_since: datetime
    """When it entered its state, or last made progress in it."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    is_cancel_wanted: bool = False
    is_undo: bool = False
    """It reverses an earlier move of the same action."""
    reasons: tuple[Reason, ...] = ()
    """Why it waits or why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _GroupHeader(_Header):
    """The fields of every move of a slot group."""

    group_uid: GroupUid
    shard_uid: ShardUid
    """The copy that leaves (relocation) or hands over the role (handoff)."""
    attempts: int = 0
    """Number of handoffs attempted and undone so far."""
    not_before: datetime | None = None
    """Earliest time of the next attempt."""
    evidence: Evidence | None = None

    @property
    def subject(self) -> ShardUid:
        """The copy that leaves or hands over the role."""
        return self.shard_uid


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffMove(_GroupHeader):
    """A durable change of role. ``model.database.Handoff`` is the intent of one of its attempts."""

    changes_role: ClassVar[bool] = True
    kind: Literal[MoveKind.HANDOFF] = MoveKind.HANDOFF
    state: PassingState
    new_shard_uid: ShardUid
    """The copy that takes the role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relocation(_GroupHeader):
    """A durable replacement of a copy by a new one on another node."""

    kind: Literal[MoveKind.RELOCATE] = MoveKind.RELOCATE
    state: MoveState
    new_shard_uid: ShardUid | None = None
    """The copy that replaces it; None: not recorded yet."""
    hands_over: bool = False
    """The new copy becomes the primary."""
    sync_began_at: datetime | None = None
    """When the new copy was told to replicate; None: not yet."""
    ready_at: datetime | None = None
    """When the new copy was in sync with the primary; None: not yet."""
    bytes_total: int = 0
    """Size of the sync stream; an estimate until the sync begins."""
    bytes_done: int = 0
    has_left: bool = False
    """Nothing of the copy runs on ``from_node`` any longer."""
    left_at: datetime | None = None
    """When nothing of the copy ran on ``from_node`` any longer; None: not yet."""

    @property
    def changes_role(self) -> bool:
        """Whether clients of the database have to switch servers."""
        return self.hands_over

    @property
    def bytes_copied(self) -> int:
        """Bytes that have arrived: all of them once the new copy is ready."""
        return self.bytes_total if self.state in _COPIED else min(self.bytes_done, self.bytes_total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebind(_Header):
    """A durable passing of an endpoint to another node's endpoint process."""

    changes_role: ClassVar[bool] = False
    kind: Literal[MoveKind.REBIND] = MoveKind.REBIND
    state: PassingState
    endpoint_uid: EndpointUid

    @property
    def subject(self) -> EndpointUid:
        """The endpoint."""
        return self.endpoint_uid


GroupMove = HandoffMove | Relocation
"""A move of a slot group. At most one live one per group."""
Move = HandoffMove | Relocation | Rebind
"""A durable move of any kind."""


def shard_of(move: Move) -> ShardUid | None:
    """The copy that leaves or hands over the role; None: a rebind concerns no copy."""
    return None if isinstance(move, Rebind) else move.shard_uid


def reason_of_move(
    move: Move, code: Code, text: str, grade: Grade = Grade.HARD_LIMIT, *, node_uid: NodeUid | None, remedy: str = ""
) -> Reason:
    """A reason that names the move's copy, its database and a node."""
    return Reason(
        code, text, grade, remedy=remedy, shard_uid=shard_of(move), database_uid=move.database_uid, node_uid=node_uid
    )
