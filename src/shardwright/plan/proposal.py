"""The parts of a plan: moves that may start now, waits, and refusals.

The planners (``evacuate``, ``restore``, ``undo``) collect them in a ``Draft``. The module decides one thing only: a refusal
that passes by itself is a wait.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from shardwright.model.database import Endpoint, Shard, SlotGroup
from shardwright.model.ids import ActionUid, DatabaseUid, EndpointUid, GroupUid, MoveUid, NodeUid, ShardUid
from shardwright.model.move import GroupMove, HandoffMove, Move, MoveKind, MoveState, Rebind, Relocation
from shardwright.model.reason import Reason
from shardwright.plan.explain import Unplaceable


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proposal:
    """A move that may start now. If its group has a live move, it must wait for the end of that move."""

    database_uid: DatabaseUid
    from_node: NodeUid
    to_node: NodeUid
    is_later: bool = False
    """It can start only after an earlier move of the plan has ended (first the handoff, then the relocation)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffProposal(_Proposal):
    """The primary role shall pass to another copy."""

    kind: ClassVar[MoveKind] = MoveKind.HANDOFF
    changes_role: ClassVar[bool] = True
    bytes_total: ClassVar[int] = 0
    group_uid: GroupUid
    shard_uid: ShardUid
    new_shard_uid: ShardUid

    @property
    def subject(self) -> ShardUid:
        """The copy that hands over the role."""
        return self.shard_uid

    def to_move(self, uid: MoveUid, action_uid: ActionUid | None, *, is_undo: bool = False, now: datetime) -> HandoffMove:
        """The move's first record."""
        return HandoffMove(
            uid=uid,
            action_uid=action_uid,
            state=MoveState.PLANNED,
            database_uid=self.database_uid,
            group_uid=self.group_uid,
            shard_uid=self.shard_uid,
            new_shard_uid=self.new_shard_uid,
            from_node=self.from_node,
            to_node=self.to_node,
            created_at=now,
            state_since=now,
            is_undo=is_undo,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RelocationProposal(_Proposal):
    """A new copy on another node shall replace a copy."""

    kind: ClassVar[MoveKind] = MoveKind.RELOCATE
    group_uid: GroupUid
    shard_uid: ShardUid
    hands_over: bool = False
    bytes_total: int = 0
    """Estimated bytes to transfer."""

    @property
    def subject(self) -> ShardUid:
        """The copy that leaves."""
        return self.shard_uid

    @property
    def changes_role(self) -> bool:
        """Whether clients of the database have to switch servers."""
        return self.hands_over

    def to_move(self, uid: MoveUid, action_uid: ActionUid | None, *, is_undo: bool = False, now: datetime) -> Relocation:
        """The move's first record."""
        return Relocation(
            uid=uid,
            action_uid=action_uid,
            state=MoveState.PLANNED,
            database_uid=self.database_uid,
            group_uid=self.group_uid,
            shard_uid=self.shard_uid,
            from_node=self.from_node,
            to_node=self.to_node,
            hands_over=self.hands_over,
            bytes_total=self.bytes_total,
            created_at=now,
            state_since=now,
            is_undo=is_undo,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RebindProposal(_Proposal):
    """The endpoint process of another node shall serve an endpoint."""

    kind: ClassVar[MoveKind] = MoveKind.REBIND
    changes_role: ClassVar[bool] = False
    bytes_total: ClassVar[int] = 0
    endpoint_uid: EndpointUid

    @property
    def subject(self) -> EndpointUid:
        """The endpoint."""
        return self.endpoint_uid

    def to_move(self, uid: MoveUid, action_uid: ActionUid | None, *, is_undo: bool = False, now: datetime) -> Rebind:
        """The move's first record."""
        return Rebind(
            uid=uid,
            action_uid=action_uid,
            state=MoveState.PLANNED,
            database_uid=self.database_uid,
            endpoint_uid=self.endpoint_uid,
            from_node=self.from_node,
            to_node=self.to_node,
            created_at=now,
            state_since=now,
            is_undo=is_undo,
        )


MoveProposal = HandoffProposal | RelocationProposal | RebindProposal


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A shard or endpoint that cannot leave (or come back), and the reason."""

    reason: Reason
    shard_uid: ShardUid | None = None
    endpoint_uid: EndpointUid | None = None


@dataclass(frozen=True, slots=True)
class ReturnPlan:
    """A plan to restore an earlier state. Everything but ``differences`` empty: all that can be restored is restored."""

    moves: tuple[MoveProposal, ...] = ()
    waiting: tuple[Reason, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    in_flight: tuple[Move, ...] = ()
    differences: tuple[Reason, ...] = ()
    """Parts of the earlier state that cannot be restored, because the cluster has changed since."""


@dataclass(slots=True)
class Draft:
    """A plan under construction."""

    handoffs: list[HandoffProposal] = field(default_factory=list)
    relocations: list[RelocationProposal] = field(default_factory=list)
    rebinds: list[RebindProposal] = field(default_factory=list)
    waiting: list[Reason] = field(default_factory=list)
    unplaced: list[Unplaced] = field(default_factory=list)

    def handoff(self, group: SlotGroup, primary: Shard, to_shard: Shard, *, is_later: bool = False) -> None:
        """Add a handoff of the primary role from one copy to another."""
        self.handoffs.append(
            HandoffProposal(
                database_uid=group.database_uid,
                group_uid=group.uid,
                shard_uid=primary.uid,
                new_shard_uid=to_shard.uid,
                from_node=primary.node_uid,
                to_node=to_shard.node_uid,
                is_later=is_later,
            )
        )

    def relocation(
        self, copy: Shard, to_node: NodeUid, *, bytes_total: int, hands_over: bool, is_later: bool = False
    ) -> None:
        """Add the relocation of a copy to another node."""
        self.relocations.append(
            RelocationProposal(
                database_uid=copy.database_uid,
                group_uid=copy.group_uid,
                shard_uid=copy.uid,
                from_node=copy.node_uid,
                to_node=to_node,
                hands_over=hands_over,
                bytes_total=bytes_total,
                is_later=is_later,
            )
        )

    def rebind(self, endpoint: Endpoint, from_node: NodeUid, to_node: NodeUid, *, is_later: bool = False) -> None:
        """Add the rebind of an endpoint to another node."""
        self.rebinds.append(
            RebindProposal(
                database_uid=endpoint.database_uid,
                endpoint_uid=endpoint.uid,
                from_node=from_node,
                to_node=to_node,
                is_later=is_later,
            )
        )

    def refuse(self, found: Unplaceable, subject: str, copy: Shard) -> None:
        """Note that a copy has no place. ``subject`` names the copy in the reason's text."""
        reason = found.as_reason(subject, shard_uid=copy.uid, database_uid=copy.database_uid)
        self._refused(found, Unplaced(reason, copy.uid))

    def refuse_endpoint(self, found: Unplaceable, endpoint: Endpoint) -> None:
        """Note that an endpoint has no place."""
        subject = f"endpoint {endpoint.uid} of database {endpoint.database_uid}"
        reason = found.as_reason(subject, database_uid=endpoint.database_uid)
        self._refused(found, Unplaced(reason, endpoint_uid=endpoint.uid))

    def _refused(self, found: Unplaceable, unplaced: Unplaced) -> None:
        if found.passes_by_itself:
            self.waiting.append(unplaced.reason)
        else:
            self.unplaced.append(unplaced)

    def has_shards_to_come(self, database_uid: DatabaseUid, in_flight: Iterable[Move]) -> bool:
        """Whether a shard of the database is proposed or in flight. On the way back, endpoints come last: until the primary
        is back, the node would only forward commands to another node."""
        if any(p.database_uid == database_uid for p in (*self.handoffs, *self.relocations)):
            return True
        return any(m.database_uid == database_uid and isinstance(m, GroupMove) for m in in_flight)

    def to_return_plan(
        self, moves: Iterable[MoveProposal], in_flight: Iterable[Move], differences: Iterable[Reason]
    ) -> ReturnPlan:
        """The finished plan; its ``moves`` are in starting order."""
        return ReturnPlan(tuple(moves), tuple(self.waiting), tuple(self.unplaced), tuple(in_flight), tuple(differences))
