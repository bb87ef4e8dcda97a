"""``/v1/nodes/…/actions``: the requests that empty a node and bring it back."""

from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import JSONResponse

from shardwright.api.deps import Caller, Context, RawBody, flag, require
from shardwright.api.openapi import Routes, body_of, query_of
from shardwright.api.schemas.v1.actions import NodeActionAnswer, NodeActionsAnswer, node_action
from shardwright.api.schemas.v1.parameters import ignored_keys
from shardwright.api.schemas.v1.plans import ExplanationAnswer, PreviewAnswer, explanation_json, preview_json
from shardwright.api.schemas.v1.requests import MaintenanceOffBody, MaintenanceOnBody, RemoveBody, StepDownBody
from shardwright.api.services import node_actions as service
from shardwright.api.services.explain import explain
from shardwright.api.services.intent import Intent, Look, look, submit
from shardwright.api.services.preview import preview
from shardwright.model.action import Action
from shardwright.model.ids import ActionUid, NodeUid

router = Routes(tags=["node actions"])


@router.get("/v1/nodes/actions", response_model=NodeActionsAnswer)
async def get_all_node_actions(
    context: Context, _: Annotated[Caller, Depends(require("view_status_of_all_node_actions"))]
) -> JSONResponse:
    """List the latest action of each name on each node."""
    seen = await look(context)
    return JSONResponse({"actions": [node_action(action, seen.view, seen.now) for action in service.of_all_nodes(seen)]})


@router.get("/v1/nodes/{uid:int}/actions", response_model=NodeActionsAnswer)
async def get_node_actions(
    uid: int, context: Context, _: Annotated[Caller, Depends(require("view_status_of_node_action"))]
) -> JSONResponse:
    """List the latest action of each name on one node."""
    seen = await look(context)
    return JSONResponse(
        {"actions": [node_action(action, seen.view, seen.now) for action in service.of_node(seen, NodeUid(uid))]}
    )


@router.get("/v1/nodes/{uid:int}/actions/{action}", response_model=NodeActionAnswer)
async def get_node_action(
    uid: int, action: str, context: Context, _: Annotated[Caller, Depends(require("view_status_of_node_action"))]
) -> JSONResponse:
    """Get the latest action with that name on the node: its status while it runs, its result afterwards."""
    seen = await look(context)
    return JSONResponse(node_action(service.find(seen, NodeUid(uid), action), seen.view, seen.now))


@router.get(
    "/v1/nodes/{uid:int}/explain",
    response_model=ExplanationAnswer,
    openapi_extra=query_of("action"),
)
async def explain_node_action(
    uid: int,
    request: Request,
    context: Context,
    caller: Annotated[Caller, Depends(require("view_status_of_node_action"))],
) -> JSONResponse:
    """Explain an action without starting it: feasibility, effects, obstacles, smallest remedy."""
    seen = await look(context, by=caller.user.email)
    return JSONResponse(explanation_json(explain(seen, NodeUid(uid), request.query_params.get("action"))))


@router.post(
    "/v1/nodes/{uid:int}/actions/{action}",
    response_model=NodeActionAnswer | PreviewAnswer,
    openapi_extra={
        **body_of(MaintenanceOnBody, MaintenanceOffBody, RemoveBody, StepDownBody),
        **query_of("dry_run", "plan_id"),
    },
)
async def start_node_action(
    uid: int,
    action: str,
    request: Request,
    context: Context,
    body: RawBody,
    caller: Annotated[Caller, Depends(require("start_node_action"))],
) -> JSONResponse:
    """Start ``remove``, ``maintenance_on``, ``maintenance_off`` or ``enslave_node`` on a node. ``dry_run`` starts nothing:
    the answer shows the moves, their cost and the obstacles. With the ``plan_id`` of such an answer, exactly that plan is
    executed; the request is refused if the cluster has changed so that the plan would be different. ``ignored`` in the
    answer names unknown keys of the body."""
    new_uid = ActionUid(context.new_uid())
    if flag(request, "dry_run"):
        seen = await look(context, by=caller.user.email)
        intent = service.start(seen, NodeUid(uid), action, body, uid=new_uid)
        shown = preview_json(preview(intent.answer, seen.view, intent.writes, seen.now))
        if ignored := ignored_keys(intent.answer.name, body):
            shown["ignored"] = ignored
        return JSONResponse(shown)
    plan_uid = request.query_params.get("plan_id")

    def decide(seen: Look) -> Intent[Action]:
        if plan_uid is None:
            return service.start(seen, NodeUid(uid), action, body, uid=new_uid)
        return service.start_planned(seen, NodeUid(uid), action, body, uid=new_uid, plan_uid=plan_uid)

    started = await submit(context, caller.user.email, decide)
    answer = node_action(started, context.mirror.view(), context.clock.now())
    answer["description"] = f"{answer['name']} was queued for node {uid}"
    if ignored := ignored_keys(started.name, body):
        answer["ignored"] = ignored
    return JSONResponse(answer)


@router.delete(
    "/v1/nodes/{uid:int}/actions/{action}",
    response_model=NodeActionAnswer,
    openapi_extra=query_of("mode"),
)
async def cancel_node_action(
    uid: int,
    action: str,
    request: Request,
    context: Context,
    caller: Annotated[Caller, Depends(require("cancel_node_action"))],
) -> JSONResponse:
    """Cancel a live action, or delete the result of one that has ended. ``mode=stop`` (the default) leaves moved shards and
    endpoints in place, ``mode=undo`` moves everything back; a stop can be changed into an undo."""
    mode = request.query_params.get("mode")
    shown = await submit(
        context, caller.user.email, lambda seen: service.cancel_or_forget(seen, NodeUid(uid), action, mode=mode)
    )
    return JSONResponse(node_action(shown, context.mirror.view(), context.clock.now()))
