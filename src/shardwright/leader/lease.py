"""The rules of the lease and of the ``leader`` key: until when a leadership is held, and what a look at the key means. Pure.

``candidate.py`` keeps the lease and acts on these rules. The ``leader`` key is created only where there is none, in one
transaction with the next term, and is bound to the lease: so at most one daemon leads, and every leadership has a term and a
create revision that no other ever had.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from shardwright.model.cluster import DaemonPresence, Leadership
from shardwright.model.ids import LeaseId, NodeUid
from shardwright.store import keys, records
from shardwright.store.commit import Fence
from shardwright.store.protocol import CreatedAt, DeleteKey, KeyValue, ModifiedAt, PutKey, Transaction

LEASE_TTL = timedelta(seconds=3)
RENEW_S = 1.0
LOOK_S = 1.0
"""Full look at the ``leader`` key without any event: losing every event is harmless."""
ABSTAIN = timedelta(seconds=3)
"""How long a daemon that yielded leaves the field to the others."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How long a lease lasts and how often it and the ``leader`` key are tended."""

    ttl: timedelta = LEASE_TTL
    renew_s: float = RENEW_S
    look_s: float = LOOK_S


NORMAL_TIMES = LeaseTimes()


@dataclass(frozen=True, slots=True)
class Held:
    """A leadership that is held."""

    term: int
    revision_created: int
    """Create revision of the ``leader`` key; with it every write is fenced."""
    valid_until_monotonic: float
    """By the clock's ``monotonic``: unless renewed, the lease may have run out then."""

    @property
    def fence(self) -> Fence:
        """The fence for ``commit``."""
        return Fence(self.revision_created)

    def is_valid(self, now: float) -> bool:
        """Whether the lease certainly has not run out."""
        return now < self.valid_until_monotonic

    def extended(self, valid_until: float, now: float) -> "Held | None":
        """After the lease was renewed. None: too late. Everybody here was told that the leadership ended; it stays ended,
        and the next term begins with a new key."""
        return replace(self, valid_until_monotonic=valid_until) if self.is_valid(now) else None


def valid_until(asked_at: float, times: LeaseTimes) -> float:
    """Until when a lease certainly lasts. Counted from before the request: the store's own count begins later, so ours ends
    first."""
    return asked_at + times.ttl.total_seconds()


class KeyState(StrEnum):
    """What a look at the ``leader`` key means for this daemon."""

    FREE = "free"
    """Nobody leads: any leadership of this daemon is over, and it may stand."""
    OURS = "ours"
    """This daemon leads."""
    LEFT_OVER = "left_over"
    """It has this daemon's lease, but not its leadership: created without its knowing (the answer was lost), or held past
    its time. It is never claimed: it is deleted, and the next term begins with a new key."""
    ANOTHERS = "anothers"
    """Another daemon leads."""


def key_state(leader: KeyValue | None, lease: LeaseId, held: Held | None, now: float) -> KeyState:
    """Judge the ``leader`` key as it was just read. ``held``: what this daemon takes for its leadership."""
    if leader is None:
        return KeyState.FREE
    if leader.lease != lease:
        return KeyState.ANOTHERS
    is_ours = held is not None and held.revision_created == leader.create_revision and held.is_valid(now)
    return KeyState.OURS if is_ours else KeyState.LEFT_OVER


def has_other(daemons: Iterable[KeyValue], own: DaemonPresence) -> bool:
    """Whether another daemon is present, to which a daemon that yielded can leave the field."""
    return any(item.key != keys.key_of(own) for item in daemons)


def presence_with(lease: LeaseId, presence: DaemonPresence) -> Transaction:
    """Write this daemon's presence, bound to its lease."""
    present = replace(presence, lease_id=lease)
    return Transaction(operations=(PutKey(keys.key_of(present), records.encode(present), lease),))


def next_term(last: KeyValue | None) -> int:
    """The term that a new leadership gets. ``last``: the key of the terms, as read now."""
    return 1 if last is None else int(last.value) + 1


def stand(node: NodeUid, lease: LeaseId, last: KeyValue | None) -> Transaction:
    """Become leader in the next term. Fails when another daemon was faster."""
    term = next_term(last)
    return Transaction(
        (ModifiedAt(keys.LEADER, 0), ModifiedAt(keys.TERM, 0 if last is None else last.modify_revision)),
        (PutKey(keys.LEADER, records.encode(Leadership(node, term)), lease), PutKey(keys.TERM, str(term).encode())),
    )


def delete_leader(revision_created: int) -> Transaction:
    """Delete the ``leader`` key of one leadership, and no other."""
    return Transaction((CreatedAt(keys.LEADER, revision_created),), (DeleteKey(keys.LEADER),))
