"""The cluster's own certificate: a small authority created with the cluster, and one server certificate for all nodes.

Called by ``up`` and, after the addition of a node, by the supervisor. A certificate that the operator has installed is
never changed.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shardwright.machine.files import make_private_directory, write_private

_YEARS = 10
_BACKDATED = datetime.timedelta(days=1)
"""Clocks of clients may be behind this machine's."""


def ensure_certificate(directory: Path, addresses: Sequence[str], now: datetime.datetime) -> None:
    """Ensure that ``cert.pem`` (the server's, then the authority's) and ``key.pem`` in ``directory`` are valid for these
    addresses and for localhost. A running server keeps the certificate that it has read; clients that trust the file trust
    both."""
    make_private_directory(directory)
    certificate, key, authority = directory / "cert.pem", directory / "key.pem", directory / "ca.pem"
    if certificate.exists() and not authority.exists():
        return  # It belongs to the operator.
    if not authority.exists():
        _make_authority(directory, now)
    issuer = x509.load_pem_x509_certificate(authority.read_bytes())
    if certificate.exists() and key.exists():
        current = x509.load_pem_x509_certificate(certificate.read_bytes())
        if not _is_issued_by(current, issuer) or _covers(current, addresses):
            return
    _make_server_certificate(directory, issuer, addresses, now)


def _make_authority(directory: Path, now: datetime.datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Shardwright cluster authority")])
    certificate = (
        _builder(name, name, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(directory / "ca-key.pem", _key_text(key))
    write_private(directory / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))


def _make_server_certificate(
    directory: Path, issuer: x509.Certificate, addresses: Sequence[str], now: datetime.datetime
) -> None:
    authority_key = serialization.load_pem_private_key((directory / "ca-key.pem").read_bytes(), None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key = _server_key(directory / "key.pem")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Shardwright API")])
    hosts = [x509.IPAddress(ipaddress.ip_address(a)) for a in sorted({*addresses, "127.0.0.1"})]
    certificate = (
        _builder(name, issuer.subject, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), *hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_usage(is_authority=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    chain = [c.public_bytes(serialization.Encoding.PEM) for c in (certificate, issuer)]
    write_private(directory / "cert.pem", b"".join(chain))


def _server_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """One key for all server certificates, so that a new certificate fits the key that a daemon reads a moment later."""
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key
    key = ec.generate_private_key(ec.SECP256R1())
    write_private(path, _key_text(key))
    return key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
    )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_text(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _covers(certificate: x509.Certificate, addresses: Sequence[str]) -> bool:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    covered = {str(a) for a in names.get_values_for_type(x509.IPAddress)}
    return covered >= set(addresses)
