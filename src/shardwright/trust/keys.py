"""Keys: private keys as PEM, and the hash by which an operator recognizes an authority.

Every key is on the curve P-256, or P-384 for an authority that an operator brings. Must not write files.
"""

import hashlib
import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

_HASH = re.compile(r"sha256:[0-9a-f]{64}")


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh key on the curve P-256, from the system's randomness."""
    return ec.generate_private_key(ec.SECP256R1())


def key_text(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The private key as PEM, not encrypted: the file's mode protects it."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def read_key(text: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key in a PEM text. Raises ValueError if the text is not a key, is encrypted, or is not on an accepted
    curve."""
    try:
        key = serialization.load_pem_private_key(text, None)
    except TypeError as e:
        raise ValueError("the key is encrypted") from e
    except UnsupportedAlgorithm as e:
        raise ValueError("the key is of an unknown kind") from e
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_accepted(key.public_key()):
        raise ValueError("the key is not on the curve P-256 or P-384")
    return key


def is_accepted(key: object) -> bool:
    """Whether a public key is on an accepted curve."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)


def public_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """The public key with its algorithm (SubjectPublicKeyInfo, DER): equal keys have equal bytes."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def hash_of_key(key: ec.EllipticCurvePublicKey) -> str:
    """``sha256:`` and 64 hexadecimal digits: the text behind ``--ca-hash``. It stays when a certificate of the same key is
    renewed."""
    return f"sha256:{hashlib.sha256(public_bytes(key)).hexdigest()}"


def read_hash(text: str) -> str:
    """A hash as ``hash_of_key`` writes it. Raises ValueError with a sentence for people."""
    found = text.strip().lower()
    if not _HASH.fullmatch(found):
        raise ValueError(f"{text!r} is not sha256: and 64 hexadecimal digits")
    return found
