"""Asks one server directly whether it is an open primary. Used when a hold lasts too long; sends nothing of a client's."""

import asyncio

from shardwright.endpoint.protocol import Target
from shardwright.endpoint.resp import ProtocolError, ReplyScanner
from shardwright.endpoint.setup import ConnectionState, Setup

LOOK_TIMEOUT_S = 0.3


async def look(target: Target, secret: str) -> str:
    """Why commands must not go to this server; empty when they may. Never raises for a server's trouble."""
    try:
        return await asyncio.wait_for(_look(target, secret), LOOK_TIMEOUT_S)
    except (OSError, TimeoutError, ProtocolError) as error:
        return f"{target.address}:{target.port} does not answer: {error}"


async def _look(target: Target, secret: str) -> str:
    reader, writer = await asyncio.open_connection(target.address, target.port)
    try:
        setup = Setup(secret, ConnectionState(), run_id=target.run_id)
        writer.write(setup.sent)
        scanner = ReplyScanner()
        buffer = b""
        while True:
            data = await reader.read(65536)
            if not data:
                return "the server closed the connection"
            buffer += data
            start = 0
            for end in scanner.scan(buffer):
                is_last = setup.reply(buffer[start:end])
                start = end
                if setup.failure or is_last:
                    return setup.failure or setup.busy.decode("utf-8", "replace").strip()
            buffer = buffer[start:]
    finally:
        writer.close()
