"""Asks the agent of another node for a renewed certificate of this one, over a connection of its own.

The connection shows the certificate that is still valid. Must not write the answer anywhere.
"""

import asyncio
import ssl

from shardwright.endpoint.tls import CertificateProblem, Context, Revoked, connect_tls, refusal_of
from shardwright.errors import Permanent, Transient
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.nodes import wire
from shardwright.nodes.remote import NodeAddress
from shardwright.trust.renewal import RenewalRequest

TIMEOUT_S = 10.0
"""The agent asks the store first."""


async def ask_for_certificate(
    node: NodeUid, at: NodeAddress, request: RenewalRequest, *, context: Context, revoked: Revoked
) -> bytes:
    """The renewed certificate, followed by the authority's, PEM. Raises Permanent if that node refuses, in particular
    ``authority_key_absent``; Transient if it does not answer."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            channel = await connect_tls(at.address, at.agent_port, context=context, node=node, revoked=revoked)
            async with channel:
                answer = await channel.ask(wire.renew_question(request))
        if (refused := refusal_of(answer)) is not None:
            raise refused
        if "error" in answer:
            said = answer.get("code")
            code = next((c for c in Code if c == said), Code.AGENT_REFUSED)  # A later version may have others.
            raise Permanent(code, f"node {node} does not renew the certificate: {answer['error']}")
        return wire.chain_of(answer)
    except CertificateProblem as e:
        raise Permanent(e.code, f"node {node}: {e}") from e
    except (OSError, TimeoutError, ValueError, ssl.SSLError) as e:
        raise Transient(Code.AGENT_SILENT, f"the agent of node {node} did not answer: {str(e) or 'too slow'}") from e
