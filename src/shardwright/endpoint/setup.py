"""The first words on a new server connection: log in, look whether it is the right server, restore the client's state.

Pure; used by the session, and by the process when it asks both servers itself. Nothing of the client's is sent before the
answers have been checked: ports are reused, roles change, and a fenced server is about to lose its role.
"""

import re
from dataclasses import dataclass, field

from shardwright.endpoint.resp import ERROR, encode_command

APPLICATION_USER = b"application"

_HELLO_ID = re.compile(rb"(\r\n\$2\r\nid\r\n:)(\d+)\r\n")
_FENCED = re.compile(rb"\r\nmin_(?:slaves|replicas)_good_(?:slaves|replicas):")


@dataclass(slots=True)
class ConnectionState:
    """What a client has set on its connection, and a new server connection must be given. ``None``: never set."""

    protocol: int = 2
    database: int = 0
    settings: dict[str, bytes] = field(default_factory=dict)
    """The last successful command of each kind (SETNAME, LIB-NAME, LIB-VER, NO-TOUCH …), as it was sent."""


class Setup:
    """One conversation with a new server connection."""

    __slots__ = ("_count", "_replies", "busy", "failure", "hello", "run_id", "sent")

    def __init__(self, secret: str, state: ConnectionState, *, run_id: str) -> None:
        self.run_id = run_id
        """What the server must be; empty: not checked."""
        self.failure = ""
        """Why this server is not (yet) the one; empty while it may be."""
        self.hello = b""
        """Its reply to HELLO."""
        self.busy = b""
        """What it answers while a script does not end; empty: it is not busy. It took our login, so it
        is a server of this database; which one, and in which role, it does not say now."""
        commands = [
            encode_command(b"HELLO", b"%d" % state.protocol, b"AUTH", APPLICATION_USER, secret.encode()),
            encode_command(b"INFO", b"server", b"replication", b"persistence"),
            encode_command(b"SELECT", b"%d" % state.database),
            # A demoted Valkey then sends us away instead of answering reads with what it once knew. Others do not know it.
            encode_command(b"CLIENT", b"CAPA", b"redirect"),
            *state.settings.values(),
        ]
        self.sent = b"".join(commands)
        self._count = len(commands)
        self._replies = 0

    def reply(self, reply: bytes) -> bool:
        """Take the next reply. True: that was the last one. Never raises: what is wrong is in ``failure``."""
        self._replies += 1
        match self._replies:
            case 1:
                self.hello = reply
                if reply[0] == ERROR:
                    self.failure = "the server refuses our login: " + _words(reply)
            case 2 if reply.startswith(b"-BUSY "):
                self.busy = reply
            case 2:
                self.failure = self.failure or check_info(reply, run_id=self.run_id)
            case 3 if reply[0] == ERROR and not self.busy:
                self.failure = self.failure or "the server refuses the selected database: " + _words(reply)
            case _:
                pass
        return self._replies >= self._count


def check_info(info: bytes, *, run_id: str) -> str:
    """Why a server with this INFO must not be given commands; empty when it is an open primary and the one expected."""
    if info[:1] == b"-":
        return "the server refuses INFO: " + _words(info)
    if run_id and f"\r\nrun_id:{run_id}\r\n".encode() not in info:
        return "another server process answers there"
    if b"\r\nrole:master\r\n" not in info:
        return "the server is a replica"
    if _FENCED.search(info):
        return "the server is fenced"
    if b"\r\nloading:1\r\n" in info:
        return "the server is loading"
    return ""


def hello_with_id(hello: bytes, connection_id: int) -> bytes:
    """A server's reply to HELLO with an id of ours: the server's would change at a handoff."""
    return _HELLO_ID.sub(rb"\g<1>%d\r\n" % connection_id, hello, count=1)


def _words(reply: bytes) -> str:
    return reply[1:160].decode("utf-8", "replace").strip()
