"""The sockets of the discovery service: accepts clients, answers them, and tells subscribers when a database has moved.

Run by ``wiring.py`` as long as the daemon. A port that is in use is no reason to end: the service tries again, and
everything else goes on. Encrypts nothing, because it says only addresses and names.
"""

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from shardwright.discovery.dialogue import DiscoveryDialogue, Known, Sentinel
from shardwright.discovery.found import FoundAddress, others, places
from shardwright.endpoint.resp import CommandScanner, ProtocolError, split_arguments
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView
from shardwright.store import keys

DISCOVERY_PORT = 8001
CLIENTS_MAX = 1000
"""Further ones are told so and disconnected."""
IDLE_S = 300.0
"""A client that has neither asked nor subscribed for so long is disconnected."""
SEND_S = 5.0
"""A client that reads nothing for so long is disconnected."""
UNREAD_BYTES_MAX = 64 * 1024
"""A subscriber that has so much to read does not read."""
LISTEN_AGAIN_S = 5.0
_READ_BYTES = 4096
_RELEVANT = (keys.DATABASES, keys.ENDPOINTS, keys.NODES, keys.DAEMONS)

_log = structlog.get_logger(__name__)


class Discovery:
    """See the module's docstring. ``view``: the present records; ``subscribe``: registers a function that is called with the
    keys of every change, as ``Mirror.subscribe`` does."""

    def __init__(
        self,
        node_uid: NodeUid,
        addresses: Sequence[str],
        port: int,
        *,
        view: Callable[[], ClusterView],
        subscribe: Callable[[Callable[[Collection[str]], None]], Callable[[], None]],
    ) -> None:
        self._node_uid = node_uid
        self._addresses = tuple(addresses)
        self._port = port
        self._view = view
        self._subscribe = subscribe
        self._known = Known(str(node_uid), {}, ())
        self._clients: dict[DiscoveryDialogue, asyncio.StreamWriter] = {}
        self.port = 0
        """The port it listens on; 0: not yet."""

    async def run(self) -> None:
        """For ever. On cancellation, every client is disconnected."""
        self._known = self._look()
        end = self._subscribe(self._changed)
        server: asyncio.Server | None = None
        try:
            server = await self._listen()
            self.port = server.sockets[0].getsockname()[1]
            await asyncio.get_running_loop().create_future()
        finally:
            end()
            if server is not None:
                server.close()
            for writer in self._clients.values():
                writer.close()

    async def _listen(self) -> asyncio.Server:
        is_said = False
        while True:
            try:
                return await asyncio.start_server(self._serve, self._addresses, self._port, family=socket.AF_UNSPEC)
            except OSError as e:
                if not is_said:
                    where = ", ".join(self._addresses)
                    _log.warning("discovery waits for its port", addresses=where, port=self._port, reason=str(e))
                is_said = True
            await asyncio.sleep(LISTEN_AGAIN_S)

    # -- the records ---------------------------------------------------------------------------------------------------

    def _look(self) -> Known:
        view, own = self._view(), self._node_uid
        sentinels = tuple(Sentinel(f"node-{uid}", place) for uid, place in others(view, own, self.port or self._port))
        return Known(f"node-{own}", places(view, own), sentinels)

    def _changed(self, changed: Collection[str]) -> None:
        if not any(key.startswith(_RELEVANT) for key in changed):
            return
        before, self._known = self._known.masters, self._look()
        moved = _moved(before, self._known.masters)
        for dialogue, writer in list(self._clients.items()):
            for name, was, now in moved:
                if message := dialogue.message(name, was, now):
                    writer.write(message)
            if writer.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
                writer.transport.abort()

    # -- clients -------------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialogue = DiscoveryDialogue()
        try:
            if len(self._clients) >= CLIENTS_MAX:
                writer.write(b"-ERR max number of clients reached\r\n")
            else:
                self._clients[dialogue] = writer
                await self._answer(dialogue, reader, writer)
            async with asyncio.timeout(SEND_S):
                await writer.drain()
        except (OSError, TimeoutError):
            pass  # The client has left, or reads nothing.
        finally:
            self._clients.pop(dialogue, None)
            writer.close()

    async def _answer(self, dialogue: DiscoveryDialogue, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        scanner, buffer = CommandScanner(), b""
        scanner.is_unauthenticated = True  # The tight limits, always: no command here is long.
        while not dialogue.is_over:
            async with asyncio.timeout(None if dialogue.channels or dialogue.patterns else IDLE_S):
                data = await reader.read(_READ_BYTES)
            if not data:
                return
            buffer += data
            start = 0
            for end, _ in scanner.scan(buffer):
                try:
                    writer.write(dialogue.answer(split_arguments(buffer[start:end]), self._known))
                except ProtocolError as e:
                    writer.write(f"-ERR Protocol error: {e}\r\n".encode())
                    return
                start = end
            buffer = buffer[start:]
            if scanner.error:
                writer.write(f"-ERR Protocol error: {scanner.error}\r\n".encode())
                return
            async with asyncio.timeout(SEND_S):
                await writer.drain()


def _moved(
    before: Mapping[str, FoundAddress], after: Mapping[str, FoundAddress]
) -> list[tuple[str, FoundAddress, FoundAddress]]:
    """The databases whose place is another one than before."""
    return [(name, before[name], place) for name, place in sorted(after.items()) if before.get(name, place) != place]
