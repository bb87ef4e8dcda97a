"""What a refusal of etcd means to the store: one table over its codes.

Pure. Called by ``etcd_wire.py`` and ``etcd.py``. The texts are for people; nothing decides by them except where etcd has one
code for two causes.
"""

from enum import IntEnum

from shardwright.model.codes import Code
from shardwright.store.protocol import StoreError, StoreFull, StoreUnavailable, TooLarge


class EtcdCode(IntEnum):
    """The codes of gRPC that the store reacts to."""

    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    """A lease does not exist."""
    RESOURCE_EXHAUSTED = 8
    OUT_OF_RANGE = 11
    """A revision is compacted already, or does not exist yet."""
    UNAVAILABLE = 14
    """No leader, another leader, too slow, ending: another member may do better."""


class Refused(Exception):
    """etcd has answered with an error: ``code`` is gRPC's. The store turns it into one of its own errors."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def is_of_the_member(code: int, text: str) -> bool:
    """Whether another member may answer better."""
    if "unhealthy cluster" in text:
        return False  # Said of all members, when one is to be added or removed.
    if "raft: stopped" in text:
        return True  # It is ending, for example because it was removed; the code says nothing of that.
    if code == EtcdCode.RESOURCE_EXHAUSTED:
        return not _is_full(text)
    return code in (EtcdCode.UNAVAILABLE, EtcdCode.DEADLINE_EXCEEDED)


def error_of(refused: Refused) -> StoreError:
    """The store's error for a refusal that has no meaning of its own in the call."""
    code, text = refused.code, refused.text
    if code == EtcdCode.RESOURCE_EXHAUSTED and _is_full(text):
        return StoreFull(
            Code.STORE_FULL,
            f"etcd takes no writes: its database has reached its quota (--quota-backend-bytes); etcd says: {text}",
        )
    if "request is too large" in text or "too many operations" in text:
        return TooLarge(Code.STORE_TRANSACTION_TOO_LARGE, f"etcd refuses the transaction: {text}")
    if code == EtcdCode.UNAVAILABLE and _has_lost_itself(text):
        return StoreUnavailable(
            Code.STORE_CERTIFICATE_UNUSABLE,
            f"the gateway of etcd cannot reach its own member ({text}): etcd's certificate needs the client usage too",
        )
    return StoreUnavailable(Code.STORE_UNAVAILABLE, f"etcd refuses: {text} (code {code})")


def _is_full(text: str) -> bool:
    return "space exceeded" in text


def _has_lost_itself(text: str) -> bool:
    """The gateway is a client of its own member; these are its words when it gets no connection."""
    return "connection closed" in text or "SubConns are in TransientFailure" in text
