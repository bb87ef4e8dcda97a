"""Hashes of users' passwords (argon2id). Called by cluster creation and by the API. Must not log or keep a password."""

import secrets
from collections.abc import Mapping

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from shardwright.errors import Refusal, Rejected

PASSWORD_VARIABLE = "SHARDWRIGHT_ADMIN_PASSWORD"

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


def first_password(environment: Mapping[str, str]) -> tuple[str, bool]:
    """The password of a new cluster's administrator, and whether it was generated because the environment has none. Raises
    Rejected."""
    given = environment.get(PASSWORD_VARIABLE)
    if given is None:
        return secrets.token_urlsafe(18), True
    if not given or not given.isprintable():
        raise Rejected(
            Refusal.INVALID,
            "invalid_option",
            f"{PASSWORD_VARIABLE} is empty or contains unprintable characters",
            remedy="set another password, or unset the variable",
        )
    return given, False
