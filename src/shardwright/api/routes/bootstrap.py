"""``/v1/bootstrap…``: how a machine becomes a node. A newcomer joins here, admitted by its token."""

import asyncio
from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import JSONResponse

from shardwright.api import joins
from shardwright.api.codes import conflict
from shardwright.api.deps import ApiContext, Caller, Context, RawBody, get_caller, require
from shardwright.api.errors import RefusedForReasons, coded, error_answer
from shardwright.api.openapi import Routes, body_of
from shardwright.api.schemas.v1 import bootstrap as wire
from shardwright.api.schemas.v1.cluster import bootstrap as bootstrap_json
from shardwright.api.schemas.v1.common import Json
from shardwright.api.schemas.v1.requests import json_object, read_body
from shardwright.api.services.intent import look
from shardwright.api.services.joining import TOKEN_REASONS, signing_node
from shardwright.trust.authority import read_authority

router = Routes(tags=["bootstrap"])
OPEN = frozenset({("POST", "/v1/bootstrap/join"), ("POST", "/v1/bootstrap/validate/join")})
"""Requests that a token admits: without credentials, in a cluster of machines."""
_ACTIONS = {"create_cluster": "create", "join_cluster": "join", "recover_cluster": "recover"}


@router.get("/v1/bootstrap", response_model=Json)
async def get_bootstrap(context: Context, _: Annotated[Caller, Depends(get_caller)]) -> JSONResponse:
    """Get the bootstrap state of the answering node."""
    return JSONResponse(bootstrap_json((await look(context)).view, context.node_uid))


@router.post("/v1/nodes/tokens", response_model=wire.TokenAnswer)
async def make_token(
    context: Context, body: RawBody, caller: Annotated[Caller, Depends(require("update_cluster"))]
) -> JSONResponse:
    """Extension: make a token that admits one new machine; it is shown once and expires after 24 hours."""
    json_object(body)
    if context.machines is None:
        raise _is_local()
    view = (await look(context)).view
    node = signing_node(view, context.node_uid) or view.nodes.get(context.node_uid)
    if node is None or view.cluster is None:
        return coded("not_ready", "The cluster's records are not complete yet. Try again.")
    ca_hash = read_authority(await asyncio.to_thread(context.machines.trust.authority.read_bytes)).key_hash
    text, record = await joins.make_token(context, caller.user.email)
    answer = wire.token_json(text, record, ca_hash=ca_hash, address=node.address, port=view.cluster.api_port)
    return JSONResponse(answer)


@router.post("/v1/bootstrap/join", response_model=wire.JoinAnswer, openapi_extra=body_of(wire.JoinBody))
async def join(request: Request, context: Context, body: RawBody) -> JSONResponse:
    """Extension: admit a new machine by its token or with an administrator's credentials. Repeated by the same machine with
    the same key, it has the same answer."""
    return await _answer(request, context, body, is_asked_only=False)


@router.post("/v1/bootstrap/validate/join", response_model=Json, openapi_extra=body_of(wire.JoinBody))
async def validate_join(request: Request, context: Context, body: RawBody) -> JSONResponse:
    """Extension: all checks of a join; changes nothing."""
    return await _answer(request, context, body, is_asked_only=True)


@router.post("/v1/bootstrap/create_cluster", response_model=Json)
@router.post("/v1/bootstrap/join_cluster", response_model=Json)
@router.post("/v1/bootstrap/recover_cluster", response_model=Json)
async def start_bootstrap(request: Request, _: Annotated[Caller, Depends(get_caller)]) -> JSONResponse:
    """Refused: the answering node is a member of a cluster already. The description has the command for a new machine."""
    raise conflict("already_bootstrapped", _advice(request.url.path.rpartition("/")[2]))


@router.post("/v1/bootstrap/validate/{action}", response_model=Json)
async def validate_bootstrap(action: str, context: Context, _: Annotated[Caller, Depends(get_caller)]) -> JSONResponse:
    """Validate a bootstrap action: 406, because the answering node is a member of a cluster already."""
    if action not in _ACTIONS:
        return error_answer(404, "not_found", f"There is no bootstrap action {action[:50]!r}.")
    view = (await look(context)).view
    return error_answer(406, "already_bootstrapped", _advice(action), extra=bootstrap_json(view, context.node_uid))


async def _answer(request: Request, context: ApiContext, body: bytes, *, is_asked_only: bool) -> JSONResponse:
    if context.machines is None:
        raise _is_local()
    caller: Caller | None = request.scope.get("caller")
    if caller is not None:
        require("update_cluster")(caller)
    attempts, peer = request.app.state.attempts, request.client.host if request.client is not None else ""
    if caller is None and not attempts.is_allowed(peer):
        return coded("too_many_attempts", "Too many wrong join tokens from this address. Wait a minute.")
    wish = wire.request_of(read_body(wire.JoinBody, body))
    by = "" if caller is None else caller.user.email
    try:
        if is_asked_only:
            await joins.check(context, wish, is_admin=caller is not None)
            return JSONResponse({})
        return JSONResponse(wire.join_json(await joins.join(context, wish, by=by)))
    except RefusedForReasons as refused:
        if refused.code in TOKEN_REASONS:
            attempts.note_wrong(peer)
        raise


def _is_local() -> Exception:
    text = "This is a local cluster: no other machine can join it."
    return conflict("local_cluster", text, remedy="Add a node with POST /v1/nodes, or found a cluster: shardwright init.")


def _advice(action: str) -> str:
    line = "shardwright init" if action == "create_cluster" else "the line that `shardwright node token` prints"
    return f"This node is a member of a cluster already. On a new machine, run {line}."
