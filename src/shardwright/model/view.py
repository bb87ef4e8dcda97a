"""The cluster at one moment: the records of one store revision, and the observations.

The only input of decisions. ``with_writes`` gives the view after a decision, so that the next decision of the same turn
sees it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from shardwright.model.account import User
from shardwright.model.action import Action
from shardwright.model.cluster import Cluster, Counters, DaemonPresence, Leadership, Node, Policy, RemovedNode, Snapshot
from shardwright.model.database import Database, DatabaseTroubles, Endpoint, ServerSecrets, Shard, SlotGroup
from shardwright.model.event import Event
from shardwright.model.ids import (
    ActionUid,
    DatabaseUid,
    EndpointUid,
    GroupUid,
    JoinTokenUid,
    MoveUid,
    NodeUid,
    ShardUid,
    UserUid,
    number_of_move,
)
from shardwright.model.key_rotation import KeyRotation
from shardwright.model.leader_change import LeaderChange
from shardwright.model.liveness import Liveness, has_ended, liveness_of
from shardwright.model.move import GroupMove, HandoffMove, Move, Rebind, Relocation
from shardwright.model.seen import (
    EndpointProcessSeen,
    NodeFigures,
    NodeSeen,
    ProcessSeen,
    ProcessState,
    ServerSeen,
    Sighting,
)
from shardwright.model.trust import IssuedCertificate, JoinToken
from shardwright.model.virtual_address import VirtualAddress

Record = (
    Cluster
    | Policy
    | Node
    | RemovedNode
    | Snapshot
    | Counters
    | Database
    | DatabaseTroubles
    | ServerSecrets
    | SlotGroup
    | Shard
    | Endpoint
    | Action
    | Move
    | LeaderChange
    | KeyRotation
    | User
    | JoinToken
    | IssuedCertificate
    | VirtualAddress
    | Event
    | NodeSeen
)
"""All records that a decision may write."""


@dataclass(frozen=True, slots=True)
class Put:
    """Create or replace a record."""

    record: Record


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete this record."""

    record: Record


