"""The file of a backup: its content as values, and as bytes. Pure.

Called by what writes backups (``backup_files.py``) and by a restore. A backup is logical: every key and value of one
revision, without what is bound to a lease. Values stay sealed, so the file opens no database without the cluster key. A
file is believed as a whole or not at all.

    {"shardwright_backup": 1, "cluster": "…", "records": 213, …}      the header, one line
    {"key": "cluster", "value": "<base64>"}                          one line for each record, in the order of the keys
    {"sha256": "…"}                                                  of all bytes before this line
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from shardwright.errors import Refusal, Rejected
from shardwright.model.cluster import Cluster
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.version import CLUSTER_VERSION
from shardwright.store import keys, records
from shardwright.store.protocol import KeyValue
from shardwright.store.seal import is_sealed, must_be_sealed

FORMAT: Final = 1
"""Of the files that this version writes. A newer one is refused: it may say something that this version would lose."""
_MARK: Final = "shardwright_backup"
BYTES_MAX: Final = 1 << 30
"""A larger file is not read: the records of the largest cluster take a tenth of it."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a backup says of itself."""

    cluster: str
    """The cluster's name."""
    cluster_id: str
    """Empty: a cluster without one."""
    cluster_version: int
    revision: int
    """Of the store: all records are as of it."""
    at: datetime
    """When it was read, by the clock of the machine that wrote it."""
    node_uid: NodeUid
    """The node that wrote it."""
    records: int


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that has passed all checks of its form."""

    header: Header
    items: Mapping[str, bytes] = field(repr=False)
    """Values by key, sealed as in the store."""


def backup_of(items: Iterable[KeyValue], *, revision: int, node_uid: NodeUid, at: datetime) -> Backup:
    """The backup of these items, which are all of one revision. Raises Rejected ``no_cluster``: they are no whole cluster's,
    and ``backup_not_sealed``: a secret is in clear."""
    kept = {item.key: item.value for item in sorted(items, key=lambda item: item.key) if item.lease is None}
    found = kept.get(keys.CLUSTER)
    cluster = None if found is None else records.decode(keys.CLUSTER, found)
    if not isinstance(cluster, Cluster) or keys.INCOMPLETE_COPY in kept:
        raise Rejected(Refusal.NOT_FOUND, "no_cluster", "the store contains no complete cluster")
    if any(must_be_sealed(key) and not is_sealed(value) for key, value in kept.items()):
        code = Code.BACKUP_NOT_SEALED
        raise Rejected(Refusal.CONFLICT, code, "the store has secrets in clear", remedy=code.remedy)
    cluster_id = kept.get(keys.CLUSTER_ID, b"").decode()
    header = Header(cluster.name, cluster_id, cluster.cluster_version, revision, at, node_uid, len(kept))
    return Backup(header, kept)


def content_of(backup: Backup) -> bytes:
    """The bytes of the file."""
    header = backup.header
    first: dict[str, object] = {
        _MARK: FORMAT,
        "cluster": header.cluster,
        "cluster_id": header.cluster_id,
        "cluster_version": header.cluster_version,
        "revision": header.revision,
        "at": header.at.astimezone(UTC).isoformat(),
        "node": header.node_uid,
        "records": header.records,
    }
    lines = [{"key": key, "value": base64.b64encode(value).decode()} for key, value in backup.items.items()]
    body = _line(first) + b"".join(_line(line) for line in lines)
    return body + _line({"sha256": hashlib.sha256(body).hexdigest()})


def read_backup(content: bytes, *, name: str) -> Backup:
    """The backup in a file with this content. ``name``: of the file, for the errors. Raises Rejected: ``backup_foreign`` (it
    is no backup), ``backup_too_new``, ``backup_damaged``. Their texts quote nothing of the records."""
    first, _, _ = content.partition(b"\n")
    head = _object(first)
    if head is None or _MARK not in head:
        raise _refused(Code.BACKUP_FOREIGN, f"{name} is not a backup of a cluster's state")
    _check_version(head, name)
    body, checksum = _split(content, name)
    if checksum != hashlib.sha256(body).hexdigest():
        raise _refused(Code.BACKUP_DAMAGED, f"{name} is damaged: its checksum is wrong")
    try:
        header = _header_of(head)
        items = dict(_item_of(line) for line in body.split(b"\n")[1:-1])
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise _refused(Code.BACKUP_DAMAGED, f"{name} is damaged: a line cannot be read") from None
    if len(items) != header.records or keys.CLUSTER not in items:
        raise _refused(Code.BACKUP_DAMAGED, f"{name} is damaged: it does not have {header.records} records")
    return Backup(header, items)


def read_header(first_line: bytes) -> Header | None:
    """What the first line of a backup says, for a list; None if it is something else, or unreadable for this version. Proves
    nothing about the rest."""
    head = _object(first_line)
    if head is None or head.get(_MARK) != FORMAT:
        return None
    try:
        return _header_of(head)
    except (ValueError, KeyError, TypeError):
        return None


def _check_version(head: Mapping[str, Any], name: str) -> None:
    found, cluster_version = head.get(_MARK), head.get("cluster_version")
    is_newer = not isinstance(found, int) or found > FORMAT
    if is_newer or not isinstance(cluster_version, int) or cluster_version > CLUSTER_VERSION:
        text = f"{name} has the format {found} and cluster version {cluster_version}"
        raise _refused(Code.BACKUP_TOO_NEW, f"{text}; this version reads up to {FORMAT} and {CLUSTER_VERSION}")


def _split(content: bytes, name: str) -> tuple[bytes, str]:
    """All lines but the last, and the checksum in the last one."""
    before, newline, last = content.removesuffix(b"\n").rpartition(b"\n")
    found = _object(last)
    checksum = None if found is None else found.get("sha256")
    if not content.endswith(b"\n") or not newline or not isinstance(checksum, str):
        raise _refused(Code.BACKUP_DAMAGED, f"{name} is damaged: its end is missing")
    return before + newline, checksum


def _header_of(head: Mapping[str, Any]) -> Header:
    at = datetime.fromisoformat(head["at"])
    if at.tzinfo is None:
        raise ValueError("a time without a zone")
    numbers = {name: int(head[name]) for name in ("cluster_version", "revision", "records", "node")}
    return Header(
        str(head["cluster"]),
        str(head["cluster_id"]),
        numbers["cluster_version"],
        numbers["revision"],
        at,
        NodeUid(numbers["node"]),
        numbers["records"],
    )


def _item_of(line: bytes) -> tuple[str, bytes]:
    found = json.loads(line)
    return str(found["key"]), base64.b64decode(found["value"], validate=True)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _line(found: Mapping[str, object]) -> bytes:
    return json.dumps(found, separators=(",", ":")).encode("ascii") + b"\n"


def _refused(code: Code, text: str) -> Rejected:
    return Rejected(Refusal.NOT_ACCEPTABLE, code, text, remedy=code.remedy)
