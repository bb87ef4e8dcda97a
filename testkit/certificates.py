"""Certificates for tests: an authority and what it issues, made by the code that issues them in a cluster.

``members()`` makes an authority. ``member`` gives credentials that it has signed, ``files`` writes such credentials. OpenSSL
judges certificates by the machine's clock, so they are issued now unless a test says otherwise. ``usages`` and ``subject``
make certificates that no cluster issues.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.trust.authority import Leaf, Signer, certificate_text, issue, make_authority
from shardwright.trust.certificates import LIFETIME, USAGES, Grant, make_request, sign_request
from shardwright.trust.contexts import Credentials, read_credentials
from shardwright.trust.files import MemberFiles
from shardwright.trust.keys import key_text, new_key, read_key

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
LONG_AGO = datetime.now(UTC) - LIFETIME - timedelta(minutes=1)
"""What was issued then has expired."""


@dataclass(frozen=True, slots=True)
class Members:
    """An authority and those whom it certifies."""

    signer: Signer

    def member(
        self,
        node: int,
        *addresses: str,
        role: CertificateRole = CertificateRole.NODE,
        at: datetime | None = None,
        key: bytes | None = None,
    ) -> Credentials:
        """Credentials of a node. ``at``: when they are issued; None: now. ``key``: the node's key (PEM); None: a new one."""
        own = new_key() if key is None else read_key(key)
        leaf = self._leaf(own, Grant(role, NodeUid(node), addresses or (f"127.0.0.{node}",)), at or datetime.now(UTC))
        return read_credentials(certificate_text(leaf), key_text(own), self.signer.authority.text)

    def files(
        self,
        directory: Path,
        node: int,
        *addresses: str,
        role: CertificateRole = CertificateRole.NODE,
        at: datetime | None = None,
        usages: Sequence[x509.ObjectIdentifier] | None = None,
        subject: str | None = None,
        name: str = "",
    ) -> MemberFiles:
        """The files of a node with a new key, over earlier ones of this ``name``; empty: one that tells role and node.

        ``usages``: None: those of the role. ``subject``: a common name that stands alone; None: the subject of a member."""
        stem = name or f"{role}-{node}"
        directory.mkdir(parents=True, exist_ok=True)
        grant, own = Grant(role, NodeUid(node), addresses or (f"127.0.0.{node}",)), new_key()
        leaf = self._leaf(own, grant, at or datetime.now(UTC))
        if usages is not None or subject is not None:
            leaf = self._unusual(leaf, grant, usages, subject)
        authority = self.signer.authority
        files = MemberFiles(directory / f"{stem}.pem", directory / f"{stem}-key.pem", directory / "ca.pem")
        files.authority.write_bytes(authority.text)
        files.certificate.write_bytes(certificate_text(leaf, authority.certificate))
        files.key.touch(0o600)
        files.key.write_bytes(key_text(own))
        return files

    def _leaf(self, key: ec.EllipticCurvePrivateKey, grant: Grant, now: datetime) -> x509.Certificate:
        return sign_request(self.signer, make_request(key), grant, serial=x509.random_serial_number(), now=now)

    def _unusual(
        self, usual: x509.Certificate, grant: Grant, usages: Sequence[x509.ObjectIdentifier] | None, subject: str | None
    ) -> x509.Certificate:
        named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]) if subject is not None else usual.subject
        leaf = Leaf(
            subject=named,
            addresses=grant.addresses,
            usages=USAGES[grant.role] if usages is None else tuple(usages),
            valid_from=usual.not_valid_before_utc,
            valid_until=usual.not_valid_after_utc,
        )
        key = usual.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return issue(self.signer, key, leaf, serial=usual.serial_number)


def members(at: datetime | None = None) -> Members:
    """A new authority. ``at``: when it was made; None: now."""
    return Members(make_authority(new_key(), serial=x509.random_serial_number(), now=at or datetime.now(UTC)))
