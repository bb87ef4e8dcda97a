"""Asks one server directly whether it is an open primary, and whether it has a replica. Used when a hold lasts too long, and
when writes of strict mode wait for a replica. Sends no client's command."""

import asyncio

from shardwright.endpoint.protocol import Target
from shardwright.endpoint.reach import ServerAccess
from shardwright.endpoint.resp import ProtocolError, ReplyScanner
from shardwright.endpoint.setup import ConnectionState, Setup
from shardwright.endpoint.strict import is_followed

PROBE_TIMEOUT_S = 0.3


async def probe(target: Target, secret: str, access: ServerAccess) -> str:
    """Why commands must not go to this server; empty if they may. Never raises for a failure of the server."""
    failure, _ = await _ask(target, secret, access)
    return failure


async def has_replica(target: Target, secret: str, access: ServerAccess) -> bool:
    """Whether the server is an open primary with a replica that can confirm writes. Never raises for a failure of the
    server."""
    failure, info = await _ask(target, secret, access)
    return not failure and is_followed(info)


async def _ask(target: Target, secret: str, access: ServerAccess) -> tuple[str, bytes]:
    """Why commands must not go to this server (empty: they may), and its INFO."""
    answers = Answers(target, secret)
    try:
        return await asyncio.wait_for(_probe(target, answers, access), PROBE_TIMEOUT_S), answers.info
    except (OSError, TimeoutError, ProtocolError) as error:
        return f"{target.address}:{target.port} does not answer: {error}", b""


async def _probe(target: Target, answers: "Answers", access: ServerAccess) -> str:
    encrypted = access.encryption(target)
    name = None if encrypted is None else target.address
    reader, writer = await asyncio.open_connection(target.address, target.port, ssl=encrypted, server_hostname=name)
    try:
        writer.write(answers.request)
        while data := await reader.read(65536):
            if (verdict := answers.feed(data)) is not None:
                return verdict
        return "the server closed the connection"
    finally:
        writer.close()


class Answers:
    """Evaluates the answers of one server as its bytes arrive. Pure."""

    def __init__(self, target: Target, secret: str) -> None:
        self._setup = Setup(secret, ConnectionState(), run_id=target.run_id)
        self._scanner = ReplyScanner()
        self._buffer = b""

    @property
    def request(self) -> bytes:
        """The bytes to send."""
        return self._setup.sent

    @property
    def info(self) -> bytes:
        """What the server said of itself; empty: nothing yet."""
        return self._setup.info

    def feed(self, data: bytes) -> str | None:
        """Why commands must not go to this server; empty if they may; None: unknown yet. Raises ProtocolError."""
        setup = self._setup
        self._buffer += data
        start = 0
        for end in self._scanner.scan(self._buffer):
            is_last = setup.reply(self._buffer[start:end])
            start = end
            if setup.failure or is_last:
                return setup.failure or setup.busy.decode("utf-8", "replace").strip()
        self._buffer = self._buffer[start:]
        return None
