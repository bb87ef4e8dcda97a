"""Asks the agent of another node for a cluster key. Must not write the answer anywhere, nor put it into an error."""

from shardwright.endpoint.tls import Context, Revoked
from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.ids import KeyUid, NodeUid
from shardwright.nodes import wire
from shardwright.nodes.asking import ask_agent, unreadable
from shardwright.nodes.remote import NodeAddress
from shardwright.store.seal import KEY_BYTES, ClusterKey


async def ask_for_key(node: NodeUid, at: NodeAddress, uid: KeyUid, *, context: Context, revoked: Revoked) -> ClusterKey:
    """The cluster key with this uid. Raises Permanent if that node refuses, in particular ``cluster_key_awaited`` if it does
    not have the key; Transient if it does not answer."""
    refuses, question = "gives no cluster key", wire.key_question(uid)
    answer = await ask_agent(node, at, question, refuses=refuses, context=context, revoked=revoked)
    try:
        secret = wire.secret_of(answer)
    except ValueError as e:
        raise unreadable(node, e) from None
    if len(secret) != KEY_BYTES or (key := ClusterKey.of(secret)).uid != uid:
        raise Permanent(Code.CLUSTER_KEY_UNUSABLE, f"node {node} has sent another key than the one with the uid {uid}")
    return key
