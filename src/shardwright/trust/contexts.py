"""TLS contexts between machines: TLS 1.3, the cluster's authority and no other, a certificate on both sides.

A context follows a renewal: ``renew`` gives it the new certificate, so that a listener goes on and open connections stay.
The role of a peer is not checked here: ``peers.admit`` does that after each handshake.
"""

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography import x509

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.trust import keys
from shardwright.trust.authority import Authority, certificate_text, read_authority
from shardwright.trust.certificates import Member, member_of


@dataclass(frozen=True, slots=True)
class Credentials:
    """A member's certificate and key, and whom it trusts. They fit together."""

    member: Member
    certificate: x509.Certificate
    key: bytes = field(repr=False)
    """PEM."""
    authority: Authority

    @property
    def chain(self) -> bytes:
        """The certificate and the authority's, PEM. A newcomer recognizes the authority in the chain that the API shows."""
        return certificate_text(self.certificate, self.authority.certificate)


def read_credentials(chain: bytes, key: bytes, authority: bytes) -> Credentials:
    """Credentials from PEM texts. Raises Permanent ``credentials_unusable`` if they do not fit together, ``peer_unknown`` if
    the certificate names no member; Rejected ``authority_unfit``."""
    trusted = read_authority(authority)
    try:
        certificate = x509.load_pem_x509_certificate(chain)
        public = keys.public_bytes(keys.read_key(key).public_key())
        shown = certificate.public_key()
    except ValueError as e:
        raise Permanent(Code.CREDENTIALS_UNUSABLE, f"the certificate or its key cannot be read: {e}") from e
    if not keys.is_accepted(shown) or keys.public_bytes(shown) != public:  # type: ignore[arg-type]
        raise Permanent(Code.CREDENTIALS_UNUSABLE, "the key does not belong to the certificate")
    if not trusted.has_issued(certificate):
        raise Permanent(Code.CREDENTIALS_UNUSABLE, "the certificate is not one of this authority")
    return Credentials(member_of(certificate), certificate, key, trusted)


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """For a listener that only members may reach. A client without a valid certificate of this authority fails in the
    handshake; with TLS 1.3 it notices when it reads."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A resumed session would skip the check of the certificate.
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    return _between_members(context, credentials)


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """For connections to members. The server's certificate must name the address to which the connection was made."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False
    return _between_members(context, credentials)


def api_context(credentials: Credentials) -> ssl.SSLContext:
    """For the REST API: it asks for no certificate, and older tools may use TLS 1.2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, credentials)
    return context


def trusting_context(authority: Authority) -> ssl.SSLContext:
    """For a client without a certificate of its own, such as a newcomer: it trusts this authority and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    _trust(context, authority)
    return context


def renew(context: ssl.SSLContext, credentials: Credentials) -> None:
    """Show a renewed certificate in every later handshake; open connections keep the old one. The authority that the context
    trusts stays the same. Raises Permanent ``credentials_unusable``; the context then remains as it was."""
    # A context whose certificate and key do not match is left without a key, so they are tried elsewhere first.
    _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), credentials)
    _load(context, credentials)


class LiveContext:
    """A context that follows its credentials. ``load`` reads them, for instance from the files of the node."""

    def __init__(self, make: Callable[[Credentials], ssl.SSLContext], load: Callable[[], Credentials]) -> None:
        self._load = load
        self.credentials = load()
        """Those that it shows now."""
        self.context = make(self.credentials)

    def reload(self) -> bool:
        """Show the credentials as they are now. False: they have not changed.

        Raises Permanent ``credentials_unusable`` if they cannot be used, name another member or come from another authority:
        a listener must not change whom it trusts while it runs. It then goes on with the old ones."""
        found = self._load()
        if found == self.credentials:
            return False
        if found.member != self.credentials.member or found.authority != self.credentials.authority:
            raise Permanent(
                Code.CREDENTIALS_UNUSABLE,
                f"the new certificate names {_named(found)}, the one in use {_named(self.credentials)}",
            )
        renew(self.context, found)
        self.credentials = found
        return True


def _named(credentials: Credentials) -> str:
    member = credentials.member
    return f"node {member.node_uid} in role {member.role} under {credentials.authority.key_hash}"


def _between_members(context: ssl.SSLContext, credentials: Credentials) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _trust(context, credentials.authority)
    _load(context, credentials)
    return context


def _trust(context: ssl.SSLContext, authority: Authority) -> None:
    # An operator's authority may itself be signed by another one, which is not trusted here.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=authority.text.decode())


def _load(context: ssl.SSLContext, credentials: Credentials) -> None:
    load_texts(context, credentials.chain, credentials.key)


def load_texts(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Show this certificate, PEM like its key. Raises Permanent ``credentials_unusable``; the context is then useless.

    The module ``ssl`` reads keys from files only. A file in memory makes certificate and key one consistent piece."""
    descriptor = os.memfd_create("credentials", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(chain + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as e:
        raise Permanent(Code.CREDENTIALS_UNUSABLE, f"the certificate and its key cannot be used: {e.reason}") from e
    finally:
        os.close(descriptor)
