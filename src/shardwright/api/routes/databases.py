"""``/v1/bdbs``: databases, their shards, their availability."""

import secrets
from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import JSONResponse

from shardwright.api.codes import invalid
from shardwright.api.deps import Caller, Context, RawBody, flag, require
from shardwright.api.openapi import Routes, body_of, query_of
from shardwright.api.schemas.v1 import databases as wire
from shardwright.api.schemas.v1.requests import DatabaseBody, StartBody, read_body
from shardwright.api.schemas.v1.shards import ShardAnswer, shard, shown
from shardwright.api.services import availability, starting
from shardwright.api.services import databases as service
from shardwright.api.services.intent import look, submit
from shardwright.model.database import Database
from shardwright.model.ids import ActionUid, DatabaseUid
from shardwright.model.view import ClusterView, Put

router = Routes(tags=["databases"])
MayView = Annotated[Caller, Depends(require("view_bdb_info"))]


@router.get("/v1/bdbs", response_model=list[wire.DatabaseAnswer], openapi_extra=query_of("fields"))
async def get_databases(
    request: Request, context: Context, caller: Annotated[Caller, Depends(require("view_all_bdbs_info"))]
) -> JSONResponse:
    """List databases; ``fields`` selects the keys."""
    view = (await look(context)).view
    return JSONResponse([_shown(view.databases[uid], view, caller, request) for uid in sorted(view.databases)])


@router.get("/v1/bdbs/{uid:int}", response_model=wire.DatabaseAnswer, openapi_extra=query_of("fields"))
async def get_database(uid: int, request: Request, context: Context, caller: MayView) -> JSONResponse:
    """Get one database."""
    view = (await look(context)).view
    return JSONResponse(_shown(service.database_of(view, DatabaseUid(uid)), view, caller, request))


@router.post("/v1/bdbs", response_model=wire.DatabaseAnswer, openapi_extra={**body_of(DatabaseBody), **query_of("dry_run")})
async def create_database(
    request: Request, context: Context, body: RawBody, caller: Annotated[Caller, Depends(require("create_bdb"))]
) -> JSONResponse:
    """Create a database: accepted immediately, ``active`` later. ``dry_run`` only checks the request."""
    wish = read_body(DatabaseBody, body)
    is_dry_run = flag(request, "dry_run")
    action_uid = ActionUid(context.new_uid())
    fresh = _fresh_secrets()
    database = await submit(
        context,
        caller.user.email,
        lambda seen: service.create(seen, wish, action_uid=action_uid, secrets=fresh, is_dry_run=is_dry_run),
    )
    return _answer(database, context.mirror.view(), caller)


def _fresh_secrets() -> service.FreshSecrets:
    return service.FreshSecrets(
        secrets.token_hex(20), secrets.token_hex(20), secrets.token_hex(20), secrets.token_hex(20), secrets.token_hex(8)
    )


@router.put(
    "/v1/bdbs/{uid:int}",
    response_model=wire.DatabaseAnswer,
    openapi_extra={**body_of(DatabaseBody), **query_of("dry_run")},
)
async def change_database(
    uid: int,
    request: Request,
    context: Context,
    body: RawBody,
    caller: Annotated[Caller, Depends(require("update_bdb"))],
) -> JSONResponse:
    """Change a database's settings: accepted immediately, ``active`` again once they apply everywhere."""
    wish = read_body(DatabaseBody, body)
    is_dry_run = flag(request, "dry_run")
    action_uid = ActionUid(context.new_uid())
    database = await submit(
        context,
        caller.user.email,
        lambda seen: service.change(seen, DatabaseUid(uid), wish, action_uid=action_uid, is_dry_run=is_dry_run),
    )
    return _answer(database, context.mirror.view(), caller)


