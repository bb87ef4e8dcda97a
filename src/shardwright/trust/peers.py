"""Who is at the other end: called after a handshake and before anything is sent or taken. Pure.

The handshake has proved that the authority signed the peer's certificate, that it is valid now and, for a client, that the
address is in it. Role, node and revocation are judged here.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Final

from cryptography import x509

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole, IssuedCertificate, has_ended
from shardwright.model.trust import revoke_node as revoke_node
from shardwright.trust.certificates import Member, member_of, serial_text

NOTHING_REVOKED: Final[frozenset[str]] = frozenset()


def admit(
    certificate: bytes | None,
    roles: Collection[CertificateRole],
    *,
    revoked: Collection[str],
    node_uid: NodeUid | None = None,
) -> Member:
    """The peer with this certificate (DER, from the handshake), if it may speak here.

    ``revoked``: serials as ``serial_text`` writes them. ``node_uid``: the only node that is accepted, for a connection to a
    certain node; None: any.

    Raises Permanent: ``peer_unknown`` without a certificate or with one that names no member, ``certificate_revoked``,
    ``peer_role_wrong``, ``peer_is_another``."""
    if certificate is None:
        raise Permanent(Code.PEER_UNKNOWN, "the peer has shown no certificate")
    try:
        found = x509.load_der_x509_certificate(certificate)
        serial = serial_text(found.serial_number)
    except ValueError as e:
        raise Permanent(Code.PEER_UNKNOWN, f"the peer's certificate cannot be read: {e}") from e
    member = member_of(found)
    if serial in revoked:
        raise Permanent(Code.CERTIFICATE_REVOKED, f"the certificate {serial} of node {member.node_uid} is revoked")
    if member.role not in roles:
        wanted = " or ".join(sorted(roles))
        raise Permanent(
            Code.PEER_ROLE_WRONG, f"the certificate of node {member.node_uid} has the role {member.role}, not {wanted}"
        )
    if node_uid is not None and member.node_uid != node_uid:
        raise Permanent(Code.PEER_IS_ANOTHER, f"node {member.node_uid} answers at the address of node {node_uid}")
    return member


def revoked_serials(issued: Iterable[IssuedCertificate], nodes: Collection[NodeUid] | None = None) -> frozenset[str]:
    """The serials that ``admit`` refuses. ``nodes``: the members; certificates of others count as revoked, because a renewal
    that was under way during a removal is recorded after it. None: the members are not known."""
    return frozenset(
        one.serial for one in issued if one.revoked_at is not None or (nodes is not None and one.node_uid not in nodes)
    )


def forgettable(issued: Iterable[IssuedCertificate], now: datetime) -> tuple[IssuedCertificate, ...]:
    """The records to delete: no peer accepts their certificates any more."""
    return tuple(one for one in issued if has_ended(one, now))
