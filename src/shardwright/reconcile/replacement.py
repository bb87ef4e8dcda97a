"""Whether the endpoint process of a node can be replaced by one of another version now. Called by the node's agent. Pure.

While the connections pass, they are in two processes. A leader that hands over a role or an endpoint meanwhile speaks to the
old process, which relays to the new one; one of an older version does not. So the replacement waits until neither is near.
"""

from shardwright.model.ids import DatabaseUid, NodeUid
from shardwright.model.move import MoveState, Rebind
from shardwright.model.view import ClusterView

_NEAR_HANDOFF = frozenset({MoveState.READY, MoveState.HANDOFF})
"""States of a move in which it hands the role over, or may do so at once."""


def replacement_waits_for(view: ClusterView, node_uid: NodeUid) -> str | None:
    """What keeps the endpoint process of a node from being replaced now, as a sentence; None: nothing does."""
    if view.cluster is None or node_uid not in view.nodes:
        return "the node has no record"
    endpoints = view.endpoints_on(node_uid)
    served = {endpoint.database_uid for endpoint in endpoints}
    for endpoint in endpoints:
        if node_uid not in endpoint.bound_nodes:
            return f"the clients of endpoint {endpoint.uid} are being sent to other nodes"
    for move in view.live_moves():
        if isinstance(move, Rebind):
            if node_uid in (move.from_node, move.to_node):
                return f"endpoint {move.endpoint_uid} passes between two nodes"
        elif move.database_uid in served and move.state in _NEAR_HANDOFF:
            return _handoff(move.database_uid)
    for uid in sorted(served):
        if any(group.handoff is not None or group.parking is not None for group in view.groups_of(uid)):
            return _handoff(uid)
    return None


def _handoff(uid: DatabaseUid) -> str:
    return f"the primary role of database {uid} passes to another shard"
