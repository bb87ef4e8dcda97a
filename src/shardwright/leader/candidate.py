"""One daemon's lease, presence and candidacy, as tasks of one event loop. ``election.py`` runs them in a thread of their
own.

``leadership.py`` decides what the state of the ``leader`` key means, and how long a leadership lasts.
"""

import asyncio
from collections.abc import Callable

import structlog

from shardwright.clock import Clock
from shardwright.errors import LostLeadership
from shardwright.leader.leadership import (
    ABSTAIN,
    LEASE_TTL,
    NORMAL_TIMES,
    Held,
    KeyState,
    LeaseTimes,
    delete_leader,
    has_other,
    key_state,
    next_term,
    presence_with,
    stand,
    valid_until,
    way_for,
)
from shardwright.model.cluster import DaemonPresence
from shardwright.model.codes import Code
from shardwright.model.ids import LeaseId
from shardwright.store import keys
from shardwright.store.protocol import Compacted, LeaseLost, Store, StoreUnavailable
from shardwright.tasks import Wake

RETRY_S = 0.1
"""Pause after a failed access to the store. It is short, because the lease expires in the meantime."""

__all__ = ["LEASE_TTL", "NORMAL_TIMES", "Candidate", "Held", "LeaseTimes", "check_term"]

_log = structlog.get_logger(__name__)


async def check_term(store: Store, held: Held) -> None:
    """Raises LostLeadership unless the store still has this leadership. Call it before a management session sends its first
    command. Raises StoreUnavailable."""
    leader = await store.get(keys.LEADER)
    if leader is None or leader.create_revision != held.revision_created:
        raise LostLeadership(f"term {held.term} is over")


class Candidate:
    """See the module's text. ``on_change`` is called at every gain, loss and renewal; ``on_present`` at every new lease."""

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
        self._makes_way: tuple[int, float] = (0, 0.0)
        """The last wish for another leader, by its revision, and until when this daemon lets that one go first."""
        # Reading the leader key and yielding must not interleave: the reader would act on a key that is being deleted.
        self._key_lock = asyncio.Lock()
        self._look_now = Wake()
        self._renew_now = Wake()

    async def run(self) -> None:
        """Hold a lease, record the presence, and lead while no other daemon does. Never returns."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_lease(), name="candidate: keep the lease")
            group.create_task(self._watch_leader(), name="candidate: watch the leader key")
            group.create_task(self._campaign(), name="candidate: campaign")

    async def leave(self) -> None:
        """End the lease, after ``run`` was cancelled. Presence and leadership end immediately. Raises StoreUnavailable."""
        self._drop("this daemon stops")
        lease, self._lease = self._lease, None
        if lease is not None:
            await self._store.revoke(lease)

    async def yield_leadership(self) -> None:
        """Let another daemon lead. Does nothing if this daemon does not lead."""
        async with self._key_lock:
            held = self._held
            if held is None:
                return
            self._abstains_until = self._clock.monotonic() + ABSTAIN.total_seconds()
            self._drop("leadership was yielded")
            try:
                await self._store.transact(delete_leader(held.revision_created))
            except StoreUnavailable as e:
                _log.warning("the leader key could not be deleted; the next access to the store deletes it", reason=e.text)
        self._look_now.set()

    # -- the lease ---------------------------------------------------------------------------------------------------

    async def _keep_lease(self) -> None:
        while True:
            self._renew_now.clear()
            pause_s = self._times.renew_s
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
        """Raises StoreUnavailable. A lease that was granted in vain expires."""
        last = await self._store.get(keys.key_of(self._presence))
        lease = await self._store.grant(self._times.ttl)
        result = await self._store.transact(presence_with(lease, self._presence, last))
        if not result.succeeded:
            raise StoreUnavailable(Code.CONFLICT, "the daemon's presence was recorded with another lease meanwhile")
        return lease

    def _extend(self, asked_at: float) -> None:
        self._valid_until = valid_until(asked_at, self._times)
        if self._held is None:
            return
        extended = self._held.extended(self._valid_until, self._clock.monotonic())
        if extended is not None:
            self._held = extended
            self._on_change(extended)
        else:
            self._drop("the lease was renewed too late")
            self._look_now.set()

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
        """Read the leader key, and campaign if no daemon leads. Returns the seconds until the next look at the latest."""
        lease = self._lease
        if lease is None:
            return self._times.look_s
        leader = await self._store.get(keys.LEADER)
        match key_state(leader, lease, self._held, self._clock.monotonic()):
            case KeyState.FREE:
                self._drop("the leader key is gone")
                return await self._try_to_lead(lease)
            case KeyState.LEFT_OVER:
                assert leader is not None
                self._drop("the leader key belongs to no leadership that this daemon holds")
                await self._store.transact(delete_leader(leader.create_revision))
                return 0.0
            case KeyState.ANOTHERS:
                self._drop("another daemon leads")
            case KeyState.OURS:
                pass
        return self._times.look_s

    async def _try_to_lead(self, lease: LeaseId) -> float:
        """Campaign, unless the lease may have expired or this daemon has yielded. Returns the seconds until the next
        look."""
        if self._clock.monotonic() >= self._valid_until:
            # A leadership on a lease that may have expired would end immediately.
            self._renew_now.set()
            return RETRY_S
        # Both times run from now on, not one after the other.
        if await self._lets_another_go_first() or await self._abstains():
            return RETRY_S
        return self._times.look_s if await self._stand(lease) else 0.0

    async def _abstains(self) -> bool:
        if self._clock.monotonic() >= self._abstains_until:
            return False
        page = await self._store.range(keys.DAEMONS)
        return has_other(page.items, self._presence)

    async def _lets_another_go_first(self) -> bool:
        """Whether an operator wants another daemon to lead, it is there, and it has not had its time yet. That time counts
        from when this daemon first saw, without a leader, this wish."""
        change = await self._store.get(keys.LEADER_CHANGE)
        wanted = way_for(change, self._presence.node_uid)
        if change is None or wanted is None:
            return False
        now = self._clock.monotonic()
        if self._makes_way[0] != change.modify_revision:
            self._makes_way = (change.modify_revision, now + ABSTAIN.total_seconds())
        return now < self._makes_way[1] and await self._store.get(keys.daemon_key(wanted)) is not None

    async def _stand(self, lease: LeaseId) -> bool:
        """Try to become leader; False: another daemon was faster."""
        last = await self._store.get(keys.TERM)
        result = await self._store.transact(stand(self._presence.node_uid, lease, last))
        if not result.succeeded:
            return False
        held = Held(next_term(last), result.revision, self._valid_until)
        if lease != self._lease or not held.is_valid(self._clock.monotonic()):
            return False
        self._held = held
        _log.info("leadership gained", term=held.term, node=self._presence.node_uid)
        self._on_change(held)
        return True

    async def _pause(self, wake: Wake, seconds: float) -> None:
        if seconds > 0:
            await wake.wait(seconds)
