"""Join tokens: made, checked and used up. Pure; the leader commits the records, the API checks what a newcomer sends.

A token is ``<uid>.<secret>``. The uid finds the record; the secret has 160 bits. Only a hash is stored. A token is good for
one node, for 24 hours.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from shardwright.errors import Refusal, Rejected
from shardwright.model.codes import Code
from shardwright.model.ids import JoinTokenUid, NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.trust import JoinToken
from shardwright.model.trust import is_forgettable as is_forgettable
from shardwright.trust import keys

TOKEN_LIFETIME: Final = timedelta(hours=24)
RANDOM_BYTES: Final = 25
"""Five for the uid and 20 for the secret: multiples of five, which base 32 writes without padding."""
_UID_BYTES: Final = 5
_FORM = re.compile(r"[a-z2-7]{8}\.[a-z2-7]{32}")
_ADDRESS = re.compile(r"(?:(?P<host>[^\s:\[\]]+)|\[(?P<host6>[0-9a-fA-F:.]+)\])(?::(?P<port>[0-9]{1,5}))?")
_NO_HASH: Final = "0" * 64
"""Compared when no record has the uid, so that the answer takes as long as for a wrong secret."""


def make_token(randomness: bytes, now: datetime) -> tuple[str, JoinToken]:
    """The text to show once, and its record. ``randomness``: RANDOM_BYTES bytes that cannot be guessed."""
    assert len(randomness) == RANDOM_BYTES, "the length decides how hard the token is to guess"
    uid, secret = (base64.b32encode(part).decode().lower() for part in (randomness[:_UID_BYTES], randomness[_UID_BYTES:]))
    text = f"{uid}.{secret}"
    return text, JoinToken(JoinTokenUid(uid), _hash(text), now, now + TOKEN_LIFETIME)


def check_token(tokens: Mapping[JoinTokenUid, JoinToken], text: str, now: datetime) -> JoinToken | Reason:
    """The record of a token that may be used now, or why it may not be. Only a caller who knows the secret learns that the
    token was used or has expired."""
    token = tokens.get(uid_of_token(text))
    is_same = hmac.compare_digest(_hash(text), token.hash if token is not None else _NO_HASH)
    if token is None or not is_same:
        return _reason(Code.JOIN_TOKEN_UNKNOWN, "the join token is not one of this cluster")
    if token.used_by is not None:
        return _reason(Code.JOIN_TOKEN_USED, f"the join token was used by node {token.used_by}")
    if now >= token.expires_at:
        return _reason(Code.JOIN_TOKEN_EXPIRED, f"the join token expired at {token.expires_at:%Y-%m-%d %H:%M} UTC")
    return token


def uid_of_token(text: str) -> JoinTokenUid:
    """The uid of its record; empty: the text is no token."""
    return JoinTokenUid(text.partition(".")[0]) if _FORM.fullmatch(text) else JoinTokenUid("")


def used(token: JoinToken, node_uid: NodeUid) -> JoinToken:
    """The record to write together with the node's. Its expected revision makes the token good for one node only."""
    assert token.used_by is None, "check_token accepts no used token"
    return replace(token, used_by=node_uid)


def join_line(address: str, port: int, token: str, ca_hash: str) -> str:
    """The line to run on the new machine."""
    host = f"[{address}]" if ":" in address else address
    return f"shardwright join {host}:{port} --token {token} --ca-hash {ca_hash}"


def read_address(text: str, *, port: int = 9443) -> tuple[str, int]:
    """Host and port in ``10.0.0.1:9443``, ``[fd00::1]:9443`` or ``10.0.0.1``. Raises Rejected ``invalid_option``."""
    match = _ADDRESS.fullmatch(text.strip())
    found = int(match["port"] or port) if match else 0
    if match is None or not 1 <= found <= 65535:
        raise Rejected(Refusal.INVALID, "invalid_option", f"{text!r} is not an address", remedy="for instance 10.0.0.1:9443")
    return match["host"] or match["host6"], found


def read_ca_hash(text: str) -> str:
    """The hash behind ``--ca-hash``. Raises Rejected ``invalid_option``."""
    try:
        return keys.read_hash(text)
    except ValueError as e:
        raise Rejected(Refusal.INVALID, "invalid_option", f"--ca-hash: {e}", remedy="copy the whole join line") from e


def _hash(text: str) -> str:
    """Of any text: a newcomer may send what is not even valid Unicode."""
    return hashlib.sha256(b"shardwright join token\0" + text.encode(errors="surrogatepass")).hexdigest()


def _reason(code: Code, text: str) -> Reason:
    return Reason(code, text, Grade.CONFIGURATION, remedy=code.remedy)
