"""The word that a node's machine is off, as an intent: given and withdrawn by an administrator. Pure.

The word permits what silence does not: with it, the leader treats the node's processes as ended (``model/liveness.py``).
"""

from dataclasses import replace

from shardwright.api.codes import conflict, invalid, not_acceptable
from shardwright.api.schemas.v1.requests import DeclareOffBody
from shardwright.api.services.intent import Intent, Look, audit
from shardwright.api.services.nodes import node_of
from shardwright.model.cluster import DeclaredOff, Node
from shardwright.model.event import EventKind, Severity
from shardwright.model.ids import NodeUid
from shardwright.model.seen import answers
from shardwright.model.view import Put
from shardwright.store import keys
from shardwright.store.protocol import ModifiedAt


def declare_off(seen: Look, uid: NodeUid, body: DeclareOffBody) -> Intent[Node]:
    """Say that the node's machine is off. Raises Rejected: nothing is changed if the address is not the node's, or if
    anything of the node is known to run."""
    view = seen.view
    node = node_of(view, uid)
    if view.cluster is None or not view.cluster.is_of_machines:
        raise not_acceptable("one_machine", "The nodes of a local cluster share one machine, which is not off.")
    if body.address != node.address:
        text = f"address: the address of node {uid} is {node.address}; it confirms which machine is off."
        raise invalid("invalid_parameter", text)
    if node.declared_off is not None and uid not in view.daemons:
        return Intent(node)
    running = _running(seen, uid)
    if running:
        remedy = "Empty the node by maintenance_on or remove, or switch its machine off first."
        raise conflict("node_not_off", f"Node {uid} is not off: {running}.", remedy=remedy)
    after = replace(node, declared_off=DeclaredOff(seen.now, seen.by, view.boot_id_of(uid)))
    text = f"node {uid} at {node.address} was declared off: its servers count as ended until its daemon runs again"
    event = audit(seen, EventKind.NODE_DECLARED_OFF, text, node_uid=uid, severity=Severity.WARNING)
    # A daemon that registers now refutes the word.
    return Intent(after, (Put(after), event), (ModifiedAt(keys.daemon_key(uid), 0),))


def withdraw(seen: Look, uid: NodeUid) -> Intent[Node]:
    """Take the word back. What was decided because of it stays. Raises Rejected (404)."""
    node = node_of(seen.view, uid)
    if node.declared_off is None:
        return Intent(node)
    after = replace(node, declared_off=None)
    text = f"the word that the machine of node {uid} is off was withdrawn"
    event = audit(seen, EventKind.NODE_DECLARATION_ENDED, text, node_uid=uid)
    return Intent(after, (Put(after), event))


def _running(seen: Look, uid: NodeUid) -> str:
    """What of the node is known to run; empty: nothing."""
    if uid in seen.view.daemons:
        return "its daemon runs"
    for shard in seen.view.shards_on(uid):
        server = seen.view.servers.get(shard.uid)
        if server is not None and answers(server):
            return f"the server of its shard {shard.uid} answers the leader"
    return ""
