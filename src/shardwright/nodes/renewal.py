"""Asks the agent of another node for a renewed certificate of this one. Must not write the answer anywhere."""

from shardwright.endpoint.tls import Context, Revoked
from shardwright.model.ids import NodeUid
from shardwright.nodes import wire
from shardwright.nodes.asking import ask_agent, unreadable
from shardwright.nodes.remote import NodeAddress
from shardwright.trust.renewal import RenewalRequest


async def ask_for_certificate(
    node: NodeUid, at: NodeAddress, request: RenewalRequest, *, context: Context, revoked: Revoked
) -> bytes:
    """The renewed certificate, followed by the authority's, PEM. Raises Permanent if that node refuses, in particular
    ``authority_key_absent``; Transient if it does not answer."""
    refuses, question = "does not renew the certificate", wire.renew_question(request)
    answer = await ask_agent(node, at, question, refuses=refuses, context=context, revoked=revoked)
    try:
        return wire.chain_of(answer)
    except ValueError as e:
        raise unreadable(node, e) from e
