"""Sealed values: records that contain a usable secret are encrypted before they reach the store.

Owns which records are sealed, the form of a sealed value, and the keys that open it. A store's files, backups and traffic
then reveal no secret to a reader without the cluster key. Does no I/O: the key file is read by the caller, and randomness is
an argument. Never puts a value or a key into an error or a log.

A sealed value names the key that opens it, so that several keys can open values while one seals (a change of the key). It is
bound to the key of its record: a value that was moved to another record does not open. A value in clear opens as it is,
because a cluster that was created without a cluster key has only such values.

    MAGIC (8 bytes)  key's uid (8)  nonce (12)  ciphertext and tag (16 bytes longer than the record)
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shardwright.errors import Permanent, Transient
from shardwright.model.codes import Code
from shardwright.model.ids import KeyUid
from shardwright.store.protocol import KeyValue

SEALED: Final = {
    "secrets/": "the generated passwords of a database's servers, and the hash seed that protects its hash tables",
    "databases/": "the password that applications give to AUTH, which the endpoint compares and must know in clear",
    "users/": "hashes of users' passwords: a weak password can be guessed from its hash without asking the API",
    "join_tokens/": "hashes of join tokens: they cannot be guessed, but only a daemon needs them",
}
"""Prefixes of the keys whose values are sealed, each with the secret in it.

