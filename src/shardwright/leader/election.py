"""The lease keeper: a thread that holds the daemon's lease and campaigns. Nothing else in the process can delay it.

Owns the thread, its event loop and its own store. The daemon's main loop starts it, asks it whether this daemon leads, and
is notified of changes. It must not write anything except lease, presence and leadership.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from shardwright.clock import Clock, SystemClock
from shardwright.leader.candidate import NORMAL_TIMES, Candidate, Held, LeaseTimes, check_term
from shardwright.model.cluster import DaemonPresence
from shardwright.store.protocol import Store, StoreError, StoreReplaced
from shardwright.tasks import spawn

__all__ = ["Held", "LeaseKeeper", "check_term"]

RESTART_S = 1.0
"""Pause before the thread starts again after a failure of its own."""
STOP_TIMEOUT_S = 10.0
"""How long ``stop`` waits for the thread. With a busy store, the revocation alone can take 5 s."""

_log = structlog.get_logger(__name__)


class LeaseKeeper:
    """See the module's text. Call its methods in the loop that called ``start``, unless stated otherwise.

    ``open_store`` is called in the thread's loop. The lease is added to ``presence``. ``on_gained`` and ``on_lost`` are
    called alternately, in the main loop.
    """

    def __init__(
        self,
        open_store: Callable[[], Awaitable[Store]],
        presence: DaemonPresence,
        *,
        clock: Clock | None = None,
        times: LeaseTimes = NORMAL_TIMES,
        on_gained: Callable[[Held], None] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self._open_store = open_store
        self._presence = presence
        self._clock: Clock = clock or SystemClock()
        self._times = times
        self._on_gained = on_gained
        self._on_lost = on_lost
        self._held: Held | None = None
        self._candidate: Candidate | None = None
        self._thread_loop: asyncio.AbstractEventLoop | None = None
        self._thread_stop: asyncio.Event | None = None
        self._thread_began = threading.Event()
        self._main_loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._is_present = asyncio.Event()
        self._replaced: asyncio.Future[StoreReplaced] | None = None
        self._thread = threading.Thread(target=self._run_thread, name="lease-keeper", daemon=True)
        self._teller: asyncio.Task[None] | None = None

    # -- from any thread ---------------------------------------------------------------------------------------------

    @property
    def leadership(self) -> Held | None:
        """The leadership held now. It becomes None when the lease may have expired, even if the thread hangs."""
        held = self._held
        return held if held is not None and self._clock.monotonic() < held.valid_until_monotonic else None

    def is_leader(self) -> bool:
        """Whether this daemon leads, to its own knowledge. ``check_term`` asks the store."""
        return self.leadership is not None

    # -- the main loop -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the thread. Returns when the daemon holds its lease and its presence is stored. Call it once only."""
        self._main_loop = asyncio.get_running_loop()
        self._replaced = self._main_loop.create_future()
        self._teller = spawn("lease keeper: tell", self._tell())
        self._thread.start()
        await self._is_present.wait()

    async def ended(self) -> None:
        """Wait, indefinitely if all is well. Raises StoreReplaced when another store answers than before: this daemon then
        has neither lease nor leadership, and must end."""
        assert self._replaced is not None
        raise await asyncio.shield(self._replaced)

    async def wait_change(self, known: Held | None) -> Held | None:
        """Wait until the leadership differs from ``known`` (gained, lost, or another term), and return it."""
        while True:
            held = self.leadership
            if _key(held) != _key(known):
                return held
            left_s = None if held is None else max(0.001, held.valid_until_monotonic - self._clock.monotonic())
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._changed.wait()

    async def yield_leadership(self) -> None:
        """Let another daemon lead. If there is one, this daemon does not campaign for three seconds. Does nothing if this
        daemon does not lead."""
        loop, candidate = self._thread_loop, self._candidate
        if loop is None or candidate is None:
            return
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(candidate.yield_leadership(), loop))

    async def stop(self) -> None:
        """End the lease and the thread. Presence and leadership end immediately, so that the next leader need not wait."""
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread_began.wait, STOP_TIMEOUT_S)
        loop, stop = self._thread_loop, self._thread_stop
        if loop is not None and stop is not None:
            with suppress(RuntimeError):  # The thread has already ended.
                loop.call_soon_threadsafe(stop.set)
            await asyncio.to_thread(self._thread.join, STOP_TIMEOUT_S)
            if self._thread.is_alive():
                _log.error("the lease keeper did not stop in time; its lease will expire")
        self._publish(None)
        if self._teller is not None:
            # One pass of the loop for the last call of on_lost.
            await asyncio.sleep(0)
            self._teller.cancel()
            with suppress(asyncio.CancelledError):
                await self._teller

    async def _tell(self) -> None:
        known: Held | None = None
        while True:
            held = await self.wait_change(known)
            if known is not None and self._on_lost is not None:
                self._on_lost()
            if held is not None and self._on_gained is not None:
                self._on_gained(held)
            known = held

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run_thread(self) -> None:
        asyncio.run(self._keep())

    async def _keep(self) -> None:
        self._thread_stop = asyncio.Event()
        self._thread_loop = asyncio.get_running_loop()
        self._thread_began.set()
        session = spawn("lease keeper: session", self._sessions())
        await self._thread_stop.wait()
        session.cancel()
        with suppress(asyncio.CancelledError):
            await session

    async def _sessions(self) -> None:
        while True:
            try:
                await self._session()
            except Exception as e:
                if (replaced := _replaced_in(e)) is not None:
                    # A lease in the new store would let this daemon lead with the old one's records.
                    self._publish(None)
                    self._call_main(lambda: self._note_replaced(replaced))
                    return
                _log.exception("the lease keeper failed and starts again")
            self._publish(None)
            await self._clock.sleep(RESTART_S)

    async def _session(self) -> None:
        store = await self._open_store()
        candidate = Candidate(
            store,
            self._presence,
            clock=self._clock,
            times=self._times,
            on_change=self._publish,
            on_present=lambda: self._call_main(self._is_present.set),
        )
        self._candidate = candidate
        try:
            await candidate.run()
        finally:
            self._candidate = None
            try:
                await candidate.leave()
            except StoreError as e:
                _log.warning("the lease could not be ended; it will expire", reason=e.text)
            await store.close()

    def _publish(self, held: Held | None) -> None:
        before, self._held = self._held, held
        if _key(before) != _key(held):
            self._call_main(self._wake)

    def _note_replaced(self, replaced: StoreReplaced) -> None:
        if self._replaced is not None and not self._replaced.done():
            self._replaced.set_result(replaced)

    def _call_main(self, call: Callable[[], None]) -> None:
        if self._main_loop is not None:
            with suppress(RuntimeError):  # The main loop has ended.
                self._main_loop.call_soon_threadsafe(call)


def _replaced_in(error: Exception) -> StoreReplaced | None:
    """The cause, if it is that the store was replaced. The candidate's tasks fail as a group."""
    if isinstance(error, ExceptionGroup):
        return next((found for e in error.exceptions if (found := _replaced_in(e)) is not None), None)
    return error if isinstance(error, StoreReplaced) else None


def _key(held: Held | None) -> int | None:
    return None if held is None else held.revision_created
