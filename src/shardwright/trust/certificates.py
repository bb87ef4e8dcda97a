"""Certificates of members: the request that a node makes, what the authority grants, and whom a certificate names.

A node's key never leaves the node: it sends a signing request. The authority takes only the public key from it. Role, node,
addresses and lifetime are what the authority decided to grant. Pure.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NoReturn

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CLOCK_OFF_MAX as CLOCK_OFF_MAX
from shardwright.model.trust import CertificateRole, IssuedCertificate
from shardwright.trust import keys
from shardwright.trust.authority import Leaf, Signer, issue

LIFETIME: Final = timedelta(days=90)
REQUEST_BYTES_MAX: Final = 16 * 1024
"""A request for one key has less than 1 KiB. A longer text is not parsed."""

_BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
USAGES: Final = {
    CertificateRole.NODE: _BOTH,
    # The HTTP gateway of the store is a client of its own server, to which it shows the server's certificate.
    CertificateRole.STORE: _BOTH,
    CertificateRole.API: (ExtendedKeyUsageOID.SERVER_AUTH,),
}
_NODE = re.compile(r"node:([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class Grant:
    """What the authority has decided to certify."""

    role: CertificateRole
    node_uid: NodeUid
    addresses: tuple[str, ...]
    """IP addresses and host names at which the node serves in that role."""


@dataclass(frozen=True, slots=True)
class Member:
    """Whom a certificate names."""

    role: CertificateRole
    node_uid: NodeUid


def make_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A signing request (PEM) for the key. It asks for nothing: the authority decides what it grants."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def key_of_request(text: bytes) -> ec.EllipticCurvePublicKey:
    """The public key for which a certificate is requested. The requester has proved that it has the private key.

    Raises Permanent ``certificate_request_invalid``."""
    if len(text) > REQUEST_BYTES_MAX:
        _refuse(f"it has {len(text)} bytes")
    try:
        request = x509.load_pem_x509_csr(text)
        key = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise Permanent(Code.CERTIFICATE_REQUEST_INVALID, f"the certificate request cannot be read: {e}") from e
    if not isinstance(key, ec.EllipticCurvePublicKey) or not keys.is_accepted(key):
        _refuse("its key is not on the curve P-256 or P-384")
    if not is_signed:
        _refuse("its signature does not belong to its key")
    return key


def sign_request(
    signer: Signer, request: bytes, grant: Grant, *, serial: int, now: datetime, lifetime: timedelta = LIFETIME
) -> x509.Certificate:
    """A certificate for the request's key, with exactly what is granted.

    Raises Permanent ``certificate_request_invalid``."""
    return certify(signer, key_of_request(request), grant, serial=serial, now=now, lifetime=lifetime)


def certify(
    signer: Signer,
    key: ec.EllipticCurvePublicKey,
    grant: Grant,
    *,
    serial: int,
    now: datetime,
    lifetime: timedelta = LIFETIME,
) -> x509.Certificate:
    """A certificate for a key whose owner is known. Raises Permanent ``certificate_request_invalid`` if the key is the
    authority's own: its holder could sign for anybody."""
    if keys.public_bytes(key) == keys.public_bytes(signer.authority.key):
        _refuse("its key is the authority's own")
    leaf = Leaf(
        subject=_subject(grant),
        addresses=grant.addresses,
        usages=USAGES[grant.role],
        valid_from=now - CLOCK_OFF_MAX,
        valid_until=now + lifetime,
    )
    return issue(signer, key, leaf, serial=serial)


def issued_record(certificate: x509.Certificate) -> IssuedCertificate:
    """What the store keeps about a certificate that was just signed. Raises Permanent ``peer_unknown`` if it names no
    member."""
    member = member_of(certificate)
    return IssuedCertificate(
        serial=serial_text(certificate.serial_number),
        node_uid=member.node_uid,
        role=member.role,
        issued_at=certificate.not_valid_before_utc + CLOCK_OFF_MAX,
        expires_at=certificate.not_valid_after_utc,
    )


def serial_text(serial: int) -> str:
    """A serial number as records and lists of revoked certificates name it."""
    return f"{serial:x}"


def member_of(certificate: x509.Certificate) -> Member:
    """The role and the node in the subject. Says nothing about who signed it. Raises Permanent ``peer_unknown`` if the
    subject has another form."""
    try:
        named = {attribute.oid: str(attribute.value) for attribute in certificate.subject}
        count = len(list(certificate.subject))
    except ValueError as e:
        raise Permanent(Code.PEER_UNKNOWN, f"the subject of the certificate cannot be read: {e}") from e
    role, node = named.get(NameOID.ORGANIZATIONAL_UNIT_NAME, ""), _NODE.fullmatch(named.get(NameOID.COMMON_NAME, ""))
    if count != 2 or node is None or role not in set(CertificateRole):
        raise Permanent(Code.PEER_UNKNOWN, f"the certificate names no member: {certificate.subject.rfc4514_string()!r}")
    return Member(CertificateRole(role), NodeUid(int(node[1])))


def _subject(grant: Grant) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, grant.role),
            x509.NameAttribute(NameOID.COMMON_NAME, f"node:{grant.node_uid}"),
        ]
    )


def _refuse(cause: str) -> NoReturn:
    raise Permanent(Code.CERTIFICATE_REQUEST_INVALID, f"the certificate request is refused: {cause}")
