"""Records of the store as the tables of a ``ClusterView``, updated by changes. Used only by ``mirror.py``.

Does not read the store; observations that are not in the store (endpoint processes) are not part of it.
"""

from collections.abc import Mapping
from typing import Any

from shardwright.model.cluster import Cluster, Counters, Leadership, Policy, Restored
from shardwright.model.database import Shard
from shardwright.model.event import Event
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.key_rotation import KeyRotation
from shardwright.model.leader_change import LeaderChange
from shardwright.model.seen import NodeSeen, ProcessSeen, ServerSeen
from shardwright.model.view import ClusterView, place_of
from shardwright.store.keys import StoredRecord


class Tables:
    """The view of the latest revision. Views that were handed out never change."""

    def __init__(self) -> None:
        self._view = ClusterView()
        self._records: dict[str, StoredRecord] = {}
        self._servers: dict[ShardUid, ServerSeen] = {}

    def view(self) -> ClusterView:
        """The view as of the last ``update``."""
        return self._view

    def update(self, changed: Mapping[str, StoredRecord | None], *, revision: int) -> None:
        """Apply changes, by key; None: deleted, or unreadable."""
        tables: dict[str, Any] = {}
        for key, record in changed.items():
            old = self._records.pop(key, None)
            if old is not None:
                self._remove(tables, old)
            if record is not None:
                self._records[key] = record
                self._add(tables, record)
        if tables.keys() & {"shards", "node_seen"}:
            tables["processes"] = _processes(
                tables.get("shards", self._view.shards), tables.get("node_seen", self._view.node_seen)
            )
        if tables.keys() & {"shards", "servers"}:
            shards = tables.get("shards", self._view.shards)
            tables["servers"] = {
                uid: seen
                for uid, seen in sorted(self._servers.items())
                if uid in shards and shards[uid].incarnation == seen.incarnation
            }
        self._view = self._view.changed(revision=revision, **tables)

    def _table(self, tables: dict[str, Any], name: str) -> dict[Any, Any]:
        """A copy of a table, made once per update: the old one belongs to views that were handed out."""
        if name not in tables:
            tables[name] = dict(getattr(self._view, name))
        table: dict[Any, Any] = tables[name]
        return table

    def _add(self, tables: dict[str, Any], record: StoredRecord) -> None:
        match record:
            case Cluster():
                tables["cluster"] = record
            case Policy():
                tables["policy"] = record
            case Counters():
                tables["counters"] = record
            case Leadership():
                tables["leadership"] = record
            case LeaderChange():
                tables["leader_change"] = record
            case KeyRotation():
                tables["key_rotation"] = record
            case ServerSeen():
                self._servers[record.shard_uid] = record
                tables.setdefault("servers", {})
            case Event() | Restored():
                pass
            case _:
                name, place = place_of(record)
                self._table(tables, name)[place] = record

    def _remove(self, tables: dict[str, Any], record: StoredRecord) -> None:
        match record:
            case Cluster():
                tables["cluster"] = None
            case Policy():
                tables["policy"] = Policy()
            case Counters():
                tables["counters"] = Counters()
            case Leadership():
                tables["leadership"] = None
            case LeaderChange():
                tables["leader_change"] = None
            case KeyRotation():
                tables["key_rotation"] = None
            case ServerSeen():
                self._servers.pop(record.shard_uid, None)
                tables.setdefault("servers", {})
            case Event() | Restored():
                pass
            case _:
                name, place = place_of(record)
                self._table(tables, name).pop(place, None)


def _processes(shards: dict[ShardUid, Shard], node_seen: dict[NodeUid, NodeSeen]) -> dict[ShardUid, ProcessSeen]:
    """The report of each shard's own node on its current incarnation."""
    processes: dict[ShardUid, ProcessSeen] = {}
    for _, seen in sorted(node_seen.items()):
        for process in seen.processes:
            shard = shards.get(process.shard_uid)
            if shard is not None and shard.node_uid == seen.node_uid and shard.incarnation == process.incarnation:
                processes[shard.uid] = process
    return processes
