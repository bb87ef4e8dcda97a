"""A survey of this machine: what it has of its node's shards is written into records that come from a backup.

Called by the daemon's wait for the store, before anything else of the daemon runs, and only while the node's record asks for
it. ``reconcile/survey.py`` decides. May be interrupted at any point and repeated: the node's record is changed last. Ends
and deletes nothing.
"""

import asyncio
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import structlog

from shardwright.agent.launch import CONFIG_NAME, read_record
from shardwright.agent.shards import LEFT_ALONE_NAME
from shardwright.errors import Permanent, Transient
from shardwright.machine.files import write_private
from shardwright.model.cluster import Node, Restored
from shardwright.model.codes import Code
from shardwright.model.database import Shard, SlotGroup
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.view import Delete
from shardwright.reconcile.survey import FoundShard, Survey, decide_survey
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.protocol import (
    Compare,
    DeleteKey,
    KeyValue,
    ModifiedAt,
    Operation,
    PutKey,
    Store,
    Transaction,
)

WRITES_AT_ONCE: Final = 50
"""Well below the store's limit for one transaction, which also has a compare for each write."""
_PORT: Final = re.compile(rb"^(?:tls-)?port +\"?([1-9][0-9]{0,4})\"?\s*$", re.MULTILINE)
_LEFT_ALONE: Final = b"Made after the backup from which the cluster's records were restored: its record is lost.\n"
_Record = TypeVar("_Record", bound=StoredRecord)

_log = structlog.get_logger(__name__)


async def survey(store: Store, node_uid: NodeUid, directory: Path) -> bool:
    """Say what runs here, if the node's record asks for it. ``directory``: of the node's shards. False: it does not ask.
    Raises Transient ``conflict`` (a record has changed meanwhile: try again), StoreUnavailable, OSError."""
    item = await store.get(f"{keys.NODES}{node_uid:08d}")
    node = _decoded(item, Node)
    if item is None or node is None or not node.awaits_survey:
        return False
    restored = _decoded(await store.get(keys.RESTORED), Restored)
    if restored is None:
        raise Permanent(Code.STORE_RECORD_UNREADABLE, f"the record at {keys.RESTORED} is missing")
    shards = await _all(store, "shards/", Shard)
    groups = await _all(store, "groups/", SlotGroup)
    found = await asyncio.to_thread(find_shards, directory)
    now = datetime.now(UTC)
    decided = decide_survey(node_uid, found, shards.values(), {group.uid: group for group in groups.values()}, restored, now)
    await asyncio.to_thread(_mark, directory, decided.left_alone)
    await _write(store, decided, {item.key: item.modify_revision for item in shards})
    text = _text_of(decided, node_uid)
    severity = Severity.WARNING if decided.left_alone or decided.missing else Severity.INFO
    event = Event(now, EventKind.NODE_SURVEYED, severity, text, node_uid=node_uid)
    done = replace(node, awaits_survey=False)
    await _commit(
        store,
        [ModifiedAt(item.key, item.modify_revision)],
        [
            PutKey(item.key, records.encode(done)),
            PutKey(keys.event_key(event, secrets.token_hex(4)), records.encode(event)),
        ],
    )
    _log.warning("the records follow what runs on this machine", reason=text)
    return True


def find_shards(directory: Path) -> list[FoundShard]:
    """What the directory has of shards, by number. Raises OSError."""
    if not directory.is_dir():
        return []
    paths = [path for path in directory.iterdir() if path.name.isdigit() and path.is_dir() and not path.is_symlink()]
    return [_found(path) for path in sorted(paths, key=lambda path: int(path.name)) if not (path / LEFT_ALONE_NAME).exists()]


def _found(path: Path) -> FoundShard:
    record = read_record(path)
    uid = ShardUid(int(path.name))
    if record is None:
        return FoundShard(uid, 0, 0)
    return FoundShard(uid, record.incarnation, _port_in(path / CONFIG_NAME), record.database_uid, record.group_uid)


def _port_in(path: Path) -> int:
    """The port at which the server with this configuration listens; 0: the file does not say it."""
    try:
        content = path.read_bytes()
    except OSError:
        return 0
    found = _PORT.findall(content)
    return int(found[-1]) if found else 0


def _mark(directory: Path, left_alone: Sequence[ShardUid]) -> None:
    for uid in left_alone:
        write_private(directory / str(uid) / LEFT_ALONE_NAME, _LEFT_ALONE)


def _text_of(decided: Survey, node_uid: NodeUid) -> str:
    parts = [f"node {node_uid} has said what runs on its machine"]
    for what, uids in (
        ("the records now follow shard", decided.adopted),
        ("no record is left of shard", decided.missing),
        ("made after the backup, and left alone: shard", decided.left_alone),
    ):
        if uids:
            parts.append(f"{what} {', '.join(map(str, uids))}")
    return "; ".join(parts)


# -- the store ---------------------------------------------------------------------------------------------------------


async def _all(store: Store, prefix: str, kind: type[_Record]) -> dict[KeyValue, _Record]:
    found: dict[KeyValue, _Record] = {}
    start: str | None = prefix
    while start is not None:
        page = await store.range(prefix, start=start)
        for item in page.items:
            if (record := _decoded(item, kind)) is not None:
                found[item] = record
        start = page.next_start
    return found


def _decoded(item: KeyValue | None, kind: type[_Record]) -> _Record | None:
    record = None if item is None else records.decode(item.key, item.value)
    return record if isinstance(record, kind) else None


async def _write(store: Store, decided: Survey, revisions: dict[str, int]) -> None:
    for first in range(0, len(decided.writes), WRITES_AT_ONCE):
        compares: list[Compare] = []
        operations: list[Operation] = []
        for write in decided.writes[first : first + WRITES_AT_ONCE]:
            assert not isinstance(write.record, Event)
            key = keys.key_of(write.record)
            compares.append(ModifiedAt(key, revisions.get(key, 0)))
            operations.append(DeleteKey(key) if isinstance(write, Delete) else PutKey(key, records.encode(write.record)))
        await _commit(store, compares, operations)


async def _commit(store: Store, compares: Sequence[Compare], operations: Sequence[Operation]) -> None:
    if not (await store.transact(Transaction(tuple(compares), tuple(operations)))).succeeded:
        raise Transient(Code.CONFLICT, "a record of this node's shards was changed meanwhile")