@router.delete("/v1/bdbs/{uid:int}", response_model=wire.DatabaseAnswer)
async def delete_database(
    uid: int, context: Context, caller: Annotated[Caller, Depends(require("delete_bdb"))]
) -> JSONResponse:
    """Delete a database and its data."""
    action_uid = ActionUid(context.new_uid())
    database = await submit(
        context, caller.user.email, lambda seen: service.delete(seen, DatabaseUid(uid), action_uid=action_uid)
    )
    return _answer(database, context.mirror.view(), caller)


@router.post("/v1/bdbs/{uid:int}/actions/start", response_model=wire.DatabaseAnswer, openapi_extra=body_of(StartBody))
async def start_database(
    uid: int,
    context: Context,
    body: RawBody,
    caller: Annotated[Caller, Depends(require("start_bdb_recovery"))],
) -> JSONResponse:
    """Extension: let a waiting database continue with another copy, regardless of the data in the missing one."""
    wish = read_body(StartBody, body)
    database = await submit(context, caller.user.email, lambda seen: starting.start(seen, DatabaseUid(uid), wish))
    return _answer(database, context.mirror.view(), caller)


@router.get("/v1/bdbs/{uid:int}/shards", response_model=list[ShardAnswer], openapi_extra=query_of("extra_info_keys"))
async def get_database_shards(uid: int, request: Request, context: Context, _: MayView) -> JSONResponse:
    """List the shards of a database."""
    view = (await look(context)).view
    service.database_of(view, DatabaseUid(uid))
    keys = request.query_params.getlist("extra_info_keys")
    return JSONResponse([shard(s, view, info_keys=keys) for s in shown(view, database_uid=uid)])


@router.get("/v1/bdbs/{uid:int}/availability", openapi_extra=query_of("extend_check", "availability_lag_tolerance_ms"))
async def get_availability(uid: int, request: Request, context: Context, _: MayView) -> JSONResponse:
    """200 if the database serves, 503 with the reason otherwise. ``extend_check=lag`` includes the replicas."""
    view = (await look(context)).view
    with_replicas = _checks_lag(request)
    availability.check_database(view, service.database_of(view, DatabaseUid(uid)), with_replicas=with_replicas)
    return JSONResponse({"uid": uid, "status": "available"})


@router.get(
    "/v1/local/bdbs/{uid:int}/endpoint/availability",
    openapi_extra=query_of("extend_check", "availability_lag_tolerance_ms"),
)
async def get_local_availability(uid: int, request: Request, context: Context, _: MayView) -> JSONResponse:
    """200 if this node serves the database's endpoint and the database serves."""
    view = (await look(context)).view
    _checks_lag(request)
    availability.check_local_endpoint(view, service.database_of(view, DatabaseUid(uid)), context.node_uid)
    return JSONResponse({"uid": uid, "status": "available"})


def _checks_lag(request: Request) -> bool:
    check = request.query_params.get("extend_check")
    if check not in (None, "", "lag"):
        raise invalid("invalid_parameter", "extend_check: must be lag.")
    tolerance = request.query_params.get("availability_lag_tolerance_ms", "")
    if tolerance and not (tolerance.isascii() and tolerance.isdigit()):
        raise invalid("invalid_parameter", "availability_lag_tolerance_ms: must be an integer of at least 0.")
    return check == "lag"


def _answer(database: Database, view: ClusterView, caller: Caller) -> JSONResponse:
    """The database as this request decided it, even if the leader has already continued or if nothing was written."""
    shown = view.with_writes([Put(database)])
    return JSONResponse(wire.database(database, shown, shows_password=caller.may("view_redis_pass")))


def _shown(record: Database, view: ClusterView, caller: Caller, request: Request) -> dict[str, object]:
    answer = wire.database(record, view, shows_password=caller.may("view_redis_pass"))
    wanted = request.query_params.get("fields")
    if not wanted:
        return dict(answer)
    names = {name.strip() for name in wanted.split(",")}
    return {key: value for key, value in answer.items() if key in names}
