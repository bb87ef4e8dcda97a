"""What the store keeps about trust between machines: join tokens and issued certificates. Holds no token
and no key."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from shardwright.model.ids import JoinTokenUid, NodeUid


class CertificateRole(StrEnum):
    """What the holder of a certificate is to its peers."""

    NODE = "node"
    """A node's daemon or endpoint process, toward those of other nodes."""
    STORE = "store"
    """A member of the store, and a daemon as a client of the store."""
    API = "api"
    """The REST API of a node, toward everybody."""


@dataclass(frozen=True, slots=True)
class JoinToken:
    """The right to add one node. The token itself is shown once and is not stored."""

    uid: JoinTokenUid
    hash: str = field(repr=False)
    """SHA-256 of the token, in hexadecimal. The token is random and long, so a slow hash would add nothing."""
    created_at: datetime
    expires_at: datetime
    used_by: NodeUid | None = None
    """The node that joined with it. None: it was not used yet."""


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate that the cluster's authority has signed. It may be forgotten when it has expired."""

    serial: str
    """In hexadecimal, because the number has up to 159 bits."""
    node_uid: NodeUid
    role: CertificateRole
    issued_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    """None: not revoked."""
