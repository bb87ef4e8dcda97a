"""What the store keeps about trust between machines: join tokens and issued certificates, and when they may be forgotten.
Holds no token and no key."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from shardwright.model.ids import JoinTokenUid, NodeUid

CLOCK_OFF_MAX: Final = timedelta(minutes=5)
"""Clocks of two machines may differ by this much. Certificates begin this long before they are signed, so that the slowest
accepted clock accepts them at once."""


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


def is_forgettable(token: JoinToken, now: datetime) -> bool:
    """Whether the record may be deleted: the token has expired, so it is refused with or without a record."""
    return now >= token.expires_at


def has_ended(certificate: IssuedCertificate, now: datetime) -> bool:
    """Whether no peer accepts the certificate any more, also by the slowest accepted clock. Then its record may be deleted,
    a revocation included."""
    return certificate.expires_at + CLOCK_OFF_MAX < now


def revoke_node(issued: Iterable[IssuedCertificate], node_uid: NodeUid, now: datetime) -> tuple[IssuedCertificate, ...]:
    """The records to write when a node is removed or replaced: its certificates that a peer may still accept, revoked."""
    return tuple(
        replace(one, revoked_at=now)
        for one in issued
        if one.node_uid == node_uid and one.revoked_at is None and not has_ended(one, now)
    )
