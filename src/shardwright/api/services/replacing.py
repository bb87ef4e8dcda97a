"""The removal of a node whose place a new one has taken, as an intent. Pure; ``api/replacement.py`` is the shell around it.

It begins when the new node's daemon runs, so that the copies of the old node have a place there.
"""

from dataclasses import replace
from typing import Final

from shardwright.api.services import node_actions
from shardwright.api.services.intent import Intent, Look
from shardwright.model.action import Action, ActionName
from shardwright.model.ids import ActionUid, NodeUid
from shardwright.model.view import ClusterView, Put

_WITHOUT_PARAMETERS: Final = b"{}"


def is_due(view: ClusterView, node_uid: NodeUid) -> bool:
    """Whether this node runs and still has to see to the removal of the node that it replaces."""
    node = view.nodes.get(node_uid)
    return node is not None and node.replaces is not None and node_uid in view.daemons


def begin_removal(seen: Look, node_uid: NodeUid, *, uid: ActionUid) -> Intent[Action | None]:
    """Start the removal, once: if it fails or is cancelled, an operator decides. The answer is None if there is nothing to
    start: the old node has left, or is being removed. Raises Rejected if another action stands in the way."""
    view = seen.view
    node = view.nodes.get(node_uid)
    if node is None or node.replaces is None:
        return Intent(None)
    done = Put(replace(node, replaces=None))
    old = view.nodes.get(node.replaces)
    if old is None or any(a.node_uid == old.uid and a.name is ActionName.REMOVE for a in view.live_actions()):
        return Intent(None, (done,))
    started = node_actions.start(seen, old.uid, ActionName.REMOVE, _WITHOUT_PARAMETERS, uid=uid)
    return Intent(started.answer, (*started.writes, done), started.compares, started.operations)
