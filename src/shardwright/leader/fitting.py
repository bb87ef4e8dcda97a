"""Whether a command still fits the newest view, and to what it then applies. Pure.

``apply.py`` asks before it gives a command: commands are decided earlier than they are given. None always means that the
command does not fit any more, and is not given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from shardwright.endpoint.protocol import EndpointSpec
from shardwright.endpoint.spec import spec_of
from shardwright.model.commands import (
    ApplySettings,
    Attach,
    Command,
    DropEndpoint,
    EndStuckServer,
    HandOff,
    Open,
    PassEndpoint,
    Promote,
    RecoverHandoff,
    SaveNow,
    ServeEndpoint,
    YieldLeadership,
)
from shardwright.model.database import Database, GroupPhase, Shard
from shardwright.model.ids import DatabaseUid, NodeUid, ShardUid, database_of
from shardwright.model.seen import EndpointSeen, ProcessIdentity
from shardwright.model.view import ClusterView, Put, Write

NO_DATABASE = DatabaseUid(0)
"""The queue of what is not of any database any more."""


def queue_of(command: Command, view: ClusterView) -> DatabaseUid:
    """The database in whose queue a command waits."""
    match command:
        case Attach() | Promote() | Open() | ApplySettings() | SaveNow() | EndStuckServer():
            shard = view.shards.get(command.shard_uid)
            return NO_DATABASE if shard is None else shard.database_uid
        case HandOff() | RecoverHandoff():
            return database_of(command.group_uid)
        case ServeEndpoint() | DropEndpoint() | PassEndpoint():
            return database_of(command.endpoint_uid)
        case YieldLeadership():
            return NO_DATABASE


# -- servers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attachment:
    """A shard that is to follow the server at this address."""

    shard: Shard
    address: str
    port: int


def attachment(command: Attach, view: ClusterView) -> Attachment | None:
    """The shard, and where its group's primary is now."""
    shard = _of_serving_group(command.shard_uid, view)
    if shard is None or command.shard_uid == command.primary_uid:
        return None
    if view.groups[shard.group_uid].primary != command.primary_uid:
        return None
    primary = view.shards[command.primary_uid]
    return Attachment(shard, view.nodes[primary.node_uid].address, primary.port)


def to_promote(command: Promote, view: ClusterView) -> Shard | None:
    """The shard, if it is its group's committed primary."""
    shard = _of_serving_group(command.shard_uid, view)
    return shard if shard is not None and view.groups[shard.group_uid].primary == shard.uid else None


def to_open(command: Open, view: ClusterView) -> Shard | None:
    """The shard, a primary or a replica."""
    return _of_serving_group(command.shard_uid, view)


def _of_serving_group(uid: ShardUid, view: ClusterView) -> Shard | None:
    """The shard as it is now; None when a handoff has its group or the group does not serve."""
    shard = view.shards.get(uid)
    group = view.groups.get(shard.group_uid) if shard is not None else None
    if group is None or group.handoff is not None or group.phase is not GroupPhase.SERVING:
        return None
    return shard


def to_configure(command: ApplySettings, view: ClusterView) -> tuple[Shard, Database] | None:
    """The shard and its database, if the settings are still those that were decided on."""
    found = _with_database(command.shard_uid, view)
    return found if found is not None and found[1].settings_fingerprint == command.fingerprint else None


def configured(view: ClusterView, applied_to: Shard, fingerprint: str) -> Sequence[Write]:
    """The record of what was applied to this incarnation. Empty: the shard is gone, or was started again meanwhile."""
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


# -- endpoints ---------------------------------------------------------------------------------------------------------


class Serving(StrEnum):
    """What brings an endpoint process in line with the records."""

    RELEASE = "release"
    """Let it forward to the primary: it holds, or it is unbound and still has clients."""
    SERVE = "serve"
    """Create the endpoint, or bring it to its specification."""
    NOTHING = "nothing"
    """Another process may be passing it on: it must not listen again."""


def to_serve(command: ServeEndpoint, view: ClusterView) -> EndpointSpec | None:
    """What the process is to serve; None while a handoff switches the endpoint itself."""
    endpoint = view.endpoints.get(command.endpoint_uid)
    if endpoint is None or any(g.handoff is not None for g in view.groups_of(endpoint.database_uid)):
        return None
    return spec_of(view, endpoint)


def serving(spec: EndpointSpec, seen: EndpointSeen, *, is_bound: bool) -> Serving:
    """What is asked of the process, as it was ``seen`` now. ``is_bound``: the records bind the endpoint to its node."""
    if spec.target is not None and (not is_bound or seen.held_generation is not None):
        return Serving.RELEASE
    return Serving.SERVE if is_bound else Serving.NOTHING
