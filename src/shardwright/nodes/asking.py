"""Asks the agent of another node one question, over a connection of its own that shows this node's certificate.

For questions that are rare and come from no leader. Leaders keep their connections (``remote.py``).
"""

import asyncio
import ssl
from typing import Any, Final

from shardwright.endpoint.tls import CertificateProblem, Context, Revoked, connect_tls, refusal_of
from shardwright.errors import Permanent, Transient
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.nodes.remote import NodeAddress

TIMEOUT_S: Final = 10.0
"""The agent may have to ask the store first."""


async def ask_agent(
    node: NodeUid, at: NodeAddress, question: dict[str, Any], *, refuses: str, context: Context, revoked: Revoked
) -> dict[str, Any]:
    """The answer. ``refuses``: what it means if that node refuses, such as "does not renew the certificate". Raises
    Permanent if it does, Transient if it does not answer."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            channel = await connect_tls(at.address, at.agent_port, context=context, node=node, revoked=revoked)
            async with channel:
                answer = await channel.ask(question)
        if (refused := refusal_of(answer)) is not None:
            raise refused
    except CertificateProblem as e:
        raise Permanent(e.code, f"node {node}: {e}") from e
    except (OSError, TimeoutError, ValueError, ssl.SSLError) as e:
        raise Transient(Code.AGENT_SILENT, f"the agent of node {node} did not answer: {str(e) or 'too slow'}") from e
    if "error" in answer:
        said = answer.get("code")
        code = next((c for c in Code if c == said), Code.AGENT_REFUSED)  # A later version may have others.
        raise Permanent(code, f"node {node} {refuses}: {answer['error']}")
    return answer


def unreadable(node: NodeUid, error: ValueError) -> Transient:
    """The error for an answer that cannot be read."""
    return Transient(Code.AGENT_SILENT, f"the agent of node {node} did not answer: {error}")
