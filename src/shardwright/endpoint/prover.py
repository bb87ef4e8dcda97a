"""Asks an endpoint's server whether a replica follows it, again and again, for as long as the endpoint needs proofs.

Owned by ``served.py``; ``gate.py`` decides what an answer means. Each question has two commands. The first one is replicated
and changes no key; the second one waits until a replica has it. Without the first one, the server would count replicas that
it only believes to have. Asks on a connection of its own, so that no client's command is delayed.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from shardwright.clock import boot_time
from shardwright.endpoint.gate import Gate
from shardwright.endpoint.lease import ASK_EVERY_S, HOLD_BEFORE_S, NEVER, WAIT_S
from shardwright.endpoint.protocol import Target
from shardwright.endpoint.reach import ServerAccess
from shardwright.endpoint.resp import ERROR, ProtocolError, ReplyScanner, encode_command
from shardwright.endpoint.setup import ConnectionState, Setup
from shardwright.endpoint.strict import MARK
from shardwright.tasks import spawn

QUESTION = MARK + encode_command(b"WAIT", b"1", b"%d" % round(WAIT_S * 1000))
ANSWER_MAX_S = 1.0
"""For an answer, beside the time that the server waits; and for a connection with its checks."""
RETRY_S = 0.1
SILENT_MAX_S = 2.0
"""A server that has not answered for so long serves no client of this process: a waiver would be of no use."""


class ProvenClient(Protocol):
    """A client's connection."""

    def lapse(self) -> None:
        """Leave the server if anything of it is awaited."""


class Prover:
    """See the module's docstring. ``connections``: the endpoint's clients. ``changed`` is called when their waiting commands
    may go on."""

    def __init__(
        self, gate: Gate, access: ServerAccess, connections: Collection[ProvenClient], changed: Callable[[], None]
    ) -> None:
        self._gate = gate
        self._access = access
        self._connections = connections
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._asks: Target | None = None
        self._hold_timer: asyncio.TimerHandle | None = None
        self._refused_since: float | None = None
        """When the first question in a row was asked that the server answered without a replica."""
        self._silent_since: float | None = None

    @property
    def unconfirmed_s(self) -> float | None:
        """See ``LeaseSeen.unconfirmed_s``."""
        return None if self._refused_since is None else boot_time() - self._refused_since

    def look(self) -> None:
        """Begin or stop asking, after a change of the gate."""
        wanted = self._gate.target if self._gate.asks_for_proof else None
        if wanted == self._asks and (wanted is None or (self._task is not None and not self._task.done())):
            return
        self.end()
        self._asks = wanted
        if wanted is not None:
            self._hold()
            self._task = spawn("endpoint-prover", self._run(wanted))

    def lapse(self) -> None:
        """Before replies may be passed on again: no one receives what the server sent while there was no proof. Another
        server may have been the primary meanwhile, and this one again now. Called before anything that may be a new
        permission."""
        if self._gate.is_outdated(boot_time()):
            for connection in list(self._connections):
                connection.lapse()

    def end(self) -> None:
        """Stop asking."""
        self._asks = self._refused_since = self._silent_since = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None

    async def _run(self, target: Target) -> None:
        while True:
            try:
                await self._ask(target)
            except (OSError, TimeoutError, ProtocolError, ValueError):
                self._refused_since = None
                self._note_silence()
            await asyncio.sleep(RETRY_S)

    def _note_silence(self) -> None:
        now = boot_time()
        self._silent_since = now if self._silent_since is None else self._silent_since
        if now - self._silent_since >= SILENT_MAX_S:
            self._gate.end_waiver()

    async def _ask(self, target: Target) -> None:
        """Ask until something fails. Raises OSError, TimeoutError, ProtocolError, ValueError."""
        encrypted = self._access.encryption(target)
        name = None if encrypted is None else target.address
        async with asyncio.timeout(ANSWER_MAX_S):
            reader, writer = await asyncio.open_connection(target.address, target.port, ssl=encrypted, server_hostname=name)
        try:
            replies = _Replies(reader)
            async with asyncio.timeout(ANSWER_MAX_S):
                await _log_in(target, self._gate.spec.application_secret, replies, writer)
            while True:
                asked_at = boot_time()
                writer.write(QUESTION)
                async with asyncio.timeout(WAIT_S + ANSWER_MAX_S):
                    await replies.next()
                    answer = await replies.next()
                self._answered(target, asked_at, answer)
                await asyncio.sleep(max(0.0, asked_at + ASK_EVERY_S - boot_time()))
        finally:
            writer.close()

    def _answered(self, target: Target, asked_at: float, answer: bytes) -> None:
        if answer[0] == ERROR:
            raise ValueError("the server is no primary")
        self._silent_since = None
        if answer == b":0\r\n":
            self._refused_since = asked_at if self._refused_since is None else self._refused_since
            return
        self._refused_since = None
        gate = self._gate
        self.lapse()
        was_unproven = gate.is_unproven
        gate.prove(target, asked_at, boot_time())
        self._look_in_time()
        if was_unproven and not gate.is_unproven:
            self._changed()

    def _look_in_time(self) -> None:
        """Hold new commands shortly before the proof ends."""
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
        until = self._gate.proof_until
        if until is None or until == NEVER:
            return
        wait_s = max(0.0, until - HOLD_BEFORE_S - boot_time())
        self._hold_timer = asyncio.get_running_loop().call_later(wait_s, self._hold)

    def _hold(self) -> None:
        self._gate.look_at_proof(boot_time())
        if not self._gate.is_unproven:
            self._look_in_time()  # the loop's clock stands while the machine sleeps, and is rounded


class _Replies:
    """The complete replies of a server, in their order."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._scanner = ReplyScanner()
        self._buffer = b""
        self._found: list[bytes] = []

    async def next(self) -> bytes:
        """Raises ConnectionError when the server closes the connection, and ProtocolError."""
        while not self._found:
            data = await self._reader.read(65536)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self._buffer += data
            start = 0
            for end in self._scanner.scan(self._buffer):
                self._found.append(self._buffer[start:end])
                start = end
            self._buffer = self._buffer[start:]
        return self._found.pop(0)


async def _log_in(target: Target, secret: str, replies: _Replies, writer: asyncio.StreamWriter) -> None:
    """Raises ValueError for a server that is not the target, or no open primary."""
    setup = Setup(secret, ConnectionState(), run_id=target.run_id)
    writer.write(setup.sent)
    while not setup.reply(await replies.next()):
        pass
    if setup.failure or setup.busy:
        raise ValueError(setup.failure or "the server is busy")
