"""A member that answers as a test says: what no real etcd can be made to do at the right moment.

Speaks the gateway's HTTP on a loopback port of its own and counts what it is sent. Answers to the status request by itself.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

HEADER = {"cluster_id": "7", "member_id": "1", "revision": "5", "raft_term": "2"}
SILENT = b""
"""An answer that never comes; the connection stays open."""
CUT = b"cut"
"""No answer: the connection ends."""

Reply = Callable[[str, dict[str, Any]], bytes]


def answer(message: dict[str, Any], status: int = 200) -> bytes:
    """A whole answer, as the gateway sends errors and streams: chunked, with trailers."""
    body = json.dumps(message).encode()
    return (
        f"HTTP/1.1 {status} Some\r\nTransfer-Encoding: chunked\r\nTrailer: Grpc-Trailer-A\r\n\r\n{len(body):x}\r\n".encode()
        + body
        + b"\r\n0\r\nGrpc-Trailer-A: b\r\n\r\n"
    )


def refusal(code: int, text: str) -> bytes:
    """An error, as the gateway sends it."""
    return answer({"error": text, "message": text, "code": code}, 503)


def stream(*messages: dict[str, Any]) -> bytes:
    """The beginning of an endless answer."""
    body = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
    return f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode() + body + b"\r\n"


class CannedGateway:
    """``reply`` gets path and message, and returns the bytes of the answer, SILENT or CUT."""

    def __init__(self, url: str, reply: Reply) -> None:
        """Private; call ``gateway``."""
        self.url = url
        self.reply = reply
        self.version = "3.4.23"
        self.cluster_id = "7"
        self.received: Counter[str] = Counter()
        """Requests by path."""
        self.needing_leader = 0
        """Requests that may only be served while the member knows a leader."""
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n"))}
        path = head.split(" ")[1]
        message = json.loads(await reader.readexactly(int(fields["content-length"])))
        self.received[path] += 1
        self.needing_leader += "grpc-metadata-hasleader" in fields
        if path == "/v3/maintenance/status":
            data = answer({"header": {**HEADER, "cluster_id": self.cluster_id}, "version": self.version})
        else:
            data = self.reply(path, message)
        if data == CUT:
            return False
        writer.write(data)
        await writer.drain()
        return True


@asynccontextmanager
async def gateway(reply: Reply) -> AsyncIterator[CannedGateway]:
    """A member that runs until the end of the context."""
    served: list[CannedGateway] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await served[0].serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    served.append(CannedGateway(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", reply))
    try:
        yield served[0]
    finally:
        server.close()
