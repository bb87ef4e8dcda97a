"""Where the store is, and how to reach it: one class for each kind of store. Values only; ``open.py`` opens them."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

POLL_S = 0.005
"""Interval of a SQLite store's check for other processes' commits while a watcher exists. It reads shared memory only. Where
the kernel tells of writes, the first checks after one follow sooner, and all others later."""
POLL_SELDOM_S = 0.1
"""The interval for a store whose watchers can wait that long (an election). It is not told of writes, which would wake it in
the middle of each handoff."""
POLL_QUIET_S = 0.1
"""The longest interval where the kernel tells of writes: the delay if it misses one."""
CLIENT_PORT = 2379
"""etcd's own port for clients, when an endpoint names none."""


@dataclass(frozen=True, slots=True)
class SqliteSettings:
    """A SQLite file: all daemons of one machine share it."""

    path: Path
    poll_s: float = POLL_S
    """Usual delay, in seconds, until a watcher sees a write of another process."""


@dataclass(frozen=True, slots=True)
class EtcdEndpoint:
    """One member of the etcd, as its clients reach it."""

    host: str
    port: int
    is_encrypted: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_encrypted else 'http'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class EtcdLimits:
    """How long the client waits, in seconds. A healthy answer takes milliseconds, an election of etcd 1.2 to 1.5 s."""

    connect_s: float = 0.5
    """TCP and TLS together."""
    attempt_s: float = 0.7
    """From a request to its answer. Then the traffic moves to the next member."""
    ask_s: float = 2.1
    """All attempts of a request that may be repeated: one at each of three members, or an election."""


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """``endpoints``: addresses of members, ``https://host:port`` or (only where no one else can reach them)
    ``http://host:port``; the first is asked until it does not answer. ``ca``: the authority that signed the members'
    certificates. ``cert`` and ``key``: what this client shows. All three belong to https; None: http. Tests in which no
    member fails have longer limits. ``cluster_id``: only the etcd with this id is believed (decimal); empty: the first one
    that answers. ``reads_alone``: only for a backup of a store that has lost its quorum: a member answers reads by what it
    holds itself, which may be behind."""

    endpoints: tuple[str, ...]
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    limits: EtcdLimits = EtcdLimits()
    cluster_id: str = ""
    reads_alone: bool = False

    def parsed(self) -> tuple[EtcdEndpoint, ...]:
        """The endpoints, in their order. Raises ValueError if they cannot be used."""
        found = tuple(parsed_endpoint(text) for text in self.endpoints)
        if not found:
            raise ValueError("no endpoint is given")
        if len({endpoint.is_encrypted for endpoint in found}) != 1:
            raise ValueError("either all endpoints are https or none is")
        given = [path is not None for path in (self.ca, self.cert, self.key)]
        if found[0].is_encrypted and not all(given):
            raise ValueError("https endpoints need the authority's certificate, a certificate and its key")
        if not found[0].is_encrypted and any(given):
            raise ValueError("certificates are given, but the endpoints are http")
        return found


def parsed_endpoint(text: str) -> EtcdEndpoint:
    """One endpoint. Raises ValueError if it cannot be used."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"an endpoint is https://host:port, not {text!r}")
    if parts.username is not None:
        raise ValueError("an endpoint has no user: the certificate is the permission")
    return EtcdEndpoint(parts.hostname, parts.port or CLIENT_PORT, parts.scheme == "https")


StoreSettings = SqliteSettings | EtcdSettings
"""Every kind of settings."""
