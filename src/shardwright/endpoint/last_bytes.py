"""Lets the last bytes for a client leave together with the FIN.

Otherwise the event loop writes a reply now and ends the connection a moment later. On a busy machine a client sends its next
command in between, which is then lost with the connection.
"""

import asyncio
import socket


def send_with_fin(transport: asyncio.Transport) -> None:
    """Let the kernel keep an incomplete segment back until the FIN is sent (``TCP_CORK``, at most 200 ms). Called before the
    last write."""
    found = transport.get_extra_info("socket")
    if found is not None and found.family in (socket.AF_INET, socket.AF_INET6):
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
