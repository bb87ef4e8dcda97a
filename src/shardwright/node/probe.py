"""The ports of a newcomer while it joins: each caller is told one text, so that the cluster knows that it has reached
this machine and no other.

Called by ``join``, which must close it before the node's own programs listen there.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from shardwright.errors import Refusal, Rejected
from shardwright.model.codes import Code

_SEND_TIMEOUT_S: Final = 3.0


@contextmanager
def answering(address: str, ports: Sequence[int], text: str) -> Iterator[None]:
    """Answer at these ports until the block ends. Raises Rejected ``port_in_use``."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(_listen(address, port)) for port in ports]
        threads = [threading.Thread(target=_answer, args=(one, text.encode()), name="join probe") for one in listeners]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for listener in listeners:
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)  # Ends its accept.
            for thread in threads:
                thread.join()


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family)
    except OSError as e:
        text = f"port {port} of {address} cannot be used: {e.strerror}"
        remedy = f"find what uses it: ss -tlnp 'sport = :{port}'"
        raise Rejected(Refusal.CONFLICT, Code.PORT_IN_USE, text, remedy=remedy) from e


def _answer(listener: socket.socket, text: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_SEND_TIMEOUT_S)
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
