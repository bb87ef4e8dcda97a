"""What an operator can do about a node that is away. For texts only; decides nothing."""

from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView


def remedy_of_absence(view: ClusterView, uid: NodeUid) -> str:
    """Start its daemon; on several machines also: say that its machine is off. After that, the node can be removed."""
    start = f"start the daemon of node {uid}"
    node = view.nodes.get(uid)
    if view.cluster is None or not view.cluster.is_of_machines or node is None:
        return start
    if node.declared_off is not None:
        return f"{start}, or remove the node: shardwright node remove {uid}"
    return f"{start}, or if its machine is off: shardwright node declare-off {uid}"
