"""What a plan is made of: moves that would be right now, what must wait for a while, and what finds no place.

The makers of plans (``evacuate``, ``restore``, ``undo``) collect it in a ``Draft``. Decides nothing itself, except that a
refusal which passes by itself is a wait.
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
    """A move that would be right now. One that changes a group which has a live move must wait for its end."""

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
    """Estimate of what must be transferred."""
    is_later: bool = False
    """It can only begin when an earlier move of the plan has ended (a handoff first, then the relocation)."""

    @property
    def subject(self) -> ShardUid | EndpointUid:
        """What moves: a shard or an endpoint."""
        if self.endpoint_uid is not None:
            return self.endpoint_uid
        assert self.shard_uid is not None, "a move of a group names the copy that leaves or gives up the role"
        return self.shard_uid

    @property
    def changes_role(self) -> bool:
        """Whether clients of the database are sent to another server by it."""
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
    """A resource that cannot leave (or come back), and why."""

    reason: Reason
    shard_uid: ShardUid | None = None
    endpoint_uid: EndpointUid | None = None


@dataclass(frozen=True, slots=True)
class ReturnPlan:
    """How things get back to where they were. All but ``differences`` empty: everything is back that can be."""

    moves: tuple[MoveProposal, ...] = ()
    waiting: tuple[Reason, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    in_flight: tuple[Move, ...] = ()
    differences: tuple[Reason, ...] = ()
    """What cannot be as it was, because the cluster was changed meanwhile."""


@dataclass(slots=True)
class Draft:
    """A plan in the making."""

    handoffs: list[MoveProposal] = field(default_factory=list)
    relocations: list[MoveProposal] = field(default_factory=list)
    rebinds: list[MoveProposal] = field(default_factory=list)
    waiting: list[Reason] = field(default_factory=list)
    unplaced: list[Unplaced] = field(default_factory=list)

    def handoff(self, group: SlotGroup, primary: Shard, to_shard: Shard, *, is_later: bool = False) -> None:
        """The primary role passes from one copy to another."""
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
        """A copy leaves its node for another."""
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
        """An endpoint is bound to another node."""
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
        """There is no place for a copy. ``subject`` names what it is in the reason's text."""
        reason = found.as_reason(subject, shard_uid=copy.uid, database_uid=copy.database_uid)
        self._refused(found, Unplaced(reason, copy.uid))

    def refuse_endpoint(self, found: Unplaceable, endpoint: Endpoint) -> None:
        """There is no place for an endpoint."""
        subject = f"endpoint {endpoint.uid} of database {endpoint.database_uid}"
        reason = found.as_reason(subject, database_uid=endpoint.database_uid)
        self._refused(found, Unplaced(reason, endpoint_uid=endpoint.uid))

    def _refused(self, found: Unplaceable, unplaced: Unplaced) -> None:
        if found.passes_by_itself:
            self.waiting.append(unplaced.reason)
        else:
            self.unplaced.append(unplaced)

    def has_shards_to_come(self, database_uid: DatabaseUid, in_flight: Iterable[Move]) -> bool:
        """Whether something of the database's slot groups is proposed or moves. What comes back brings its endpoints last:
        until the primary is back the node would only pass commands on to another."""
        if any(p.database_uid == database_uid for p in (*self.handoffs, *self.relocations)):
            return True
        return any(m.database_uid == database_uid and m.group_uid is not None for m in in_flight)

    def to_return_plan(
        self, moves: Iterable[MoveProposal], in_flight: Iterable[Move], differences: Iterable[Reason]
    ) -> ReturnPlan:
        """The finished plan; its ``moves`` in the order in which they should begin."""
        return ReturnPlan(tuple(moves), tuple(self.waiting), tuple(self.unplaced), tuple(in_flight), tuple(differences))
