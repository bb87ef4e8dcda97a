"""Commands: one instruction to a server or an endpoint process, as a value.

The leader commits a decision's writes first and issues its commands afterwards. Every command is idempotent and may be
lost: the next turn derives it again from fresh observations.
"""

from dataclasses import dataclass

from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid


@dataclass(frozen=True, slots=True)
class Attach:
    """Make a server a replica of its group's primary; lift its write fence once the link is up."""

    shard_uid: ShardUid
    primary_uid: ShardUid


@dataclass(frozen=True, slots=True)
class Promote:
    """Promote the committed primary of a group (unplanned: the old one has certainly ended); it stays fenced."""

    shard_uid: ShardUid


@dataclass(frozen=True, slots=True)
class Park:
    """Detach a copy from its primary without promoting it, and record what it holds (``SlotGroup.parking``). It confirms no
    write from then on."""

    shard_uid: ShardUid


@dataclass(frozen=True, slots=True)
class ProveStrict:
    """Look whether a replica holds all that the primary holds, and record that strict mode is in force everywhere. Decided
    when every endpoint process has shown the mode: what they answered before is then covered too."""

    database_uid: DatabaseUid


@dataclass(frozen=True, slots=True)
class Open:
    """Lift the fence of a server: the committed primary, or a replica in sync."""

    shard_uid: ShardUid


@dataclass(frozen=True, slots=True)
class ApplySettings:
    """Apply the database's settings to a running server; the fingerprint is committed afterwards."""

    shard_uid: ShardUid
    fingerprint: str


@dataclass(frozen=True, slots=True)
class SaveNow:
    """Write a new persistence file (a snapshot, or a rewrite of the append-only file)."""

    shard_uid: ShardUid


@dataclass(frozen=True, slots=True)
class HandOff:
    """Pass the primary role to ``to_shard``: the complete handoff procedure."""

    group_uid: GroupUid
    from_shard: ShardUid
    to_shard: ShardUid


@dataclass(frozen=True, slots=True)
class RecoverHandoff:
    """Finish or undo the handoff in the group's record, which no task of this leader is executing."""

    group_uid: GroupUid


@dataclass(frozen=True, slots=True)
class EndStuckServer:
    """Kill a server by its process identity: it neither answers nor uses CPU. It then counts as ended."""

    shard_uid: ShardUid


@dataclass(frozen=True, slots=True)
class SwitchOff:
    """Run the operator's fencing hooks for a node that is silent. If one of them has switched its machine off, the node is
    declared off."""

    node_uid: NodeUid


@dataclass(frozen=True, slots=True)
class ServeEndpoint:
    """Tell a node's endpoint process which endpoints to serve, and the location of the primary (or its absence)."""

    node_uid: NodeUid
    endpoint_uid: EndpointUid


@dataclass(frozen=True, slots=True)
class TellLease:
    """Tell a node's endpoint process of the lease of an endpoint, whether it serves it or not. ``version``: of the lease."""

    node_uid: NodeUid
    endpoint_uid: EndpointUid
    version: int


@dataclass(frozen=True, slots=True)
class RetireEndpoint:
    """Tell a node's endpoint process to accept no more clients of an endpoint and to close each connection behind a
    reply."""

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
    | Park
    | ProveStrict
    | Open
    | ApplySettings
    | SaveNow
    | HandOff
    | RecoverHandoff
    | EndStuckServer
    | SwitchOff
    | ServeEndpoint
    | TellLease
    | RetireEndpoint
    | DropEndpoint
    | PassEndpoint
    | YieldLeadership
)
