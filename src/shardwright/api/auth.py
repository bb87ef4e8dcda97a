"""Basic authentication: from the header to the user. The gate calls it for every request.

argon2 is slow on purpose, so a verified pair is cached for a short time, by the hash and a digest of the password: a
changed password or a deleted user invalidates it at once. Verifications run in threads, few at a time.
"""

import asyncio
import base64
import binascii
import hashlib
from typing import Final

from shardwright.api.services.users import by_email
from shardwright.clock import Clock
from shardwright.errors import Refusal, Rejected
from shardwright.model.account import User
from shardwright.model.view import ClusterView
from shardwright.passwords import hash_password, verify_password

REMEMBERED_S: Final = 60.0
REMEMBERED_MAX: Final = 1000
VERIFICATIONS_MAX: Final = 2
"""Limit of parallel verifications: each takes 64 MiB and a core for about 50 ms."""


class Authenticator:
    """Verifies credentials and caches the result. Belongs to one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._verified: dict[tuple[str, bytes], float] = {}
        self._slots = asyncio.Semaphore(VERIFICATIONS_MAX)
        self._decoy = ""

    async def authenticate(self, header: str | None, view: ClusterView) -> User:
        """The authenticated user of the ``Authorization`` header. Raises Rejected (401), with the same text for every
        cause."""
        credentials = basic_credentials(header)
        if credentials is None:
            raise _refused()
        email, password = credentials
        user = by_email(view, email)
        if user is None:
            await self._verify(await self._decoy_hash(), password)  # an unknown name must take as long as a wrong password
            raise _refused()
        if not await self.is_password(user, password):
            raise _refused()
        return user

    async def is_password(self, user: User, password: str) -> bool:
        """Whether the password belongs to the user."""
        key = (user.password_hash, hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest())
        if self._is_remembered(key):
            return True
        async with self._slots:
            if self._is_remembered(key):  # a parallel request of the same client was faster
                return True
            if not await asyncio.to_thread(verify_password, user.password_hash, password):
                return False
        self._remember(key)
        return True

    async def _verify(self, password_hash: str, password: str) -> None:
        async with self._slots:
            await asyncio.to_thread(verify_password, password_hash, password)

    async def _decoy_hash(self) -> str:
        if not self._decoy:
            self._decoy = await asyncio.to_thread(hash_password, "the password of no user")
        return self._decoy

    def _is_remembered(self, key: tuple[str, bytes]) -> bool:
        return self._verified.get(key, 0.0) > self._clock.monotonic()

    def _remember(self, key: tuple[str, bytes]) -> None:
        now = self._clock.monotonic()
        if len(self._verified) >= REMEMBERED_MAX:
            self._verified = {k: until for k, until in self._verified.items() if until > now}
        if len(self._verified) < REMEMBERED_MAX:
            self._verified[key] = now + REMEMBERED_S


def basic_credentials(header: str | None) -> tuple[str, str] | None:
    """Name and password of a Basic header; None for any other header."""
    scheme, _, encoded = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        raw = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    name, colon, password = text.partition(":")
    return (name, password) if colon and name else None


def _refused() -> Rejected:
    return Rejected(Refusal.UNAUTHENTICATED, "unauthenticated", "Credentials are missing or wrong.")
