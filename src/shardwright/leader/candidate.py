"""One daemon's lease, presence and candidacy, as tasks of one event loop. ``election.py`` gives them a thread of their own.

The ``leader`` key is created only where there is none, in one transaction with the next term, and is bound to the lease:
so at most one daemon leads, and every leadership has a term and a create revision that no other ever had.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from shardwright.clock import Clock
from shardwright.errors import LostLeadership
from shardwright.model.cluster import DaemonPresence, Leadership
from shardwright.model.ids import LeaseId
from shardwright.store import keys, records
from shardwright.store.commit import Fence
from shardwright.store.protocol import (
    Compacted,
    CreatedAt,
    DeleteKey,
    KeyValue,
    LeaseLost,
    ModifiedAt,
    PutKey,
    Store,
    StoreUnavailable,
    Transaction,
)
from shardwright.tasks import Wake

LEASE_TTL = timedelta(seconds=3)
RENEW_S = 1.0
RETRY_S = 0.1
"""Pause after the store could not be reached; short, because the lease runs out meanwhile."""
LOOK_S = 1.0
"""Full look at the ``leader`` key without any event: losing every event is harmless."""
ABSTAIN = timedelta(seconds=3)
"""How long a daemon that yielded leaves the field to the others."""

_log = structlog.get_logger(__name__)


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


async def check_term(store: Store, held: Held) -> None:
    """Raises LostLeadership unless the store still has this leadership. To be called before a management session sends
    anything. Raises StoreUnavailable."""
    leader = await store.get(keys.LEADER)
    if leader is None or leader.create_revision != held.revision_created:
        raise LostLeadership(f"term {held.term} is over")


class Candidate:
    """See the module's text. ``on_change`` hears of every gain, loss and renewal; ``on_present`` of every new lease."""

    def __init__(
        self,
        store: Store,
        presence: DaemonPresence,
        *,
        clock: Clock,
        on_change: Callable[[Held | None], None],
        on_present: Callable[[], None],
        times: LeaseTimes = NORMAL_TIMES,
    ) -> None:
        self._store = store
        self._times = times
        self._presence = presence
        self._clock = clock
        self._on_change = on_change
        self._on_present = on_present
        self._lease: LeaseId | None = None
        self._valid_until = 0.0
        self._held: Held | None = None
        self._abstains_until = 0.0
        # Looking at the leader key and yielding must not interleave: a look would act on what yielding has deleted.
        self._key_lock = asyncio.Lock()
        self._look_now = Wake()
        self._renew_now = Wake()

    async def run(self) -> None:
        """Hold a lease, be present, lead whenever nobody else does. For ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_lease(), name="candidate: keep the lease")
            group.create_task(self._watch_leader(), name="candidate: watch the leader key")
            group.create_task(self._campaign(), name="candidate: campaign")

    async def leave(self) -> None:
        """End the lease, after ``run`` was cancelled: presence and leadership vanish at once. Raises StoreUnavailable."""
        self._drop("this daemon stops")
        lease, self._lease = self._lease, None
        if lease is not None:
            await self._store.revoke(lease)

    async def yield_leadership(self) -> None:
        """Let another daemon lead. Nothing happens when this one does not."""
        async with self._key_lock:
            held = self._held
            if held is None:
                return
            self._abstains_until = self._clock.monotonic() + ABSTAIN.total_seconds()
            self._drop("leadership was yielded")
            try:
                await self._delete_leader(held.revision_created)
            except StoreUnavailable as e:
                _log.warning("the leader key is deleted by the next look that reaches the store", reason=e.text)
        self._look_now.set()

    # -- the lease ---------------------------------------------------------------------------------------------------

    async def _keep_lease(self) -> None:
        while True:
            self._renew_now.clear()
            pause_s = self._times.renew_s
            # Counted from before the request: the store's own count begins later, so ours ends first.
            asked_at = self._clock.monotonic()
            try:
                if self._lease is None:
                    self._lease = await self._begin_lease()
                    self._extend(asked_at)
                    self._look_now.set()
                    self._on_present()
                else:
                    await self._store.renew(self._lease)
                    self._extend(asked_at)
            except LeaseLost:
                self._lease = None
                self._drop("the lease was lost")
                continue
            except StoreUnavailable as e:
                _log.warning("the lease cannot be renewed", reason=e.text)
                pause_s = RETRY_S
            await self._pause(self._renew_now, pause_s - (self._clock.monotonic() - asked_at))

    async def _begin_lease(self) -> LeaseId:
        lease = await self._store.grant(self._times.ttl)
        presence = replace(self._presence, lease_id=lease)
        put = PutKey(keys.key_of(presence), records.encode(presence), lease)
        await self._store.transact(Transaction(operations=(put,)))
        return lease

    def _extend(self, asked_at: float) -> None:
        self._valid_until = asked_at + self._times.ttl.total_seconds()
        if self._held is None:
            return
        if self._is_valid(self._held):
            self._held = replace(self._held, valid_until_monotonic=self._valid_until)
            self._on_change(self._held)
        else:
            # Everybody here was told that it ended. It stays ended: the next term begins with a new key.
            self._drop("the lease was renewed too late")
            self._look_now.set()

    def _is_valid(self, held: Held) -> bool:
        return self._clock.monotonic() < held.valid_until_monotonic

    def _drop(self, reason: str) -> None:
        if self._held is not None:
            _log.info("leadership lost", term=self._held.term, node=self._presence.node_uid, reason=reason)
            self._held = None
            self._on_change(None)

    # -- the leader key ----------------------------------------------------------------------------------------------

    async def _watch_leader(self) -> None:
        while True:
            try:
                revision = await self._store.revision()
                self._look_now.set()
                async for _ in self._store.watch(keys.LEADER, from_revision=revision + 1):
                    self._look_now.set()
            except (Compacted, StoreUnavailable) as e:
                _log.warning("the leader key cannot be watched", reason=e.text)
            await self._clock.sleep(RETRY_S)

    async def _campaign(self) -> None:
        while True:
            self._look_now.clear()
            try:
                async with self._key_lock:
                    pause_s = await self._look()
            except LeaseLost:
                self._renew_now.set()
                pause_s = RETRY_S
            except StoreUnavailable as e:
                _log.warning("the leader key cannot be read", reason=e.text)
                pause_s = RETRY_S
            await self._pause(self._look_now, pause_s)

    async def _look(self) -> float:
        """Stand when nobody leads; returns when to look again at the latest, in seconds."""
        lease = self._lease
        if lease is None:
            return self._times.look_s
        leader = await self._store.get(keys.LEADER)
        if leader is None:
            self._drop("the leader key is gone")
            if self._clock.monotonic() >= self._valid_until:
                # To lead with a lease that may have run out would end as soon as it began.
                self._renew_now.set()
                return RETRY_S
            if await self._abstains():
                return RETRY_S
            return self._times.look_s if await self._stand(lease) else 0.0
        if leader.lease == lease and not self._is_ours(leader):
            # Created without our knowing (the answer was lost), or held past its time: never claimed, begun anew.
            self._drop("held past its time")
            await self._delete_leader(leader.create_revision)
            return 0.0
        if leader.lease != lease:
            self._drop("another daemon leads")
        return self._times.look_s

    def _is_ours(self, leader: KeyValue) -> bool:
        held = self._held
        return held is not None and held.revision_created == leader.create_revision and self._is_valid(held)

    async def _abstains(self) -> bool:
        if self._clock.monotonic() >= self._abstains_until:
            return False
        own = keys.key_of(self._presence)
        page = await self._store.range(keys.DAEMONS)
        return any(item.key != own for item in page.items)

    async def _stand(self, lease: LeaseId) -> bool:
        """Try to become leader; False when somebody else was faster."""
        last = await self._store.get(keys.TERM)
        term = 1 if last is None else int(last.value) + 1
        leadership = Leadership(self._presence.node_uid, term)
        result = await self._store.transact(
            Transaction(
                (ModifiedAt(keys.LEADER, 0), ModifiedAt(keys.TERM, 0 if last is None else last.modify_revision)),
                (PutKey(keys.LEADER, records.encode(leadership), lease), PutKey(keys.TERM, str(term).encode())),
            )
        )
        if not result.succeeded:
            return False
        held = Held(term, result.revision, self._valid_until)
        if lease != self._lease or not self._is_valid(held):
            return False
        self._held = held
        _log.info("leadership gained", term=term, node=self._presence.node_uid)
        self._on_change(held)
        return True

    async def _delete_leader(self, revision_created: int) -> None:
        compare = CreatedAt(keys.LEADER, revision_created)
        await self._store.transact(Transaction((compare,), (DeleteKey(keys.LEADER),)))

    async def _pause(self, wake: Wake, seconds: float) -> None:
        if seconds > 0:
            await wake.wait(seconds)
