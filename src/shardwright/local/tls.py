"""The local cluster's own certificate: a small authority created with the cluster, and one server certificate for all nodes.

Called by ``up`` and, after the addition of a node, by the supervisor. A certificate that the operator has installed is
never changed. How certificates are built is in ``trust/authority.py``.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shardwright.machine.files import make_private_directory, write_private
from shardwright.trust import authority as authorities
from shardwright.trust.keys import key_text, new_key, read_key

_LIFETIME = authorities.AUTHORITY_LIFETIME
"""As long as the authority's: nothing renews the certificate of a local cluster."""


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
        if not authorities.is_issued_by(current, issuer) or authorities.covers(current, addresses):
            return
    _make_server_certificate(directory, addresses, now)


def _make_authority(directory: Path, now: datetime.datetime) -> None:
    signer = authorities.make_authority(new_key(), serial=x509.random_serial_number(), now=now)
    write_private(directory / "ca-key.pem", key_text(signer.key))
    write_private(directory / "ca.pem", signer.authority.text)


def _make_server_certificate(directory: Path, addresses: Sequence[str], now: datetime.datetime) -> None:
    signer = authorities.read_signer((directory / "ca.pem").read_bytes(), (directory / "ca-key.pem").read_bytes())
    leaf = authorities.Leaf(
        subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Shardwright API")]),
        addresses=("localhost", *sorted({*addresses, "127.0.0.1"})),
        usages=(ExtendedKeyUsageOID.SERVER_AUTH,),
        valid_from=now - authorities.AUTHORITY_BACKDATED,
        valid_until=now + _LIFETIME,
    )
    key = _server_key(directory / "key.pem")
    certificate = authorities.issue(signer, key.public_key(), leaf, serial=x509.random_serial_number())
    write_private(directory / "cert.pem", authorities.certificate_text(certificate, signer.authority.certificate))


def _server_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """One key for all server certificates, so that a new certificate fits the key that a daemon reads a moment later."""
    if path.exists():
        return read_key(path.read_bytes())
    key = new_key()
    write_private(path, key_text(key))
    return key
