"""Whether a command still fits the newest view, and its targets. Pure.

``apply.py`` asks before it gives a command, because the command was decided earlier. The answer None always means that the
command no longer fits and is not given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from shardwright.endpoint.protocol import EndpointSpec, LeaseTerms
from shardwright.endpoint.spec import spec_of, terms_of
from shardwright.model.cluster import DeclaredOff, Node
from shardwright.model.commands import (
    ApplySettings,
    Attach,
    Command,
    DropEndpoint,
    EndStuckServer,
    HandOff,
    Open,
    Park,
    PassEndpoint,
    Promote,
    ProveStrict,
    RecoverHandoff,
    RetireEndpoint,
    SaveNow,
    ServeEndpoint,
    SwitchOff,
    TellLease,
    YieldLeadership,
)
from shardwright.model.database import Database, GroupPhase, Role, Shard
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import DatabaseUid, NodeUid, ShardUid, database_of
from shardwright.model.parking import Parked
from shardwright.model.seen import EndpointSeen, ProcessIdentity, ServerSeen
from shardwright.model.view import ClusterView, Put, Write

NO_DATABASE = DatabaseUid(0)
"""The queue of commands that belong to no database."""


def queue_of(command: Command, view: ClusterView) -> DatabaseUid:
    """The database in whose queue the command waits."""
    match command:
        case Attach() | Promote() | Park() | Open() | ApplySettings() | SaveNow() | EndStuckServer():
            shard = view.shards.get(command.shard_uid)
            return NO_DATABASE if shard is None else shard.database_uid
        case HandOff() | RecoverHandoff():
            return database_of(command.group_uid)
        case ProveStrict():
            return command.database_uid
        case ServeEndpoint() | TellLease() | RetireEndpoint() | DropEndpoint() | PassEndpoint():
            return database_of(command.endpoint_uid)
        case SwitchOff() | YieldLeadership():
            return NO_DATABASE


# -- servers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attachment:
    """A shard, and the address of the server that it must follow."""

    shard: Shard
    address: str
    port: int


def attachment(command: Attach, view: ClusterView) -> Attachment | None:
    """The shard, and the current address of its group's primary."""
    shard = _of_serving_group(command.shard_uid, view)
    if shard is None or command.shard_uid == command.primary_uid:
        return None
    if view.groups[shard.group_uid].primary != command.primary_uid:
        return None
    primary = view.shards[command.primary_uid]
    return Attachment(shard, view.nodes[primary.node_uid].servers_at, primary.port)


def to_promote(command: Promote, view: ClusterView) -> Shard | None:
    """The shard, if it is its group's committed primary."""
    shard = _of_serving_group(command.shard_uid, view)
    return shard if shard is not None and view.groups[shard.group_uid].primary == shard.uid else None


UNUSED_PORT = 1
"""A parked copy follows this port of its own address, where no server ever listens: shards have ports from 20000 on."""


def to_park(command: Park, view: ClusterView) -> Attachment | None:
    """The shard, wanted or not, and where it then follows no one. None: its group is not parking, or it is the primary."""
    shard = view.shards.get(command.shard_uid)
    group = view.groups.get(shard.group_uid) if shard is not None else None
    node = view.nodes.get(shard.node_uid) if shard is not None else None
    if shard is None or node is None or group is None or group.parking is None or group.phase is not GroupPhase.SERVING:
        return None
    return None if group.parking.from_shard == shard.uid else Attachment(shard, node.servers_at, UNUSED_PORT)


def is_parked(seen: ServerSeen) -> bool:
    """Whether a server's own answer says that it follows no one."""
    return seen.role is Role.REPLICA and seen.primary_port == UNUSED_PORT and not seen.is_link_up


def parked(view: ClusterView, shard: Shard, term: int, before: ServerSeen, after: ServerSeen) -> Sequence[Write]:
    """Record that a copy is parked, and what it holds. ``before``: how it was; an unfinished sync, or a server that followed
    no one, holds nothing that counts. Empty: the group's parking has ended, is of another term, or the shard was
    restarted."""
    now, group = view.shards.get(shard.uid), view.groups.get(shard.group_uid)
    if now is None or now.incarnation != shard.incarnation or group is None or group.parking is None:
        return ()
    if group.parking.term != term:
        return ()
    is_whole = before.role is Role.REPLICA and not before.is_syncing and before.replication_id == after.replication_id
    mine = Parked(shard.uid, shard.incarnation, after.replication_id, after.offset if is_whole else -1)
    others = tuple(p for p in group.parking.parked if p.shard_uid != shard.uid)
    return (Put(replace(group, parking=replace(group.parking, parked=(*others, mine)))),)


def to_prove_strict(command: ProveStrict, view: ClusterView) -> list[tuple[Shard, list[Shard]]] | None:
    """The primaries of the database, each with its replicas in sync, one of which must hold all that the primary holds."""
    database = view.databases.get(command.database_uid)
    if database is None or not database.is_strict or database.is_strict_everywhere:
        return None
    found = []
    for group in view.groups_of(database.uid):
        copies = view.shards_of_group(group.uid)
        primary = next((shard for shard in copies if shard.uid == group.primary), None)
        if primary is None or group.is_changing_roles or group.phase is not GroupPhase.SERVING:
            return None
        found.append((primary, [s for s in copies if s is not primary and s.in_sync_generation == group.generation]))
    return found


def holds_all(primary: ServerSeen, replica: ServerSeen) -> bool:
    """Whether a replica holds all that its primary held when that was looked at, which was earlier."""
    is_of_it = replica.role is Role.REPLICA and replica.replication_id == primary.replication_id
    return primary.role is Role.PRIMARY and is_of_it and not replica.is_syncing and replica.offset >= primary.offset


