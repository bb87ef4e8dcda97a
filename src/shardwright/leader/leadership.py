"""The rules of the lease and of the ``leader`` key: how long a leadership lasts, and what the state of the key means. Pure.

``candidate.py`` renews the lease and follows these rules. The ``leader`` key is created only if it does not exist, in one
transaction with the next term, and it is bound to the lease. Therefore at most one daemon leads, and every leadership has
its own term and create revision.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from shardwright.errors import Permanent
from shardwright.model.cluster import DaemonPresence, Leadership
from shardwright.model.ids import LeaseId, NodeUid
from shardwright.model.leader_change import LeaderChange
from shardwright.store import keys, records
from shardwright.store.commit import Fence
from shardwright.store.protocol import CreatedAt, DeleteKey, KeyValue, ModifiedAt, PutKey, Transaction

LEASE_TTL = timedelta(seconds=3)
ETCD_LEASE_TTL = timedelta(seconds=6)
"""An election of etcd takes 1.5 s, and a first attempt in vain 0.7 s more: a shorter lease would sometimes end when a member
fails."""
RENEW_S = 1.0
LOOK_S = 1.0
"""Interval of reading the ``leader`` key without any event: the loss of every event is harmless."""
ABSTAIN = timedelta(seconds=3)
"""How long a daemon that has yielded leadership does not campaign, and how long one lets another go first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """Duration of a lease, and the intervals of its renewal and of reading the ``leader`` key."""

    ttl: timedelta = LEASE_TTL
    trusted_share: float = 1.0
    """The part of the duration for which the holder relies on its lease. Less than 1: the store counts by a clock of its
    own, which may be faster than the holder's."""
    renew_s: float = RENEW_S
    look_s: float = LOOK_S


NORMAL_TIMES = LeaseTimes()
"""For a store that counts by this machine's clock."""
ETCD_TIMES = LeaseTimes(ttl=ETCD_LEASE_TTL, trusted_share=0.98)


@dataclass(frozen=True, slots=True)
class Held:
    """A leadership that is held."""

    term: int
    revision_created: int
    """Create revision of the ``leader`` key. It fences every write."""
    valid_until_monotonic: float
    """Time by the clock's ``monotonic`` at which the lease may have expired, unless it is renewed."""

    @property
    def fence(self) -> Fence:
        """The fence for ``commit``."""
        return Fence(self.revision_created)

    def is_valid(self, now: float) -> bool:
        """Whether the lease has certainly not expired."""
        return now < self.valid_until_monotonic

    def extended(self, valid_until: float, now: float) -> "Held | None":
        """The leadership after a renewal of the lease. None: the renewal came too late. The daemon's other parts already
        know that the leadership has ended, so it stays ended; the next term begins with a new key."""
        return replace(self, valid_until_monotonic=valid_until) if self.is_valid(now) else None


def valid_until(asked_at: float, times: LeaseTimes) -> float:
    """When a lease may expire. It is counted from before the request: the store counts from a later time, so this count ends
    first."""
    return asked_at + times.trusted_share * times.ttl.total_seconds()


class KeyState(StrEnum):
    """What the state of the ``leader`` key means for this daemon."""

    FREE = "free"
    """No daemon leads. Any leadership of this daemon has ended, and it may campaign."""
    OURS = "ours"
    """This daemon leads."""
    LEFT_OVER = "left_over"
    """The key has this daemon's lease, but the daemon does not hold this leadership: the answer to its creation was lost, or
    the lease was renewed too late. The daemon never claims such a key. It deletes the key, and the next term begins with a
    new one."""
    ANOTHERS = "anothers"
    """Another daemon leads."""


def key_state(leader: KeyValue | None, lease: LeaseId, held: Held | None, now: float) -> KeyState:
    """Classify the ``leader`` key that was just read. ``held``: the leadership that this daemon holds, to its knowledge."""
    if leader is None:
        return KeyState.FREE
    if leader.lease != lease:
        return KeyState.ANOTHERS
    is_ours = held is not None and held.revision_created == leader.create_revision and held.is_valid(now)
    return KeyState.OURS if is_ours else KeyState.LEFT_OVER


def has_other(daemons: Iterable[KeyValue], own: DaemonPresence) -> bool:
    """Whether another daemon is present and can lead."""
    return any(item.key != keys.key_of(own) for item in daemons)


def presence_with(lease: LeaseId, presence: DaemonPresence, last: KeyValue | None) -> Transaction:
    """Record this daemon's presence, bound to its lease. ``last``: the presence, as stored now. Fails if it has changed: an
    attempt without an answer may be executed late, and would bind the presence to a lease that is not renewed."""
    present = replace(presence, lease_id=lease)
    key = keys.key_of(present)
    unchanged = ModifiedAt(key, 0 if last is None else last.modify_revision)
    return Transaction((unchanged,), (PutKey(key, records.encode(present), lease),))


def next_term(last: KeyValue | None) -> int:
    """The term of a new leadership. ``last``: the last term, as stored now."""
    return 1 if last is None else int(last.value) + 1


def stand(node: NodeUid, lease: LeaseId, last: KeyValue | None) -> Transaction:
    """Become leader in the next term. Fails if another daemon was faster."""
    term = next_term(last)
    return Transaction(
        (ModifiedAt(keys.LEADER, 0), ModifiedAt(keys.TERM, 0 if last is None else last.modify_revision)),
        (PutKey(keys.LEADER, records.encode(Leadership(node, term)), lease), PutKey(keys.TERM, str(term).encode())),
    )


def way_for(change: KeyValue | None, own: NodeUid) -> NodeUid | None:
    """Another daemon that an operator wants to lead, so that this one lets it go first for ABSTAIN. ``change``: the record
    of the wish, as stored now. An unreadable record is ignored."""
    if change is None:
        return None
    try:
        found = records.decode(change.key, change.value)
    except Permanent:
        return None
    if not isinstance(found, LeaderChange) or found.status.is_terminal or found.node_uid == own:
        return None
    return found.node_uid


def delete_leader(revision_created: int) -> Transaction:
    """Delete the ``leader`` key, but only that of this leadership."""
    return Transaction((CreatedAt(keys.LEADER, revision_created),), (DeleteKey(keys.LEADER),))
