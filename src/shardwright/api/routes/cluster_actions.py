"""``/v1/cluster/actions``: the actions of the cluster itself: ``change_master``, and ``rotate_key``, an extension."""

from typing import Annotated

from fastapi import Depends
from starlette.responses import JSONResponse

from shardwright.api.deps import ApiContext, Caller, Context, RawBody, require
from shardwright.api.openapi import Routes, body_of
from shardwright.api.schemas.v1.actions import ClusterActionAnswer, cluster_action
from shardwright.api.schemas.v1.key_rotation import ClusterActionsAnswer, KeyRotationAnswer, key_rotation
from shardwright.api.schemas.v1.requests import ChangeLeaderBody, RotateKeyBody, read_body
from shardwright.api.services import key_rotation as rotations
from shardwright.api.services import leader_change as service
from shardwright.api.services.intent import look, submit
from shardwright.model.key_rotation import KeyRotation
from shardwright.store.seal import SEALED

router = Routes(tags=["cluster"])
MayView = Annotated[Caller, Depends(require("view_status_of_cluster_action"))]
AnyActionAnswer = ClusterActionAnswer | KeyRotationAnswer


@router.get("/v1/cluster/actions", response_model=ClusterActionsAnswer)
async def get_cluster_actions(context: Context, _: MayView) -> JSONResponse:
    """List the latest actions of the cluster."""
    view = (await look(context)).view
    found: list[AnyActionAnswer] = []
    if view.leader_change is not None:
        found.append(cluster_action(service.NAME, view.leader_change))
    if view.key_rotation is not None:
        found.append(_rotation(view.key_rotation, context))
    return JSONResponse({"actions": found})


@router.get("/v1/cluster/actions/{action}", response_model=AnyActionAnswer)
async def get_cluster_action(action: str, context: Context, _: MayView) -> JSONResponse:
    """Get the latest action with that name: its status while it runs, its result afterwards."""
    seen = await look(context)
    if action == rotations.NAME:
        return JSONResponse(_rotation(rotations.find(seen.view), context))
    return JSONResponse(cluster_action(action, service.find(seen, action)))


@router.post(
    "/v1/cluster/actions/{action}", response_model=AnyActionAnswer, openapi_extra=body_of(ChangeLeaderBody, RotateKeyBody)
)
async def start_cluster_action(
    action: str, context: Context, body: RawBody, caller: Annotated[Caller, Depends(require("start_cluster_action"))]
) -> JSONResponse:
    """Start an action: ``change_master`` makes the daemon of the named node the leader. Extension: ``rotate_key`` replaces
    the cluster key, which seals the secrets in the store."""
    if action == rotations.NAME:
        read_body(RotateKeyBody, body)
        uid = context.mirror.sealing.uid
        rotation = await submit(context, caller.user.email, lambda seen: rotations.request(seen, uid))
        return JSONResponse(_rotation(rotation, context))
    service.check_name(action)
    wish = read_body(ChangeLeaderBody, body)
    change = await submit(context, caller.user.email, lambda seen: service.request(seen, action, wish))
    return JSONResponse(cluster_action(action, change))


@router.delete("/v1/cluster/actions/{action}", response_model=ClusterActionAnswer)
async def delete_cluster_action(
    action: str, context: Context, caller: Annotated[Caller, Depends(require("cancel_cluster_action"))]
) -> JSONResponse:
    """Give up a wish that is under way, or delete the result. A change of the cluster key stays."""
    if action == rotations.NAME:
        rotations.refuse_to_forget((await look(context)).view)
    gone = await submit(context, caller.user.email, lambda seen: service.forget(seen, action))
    return JSONResponse(cluster_action(action, gone))


def _rotation(rotation: KeyRotation, context: ApiContext) -> KeyRotationAnswer:
    secrets = (item for prefix in SEALED for item in context.mirror.range(prefix))
    return key_rotation(rotations.shown(rotation, context.mirror.view(), secrets))
