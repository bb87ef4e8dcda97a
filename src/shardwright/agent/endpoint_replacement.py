"""Replaces a node's endpoint process of another version by one of this version. Its clients stay connected.

Owned by ``endpoint_process.py``. The new process starts beside the old one and gets its listeners and connections, then its
place, then the old one ends. All of it can be repeated: whatever a daemon that died has left is found and finished. Must not
end a process that still has clients.
"""

import asyncio
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from shardwright.clock import Clock
from shardwright.endpoint.client import EndpointClient, UnixCaller
from shardwright.endpoint.control import has_no_listener
from shardwright.endpoint.protocol import REPLACES, replacement_path
from shardwright.errors import Transient
from shardwright.machine.processes import arguments_of, find_processes, identity_of, is_running, send
from shardwright.model.ids import NodeUid
from shardwright.model.seen import ProcessIdentity
from shardwright.model.view import ClusterView
from shardwright.reconcile.replacement import replacement_waits_for

POLL_S: Final = 0.02
ATTEMPT_S: Final = 30.0
"""For one attempt to pass everything on. What is left then is looked at again; a command may run for long."""
SILENT_S: Final = 5.0
"""A new process that has not answered for so long is ended."""
AGAIN_S: Final = 30.0
"""After a new process has failed."""

_log = structlog.get_logger(__name__)


class EndpointReplacement:
    """See the module's text. ``start`` starts a process and returns its identity; it raises OSError. ``version``: of the
    program that a new process runs."""

    def __init__(
        self,
        node_uid: NodeUid,
        control: Path,
        *,
        command: Sequence[str],
        version: str,
        start: Callable[[Sequence[str]], ProcessIdentity],
        clock: Clock,
    ) -> None:
        self._node_uid = node_uid
        self._command = [*command, REPLACES]
        self._start_process = start
        self._clock = clock
        self._version = version
        self._path = replacement_path(str(control))
        self._front = EndpointClient(node_uid, UnixCaller(node_uid, str(control)), clock=clock)
        self._behind = EndpointClient(node_uid, UnixCaller(node_uid, self._path), clock=clock)
        self._next: ProcessIdentity | None = None
        self._settled: ProcessIdentity | None = None
        """The process that needs no replacement."""
        self._not_before = 0.0
        self._said = ""

    @property
    def command(self) -> list[str]:
        """Of the process that takes the place of another one."""
        return list(self._command)

    @property
    def coming(self) -> ProcessIdentity | None:
        """The new process that has not taken over yet; None if there is none."""
        return self._next if self._next is not None and is_running(self._next) else None

    async def load(self, front: ProcessIdentity | None) -> ProcessIdentity | None:
        """Find the new process of an earlier daemon, beside the one that is noted, if any. None: none waits for its
        place."""
        if not has_no_listener(self._path):
            found = await asyncio.to_thread(find_processes, lambda p: p != front and self._is_new(p))
            self._next = max(found, key=lambda p: p.start_ticks, default=None)
        return self._next

    async def look(self, front: ProcessIdentity, view: Callable[[], ClusterView]) -> ProcessIdentity | None:
        """One attempt, if the process at the control socket is of another version. Returns the process that answers there
        now instead of ``front``; None: it is still the same. Raises OSError."""
        if self._settled == front:
            return None
        seen = await self._front.status()
        if not seen.answers:
            return None
        if seen.pid != front.pid:
            # A daemon died between the change of place and its note.
            return await asyncio.to_thread(identity_of, seen.pid)
        if self.coming is None:
            if seen.version == self._version:
                self._settled = front
                return None
            if not await self._begin(seen.version, view()):
                return None
        if not await self._pass_all(front, view):
            return None
        return await self.take_over()

    async def take_over(self) -> ProcessIdentity | None:
        """Give the new process the place of the old one, which has nothing left or has ended. None: it does not answer."""
        coming = self.coming
        if coming is None:
            return None
        try:
            await self._behind.take_over()
        except Transient as e:
            _log.warning("the new endpoint process cannot take over yet", reason=e.text)
            return None
        _log.info("the new endpoint process has taken over", pid=coming.pid, version=self._version)
        self._next = None
        return coming

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _is_new(self, process: ProcessIdentity) -> bool:
        return arguments_of(process.pid)[1:] == self._command[1:]

    async def _begin(self, old_version: str, view: ClusterView) -> bool:
        """Start the new process. False: not now."""
        if self._clock.monotonic() < self._not_before:
            return False
        if (reason := replacement_waits_for(view, self._node_uid)) is not None:
            self._say(f"the endpoint process is replaced later: {reason}")
            return False
        self._not_before = self._clock.monotonic() + AGAIN_S
        self._next = await asyncio.to_thread(self._start_process, self._command)
        _log.info(
            "replacing the endpoint process", of=old_version or "an older version", by=self._version, pid=self._next.pid
        )
        return True

    async def _pass_all(self, front: ProcessIdentity, view: Callable[[], ClusterView]) -> bool:
        """Pass every endpoint on. True: the old process has none left."""
        began = heard = self._clock.monotonic()
        while is_running(front) and (now := self._clock.monotonic()) - began < ATTEMPT_S:
            if (await self._behind.status()).answers:
                heard = now
                if replacement_waits_for(view(), self._node_uid) is None and await self._pass_some():
                    return True
            elif self.coming is None or now - heard >= SILENT_S:
                await self._give_up()
                return False
            await self._clock.sleep(POLL_S)
        return False

    async def _pass_some(self) -> bool:
        """Tell the old process to pass on what it has. True: nothing is left."""
        seen = await self._front.status()
        if not seen.answers:
            return False
        asked = (self._front.pass_endpoint(one.endpoint_uid, self._path, is_replacement=True) for one in seen.endpoints)
        found = await asyncio.gather(*asked, return_exceptions=True)
        for one in found:
            if isinstance(one, Transient):
                self._say(f"an endpoint is not passed on yet: {one.text}")
                return False
            if isinstance(one, BaseException):
                raise one
        return all(not isinstance(one, BaseException) and one.remaining == 0 for one in found)

    async def _give_up(self) -> None:
        """The new process has failed: the old one serves everything again."""
        failed, self._next = self._next, None
        self._not_before = self._clock.monotonic() + AGAIN_S
        if failed is not None:
            _log.error("the new endpoint process has failed; the old one goes on", pid=failed.pid)
            send(failed, signal.SIGKILL)
        try:
            await self._front.keep()
        except Transient as e:
            # An older one: the leader sees that it does not listen, and tells it to serve.
            _log.warning("the old endpoint process was not told to go on", reason=e.text)

    def _say(self, text: str) -> None:
        """Once for each cause."""
        if text != self._said:
            self._said = text
            _log.info(text)
