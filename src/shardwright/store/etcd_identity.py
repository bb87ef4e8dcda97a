"""Which etcd answers: its version, and whether it is still the same one.

Pure. Called by ``etcd_wire.py``: with a member's status before a new connection is used for anything else, and with every
answer. A store that was restored from a snapshot has another cluster id and, possibly, earlier revisions: nothing that a
daemon knows of it holds, and its transactions must not reach it.
"""

import re

from shardwright.model.codes import Code
from shardwright.store.etcd_json import Json
from shardwright.store.protocol import StoreReplaced, StoreUnavailable

PATCH_MIN = {(3, 4): 23, (3, 5): 3}
"""The releases that can be the store, with their first patch. 3.5.0 to 3.5.2 lose transactions that they have committed."""

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def is_suitable(version: str) -> bool:
    """Whether an etcd of this version (``3.4.23``) can be the store."""
    found = _VERSION.match(version)
    if found is None:
        return False
    major, minor, patch = (int(part) for part in found.groups())
    first = PATCH_MIN.get((major, minor))
    return first is not None and patch >= first


class EtcdIdentity:
    """The etcd of the clients that share this: the one with the given id, or the first one that answered."""

    def __init__(self, cluster_id: str = "") -> None:
        self.cluster_id = cluster_id
        """Decimal; empty before the first answer."""

    def check_member(self, status: Json) -> None:
        """A member's status. Raises StoreUnavailable (its version is unsuitable), StoreReplaced."""
        version = str(status.get("version", ""))
        if not is_suitable(version):
            wanted = ", ".join(f"{a}.{b} from {a}.{b}.{patch} on" for (a, b), patch in PATCH_MIN.items())
            raise StoreUnavailable(
                Code.STORE_VERSION_UNSUITABLE, f"etcd has version {version or 'unknown'}; the store needs {wanted}"
            )
        self.check_answer(status)

    def check_answer(self, answer: Json) -> None:
        """Any answer. Raises StoreReplaced."""
        found = answer.get("header", {}).get("cluster_id", "")
        if found and not self.cluster_id:
            self.cluster_id = found
        if found and found != self.cluster_id:
            raise StoreReplaced(
                Code.STORE_REPLACED,
                f"the etcd was restored or replaced: its cluster id is {found}, and it was {self.cluster_id}",
            )
