"""``/v1/actions`` and ``/v2/actions``: all running and finished actions, for generic pollers."""

from typing import Annotated

from fastapi import Depends
from starlette.responses import JSONResponse
from typing_extensions import TypedDict

from shardwright.api.codes import not_found
from shardwright.api.deps import ApiContext, Caller, Context, require
from shardwright.api.openapi import Routes
from shardwright.api.schemas.v1.actions import ActionV2Answer, TaskAnswer, action_v2, task
from shardwright.api.schemas.v1.databases import StateMachineAnswer, state_machine_v2, state_machines
from shardwright.api.services.databases import database_of
from shardwright.api.services.intent import Look, look
from shardwright.model.action import Action
from shardwright.model.event import Event
from shardwright.model.ids import ActionUid, DatabaseUid
from shardwright.store.keys import EVENTS

router = Routes(tags=["actions"])
MayView = Annotated[Caller, Depends(require("view_status_of_cluster_action"))]

ActionsAnswer = TypedDict("ActionsAnswer", {"actions": list[TaskAnswer], "state-machines": list[StateMachineAnswer]})


def _machines(context: ApiContext, seen: Look) -> list[StateMachineAnswer]:
    events = (record for record in context.mirror.records(EVENTS) if isinstance(record, Event))
    return state_machines(events, seen.view, seen.now)


def _tasks(seen: Look) -> list[Action]:
    return sorted(seen.view.actions.values(), key=lambda action: (action.created_at, action.uid))


@router.get("/v1/actions", response_model=ActionsAnswer)
async def get_actions(context: Context, _: MayView) -> JSONResponse:
    """List node actions, and the state machines of databases, oldest first."""
    seen = await look(context)
    answer = {"actions": [task(a, seen.view, seen.now) for a in _tasks(seen)], "state-machines": _machines(context, seen)}
    return JSONResponse(answer)


@router.get("/v1/actions/bdb/{uid:int}", response_model=list[StateMachineAnswer])
async def get_database_actions(uid: int, context: Context, _: MayView) -> JSONResponse:
    """List the state machines of one database."""
    seen = await look(context)
    database_of(seen.view, DatabaseUid(uid))
    return JSONResponse([m for m in _machines(context, seen) if m["object_name"] == f"bdb:{uid}"])


@router.get("/v1/actions/{action_uid}", response_model=TaskAnswer | StateMachineAnswer)
async def get_action(action_uid: str, context: Context, _: MayView) -> JSONResponse:
    """Get one action. A finished action stays readable for its retention time, even after its node has been removed."""
    seen = await look(context)
    action = seen.view.actions.get(ActionUid(action_uid))
    if action is not None:
        return JSONResponse(task(action, seen.view, seen.now))
    return JSONResponse(_machine(context, seen, action_uid))


@router.get("/v2/actions", response_model=list[ActionV2Answer])
async def get_actions_v2(context: Context, _: MayView) -> JSONResponse:
    """List all actions in the format of version 2."""
    seen = await look(context)
    machines = [state_machine_v2(machine) for machine in _machines(context, seen)]
    return JSONResponse([*(action_v2(a) for a in _tasks(seen)), *machines])


@router.get("/v2/actions/{action_uid}", response_model=ActionV2Answer)
async def get_action_v2(action_uid: str, context: Context, _: MayView) -> JSONResponse:
    """Get one action in the format of version 2."""
    seen = await look(context)
    action = seen.view.actions.get(ActionUid(action_uid))
    if action is not None:
        return JSONResponse(action_v2(action))
    return JSONResponse(state_machine_v2(_machine(context, seen, action_uid)))


def _machine(context: ApiContext, seen: Look, uid: str) -> StateMachineAnswer:
    found = next((m for m in _machines(context, seen) if m["action_uid"] == uid), None)
    if found is None:
        raise not_found("action_not_found", f"The action {uid} does not exist.")
    return found
