"""The lease of a slot group: whether every endpoint process must prove that its primary still has a replica.

Values only. ``reconcile/lease.py`` decides when a proof is needed, and ``docs/decisions/0026-lease.md`` says why that is
safe.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from shardwright.model.ids import EndpointUid, NodeUid


@dataclass(frozen=True, slots=True)
class Waiver:
    """An endpoint process that may serve without a proof, as far as the records know."""

    node_uid: NodeUid
    instance: str
    """Identifies the process; empty: any process of the node that ran when the lease began."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The proofs that a slot group's endpoint processes owe. A process that is not in ``waived`` passes no reply of the
    primary without a proof: it needs one from its start, and only a higher version that names it lets it serve without."""

    version: int = 1
    """Grows whenever processes must be told something else. A process applies only a higher one."""
    is_needed: bool = False
    """The leader wants proofs: the processes in ``waived`` are to begin with them."""
    waived: tuple[Waiver, ...] = ()
    """By node. A process leaves when it has shown that it needs proofs, or has certainly ended."""
    ended_at: datetime | None = None
    """When the proofs were last given up because they failed, by the clock of the leader of that time; None: never."""

    @property
    def is_in_force(self) -> bool:
        """Whether no endpoint process passes a reply of the primary without a proof."""
        return self.is_needed and not self.waived

    def ended(self) -> "Lease":
        """Without a need for proofs. Who may serve without one does not change yet."""
        return replace(self, version=self.version + 1, is_needed=False) if self.is_needed else self

    def begun(self) -> "Lease":
        """With a need for proofs."""
        return self if self.is_needed else replace(self, version=self.version + 1, is_needed=True)

    def waiving(self, more: Iterable[Waiver]) -> "Lease":
        """With further processes that may serve without a proof. Only while none is needed."""
        assert not self.is_needed
        added = set(more) - set(self.waived)
        if not added:
            return self
        known = sorted({*self.waived, *added}, key=lambda w: (w.node_uid, w.instance))
        return replace(self, version=self.version + 1, waived=tuple(known))


@dataclass(frozen=True, slots=True)
class LeaseSeen:
    """What an endpoint process says of one endpoint's lease."""

    endpoint_uid: EndpointUid
    version: int
    """The last one that it has applied."""
    is_waived: bool
    """It may pass replies without a proof."""
    unconfirmed_s: float | None = None
    """For how long the server has answered every question of the process, and no replica has; None: one has, or the process
    does not ask, or the server does not answer."""
