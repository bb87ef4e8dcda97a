"""The key of each record in the store. Owns the layout; the only module that builds or parses keys.

    cluster  cluster_id  policy  counters  leader  leader_change  key_rotation
    nodes/<uid>  removed_nodes/<uid>  snapshots/<node>/<name>
    databases/<uid>  troubles/<database>  secrets/<database>  groups/<uid>  shards/<uid>  endpoints/<uid>
    actions/<uid>  moves/<uid>  users/<uid>  events/<time>-<random>
    join_tokens/<uid>  issued_certificates/<serial>  virtual_addresses/<address>
    daemons/<node>                      presence, bound to the daemon's lease
    seen/nodes/<node>                   report of the node's agent
    seen/servers/<shard>                the leader's observation of a server, for the API
    last_actions/<node>/<action>        uid of the latest action with that name, for GET on a node's action
    locks/nodes/<node>  locks/remove    uid of the live action that holds the lock
    names/<database name>  ports/<port> uid of the database that holds it
    emails/<address>                    uid of the user who holds it
    term                                last term given; grows only
    incomplete_copy                     exists while the records are being copied from another store
    restored                            exists if the records come from a backup

Numbers are padded with zeros so that ranges come in their order.
"""

from types import UnionType

from shardwright.model.account import User
from shardwright.model.action import Action, ActionName
from shardwright.model.cluster import (
    Cluster,
    Counters,
    DaemonPresence,
    Leadership,
    Node,
    Policy,
    RemovedNode,
    Restored,
    Snapshot,
)
from shardwright.model.database import Database, DatabaseTroubles, Endpoint, ServerSecrets, Shard, SlotGroup
from shardwright.model.event import Event
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.key_rotation import KeyRotation
from shardwright.model.leader_change import LeaderChange
from shardwright.model.move import HandoffMove, Move, Rebind, Relocation
from shardwright.model.seen import NodeSeen, ServerSeen
from shardwright.model.trust import IssuedCertificate, JoinToken
from shardwright.model.virtual_address import VirtualAddress

CLUSTER = "cluster"
CLUSTER_ID = "cluster_id"
"""Random text that tells a cluster from every other one; given when a cluster of machines is founded, never changed."""
POLICY = "policy"
COUNTERS = "counters"
LEADER = "leader"
LEADER_CHANGE = "leader_change"
KEY_ROTATION = "key_rotation"
TERM = "term"
INCOMPLETE_COPY = "incomplete_copy"
"""No daemon may work on a store with this key. Holds which cluster is being copied."""
RESTORED = "restored"
EVENTS = "events/"
NODES = "nodes/"
DAEMONS = "daemons/"
DATABASES = "databases/"
ENDPOINTS = "endpoints/"
SEEN_NODES = "seen/nodes/"
SEEN_SERVERS = "seen/servers/"

StoredRecord = (
    Cluster
    | Policy
    | Counters
    | Leadership
    | LeaderChange
    | KeyRotation
    | Restored
    | Node
    | RemovedNode
    | Snapshot
    | Database
    | DatabaseTroubles
    | ServerSecrets
    | SlotGroup
    | Shard
    | Endpoint
    | Action
    | Move
    | User
    | JoinToken
    | IssuedCertificate
    | VirtualAddress
    | Event
    | DaemonPresence
    | NodeSeen
    | ServerSeen
)

RecordType = type[StoredRecord] | UnionType
"""A class of records, or a union of classes that differ by their ``kind``."""

_TYPES: dict[str, RecordType] = {
    CLUSTER: Cluster,
    POLICY: Policy,
    COUNTERS: Counters,
    LEADER: Leadership,
    LEADER_CHANGE: LeaderChange,
    KEY_ROTATION: KeyRotation,
    RESTORED: Restored,
    NODES: Node,
    "removed_nodes/": RemovedNode,
    "snapshots/": Snapshot,
    DATABASES: Database,
    "troubles/": DatabaseTroubles,
    "secrets/": ServerSecrets,
    "groups/": SlotGroup,
    "shards/": Shard,
    ENDPOINTS: Endpoint,
    "actions/": Action,
    "moves/": Move,
    "users/": User,
    "join_tokens/": JoinToken,
    "issued_certificates/": IssuedCertificate,
    "virtual_addresses/": VirtualAddress,
    EVENTS: Event,
    DAEMONS: DaemonPresence,
    SEEN_NODES: NodeSeen,
    SEEN_SERVERS: ServerSeen,
}


