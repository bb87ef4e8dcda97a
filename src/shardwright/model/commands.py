"""Commands: one instruction to a server or an endpoint process, as a value.

The leader commits a decision's writes first and gives its commands afterwards. Every command is idempotent and may be
lost: the next turn decides it again from what is seen then.
"""

from dataclasses import dataclass

from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid


@dataclass(frozen=True, slots=True)
class Attach:
    """Make a server a replica of its group's primary, drop its write fence once linked."""

    shard_uid: ShardUid
    primary_uid: ShardUid


@dataclass(frozen=True, slots=True)
class Promote:
    """Make the committed primary of a group a primary (unplanned: the old one is certainly gone), still fenced."""

    shard_uid: ShardUid


@dataclass(frozen=True, slots=True)
class Open:
    """Lift the fence of a server: the committed primary, or a replica in sync."""

    shard_uid: ShardUid


@dataclass(frozen=True, slots=True)
class ApplySettings:
    """Bring a running server's settings to those of its database; the fingerprint is committed afterwards."""

    shard_uid: ShardUid
    fingerprint: str


@dataclass(frozen=True, slots=True)
class SaveNow:
    """Write a fresh persistence file (a snapshot, or a rewrite of the append-only file)."""

    shard_uid: ShardUid


@dataclass(frozen=True, slots=True)
class HandOff:
    """Pass the primary role to ``to_shard`` (the whole procedure of design section 5)."""

    group_uid: GroupUid
    from_shard: ShardUid
    to_shard: ShardUid


@dataclass(frozen=True, slots=True)
class RecoverHandoff:
    """Finish or undo the handoff that the group's record holds and that nobody here is performing."""

    group_uid: GroupUid


@dataclass(frozen=True, slots=True)
class EndStuckServer:
    """End a server process by identity: it neither answers nor uses CPU. It is then treated as gone."""

    shard_uid: ShardUid


@dataclass(frozen=True, slots=True)
class ServeEndpoint:
    """Tell a node's endpoint process what it shall serve and where the primary is (or that there is none)."""

    node_uid: NodeUid
    endpoint_uid: EndpointUid


@dataclass(frozen=True, slots=True)
class DropEndpoint:
    """Tell a node's endpoint process to end an endpoint that is bound elsewhere or deleted."""

    node_uid: NodeUid
    endpoint_uid: EndpointUid


@dataclass(frozen=True, slots=True)
class PassEndpoint:
    """Pass the listener and the client connections of an endpoint from one node's process to another's."""

    endpoint_uid: EndpointUid
    database_uid: DatabaseUid
    from_node: NodeUid
    to_node: NodeUid


@dataclass(frozen=True, slots=True)
class YieldLeadership:
    """Give up leadership and let another daemon win the next election."""


Command = (
    Attach
    | Promote
    | Open
    | ApplySettings
    | SaveNow
    | HandOff
    | RecoverHandoff
    | EndStuckServer
    | ServeEndpoint
    | DropEndpoint
    | PassEndpoint
    | YieldLeadership
)
