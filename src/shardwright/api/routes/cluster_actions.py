"""``/v1/cluster/actions``: the actions of the cluster itself. There is one: ``change_master``."""

from typing import Annotated

from fastapi import Depends
from starlette.responses import JSONResponse

from shardwright.api.deps import Caller, Context, RawBody, require
from shardwright.api.openapi import Routes, body_of
from shardwright.api.schemas.v1.actions import ClusterActionAnswer, ClusterActionsAnswer, cluster_action
from shardwright.api.schemas.v1.requests import ChangeLeaderBody, read_body
from shardwright.api.services import leader_change as service
from shardwright.api.services.intent import look, submit

router = Routes(tags=["cluster"])
MayView = Annotated[Caller, Depends(require("view_status_of_cluster_action"))]


@router.get("/v1/cluster/actions", response_model=ClusterActionsAnswer)
async def get_cluster_actions(context: Context, _: MayView) -> JSONResponse:
    """List the latest actions of the cluster."""
    change = (await look(context)).view.leader_change
    return JSONResponse({"actions": [] if change is None else [cluster_action(service.NAME, change)]})


@router.get("/v1/cluster/actions/{action}", response_model=ClusterActionAnswer)
async def get_cluster_action(action: str, context: Context, _: MayView) -> JSONResponse:
    """Get the latest action with that name: its status while it runs, its result afterwards."""
    return JSONResponse(cluster_action(action, service.find(await look(context), action)))


@router.post("/v1/cluster/actions/{action}", response_model=ClusterActionAnswer, openapi_extra=body_of(ChangeLeaderBody))
async def start_cluster_action(
    action: str, context: Context, body: RawBody, caller: Annotated[Caller, Depends(require("start_cluster_action"))]
) -> JSONResponse:
    """Start an action: ``change_master`` makes the daemon of the named node the leader."""
    service.check_name(action)
    wish = read_body(ChangeLeaderBody, body)
    change = await submit(context, caller.user.email, lambda seen: service.request(seen, action, wish))
    return JSONResponse(cluster_action(action, change))


@router.delete("/v1/cluster/actions/{action}", response_model=ClusterActionAnswer)
async def delete_cluster_action(
    action: str, context: Context, caller: Annotated[Caller, Depends(require("cancel_cluster_action"))]
) -> JSONResponse:
    """Give up a wish that is under way, or delete the result."""
    gone = await submit(context, caller.user.email, lambda seen: service.forget(seen, action))
    return JSONResponse(cluster_action(action, gone))
