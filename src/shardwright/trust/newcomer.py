"""The newcomer's first contact: it learns the authority from a node that it cannot trust yet.

Called by ``join``. Nothing but the handshake is sent before the authority has been recognized. Waits for the network: in an
event loop, call it in a thread.
"""

import socket
import ssl
import sys
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from shardwright.errors import Permanent, Rejected, Transient
from shardwright.model.codes import Code
from shardwright.trust import keys
from shardwright.trust.authority import Authority, certificate_text, is_authority, is_issued_by, read_authority

TIMEOUT_S: Final = 10.0
"""Of the connect and of the handshake, each: a new machine may be far from the cluster and both may be busy."""
_DER: Final = 2
"""``_ssl.ENCODING_DER``."""
CHAIN_MAX: Final = 10
"""More certificates than any API shows."""


def fetch_authority(address: str, port: int, expected_hash: str, *, timeout_s: float = TIMEOUT_S) -> Authority:
    """The cluster's authority, if the API at that address shows it and its key has the expected hash.

    The connection is closed afterwards. The join itself goes over a new one, with ``contexts.trusting_context``.

    Raises Permanent ``authority_mismatch`` if the node shows no such authority, Transient ``api_unreachable`` if it does not
    answer."""
    try:
        with (
            socket.create_connection((address, port), timeout_s) as connection,
            _without_trust().wrap_socket(connection) as secured,
        ):
            chain = _shown(secured)
    except (OSError, ValueError) as e:
        raise Transient(Code.API_UNREACHABLE, f"the API at {address}:{port} does not answer: {e}") from e
    return recognize(chain, expected_hash)


def recognize(chain: Sequence[bytes], expected_hash: str) -> Authority:
    """The authority in a chain of certificates (DER, the server's first). Pure. Raises Permanent ``authority_mismatch``."""
    if len(chain) > CHAIN_MAX:
        raise Permanent(Code.AUTHORITY_MISMATCH, f"the node shows {len(chain)} certificates")
    try:
        shown = [x509.load_der_x509_certificate(one) for one in chain]
        found = [one for one in shown if is_authority(one) and _hash(one) == expected_hash]
        others = [_hash(one) for one in shown if is_authority(one)]
    except ValueError as e:
        raise Permanent(Code.AUTHORITY_MISMATCH, f"the node shows a certificate that cannot be read: {e}") from e
    if not found:
        instead = f"shows {', '.join(others)}" if others else "shows no authority"
        raise Permanent(Code.AUTHORITY_MISMATCH, f"the node {instead}; {expected_hash} was expected")
    if not is_issued_by(shown[0], found[0]):
        raise Permanent(Code.AUTHORITY_MISMATCH, "the node shows the expected authority, but its certificate is another's")
    try:
        return read_authority(certificate_text(found[0]))
    except Rejected as e:
        raise Permanent(Code.AUTHORITY_MISMATCH, e.text) from e


def _hash(certificate: x509.Certificate) -> str:
    """Empty for a key of a kind that no authority here has."""
    try:
        key = certificate.public_key()
    except UnsupportedAlgorithm:
        return ""
    return keys.hash_of_key(key) if isinstance(key, ec.EllipticCurvePublicKey) else ""


def _without_trust() -> ssl.SSLContext:
    """Nothing that comes over such a connection is believed except a chain whose authority has the expected key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _shown(connection: ssl.SSLSocket) -> list[bytes]:
    """The chain as the server sent it. Python has a public method for it from 3.13 on."""
    if sys.version_info >= (3, 13):
        return list(connection.get_unverified_chain())
    chain = connection._sslobj.get_unverified_chain() or []  # type: ignore[attr-defined]
    return [one.public_bytes(_DER) for one in chain]
