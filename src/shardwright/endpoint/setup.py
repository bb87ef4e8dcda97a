"""The setup of a new server connection: logs in, verifies the server, and restores the client's connection state.

Pure; used by the session, and by the process when it asks both servers itself. No client's command is sent before the
replies have been checked: ports are reused, roles change, and a fenced server is about to lose its role.
"""

import re
from dataclasses import dataclass, field
from enum import Enum, auto

from shardwright.endpoint.resp import ERROR, encode_command

APPLICATION_USER = b"application"

_HELLO_ID = re.compile(rb"(\r\n\$2\r\nid\r\n:)(\d+)\r\n")
_FENCED = re.compile(rb"\r\nmin_(?:slaves|replicas)_good_(?:slaves|replicas):")


class Phase(Enum):
    """State of the server connection."""

    NONE = auto()
    SETUP = auto()
    """Open and being verified: no client's command has been sent."""
    READY = auto()
    BUSY = auto()
    """The server is busy with a script: it could not be verified, and accepts only commands that end the script."""


NONE, SETUP, READY = Phase.NONE, Phase.SETUP, Phase.READY  # for the data path, like ``entries.PLAIN``


@dataclass(slots=True)
class ConnectionState:
    """The state that a client has set on its connection, and that each new server connection needs."""

    protocol: int = 2
    database: int = 0
    settings: dict[str, bytes] = field(default_factory=dict)
    """The last successful command for each setting (SETNAME, LIB-NAME, LIB-VER, NO-TOUCH …), as it was sent."""


class Setup:
    """The setup of one server connection."""

    __slots__ = ("_count", "_replies", "busy", "failure", "hello", "info", "run_id", "sent")

    def __init__(self, secret: str, state: ConnectionState, *, run_id: str) -> None:
        self.run_id = run_id
        """The expected run id; empty: not checked."""
        self.failure = ""
        """Why this server cannot be used (yet); empty if no check has failed."""
        self.hello = b""
        """The server's reply to HELLO."""
        self.busy = b""
        """The server's error reply while it executes a script; empty: it is not busy. A busy server has accepted the login,
        so it belongs to this database, but its identity and role are unknown."""
        self.info = b""
        """The server's reply to INFO."""
        commands = [
            encode_command(b"HELLO", b"%d" % state.protocol, b"AUTH", APPLICATION_USER, secret.encode()),
            encode_command(b"INFO", b"server", b"replication", b"persistence"),
            encode_command(b"SELECT", b"%d" % state.database),
            # With it, a demoted Valkey redirects reads instead of answering them with old data. Other servers refuse it.
            encode_command(b"CLIENT", b"CAPA", b"redirect"),
            *state.settings.values(),
        ]
        self.sent = b"".join(commands)
        self._count = len(commands)
        self._replies = 0

    def reply(self, reply: bytes) -> bool:
        """Process the next reply. True: it was the last one. Never raises: ``failure`` contains the cause of a failure."""
        self._replies += 1
        match self._replies:
            case 1:
                self.hello = reply
                if reply[0] == ERROR:
                    self.failure = "the server refuses the endpoint's login: " + _text(reply)
            case 2 if reply.startswith(b"-BUSY "):
                self.busy = reply
            case 2:
                self.info = reply
                self.failure = self.failure or check_info(reply, run_id=self.run_id)
            case 3 if reply[0] == ERROR and not self.busy:
                self.failure = self.failure or "the server refuses the selected database: " + _text(reply)
            case _:
                pass
        return self._replies >= self._count


def check_info(info: bytes, *, run_id: str) -> str:
    """Why a server with this INFO must not receive commands; empty if it is the expected server and an open primary."""
    if info[:1] == b"-":
        return "the server refuses INFO: " + _text(info)
    if run_id and f"\r\nrun_id:{run_id}\r\n".encode() not in info:
        return "another server process answers at its address"
    if b"\r\nrole:master\r\n" not in info:
        return "the server is a replica"
    if _FENCED.search(info):
        return "the server is fenced"
    if b"\r\nloading:1\r\n" in info:
        return "the server is loading"
    return ""


def hello_with_id(hello: bytes, connection_id: int) -> bytes:
    """A server's reply to HELLO with the endpoint's own connection id, because the server's id changes in a handoff."""
    return _HELLO_ID.sub(rb"\g<1>%d\r\n" % connection_id, hello, count=1)


def _text(reply: bytes) -> str:
    return reply[1:160].decode("utf-8", "replace").strip()