Not sealed, although they are about secrets: the fingerprint in ``EndpointSeen.access`` is only as guessable as a generated
secret that is part of it, and is not stored; events name the changed fields, never their values; ``options`` of the cluster
take no password (the wire's mail password is not accepted)."""

RandomBytes = Callable[[int], bytes]

KEY_BYTES: Final = 32
MAGIC: Final = b"\x00sealed1"
"""Begins every sealed value. A record in clear is JSON or a number, which never begin with a zero byte."""
_UID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
"""Random: safe for some 2**32 values sealed with one key: a hundred a second for more than a year."""
_HEAD_BYTES: Final = len(MAGIC) + _UID_BYTES
_BODY_BYTES_MIN: Final = _NONCE_BYTES + 16


@dataclass(frozen=True, slots=True)
class ClusterKey:
    """The secret that all daemons of a cluster share. ``of`` makes one."""

    uid: KeyUid
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> "ClusterKey":
        """The key with this secret of KEY_BYTES random bytes."""
        if len(secret) != KEY_BYTES:
            raise AssertionError("a cluster key of a wrong length")
        return cls(KeyUid(_derived(secret, b"uid", _UID_BYTES).hex()), secret)

    def cipher(self) -> AESGCM:
        """AES-256-GCM with a key of its own: the cluster key itself encrypts nothing."""
        return AESGCM(_derived(self.secret, b"values", KEY_BYTES))


class Sealing:
    """Seals values with the first of its keys, unless another one is named, and opens those of all. Without keys, every
    value stays in clear. A daemon and its mirror share one: ``hold`` replaces the keys while it runs."""

    def __init__(self, keys: Sequence[ClusterKey], random_bytes: RandomBytes) -> None:
        """``random_bytes`` must be cryptographically strong: a nonce that occurs twice reveals both values."""
        self._random_bytes = random_bytes
        self._keys: tuple[ClusterKey, ...] = ()
        self._ciphers: dict[KeyUid, AESGCM] = {}
        self._hold(keys)

    @property
    def keys(self) -> tuple[ClusterKey, ...]:
        """All keys, the one that seals first."""
        return self._keys

    @property
    def uids(self) -> tuple[KeyUid, ...]:
        """Their uids, in that order."""
        return tuple(key.uid for key in self._keys)

    @property
    def uid(self) -> KeyUid | None:
        """The uid of the key that seals; None: values stay in clear."""
        return self._keys[0].uid if self._keys else None

    def hold(self, keys: Sequence[ClusterKey]) -> None:
        """Use these keys from now on, of which the first seals. They must be on the disk already."""
        if not keys or not self._keys:
            raise AssertionError("a cluster keeps having keys, or keeps having none")
        self._hold(keys)

    def _hold(self, keys: Sequence[ClusterKey]) -> None:
        self._keys = tuple(keys)
        self._ciphers = {key.uid: key.cipher() for key in keys}

    def seal(self, key: str, value: bytes, uid: KeyUid | None = None) -> bytes:
        """The value as it is stored at ``key``: sealed if that record contains a secret and a key exists. ``uid``: of the
        key that seals it; None: the first. Raises Transient ``cluster_key_awaited`` if that key is not held yet."""
        if self.uid is None or not must_be_sealed(key):
            return value
        with_uid = self.uid if uid is None else uid
        cipher = self._ciphers.get(with_uid)
        if cipher is None:
            raise Transient(Code.CLUSTER_KEY_AWAITED, f"this node does not hold the cluster key {with_uid} yet, which seals")
        head = MAGIC + bytes.fromhex(with_uid)
        nonce = self._random_bytes(_NONCE_BYTES)
        return head + nonce + cipher.encrypt(nonce, value, _bound_to(head, key))

    def open(self, key: str, value: bytes) -> bytes:
        """The value in clear. Raises Permanent if it is sealed and cannot be opened."""
        if not is_sealed(value):
            return value
        if len(value) < _HEAD_BYTES + _BODY_BYTES_MIN:
            raise _damaged(key)
        self.check_key(key, value)
        head, nonce, body = value[:_HEAD_BYTES], value[_HEAD_BYTES:][:_NONCE_BYTES], value[_HEAD_BYTES + _NONCE_BYTES :]
        try:
            return self._ciphers[_uid_of(value)].decrypt(nonce, body, _bound_to(head, key))
        except InvalidTag:
            raise _damaged(key) from None

    def check_key(self, key: str, value: bytes) -> None:
        """Raises Permanent if the value is sealed with a key that is not among these. Does not open it."""
        if is_sealed(value) and len(value) >= _HEAD_BYTES and (uid := _uid_of(value)) not in self._ciphers:
            code = Code.SECRET_KEY_MISSING
            text = f"the value at {key} is sealed with the cluster key {uid}, which is not in the key file: {code.remedy}"
            raise Permanent(code, text)


def _no_bytes(size: int) -> bytes:
    raise AssertionError(f"{size} random bytes without a key")


IN_CLEAR: Final = Sealing((), _no_bytes)
"""Of a cluster without a cluster key."""


def must_be_sealed(key: str) -> bool:
    """Whether the value at this key contains a secret."""
    return key.startswith(_PREFIXES)


def is_sealed(value: bytes) -> bool:
    """Whether the value is sealed, with any key."""
    return value.startswith(MAGIC)


def uid_in(value: bytes) -> KeyUid | None:
    """The key that a value is sealed with; None: it is in clear, or too damaged to say."""
    return _uid_of(value) if is_sealed(value) and len(value) >= _HEAD_BYTES else None


def to_seal_again(items: Iterable[KeyValue], uid: KeyUid) -> tuple[str, ...]:
    """The keys whose values a change of the cluster key must still write: values sealed with another key than ``uid``, and
    secrets in clear. Empty: the other keys may be forgotten. The history of the store may still need them: compact it
    first."""
    return tuple(item.key for item in items if not is_as_wanted(item.key, item.value, uid))


def is_as_wanted(key: str, value: bytes, uid: KeyUid | None) -> bool:
    """Whether a stored value is sealed as it must be when ``uid`` seals; None: no key exists, so nothing may be sealed."""
    if not is_sealed(value):
        return uid is None or not must_be_sealed(key)
    return uid is not None and uid_in(value) == uid


def keys_of(text: str) -> tuple[ClusterKey, ...]:
    """The keys in a key file: one per line, in hexadecimal; the first seals. Lines that begin with # are comments. Raises
    Permanent if a line is not a key or there is none; the text of the error quotes nothing."""
    found: list[ClusterKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        written = line.strip()
        if not written or written.startswith("#"):
            continue
        try:
            secret = bytes.fromhex(written)
        except ValueError:
            secret = b""
        if len(secret) != KEY_BYTES:
            raise Permanent(Code.CLUSTER_KEY_UNUSABLE, f"line {number} of the key file is not a cluster key")
        found.append(ClusterKey.of(secret))
    if not found:
        raise Permanent(Code.CLUSTER_KEY_UNUSABLE, "the key file contains no cluster key")
    return tuple(found)


def text_of(keys: Sequence[ClusterKey]) -> str:
    """The text of a key file with these keys."""
    head = "# The cluster key: it opens the secrets in the cluster's store. Keep it private, and keep a copy.\n"
    return head + "".join(f"{key.secret.hex()}\n" for key in keys)


_PREFIXES: Final = tuple(SEALED)


def _uid_of(value: bytes) -> KeyUid:
    return KeyUid(value[len(MAGIC) : _HEAD_BYTES].hex())


def _bound_to(head: bytes, key: str) -> bytes:
    """What must be the same at opening: the form, the cluster key and the record's key."""
    return head + key.encode()


def _derived(secret: bytes, purpose: bytes, size: int) -> bytes:
    return HKDF(SHA256(), size, salt=None, info=b"shardwright store " + purpose).derive(secret)


def _damaged(key: str) -> Permanent:
    code = Code.SECRET_DAMAGED
    return Permanent(code, f"the sealed value at {key} cannot be opened, it is damaged or belongs elsewhere: {code.remedy}")
