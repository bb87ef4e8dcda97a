"""Hashes of users' passwords (argon2id). Called by cluster creation and by the API. Must not log or keep a password."""

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_hasher = PasswordHasher()
"""argon2-cffi's defaults are RFC 9106's low-memory profile: argon2id, 64 MiB, 3 passes, about 50 ms."""


def hash_password(password: str) -> str:
    """The password's hash in the PHC string format, with a salt of its own. Slow on purpose: call it in a thread."""
    return _hasher.hash(password)


def verify_password(password_hash: str, password: str) -> bool:
    """Whether the password belongs to the hash; False also for a hash that cannot be read. Slow on purpose."""
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False
