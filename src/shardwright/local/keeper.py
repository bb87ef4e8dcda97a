"""Keeps one node's daemon alive: adopts or starts it, pings it, kills it if it does not answer, and restarts it.

One per node, run by the supervisor. It ignores shards and endpoint processes: they outlive daemons.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from shardwright.clock import Clock
from shardwright.errors import Permanent
from shardwright.local.daemon import EXIT_TAKEN
from shardwright.local.layout import Layout
from shardwright.local.ping import PingResult, ping
from shardwright.machine.files import last_line, make_private_directory, rotate
from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import Watch, end, is_running, spawn_process
from shardwright.model.backoff import Backoff
from shardwright.model.ids import NodeUid
from shardwright.model.seen import ProcessIdentity
from shardwright.store.ended import revoke_lease_of
from shardwright.store.protocol import Store, StoreError
from shardwright.tasks import spawn

PING_EVERY_S = 0.5
PING_TIMEOUT_S = 1.0
PING_TIMEOUT_MIN_S = 0.3
"""Timeout of the last ping before a daemon counts as silent."""
SILENT_MAX_S = 5.0
"""A daemon that has not answered for this long is killed: a frozen one may hold the store's lock."""
SILENT_PINGS_MIN = 4
"""Additional condition: unanswered pings in a row. If the supervisor itself was paused, there is only one."""
FIRST_ANSWER_MAX_S = 30.0
"""Python takes seconds to start on a busy machine."""
BACKOFF = Backoff((0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0))
"""Delay before each start in a series of quick deaths; the last value repeats."""
STEADY_S = 60.0
"""After this time alive, the series starts again."""
END_GRACE_S = 10.0
OUTPUT_BYTES_MAX = 1024 * 1024
REVOKE_TRIES = 3

_log = structlog.get_logger(__name__)


class DaemonKeeper:
    """Keeps the daemon of one node alive and answering."""

    def __init__(
        self,
        node_uid: NodeUid,
        layout: Layout,
        *,
        store: Store,
        clock: Clock,
        command: Sequence[str],
        environment: Callable[[], dict[str, str]],
    ) -> None:
        self.node_uid = node_uid
        self.identity: ProcessIdentity | None = None
        """The daemon that is running now."""
        self._layout = layout
        self._store = store
        self._clock = clock
        self._command = command
        self._environment = environment
        self._quick_deaths = 0
        self._log = _log.bind(node=node_uid)

    async def run(self) -> None:
        """Runs indefinitely. Its daemon outlives a cancellation."""
        while True:
            try:
                await self._one_life()
            except OSError as e:
                self._log.error("the daemon could not be started", reason=str(e))
                self._quick_deaths += 1
            await self._clock.sleep(BACKOFF.delay_s(self._quick_deaths))

    async def end(self) -> None:
        """End the daemon permanently; ``run`` must have been cancelled."""
        identity = self.identity or read_identity(self._layout.daemon(self.node_uid))
        if identity is not None:
            await end(identity, END_GRACE_S)
            await self._revoke(identity)
        self.identity = None

    # -- parts -------------------------------------------------------------------------------------------------------

    async def _one_life(self) -> None:
        """Adopt or start a daemon, and watch it until it has ended."""
        began = self._clock.monotonic()
        identity = read_identity(self._layout.daemon(self.node_uid))
        is_adopted = identity is not None and is_running(identity)
        if identity is None or not is_adopted:
            identity = await asyncio.to_thread(self._start)
        self.identity = identity
        self._log.info("adopted the daemon" if is_adopted else "started the daemon", pid=identity.pid)
        status = await self._watch_until_end(identity, grace_s=0 if is_adopted else FIRST_ANSWER_MAX_S)
        self.identity = None
        spawn(f"supervisor: revoke the lease of node {self.node_uid}", self._revoke(identity))
        lived_s = self._clock.monotonic() - began
        if status == EXIT_TAKEN:
            # Another daemon of this node is running and has not written its identity yet: the next turn adopts it.
            self._quick_deaths = 1
            return
        self._quick_deaths = 0 if lived_s >= STEADY_S else self._quick_deaths + 1
        output = await asyncio.to_thread(last_line, self._layout.daemon_output(self.node_uid))
        self._log.warning("the daemon has ended", pid=identity.pid, status=status, lived_s=round(lived_s, 1), output=output)

    def _start(self) -> ProcessIdentity:
        directory: Path = self._layout.node(self.node_uid)
        make_private_directory(directory)
        output = self._layout.daemon_output(self.node_uid)
        rotate(output, bytes_max=OUTPUT_BYTES_MAX)
        return spawn_process(self._command, directory=directory, output=output, environment=self._environment())

    async def _watch_until_end(self, identity: ProcessIdentity, *, grace_s: float) -> int | None:
        """Watch the daemon until it has ended. Returns its exit status if it was a child process. Kills it if it stops
        answering."""
        ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        watch = Watch(identity, ended.set_result)
        began = self._clock.monotonic()
        silent_since: float | None = None
        silent_pings = 0
        try:
            while True:
                await asyncio.wait({ended}, timeout=PING_EVERY_S)
                if ended.done():
                    return ended.result()
                asked_at = self._clock.monotonic()
                silent_since = asked_at if silent_since is None else silent_since
                left_s = silent_since + SILENT_MAX_S - asked_at
                answer = await ping(self._layout.ping(self.node_uid), min(PING_TIMEOUT_S, max(left_s, PING_TIMEOUT_MIN_S)))
                if answer is PingResult.ANSWERED:
                    silent_since, silent_pings, grace_s = None, 0, 0.0
                    continue
                if answer is PingResult.SILENT and grace_s:
                    # It has started to listen, and hangs: from now on the silence counts.
                    silent_since, silent_pings, grace_s = asked_at, 0, 0.0
                silent_pings += 1
                now = self._clock.monotonic()
                is_silent = now - silent_since >= SILENT_MAX_S and silent_pings >= SILENT_PINGS_MIN
                if is_silent and now - began >= grace_s and not ended.done():
                    self._log.error("the daemon does not answer and is killed", pid=identity.pid)
                    await end(identity, 0)
        finally:
            watch.close()

    async def _revoke(self, identity: ProcessIdentity) -> None:
        """Revoke the lease of a daemon that has certainly ended, so that the next leader need not wait for its expiry."""
        for _ in range(REVOKE_TRIES):
            try:
                if await revoke_lease_of(self._store, self.node_uid, identity):
                    self._log.info("revoked the lease of the dead daemon", pid=identity.pid)
                return
            except (StoreError, Permanent) as e:
                self._log.warning("the lease of a dead daemon could not be revoked", reason=e.text)
