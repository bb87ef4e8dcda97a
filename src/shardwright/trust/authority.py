"""The cluster's authority: made with the cluster, or brought by the operator. Its key signs every certificate.

``Authority`` is what every node has. ``Signer`` adds the key, which only few nodes hold. Pure. Called at the creation of a
cluster, and by the API of a node that holds the key.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shardwright.errors import Refusal, Rejected
from shardwright.model.codes import Code
from shardwright.trust import keys

AUTHORITY_LIFETIME: Final = timedelta(days=3650)
AUTHORITY_BACKDATED: Final = timedelta(days=1)
"""The clocks of clients may be behind the clock of the machine that made the authority."""
_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_HOST_CHARACTERS_MAX = 253


@dataclass(frozen=True, slots=True)
class Authority:
    """The public half: whom all members trust."""

    certificate: x509.Certificate

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """Its public key."""
        key = self.certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey), "read_authority lets no other key in"
        return key

    @property
    def key_hash(self) -> str:
        """The text behind ``--ca-hash``."""
        return keys.hash_of_key(self.key)

    @property
    def text(self) -> bytes:
        """The certificate as PEM."""
        return certificate_text(self.certificate)

    def has_issued(self, certificate: x509.Certificate) -> bool:
        """Whether this authority signed the certificate. Says nothing about times, roles or revocation."""
        return is_issued_by(certificate, self.certificate)


@dataclass(frozen=True, slots=True)
class Signer:
    """An authority with its key."""

    authority: Authority
    key: ec.EllipticCurvePrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Leaf:
    """All that a certificate says besides its public key and its issuer."""

    subject: x509.Name
    addresses: tuple[str, ...]
    """IP addresses and host names under which the holder is reached."""
    usages: tuple[x509.ObjectIdentifier, ...]
    valid_from: datetime
    valid_until: datetime


def make_authority(key: ec.EllipticCurvePrivateKey, *, serial: int, now: datetime) -> Signer:
    """A new authority that signs itself. It may sign certificates, but no further authority."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Shardwright cluster authority")])
    certificate = (
        _builder(name, name, key.public_key(), serial, now - AUTHORITY_BACKDATED, now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Signer(Authority(certificate), key)


def read_authority(text: bytes) -> Authority:
    """The authority in a PEM text; further certificates in it are ignored. Raises Rejected ``authority_unfit``."""
    try:
        certificate = x509.load_pem_x509_certificate(text)
        extensions = certificate.extensions
        key = certificate.public_key()
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm) as e:
        raise _unfit(f"the certificate of the authority cannot be read: {e}") from e
    if not keys.is_accepted(key):
        raise _unfit("the authority's key is not on the curve P-256 or P-384")
    if not is_authority(certificate) or not _may_sign(extensions):
        raise _unfit("the certificate is not one of an authority: it may not sign certificates")
    return Authority(certificate)


def read_signer(certificate: bytes, key: bytes) -> Signer:
    """The authority and its key, both PEM. Raises Rejected ``authority_unfit``."""
    authority = read_authority(certificate)
    try:
        found = keys.read_key(key)
    except ValueError as e:
        raise _unfit(f"the authority's key cannot be used: {e}") from e
    if keys.public_bytes(found.public_key()) != keys.public_bytes(authority.key):
        raise _unfit("the key does not belong to the certificate of the authority")
    return Signer(authority, found)


def check_lifetime(authority: Authority, now: datetime, needed: timedelta) -> None:
    """An operator's authority must be valid now and for at least that long. Raises Rejected ``authority_unfit``."""
    certificate = authority.certificate
    if now < certificate.not_valid_before_utc:
        raise _unfit(f"the authority is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    if now + needed > certificate.not_valid_after_utc:
        raise _unfit(
            f"the authority is valid until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC only; "
            f"certificates are issued for {needed.days} days"
        )


def issue(signer: Signer, key: ec.EllipticCurvePublicKey, leaf: Leaf, *, serial: int) -> x509.Certificate:
    """Sign a certificate. It never outlives its authority. Raises ValueError if an address is neither an IP address nor a
    host name."""
    authority = signer.authority.certificate
    until = min(leaf.valid_until, authority.not_valid_after_utc)
    return (
        _builder(leaf.subject, authority.subject, key, serial, leaf.valid_from, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names_of(leaf.addresses)), critical=False)
        .add_extension(x509.ExtendedKeyUsage(leaf.usages), critical=False)
        .add_extension(_usage(is_authority=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_issuer_identifier(authority), critical=False)
        .sign(signer.key, hashes.SHA256())
    )


def certificate_text(*chain: x509.Certificate) -> bytes:
    """The certificates as PEM, in this order."""
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chain)


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether the certificate says that it is one of an authority."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's key signed the certificate, and its name is in it."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def names_of(addresses: Sequence[str]) -> list[x509.GeneralName]:
    """Addresses as a certificate names them. Raises ValueError if one is neither an IP address nor a host name."""
    return [_name_of(address) for address in addresses]


def covers(certificate: x509.Certificate, addresses: Sequence[str]) -> bool:
    """Whether the certificate names all these addresses."""
    try:
        named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return not addresses
    return set(named) >= set(names_of(addresses))


def named_in(certificate: x509.Certificate) -> tuple[str, ...]:
    """The addresses that a certificate names, as ``names_of`` takes them. Raises ValueError if it cannot be read."""
    try:
        named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except x509.DuplicateExtension as e:
        raise ValueError(str(e)) from e
    return tuple(str(name.value) for name in named if isinstance(name, x509.IPAddress | x509.DNSName))


def _name_of(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        pass
    if not _HOST.fullmatch(address) or len(address) > _HOST_CHARACTERS_MAX or address.rpartition(".")[2].isdigit():
        raise ValueError(f"{address!r} is neither an IP address nor a host name")
    return x509.DNSName(address.lower())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, serial: int, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key).serial_number(serial)
    return builder.not_valid_before(start).not_valid_after(end)


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


def _may_sign(extensions: x509.Extensions) -> bool:
    try:
        return extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


def _issuer_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """As the authority names its own key: another program may compute that name in another way."""
    try:
        own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = authority.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey), "read_authority lets no other key in"
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _unfit(text: str) -> Rejected:
    return Rejected(Refusal.INVALID, Code.AUTHORITY_UNFIT, text, remedy=Code.AUTHORITY_UNFIT.remedy)