def proven_strict(view: ClusterView, before: ClusterView, uid: DatabaseUid) -> Sequence[Write]:
    """Record it, unless the mode or a role has changed since the look."""
    database = view.databases.get(uid)
    if database is None or not database.is_strict or database.changed_at != before.databases[uid].changed_at:
        return ()
    if [g.generation for g in view.groups_of(uid)] != [g.generation for g in before.groups_of(uid)]:
        return ()
    return (Put(replace(database, is_strict_everywhere=True)),)


def to_open(command: Open, view: ClusterView) -> Shard | None:
    """The shard, a primary or a replica."""
    return _of_serving_group(command.shard_uid, view)


def _of_serving_group(uid: ShardUid, view: ClusterView) -> Shard | None:
    """The shard's current record; None if its group is changing roles or does not serve."""
    shard = view.shards.get(uid)
    group = view.groups.get(shard.group_uid) if shard is not None else None
    if group is None or group.is_changing_roles or group.phase is not GroupPhase.SERVING:
        return None
    return shard


def to_configure(command: ApplySettings, view: ClusterView) -> tuple[Shard, Database] | None:
    """The shard and its database, if the database still has the settings of the command."""
    found = _with_database(command.shard_uid, view)
    return found if found is not None and found[1].settings_fingerprint == command.fingerprint else None


def configured(view: ClusterView, applied_to: Shard, fingerprint: str) -> Sequence[Write]:
    """Record the settings that this incarnation has received. Empty: the shard has no record, or has been restarted."""
    shard = view.shards.get(applied_to.uid)
    if shard is None or shard.incarnation != applied_to.incarnation:
        return ()
    return (Put(replace(shard, settings=fingerprint)),)


def to_save(command: SaveNow, view: ClusterView) -> tuple[Shard, Database] | None:
    """The shard and its database."""
    return _with_database(command.shard_uid, view)


def _with_database(uid: ShardUid, view: ClusterView) -> tuple[Shard, Database] | None:
    shard = view.shards.get(uid)
    database = view.databases.get(shard.database_uid) if shard is not None else None
    return None if shard is None or database is None else (shard, database)


def to_end(command: EndStuckServer, view: ClusterView) -> tuple[NodeUid, ProcessIdentity] | None:
    """The node and the process that its agent reported."""
    shard, process = view.shards.get(command.shard_uid), view.processes.get(command.shard_uid)
    if shard is None or process is None or process.identity is None:
        return None
    return shard.node_uid, process.identity


# -- machines ----------------------------------------------------------------------------------------------------------


def to_switch_off(command: SwitchOff, view: ClusterView) -> Node | None:
    """The node, if it is away and not declared off yet. Never the leader's own."""
    node = view.nodes.get(command.node_uid)
    if node is None or not view.is_away(node.uid) or view.is_off(node.uid):
        return None
    return None if view.leadership is not None and view.leadership.node_uid == node.uid else node


def switched_off(view: ClusterView, uid: NodeUid, hook: str, now: datetime) -> Sequence[Write]:
    """Record that a hook has switched the node's machine off. Empty: the node was removed, or its daemon runs."""
    node = view.nodes.get(uid)
    if node is None or uid in view.daemons:
        return ()
    by = f"the fencing hook {hook}"
    text = f"{by} has switched off the machine of node {uid} at {node.address}: its servers count as ended"
    event = Event(now, EventKind.NODE_DECLARED_OFF, Severity.WARNING, text, node_uid=uid)
    return (Put(replace(node, declared_off=DeclaredOff(now, by, view.boot_id_of(uid)))), Put(event))


def not_switched_off(uid: NodeUid, why: str, now: datetime) -> Sequence[Write]:
    """Tell people that the hooks have failed."""
    return (Put(Event(now, EventKind.NODE_FENCING_FAILED, Severity.ERROR, why, node_uid=uid)),)


# -- endpoints ---------------------------------------------------------------------------------------------------------


class Serving(StrEnum):
    """The request that makes an endpoint process match the records."""

    RELEASE = "release"
    """Forward to the primary: the process holds, or it is unbound and still has clients."""
    SERVE = "serve"
    """Create the endpoint, or update it to its specification."""
    NOTHING = "nothing"
    """No request: the process is unbound and must not listen again. The endpoint may be passed on at this moment."""


def to_serve(command: ServeEndpoint, view: ClusterView) -> EndpointSpec | None:
    """The specification that the process must serve. None also while a handoff is pending: it switches the endpoint
    itself."""
    endpoint = view.endpoints.get(command.endpoint_uid)
    if endpoint is None or any(g.handoff is not None for g in view.groups_of(endpoint.database_uid)):
        return None
    return spec_of(view, endpoint, command.node_uid)


def to_tell(command: TellLease, view: ClusterView) -> LeaseTerms | None:
    """The lease that the process must know. None if there is none, or if it has changed again."""
    endpoint = view.endpoints.get(command.endpoint_uid)
    groups = [] if endpoint is None else view.groups_of(endpoint.database_uid)
    terms = terms_of(groups[0]) if groups else None
    return terms if terms is not None and terms.version == command.version else None


def to_retire(command: RetireEndpoint, view: ClusterView) -> bool:
    """Whether the process must close its connections: the records do not bind the endpoint to its node."""
    endpoint = view.endpoints.get(command.endpoint_uid)
    return endpoint is not None and command.node_uid not in endpoint.bound_nodes


def serving(spec: EndpointSpec, seen: EndpointSeen, *, is_bound: bool) -> Serving:
    """The request for the process. ``seen``: its state now. ``is_bound``: the records bind the endpoint to its node."""
    if spec.target is not None and (not is_bound or seen.held_generation is not None):
        return Serving.RELEASE
    return Serving.SERVE if is_bound else Serving.NOTHING
