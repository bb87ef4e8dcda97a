"""From the records of a backup to those with which a cluster goes on. Pure.

Called by ``cluster restore``. A backup may be older than what the daemons last did: they gave higher numbers, made other
shards, handed over roles. So every number that only grows is raised beyond what may have been given since, the copies of
every slot group are to be compared again, and what was under way has ended. Nothing here knows what runs: ``awaits_survey``
makes each machine say that before a daemon works.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from shardwright.errors import Permanent, Refusal, Rejected
from shardwright.model.action import Action, ActionName, ActionStatus
from shardwright.model.cluster import Cluster, Counters, Node, Restored
from shardwright.model.codes import Code
from shardwright.model.database import Database, DatabaseStatus, Endpoint, GroupPhase, Shard, SlotGroup
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import NodeUid
from shardwright.model.lease import Lease, Waiver
from shardwright.model.move import HandoffMove, Move, MoveState, Rebind, Relocation
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import NodeSeen, ProcessState
from shardwright.model.store_member import StoreRole
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord

TERMS: Final = 1_000_000
"""A term is given at each change of the leader: more than this many between a backup and its restore are not possible."""
GENERATIONS: Final = 1_000
"""A generation is given at each change of a primary or its restart."""
LEASES: Final = 1_000_000
"""A version of a lease is given whenever its processes change, or its replica comes or goes."""
NUMBERS: Final = 1_000
"""Of nodes, databases, shards and users: the first number after a restore has never been used."""
DROPPED: Final = (
    keys.LEADER_CHANGE,
    keys.INCOMPLETE_COPY,
    keys.RESTORED,
    keys.SEEN_SERVERS,
    "troubles/",
    "locks/",
    "join_tokens/",
)
"""What was only true then: wishes, observations, locks of actions that end now, and tokens that may have been used since."""


_LASTING: Final = frozenset({ProcessState.RUNNING, ProcessState.GONE, ProcessState.FAILED})


@dataclass(frozen=True, slots=True)
class Restore:
    """What a restore is told."""

    uid: str
    node_uid: NodeUid
    """The node whose machine runs the only member of the store from now on."""
    at: datetime
    backup_at: datetime


@dataclass(frozen=True, slots=True)
class Raised:
    """The result."""

    items: Mapping[str, bytes] = field(repr=False)
    """Values by key, in clear."""
    actions: tuple[str, ...]
    """Uids of the actions that were under way and have ended."""
    moves: tuple[str, ...]
    databases: tuple[str, ...]
    """Names of all databases."""


def raised(items: Mapping[str, bytes], restore: Restore, *, random_text: Callable[[], str]) -> Raised:
    """The records with which the cluster goes on. ``items``: of the backup, in clear. A record that cannot be read stays as
    it is. Raises Rejected: the node is not in the backup, or the cluster does not run its store itself."""
    found = {key: _read(key, value) for key, value in items.items() if not key.startswith(DROPPED)}
    _check(found, restore)
    actions = [record for record in found.values() if isinstance(record, Action) and not record.status.is_terminal]
    nodes = [record.uid for record in found.values() if isinstance(record, Node)]
    after = {key: _after(record, restore, actions, nodes) for key, record in found.items()}
    changed = {
        key: records.encode(record)
        for key, record in after.items()
        if record is not None and not isinstance(record, str) and record != found[key]
    }
    kept = {key: value for key, value in items.items() if key in found}
    text = f"{_text_of(restore)} on node {restore.node_uid}"
    event = Event(restore.at, EventKind.CLUSTER_RESTORED, Severity.WARNING, text, node_uid=restore.node_uid)
    counters = found.get(keys.COUNTERS)
    next_shard = counters.next_shard if isinstance(counters, Counters) else 1
    added = {
        keys.TERM: str(int(items.get(keys.TERM, b"0")) + TERMS).encode(),
        keys.RESTORED: records.encode(Restored(restore.uid, restore.at, restore.backup_at, next_shard)),
        keys.event_key(event, random_text()): records.encode(event),
    }
    return Raised(
        {**kept, **changed, **added},
        tuple(sorted(str(action.uid) for action in actions)),
        tuple(sorted(str(move.uid) for move in found.values() if isinstance(move, Move) and not move.state.is_terminal)),
        tuple(sorted(record.name for record in found.values() if isinstance(record, Database))),
    )


def _read(key: str, value: bytes) -> StoredRecord | str | None:
    """None: it cannot be read."""
    try:
        return records.decode(key, value)
    except (Permanent, UnicodeDecodeError):
        return None


def _check(found: Mapping[str, StoredRecord | str | None], restore: Restore) -> None:
    cluster = found.get(keys.CLUSTER)
    if not isinstance(cluster, Cluster):
        raise Rejected(Refusal.NOT_FOUND, "no_cluster", "the backup contains no cluster that this version can read")
    nodes = {record.uid: record for record in found.values() if isinstance(record, Node)}
    if restore.node_uid not in nodes:
        code = Code.BACKUP_OF_ANOTHER_CLUSTER
        text = f"the backup, of cluster {cluster.name}, has no node {restore.node_uid}"
        raise Rejected(Refusal.CONFLICT, code, text, remedy=code.remedy)
    if all(node.store_role is StoreRole.NONE for node in nodes.values()):
        code = Code.STORE_NOT_RESTORABLE
        text = "the store of this cluster is an etcd that you run yourself"
        raise Rejected(Refusal.NOT_ACCEPTABLE, code, text, remedy=code.remedy)


def _after(
    record: StoredRecord | str | None, restore: Restore, actions: list[Action], nodes: list[NodeUid]
) -> StoredRecord | str | None:
    match record:
        case Counters():
            return Counters(
                record.next_node + NUMBERS,
                record.next_database + NUMBERS,
                record.next_shard + NUMBERS,
                record.next_user + NUMBERS,
            )
        case Node():
            return _node(record, restore, [action for action in actions if action.node_uid == record.uid])
        case NodeSeen():
            # An incarnation starts at most once, so what was said of its process holds. That it was not started may not.
            said = tuple(process for process in record.processes if process.state in _LASTING)
            return replace(record, processes=said, endpoint_process=None)
        case SlotGroup():
            return _group(record, restore, nodes)
        case Shard():
            return replace(record, missing_since=None, ended_since=None)
        case Database():
            return _database(record, restore)
        case Endpoint():
            return replace(record, leaving=())
        case Action() if not record.status.is_terminal:
            return _ended_action(record, restore)
        case HandoffMove() | Relocation() | Rebind() if not record.state.is_terminal:
            reason = Reason(Code.RESTORED_FROM_BACKUP, _text_of(restore), Grade.HARD_LIMIT, node_uid=record.from_node)
            return replace(record, state=MoveState.FAILED, state_since=restore.at, ended_at=restore.at, reasons=(reason,))
        case _:
            return record


def _node(node: Node, restore: Restore, actions: list[Action]) -> Node:
    """Its marks are those before an action that has not ended. Whether the node that it was to replace is still there, and
    off, is not known: an operator removes that one."""
    role = StoreRole.VOTER if node.uid == restore.node_uid else StoreRole.NONE
    node = replace(node, awaits_survey=True, store_role=role, declared_off=None, replaces=None)
    for action in actions:
        node = replace(
            node,
            is_quorum_only=node.is_quorum_only if action.was_quorum_only is None else action.was_quorum_only,
            is_closed=node.is_closed if action.was_closed is None else action.was_closed,
            is_decommissioning=node.is_decommissioning and action.name is not ActionName.REMOVE,
        )
    return node


def _group(group: SlotGroup, restore: Restore, nodes: list[NodeUid]) -> SlotGroup:
    return replace(
        group,
        phase=GroupPhase.STARTING,
        generation=group.generation + GENERATIONS,
        handoff=None,
        parking=None,
        starting_since=restore.at,
        waits_for=(),
        start_from=None,
        start_cuts=False,
        is_restored=True,
        lease=_lease(group.lease, nodes),
    )


def _lease(lease: Lease | None, nodes: list[NodeUid]) -> Lease:
    """What processes were told since is not known, nor whether there was a lease: any of them may serve without a proof."""
    waived = tuple(Waiver(uid, "") for uid in sorted(nodes))
    return Lease(version=LEASES + (0 if lease is None else lease.version), waived=waived)


def _database(database: Database, restore: Restore) -> Database:
    """A database whose number of copies is to be looked at, and whose endpoint processes must show again what they do."""
    if database.status is not DatabaseStatus.ACTIVE:
        return replace(database, is_strict_everywhere=False)
    return replace(database, status=DatabaseStatus.ACTIVE_CHANGE_PENDING, changed_at=restore.at, is_strict_everywhere=False)


def _ended_action(action: Action, restore: Restore) -> Action:
    steps = action.steps
    if steps and steps[-1].ended_at is None:
        steps = (*steps[:-1], replace(steps[-1], ended_at=restore.at, text="ended by a restore"))
    reason = Reason(Code.RESTORED_FROM_BACKUP, _text_of(restore), Grade.HARD_LIMIT, node_uid=action.node_uid)
    return replace(
        action,
        status=ActionStatus.FAILED,
        ended_at=restore.at,
        steps=steps,
        error_code=str(Code.RESTORED_FROM_BACKUP),
        error_message=_text_of(restore),
        reasons=(reason,),
    )


def _text_of(restore: Restore) -> str:
    return f"the cluster's records were restored from the backup of {restore.backup_at:%Y-%m-%d %H:%M:%S} UTC"
