"""The endpoint process of one node: adopts it, starts it, restarts it at once when it dies, and configures it after a start.
One of another version is replaced (``endpoint_replacement.py``).

Called by the agent's loop. A new process must not wait for a leader, so the agent configures it; the leader sends it all
later changes. Must not end a process that works, because it serves clients. A process that hangs serves no client and
blocks the port, so it is ended.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from shardwright.agent.endpoint_replacement import EndpointReplacement
from shardwright.clock import Clock
from shardwright.endpoint.control import has_no_listener
from shardwright.endpoint.protocol import EndpointControl
from shardwright.endpoint.spec import spec_of
from shardwright.errors import Transient
from shardwright.machine.files import make_private_directory, rotate
from shardwright.machine.identity_file import read_identity, write_identity
from shardwright.machine.processes import (
    Watch,
    arguments_of,
    cpu_seconds,
    end,
    find_processes,
    is_running,
    python_environment,
    send,
    spawn_process,
)
from shardwright.model.backoff import Backoff
from shardwright.model.ids import NodeUid
from shardwright.model.seen import EndpointState, ProcessIdentity, Sighting
from shardwright.model.view import ClusterView
from shardwright.nodes import here
from shardwright.nodes.protocol import NOT_SEEN, ProcessLook

MODULE = "shardwright.endpoint.main"
BACKOFF = Backoff((0.0, 0.05, 0.1, 0.2, 0.4, 0.8))
"""The delay before each start in a series of quick deaths. It stays below a second, because clients wait for the process."""
STEADY_S = 5.0
"""A process that lived this long died of a new cause: the backoff starts over."""
CONFIGURE_EVERY_S = 0.02
SILENT_PROBES_MIN = 5
"""Unanswered probes in a row before the process may be ended, however long they took: this daemon may have been frozen."""
RETIRE_GRACE_S = 10.0
"""For the last replies to clients."""
OUTPUT_BYTES_MAX = 1024 * 1024

_log = structlog.get_logger(__name__)


def endpoint_command(node_uid: NodeUid, control: Path, log: Path, config: Path | None = None) -> list[str]:
    """The command that starts an endpoint process. It contains no secrets. ``config``: its configuration file
    (``endpoint/config.py``); None: only callers of this machine are accepted."""
    command = [sys.executable, "-m", MODULE, "--node", str(node_uid), "--control", str(control), "--log", str(log)]
    return command if config is None else [*command, "--config", str(config)]


class EndpointProcessKeeper:
    """See the module's docstring."""

    def __init__(
        self,
        node_uid: NodeUid,
        directory: Path,
        *,
        control: Path,
        process: EndpointControl,
        clock: Clock,
        on_change: Callable[[], None],
        command: Sequence[str] | None = None,
        version: str | None = None,
    ) -> None:
        """``version``: a process of another one is replaced; None: none is."""
        self._node_uid = node_uid
        self._directory = Path(os.path.realpath(directory))
        self.control = control
        self._process = process
        self._clock = clock
        self._on_change = on_change
        self._command = list(command or endpoint_command(node_uid, control, directory / "endpoint.log"))
        self._replacement: EndpointReplacement | None = None
        if version is not None:
            self._replacement = EndpointReplacement(
                node_uid, control, command=self._command, version=version, start=self._spawn, clock=clock
            )
        self._tells_all = False
        """Whether the process is to be told about endpoints that it knows, too."""
        self.identity: ProcessIdentity | None = None
        self._watch: Watch | None = None
        self._is_loaded = False
        self._is_starting = False
        self._is_retired = False
        self._started_at = 0.0
        self._quick_deaths = 0
        self._not_before = 0.0
        self._is_configured = False
        self._active_at = 0.0
        self._cpu_s: float | None = None
        self._silent_probes = 0

    def close(self) -> None:
        """Stop watching. The process keeps running."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    async def load(self) -> None:
        """Adopt the process of an earlier agent, even if that agent died before it could record what it started."""
        identity = read_identity(self._identity_path)
        if identity is not None and not is_running(identity):
            identity = None
        coming = None if self._replacement is None else await self._replacement.load(identity)
        if identity is None:
            candidates = await asyncio.to_thread(find_processes, lambda p: p != coming and self._is_ours(p))
            identity = min(candidates, key=lambda p: p.start_ticks, default=None)
        if identity is not None:
            _log.info("adopted the endpoint process", pid=identity.pid)
            self._adopt(identity)
        self._is_loaded = True

    async def ensure(self) -> float | None:
        """Start the process if it does not run. Returns the seconds until the next attempt; None: it runs."""
        if self.identity is not None or self._is_retired:
            return None
        if self._replacement is not None and self._replacement.coming is not None:
            # The old process has died meanwhile. The new one may have clients.
            if (taken := await self._replacement.take_over()) is None:
                return CONFIGURE_EVERY_S
            await self._take(taken)
            return None
        wait_s = self._not_before - self._clock.monotonic()
        if wait_s > 0:
            return wait_s
        self._is_starting = True
        try:
            identity = await asyncio.to_thread(self._start)
        except OSError as e:
            self._is_starting = False
            self._note_death()
            _log.error("the endpoint process could not be started", reason=str(e))
            return BACKOFF.longest.total_seconds()
        _log.info("started the endpoint process", pid=identity.pid)
        self._adopt(identity)
        return None

    async def configure(self, view: Callable[[], ClusterView]) -> None:
        """Make a newly adopted or started process serve every endpoint bound to the node. Returns when it does, or when the
        process has ended."""
        identity = self.identity
        while identity is not None and self.identity == identity and not self._is_configured:
            seen = await self._process.status()
            if seen.answers:
                try:
                    for endpoint in view().endpoints_on(self._node_uid):
                        is_bound = self._node_uid in endpoint.bound_nodes
                        spec = spec_of(view(), endpoint, self._node_uid) if is_bound else None
                        is_absent = seen.endpoint(endpoint.uid).state is EndpointState.ABSENT
                        if spec is not None and (is_absent or self._tells_all):
                            await self._process.serve(spec)
                    self._is_configured, self._tells_all = True, False
                    return
                except Transient as e:
                    _log.info("the endpoint process cannot be configured yet", reason=e.text)
            await self._clock.sleep(CONFIGURE_EVERY_S)

    async def replace_if_old(self, view: Callable[[], ClusterView]) -> None:
        """Replace a process of another version; its clients stay. Returns when it is done, or waits for something."""
        old = self.identity
        if old is None or self._is_retired or self._replacement is None:
            return
        try:
            taken = await self._replacement.look(old, view)
        except OSError as e:
            _log.error("the endpoint process cannot be replaced", reason=str(e))
            return
        if taken is not None and self.identity == old:
            await self._take(taken)
            await end(old, RETIRE_GRACE_S)

    async def end_if_hung(self, after_s: float) -> None:
        """Probe the process. End it at once (SIGKILL, by identity) if it has neither answered nor used CPU for ``after_s``:
        otherwise its clients, and every action that needs it, would wait indefinitely."""
        identity = self.identity
        if identity is None:
            return
        seen = await self._process.status()
        now = self._clock.monotonic()
        used_s = cpu_seconds(identity)
        if seen.answers or used_s != self._cpu_s:
            self._cpu_s, self._active_at, self._silent_probes = used_s, now, 0
            return
        self._silent_probes += 1
        if self.identity == identity and self._silent_probes >= SILENT_PROBES_MIN and now - self._active_at >= after_s:
            _log.error("ending the endpoint process: it neither answers nor uses CPU", pid=identity.pid, for_s=after_s)
            send(identity, signal.SIGKILL)

    async def retire(self) -> None:
        """End the process, and start no other one: its clients get their last replies. For a node that was removed."""
        self._is_retired = True
        if self._replacement is not None and (coming := self._replacement.coming) is not None:
            await end(coming, RETIRE_GRACE_S)
        if self.identity is not None:
            _log.info("ending the endpoint process", pid=self.identity.pid)
            await end(self.identity, RETIRE_GRACE_S)

    @property
    def needs_configuration(self) -> bool:
        """Whether ``configure`` has work to do."""
        return self.identity is not None and not self._is_configured

    def look(self) -> ProcessLook:
        """Whether the process runs. ENDED is certain: none is known or being started, and none listens at the control
        socket, such as one that was started but could not be recorded."""
        if self.identity is not None:
            return here.look(self.identity)
        if not self._is_loaded or self._is_starting or not has_no_listener(str(self.control)):
            return NOT_SEEN
        return ProcessLook(Sighting.ENDED)

    # -- parts -------------------------------------------------------------------------------------------------------

    @property
    def _identity_path(self) -> Path:
        return self._directory / "endpoint.json"

    def _is_ours(self, process: ProcessIdentity) -> bool:
        ours = [self._command] if self._replacement is None else [self._command, self._replacement.command]
        return arguments_of(process.pid)[1:] in [command[1:] for command in ours]

    def _start(self) -> ProcessIdentity:
        identity = self._spawn(self._command)
        write_identity(self._identity_path, identity)
        return identity

    def _spawn(self, command: Sequence[str]) -> ProcessIdentity:
        make_private_directory(self._directory)
        output = self._directory / "endpoint.out"
        rotate(output, bytes_max=OUTPUT_BYTES_MAX)
        return spawn_process(command, directory=self._directory, output=output, environment=python_environment())

    async def _take(self, taken: ProcessIdentity) -> None:
        """Go on with the process that has taken the place of the former one."""
        self.close()
        await asyncio.to_thread(write_identity, self._identity_path, taken)
        self._tells_all = True
        self._adopt(taken)

    def _adopt(self, identity: ProcessIdentity) -> None:
        self.identity = identity
        self._is_starting = False
        self._is_configured = False
        self._active_at, self._cpu_s, self._silent_probes = self._clock.monotonic(), None, 0
        self._started_at = self._clock.monotonic()
        self._watch = Watch(identity, self._ended)
        self._on_change()

    def _ended(self, status: int | None) -> None:
        pid = self.identity.pid if self.identity is not None else 0
        _log.warning("the endpoint process has ended", pid=pid, status=status)
        self.close()
        self.identity = None
        self._note_death()
        self._on_change()

    def _note_death(self) -> None:
        now = self._clock.monotonic()
        self._quick_deaths = 0 if now - self._started_at > STEADY_S else self._quick_deaths + 1
        self._not_before = now + BACKOFF.delay_s(self._quick_deaths)