Write = Put | Delete


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Records and observations at one moment. Dictionaries are never changed in place."""

    revision: int = 0
    cluster: Cluster | None = None
    policy: Policy = field(default_factory=Policy)
    counters: Counters = field(default_factory=Counters)
    leadership: Leadership | None = None
    leader_change: LeaderChange | None = None
    key_rotation: KeyRotation | None = None
    """The last change of the cluster key; None: it was never changed."""
    nodes: dict[NodeUid, Node] = field(default_factory=dict)
    removed_nodes: dict[NodeUid, RemovedNode] = field(default_factory=dict)
    snapshots: dict[tuple[NodeUid, str], Snapshot] = field(default_factory=dict)
    databases: dict[DatabaseUid, Database] = field(default_factory=dict)
    troubles: dict[DatabaseUid, DatabaseTroubles] = field(default_factory=dict)
    secrets: dict[DatabaseUid, ServerSecrets] = field(default_factory=dict, repr=False)
    groups: dict[GroupUid, SlotGroup] = field(default_factory=dict)
    shards: dict[ShardUid, Shard] = field(default_factory=dict)
    endpoints: dict[EndpointUid, Endpoint] = field(default_factory=dict)
    actions: dict[ActionUid, Action] = field(default_factory=dict)
    moves: dict[MoveUid, Move] = field(default_factory=dict)
    users: dict[UserUid, User] = field(default_factory=dict, repr=False)
    join_tokens: dict[JoinTokenUid, JoinToken] = field(default_factory=dict)
    issued_certificates: dict[str, IssuedCertificate] = field(default_factory=dict)
    """By serial."""
    virtual_addresses: dict[str, VirtualAddress] = field(default_factory=dict)
    """By address."""
    daemons: dict[NodeUid, DaemonPresence] = field(default_factory=dict)
    """Daemons that hold their lease. A missing daemon does not prove a dead node; ``is_away`` judges it."""
    away: frozenset[NodeUid] | None = None
    """Nodes that the leader judges to be away (``leader/presence.py``); None: no judgment, as in the view of a daemon that
    does not lead, and every absence counts."""
    returning: frozenset[NodeUid] = frozenset()
    """Those of the nodes that are away whose daemon ended a moment ago: it is about to be started again, so what has no
    other place waits for the node. Empty in the view of a daemon that does not lead."""
    silent_members: frozenset[NodeUid] | None = frozenset()
    """Nodes whose voting member of the store did not answer the leader last time; None: the leader has no answer yet. Empty
    also in the view of a daemon that does not lead, which does not ask."""
    node_seen: dict[NodeUid, NodeSeen] = field(default_factory=dict)
    figures: dict[NodeUid, NodeFigures] = field(default_factory=dict)
    """Of nodes whose agent was asked and answered."""
    processes: dict[ShardUid, ProcessSeen] = field(default_factory=dict)
    """Of the current incarnation only."""
    servers: dict[ShardUid, ServerSeen] = field(default_factory=dict)
    """Of the current incarnation only."""
    sightings: dict[ShardUid, Sighting] = field(default_factory=dict)
    """What the machines of the processes say, if they were asked; of the current incarnation only."""
    endpoint_processes: dict[NodeUid, EndpointProcessSeen] = field(default_factory=dict)
    _indices: dict[str, tuple[object, dict[Any, list[Any]]]] = field(default_factory=dict, repr=False, compare=False)
    """Cached answers to the queries below, each with its source table: valid for every view that shares that table."""

    # -- questions ---------------------------------------------------------------------------------------------------

    def shards_of_group(self, uid: GroupUid) -> list[Shard]:
        """Shards of a slot group in the order of their uids."""
        return self._found("shards_of_group", uid)

    def shards_on(self, uid: NodeUid) -> list[Shard]:
        """Shards recorded on a node, including those that are stopping, in the order of their uids."""
        return self._found("shards_on", uid)

    def endpoints_on(self, uid: NodeUid) -> list[Endpoint]:
        """Endpoints bound to a node, in the order of their uids."""
        return self._found("endpoints_on", uid)

    def endpoints_of(self, uid: DatabaseUid) -> list[Endpoint]:
        """Endpoints of a database, in the order of their uids."""
        return self._found("endpoints_of", uid)

    def groups_of(self, uid: DatabaseUid) -> list[SlotGroup]:
        """Slot groups of a database by number."""
        return self._found("groups_of", uid)

    def live_moves(self) -> list[Move]:
        """Moves that have not ended, by uid."""
        return self._found("live_moves", True)

    def live_move_of_group(self, uid: GroupUid) -> GroupMove | None:
        """The live move of a slot group, if any."""
        found: list[GroupMove] = self._found("live_moves_of_group", uid)
        return found[0] if found else None

    def moves_of_action(self, uid: ActionUid) -> list[Move]:
        """All moves that an action started, oldest first."""
        return self._found("moves_of_action", uid)

    def live_actions(self) -> list[Action]:
        """Actions that have not ended, oldest first."""
        return self._found("live_actions", True)

    def is_primary(self, shard: Shard) -> bool:
        """Whether the shard is its group's committed primary."""
        group = self.groups.get(shard.group_uid)
        return group is not None and group.primary == shard.uid

    def process_state(self, uid: ShardUid) -> ProcessState:
        """The last report of the node's agent on the current incarnation's process. ``liveness`` tells whether it is
        alive."""
        seen = self.processes.get(uid)
        return ProcessState.UNKNOWN if seen is None else seen.state

    def liveness(self, shard: Shard) -> Liveness:
        """The liveness of the current incarnation's process, as far as it is known."""
        uid = shard.uid
        has_daemon = not self.is_away(shard.node_uid)
        return liveness_of(
            self.processes.get(uid), self.servers.get(uid), self.sightings.get(uid, Sighting.NONE), has_daemon=has_daemon
        )

    def has_agent(self, uid: NodeUid) -> bool:
        """Whether the node has an agent now: its daemon holds its lease."""
        return uid in self.daemons

    def is_away(self, uid: NodeUid) -> bool:
        """Whether the node is away: its daemon holds no lease, and not just for a moment. Its servers may live: this permits
        going on without the node, and never proves an end."""
        return uid not in self.daemons and (self.away is None or uid in self.away or uid not in self.nodes)

    def is_off(self, uid: NodeUid) -> bool:
        """Whether the node is away and was declared off in the last boot that its agent reported: a later one refutes it."""
        node = self.nodes.get(uid)
        word = None if node is None else node.declared_off
        return word is not None and self.is_away(uid) and word.boot_id == self.boot_id_of(uid)

    def boot_id_of(self, uid: NodeUid) -> str:
        """The boot of the node's machine in which its agent reported last; empty: unknown."""
        seen = self.node_seen.get(uid)
        return "" if seen is None or seen.daemon is None else seen.daemon.boot_id

    def are_far(self, uid: NodeUid, other: NodeUid) -> bool:
        """Whether two nodes are on different machines, by the ids that their daemons reported. False: unknown."""
        one, two = (None if (seen := self.node_seen.get(n)) is None else seen.daemon for n in (uid, other))
        return one is not None and two is not None and one.machine_id != two.machine_id

    def is_lost(self, shard: Shard) -> bool:
        """Whether nothing of the shard runs, with certainty, and its node is away, so that no daemon could start it."""
        return self.is_away(shard.node_uid) and has_ended(self.liveness(shard))

    def snapshots_of(self, uid: NodeUid) -> list[Snapshot]:
        """Snapshots of a node, oldest first."""
        return sorted((s for s in self.snapshots.values() if s.node_uid == uid), key=lambda s: (s.created_at, s.name))

    def maintenance_snapshot(self, uid: NodeUid) -> Snapshot | None:
        """The latest maintenance snapshot of a node."""
        found = [s for s in self.snapshots_of(uid) if s.is_maintenance]
        return found[-1] if found else None

    # -- changes -----------------------------------------------------------------------------------------------------

    def changed(self, **tables: Any) -> "ClusterView":
        """Like ``dataclasses.replace``, at a third of its cost: several views are created in each turn."""
        view = object.__new__(ClusterView)
        for name, slot in _SLOTS:
            slot.__set__(view, tables[name] if name in tables else slot.__get__(self))
        return view

    def with_writes(self, writes: Iterable[Write]) -> "ClusterView":
        """The view after these writes. Observations are unchanged, except those of an incarnation that is over."""
        view = self
        for write in writes:
            view = view._with_write(write)
        return view

    def _with_write(self, write: Write) -> "ClusterView":
        record = write.record
        if isinstance(record, Event):
            return self
        if (single := _SINGLES.get(type(record))) is not None:
            return self.changed(**{single: record if isinstance(write, Put) else None})
        table_name, key = place_of(record)
        table = dict(getattr(self, table_name))
        if isinstance(write, Put):
            table[key] = record
        else:
            table.pop(key, None)
        tables: dict[str, Any] = {table_name: table}
        if isinstance(record, Shard):
            tables |= self._without_past(record, table.get(record.uid))
        view = self.changed(**tables)
        self._carry_indices(table_name, key, view)
        return view

    def _without_past(self, written: Shard, after: Shard | None) -> dict[str, Any]:
        """The observations that change with the incarnation of a shard; ``after`` None: it is deleted."""
        before = self.shards.get(written.uid)
        if before is None or (after is not None and after.incarnation == before.incarnation):
            return {}
        found = {}
        for name in ("processes", "servers", "sightings"):
            table = getattr(self, name)
            if written.uid in table:
                found[name] = {uid: seen for uid, seen in table.items() if uid != written.uid}
        return found

    # -- indices -----------------------------------------------------------------------------------------------------

    def _found(self, question: str, key: object) -> list[Any]:
        rule = _QUESTIONS[question]
        table: dict[Any, Any] = getattr(self, rule.table)
        cached = self._indices.get(question)
        if cached is not None and cached[0] is table:
            return list(cached[1].get(key, ()))
        index: dict[Any, list[Any]] = {}
        for record in table.values():
            for found in rule.keys(record):
                index.setdefault(found, []).append(record)
        for records in index.values():
            if len(records) > 1:
                records.sort(key=rule.order)
        self._indices[question] = (table, index)
        return list(index.get(key, ()))

    def _carry_indices(self, table_name: str, key: object, view: "ClusterView") -> None:
        """Correct the index for one write instead of building it again."""
        before: dict[Any, Any] = getattr(self, table_name)
        after: dict[Any, Any] = getattr(view, table_name)
        for question, rule in _QUESTIONS.items():
            cached = self._indices.get(question)
            if rule.table != table_name or cached is None or cached[0] is not before:
                continue
            index = dict(cached[1])
            old, new = before.get(key), after.get(key)
            for found in () if old is None else rule.keys(old):
                index[found] = [r for r in index[found] if r is not old]
            for found in () if new is None else rule.keys(new):
                index[found] = sorted([*index.get(found, ()), new], key=rule.order)
            view._indices[question] = (after, index)


