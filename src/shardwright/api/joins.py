"""Admits a newcomer: the shell around ``services/joining.py``. Reads the authority's key, connects back to the newcomer,
commits, and adds the newcomer's member to the store.

Called by the route. Nothing is committed before every check has passed. After the commit only the store's member is left,
which a repeated request adds.
"""

import asyncio
import os
import secrets
from collections.abc import Sequence
from typing import Final

from cryptography import x509

from shardwright.api.deps import ApiContext
from shardwright.api.errors import Unavailable
from shardwright.api.machines import Machines
from shardwright.api.services import joining
from shardwright.api.services.intent import look, submit
from shardwright.api.services.joining import Admission, StorePart
from shardwright.errors import ClusterError, Permanent
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.store_member import StoreMember
from shardwright.model.trust import CertificateRole, JoinToken
from shardwright.model.view import ClusterView
from shardwright.store.protocol import StoreError
from shardwright.trust.authority import Signer
from shardwright.trust.files import load_signer
from shardwright.trust.join import JoinRequest, JoinResponse
from shardwright.trust.tokens import RANDOM_BYTES

REACH_TIMEOUT_S: Final = 3.0
"""Of one connection to the newcomer, from the connect to what it says."""


async def make_token(context: ApiContext, by: str) -> tuple[str, JoinToken]:
    """A new token, with its record. Raises Rejected, StoreUnavailable."""
    randomness = secrets.token_bytes(RANDOM_BYTES)
    return await submit(context, by, lambda seen: joining.new_token(seen, randomness))


async def check(context: ApiContext, request: JoinRequest, *, is_admin: bool) -> None:
    """All checks of a join that change nothing. Raises RefusedForReasons, Unavailable, StoreUnavailable."""
    await _prepare(context, _machines(context), request, is_admin=is_admin)


async def join(context: ApiContext, request: JoinRequest, *, by: str) -> JoinResponse:
    """Admit a newcomer. ``by``: the administrator who asks; empty: its token admits it. Raises RefusedForReasons,
    Unavailable (it may be repeated), StoreUnavailable."""
    machines, is_admin = _machines(context), bool(by)
    signer, part = await _prepare(context, machines, request, is_admin=is_admin)
    admission = Admission(
        signer,
        {role: x509.random_serial_number() for role in CertificateRole},
        machines.sealing_keys,
        machines.store_endpoints,
        machines.store_files,
    )
    response = await submit(context, by, lambda seen: joining.admit(seen, request, admission, is_admin=is_admin, part=part))
    if machines.members is None:
        return response
    peer_url = _peer_url(machines, request)
    try:
        if part is StorePart.MEMBER:
            await machines.members.add_learner(peer_url)
        return joining.with_store(response, part, await machines.members.members(), peer_url)
    except StoreError:
        raise
    except ClusterError as e:
        raise Unavailable("store_learner_pending", f"{e.text}. Repeat in a few seconds.") from e


async def _prepare(
    context: ApiContext, machines: Machines, request: JoinRequest, *, is_admin: bool
) -> tuple[Signer, StorePart]:
    seen = await look(context)
    joining.check(seen, request, is_admin=is_admin)
    signer = await _signer(machines, seen.view, context)
    part = await _store_part(machines, seen.view, request)
    await _check_route_back(machines, request, context.node_uid)
    return signer, part


def _machines(context: ApiContext) -> Machines:
    assert context.machines is not None, "the route refuses a local cluster"
    return context.machines


async def _signer(machines: Machines, view: ClusterView, context: ApiContext) -> Signer:
    try:
        return await asyncio.to_thread(load_signer, machines.trust)
    except Permanent as e:
        if e.code is not Code.AUTHORITY_KEY_ABSENT:
            raise
        node = joining.signing_node(view, context.node_uid)
        if node is None or node.uid == context.node_uid or view.cluster is None:
            raise Unavailable("authority_key_absent", "No node of the cluster has the key of its authority.") from e
        text = f"This node does not have the key of the cluster's authority; node {node.uid} at {node.address} has it."
        # Read by the newcomer, which asks there.
        extra = {"node_uid": node.uid, "addr": node.address, "port": view.cluster.api_port}
        raise Unavailable("authority_key_absent", text, extra=extra) from e


async def _store_part(machines: Machines, view: ClusterView, request: JoinRequest) -> StorePart:
    if machines.members is None:
        return StorePart.CLIENT
    members: Sequence[StoreMember] = joining.staying_members(view, await machines.members.members(), request)
    part = joining.store_part(members, _peer_url(machines, request), has_program=request.has_store_program)
    if part is StorePart.LATER:
        raise Unavailable("store_learner_pending", joining.why_later(view, members))
    return part


def _peer_url(machines: Machines, request: JoinRequest) -> str:
    return joining.peer_url_of(request.addresses[0], machines.ports.store_members)


# -- the way back ------------------------------------------------------------------------------------------------------


async def _check_route_back(machines: Machines, request: JoinRequest, own: NodeUid) -> None:
    """Connect to every port at which the nodes will reach the newcomer. Raises RefusedForReasons ``no_route_back``."""
    ports = [machines.ports.agent, machines.ports.control]
    if request.has_store_program and machines.members is not None:
        ports += [machines.ports.store_clients, machines.ports.store_members]
    address = request.addresses[0]
    causes = await asyncio.gather(*(_unreached(address, port, request.probe) for port in ports))
    closed = [f"{port} ({cause})" for port, cause in zip(ports, causes, strict=True) if cause]
    if closed:
        text = f"node {own} cannot connect to the newcomer at {address}, port {', '.join(closed)}"
        raise joining.refused([Reason(Code.NO_ROUTE_BACK, text, Grade.CONFIGURATION, remedy=Code.NO_ROUTE_BACK.remedy)])


async def _unreached(address: str, port: int, probe: str) -> str:
    """Why the newcomer is not reached there; empty: it is."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(REACH_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(address, port)
            said = await reader.read(len(probe.encode()))
    except TimeoutError:
        return "no answer"
    except OSError as e:
        # asyncio tells the address again.
        return os.strerror(e.errno).lower() if e.errno else str(e)
    finally:
        if writer is not None:
            writer.close()
    return "" if said == probe.encode() else "something else answers"
