"""Certificates for tests of connections between machines: an authority, and what it issues."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shardwright.endpoint.credentials import Credentials, TlsFiles

_HOUR = datetime.timedelta(hours=1)


class TestAuthority:
    """An authority with its files in a directory of its own."""

    __test__ = False

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {directory.name}")])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        own = self._certificate(self._name, self._key).add_extension(constraints, critical=True)
        self.path = directory / "ca.pem"
        self.path.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, node: int, *, role: str = "node", name: str = "") -> TlsFiles:
        """Write a certificate and its key, over earlier ones of this name."""
        stem = name or f"{role}-{node}"
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
                x509.NameAttribute(NameOID.COMMON_NAME, f"node-{node}"),
            ]
        )
        constraints = x509.BasicConstraints(ca=False, path_length=None)
        certificate = self._certificate(subject, key).add_extension(constraints, critical=True)
        files = TlsFiles(self._directory / f"{stem}.pem", self._directory / f"{stem}-key.pem", self.path)
        files.certificate.write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return files

    def credentials(self, node: int, *, role: str = "node") -> Credentials:
        """The contexts of a new certificate."""
        return Credentials(self.issue(node, role=role))

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _HOUR)
            .not_valid_after(now + _HOUR)
        )