_SINGLES: dict[type, str] = {Cluster: "cluster", Policy: "policy", Counters: "counters"}
_SINGLES |= {LeaderChange: "leader_change", KeyRotation: "key_rotation"}
_SLOTS = [(f.name, ClusterView.__dict__[f.name]) for f in fields(ClusterView)]


@dataclass(frozen=True, slots=True)
class _Question:
    """An index query: the table, the keys of each record, and the order of the answer."""

    table: str
    keys: Callable[[Any], Iterable[object]]
    order: Callable[[Any], Any]


def _uid(record: Any) -> Any:
    return record.uid


def _number(move: Move) -> int:
    return number_of_move(move.uid)


def _live_group(move: Move) -> tuple[GroupUid, ...]:
    return () if isinstance(move, Rebind) or move.state.is_terminal else (move.group_uid,)


_QUESTIONS = {
    "shards_of_group": _Question("shards", lambda s: (s.group_uid,), _uid),
    "shards_on": _Question("shards", lambda s: (s.node_uid,), _uid),
    "endpoints_on": _Question("endpoints", lambda e: dict.fromkeys(e.nodes), _uid),
    "endpoints_of": _Question("endpoints", lambda e: (e.database_uid,), _uid),
    "groups_of": _Question("groups", lambda g: (g.database_uid,), lambda g: g.number),
    "live_actions": _Question("actions", lambda a: () if a.status.is_terminal else (True,), lambda a: (a.created_at, a.uid)),
    "live_moves": _Question("moves", lambda m: () if m.state.is_terminal else (True,), _uid),
    "live_moves_of_group": _Question("moves", _live_group, _uid),
    "moves_of_action": _Question("moves", lambda m: () if m.action_uid is None else (m.action_uid,), _number),
}


def place_of(record: Record | DaemonPresence) -> tuple[str, object]:
    """The view's table for such records, and the key in it. Does not cover records that exist only once."""
    match record:
        case Node():
            return "nodes", record.uid
        case RemovedNode():
            return "removed_nodes", record.uid
        case Snapshot():
            return "snapshots", (record.node_uid, record.name)
        case Database():
            return "databases", record.uid
        case DatabaseTroubles():
            return "troubles", record.database_uid
        case ServerSecrets():
            return "secrets", record.database_uid
        case SlotGroup():
            return "groups", record.uid
        case Shard():
            return "shards", record.uid
        case Endpoint():
            return "endpoints", record.uid
        case Action():
            return "actions", record.uid
        case HandoffMove() | Relocation() | Rebind():
            return "moves", record.uid
        case User():
            return "users", record.uid
        case JoinToken():
            return "join_tokens", record.uid
        case IssuedCertificate():
            return "issued_certificates", record.serial
        case VirtualAddress():
            return "virtual_addresses", record.address
        case NodeSeen():
            # Written by the node's agent; deleted with the node.
            return "node_seen", record.node_uid
        case DaemonPresence():
            return "daemons", record.node_uid
        case _:
            raise AssertionError(f"a record without a table: {type(record).__name__}")
