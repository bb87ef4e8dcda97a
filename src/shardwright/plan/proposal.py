"""The parts of a plan: moves that may start now, waits, and refusals.

The planners (``evacuate``, ``restore``, ``undo``) collect them in a ``Draft``. The module decides one thing only: a refusal
that passes by itself is a wait.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from shardwright.model.action import Move, MoveKind, MoveState
from shardwright.model.database import Endpoint, Shard, SlotGroup
from shardwright.model.ids import ActionUid, DatabaseUid, EndpointUid, GroupUid, MoveUid, NodeUid, ShardUid
from shardwright.model.reason import Reason
from shardwright.plan.explain import Unplaceable


@dataclass(frozen=True, slots=True)
class MoveProposal:
    """A move that may start now. If its group has a live move, it must wait for the end of that move."""

    kind: MoveKind
    database_uid: DatabaseUid
    group_uid: GroupUid | None = None
    shard_uid: ShardUid | None = None
    new_shard_uid: ShardUid | None = None
    endpoint_uid: EndpointUid | None = None
    from_node: NodeUid | None = None
    to_node: NodeUid | None = None
    hands_over: bool = False
    bytes_total: int = 0
    """Estimated bytes to transfer."""
    is_later: bool = False
    """It can start only after an earlier move of the plan has ended (first the handoff, then the relocation)."""

    @property
    def subject(self) -> ShardUid | EndpointUid:
        """The shard or endpoint that moves."""
        if self.endpoint_uid is not None:
            return self.endpoint_uid
        assert self.shard_uid is not None, "a move of a group names the copy that leaves or hands over the role"
        return self.shard_uid

    @property
    def changes_role(self) -> bool:
        """Whether clients of the database have to switch servers."""
        return self.kind == MoveKind.HANDOFF or self.hands_over

    def to_move(self, uid: MoveUid, action_uid: ActionUid | None, *, now: datetime) -> Move:
        """The move's first record."""
        return Move(
            uid,
            action_uid,
            self.kind,
            MoveState.PLANNED,
            self.database_uid,
            now,
            group_uid=self.group_uid,
            shard_uid=self.shard_uid,
            new_shard_uid=self.new_shard_uid,
            endpoint_uid=self.endpoint_uid,
            from_node=self.from_node,
            to_node=self.to_node,
            hands_over=self.hands_over,
            state_since=now,
            bytes_total=self.bytes_total,
        )


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

    handoffs: list[MoveProposal] = field(default_factory=list)
    relocations: list[MoveProposal] = field(default_factory=list)
    rebinds: list[MoveProposal] = field(default_factory=list)
    waiting: list[Reason] = field(default_factory=list)
    unplaced: list[Unplaced] = field(default_factory=list)

    def handoff(self, group: SlotGroup, primary: Shard, to_shard: Shard, *, is_later: bool = False) -> None:
        """Add a handoff of the primary role from one copy to another."""
        self.handoffs.append(
            MoveProposal(
                MoveKind.HANDOFF,
                group.database_uid,
                group.uid,
                primary.uid,
                to_shard.uid,
                from_node=primary.node_uid,
                to_node=to_shard.node_uid,
                hands_over=True,
                is_later=is_later,
            )
        )

    def relocation(
        self, copy: Shard, to_node: NodeUid, *, bytes_total: int, hands_over: bool, is_later: bool = False
    ) -> None:
        """Add the relocation of a copy to another node."""
        self.relocations.append(
            MoveProposal(
                MoveKind.RELOCATE,
                copy.database_uid,
                copy.group_uid,
                copy.uid,
                from_node=copy.node_uid,
                to_node=to_node,
                hands_over=hands_over,
                bytes_total=bytes_total,
                is_later=is_later,
            )
        )

    def rebind(self, endpoint: Endpoint, from_node: NodeUid | None, to_node: NodeUid, *, is_later: bool = False) -> None:
        """Add the rebind of an endpoint to another node."""
        self.rebinds.append(
            MoveProposal(
                MoveKind.REBIND,
                endpoint.database_uid,
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
        return any(m.database_uid == database_uid and m.group_uid is not None for m in in_flight)

    def to_return_plan(
        self, moves: Iterable[MoveProposal], in_flight: Iterable[Move], differences: Iterable[Reason]
    ) -> ReturnPlan:
        """The finished plan; its ``moves`` are in starting order."""
        return ReturnPlan(tuple(moves), tuple(self.waiting), tuple(self.unplaced), tuple(in_flight), tuple(differences))