def type_of(key: str) -> RecordType | None:
    """The type of the records at a key; None for a key with a bare uid or number."""
    if key in _TYPES:
        return _TYPES[key]
    head, _, rest = key.partition("/")
    if head == "seen":
        head = f"seen/{rest.partition('/')[0]}"
    return _TYPES.get(f"{head}/")


def key_of(record: StoredRecord) -> str:
    """The key of a record. ``event_key`` makes the keys of events, because they need randomness."""
    match record:
        case Cluster():
            return CLUSTER
        case Policy():
            return POLICY
        case Counters():
            return COUNTERS
        case Leadership():
            return LEADER
        case LeaderChange():
            return LEADER_CHANGE
        case KeyRotation():
            return KEY_ROTATION
        case Restored():
            return RESTORED
        case Node():
            return f"{NODES}{record.uid:08d}"
        case RemovedNode():
            return f"removed_nodes/{record.uid:08d}"
        case Snapshot():
            return f"snapshots/{record.node_uid:08d}/{record.name}"
        case Database():
            return f"databases/{record.uid:08d}"
        case DatabaseTroubles():
            return f"troubles/{record.database_uid:08d}"
        case ServerSecrets():
            return f"secrets/{record.database_uid:08d}"
        case SlotGroup():
            return f"groups/{record.uid}"
        case Shard():
            return f"shards/{record.uid:08d}"
        case Endpoint():
            return f"endpoints/{record.uid}"
        case Action():
            return f"actions/{record.uid}"
        case HandoffMove() | Relocation() | Rebind():
            return f"moves/{record.uid}"
        case User():
            return f"users/{record.uid:08d}"
        case JoinToken():
            return f"join_tokens/{record.uid}"
        case IssuedCertificate():
            return f"issued_certificates/{record.serial}"
        case VirtualAddress():
            return f"virtual_addresses/{record.address}"
        case DaemonPresence():
            return daemon_key(record.node_uid)
        case NodeSeen():
            return f"{SEEN_NODES}{record.node_uid:08d}"
        case ServerSeen():
            return seen_server_key(record.shard_uid)
        case Event():
            raise AssertionError("an event's key needs randomness: event_key")


def event_key(event: Event, random_text: str) -> str:
    """The key of an event; sorts by time."""
    return f"{EVENTS}{event.at:%Y%m%dT%H%M%S.%f}-{random_text}"


def daemon_key(uid: NodeUid) -> str:
    """Exists while the node's daemon holds its lease."""
    return f"{DAEMONS}{uid:08d}"


def seen_server_key(uid: ShardUid) -> str:
    """The key at which the leader publishes its observation of a server."""
    return f"{SEEN_SERVERS}{uid:08d}"


def last_action_key(node_uid: NodeUid, name: ActionName) -> str:
    """Holds the uid of the latest action with that name on the node, until its result is deleted."""
    return f"last_actions/{node_uid:08d}/{name}"


def last_actions_prefix(node_uid: NodeUid | None = None) -> str:
    """Prefix of ``last_action_key`` for one node, or for all."""
    return "last_actions/" if node_uid is None else f"last_actions/{node_uid:08d}/"


def node_lock_key(node_uid: NodeUid) -> str:
    """Exists while the node has a live action; holds its uid."""
    return f"locks/nodes/{node_uid:08d}"


REMOVE_LOCK = "locks/remove"
"""Exists while any removal is running; holds the action's uid."""


def name_key(name: str) -> str:
    """Exists while a database has this name (compared without case)."""
    return f"names/{name.lower()}"


def port_key(port: int) -> str:
    """Exists while a database has this port."""
    return f"ports/{port:05d}"


def email_key(email: str) -> str:
    """Exists while a user has this address (compared without case)."""
    return f"emails/{email.lower()}"
