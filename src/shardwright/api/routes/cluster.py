"""The cluster itself: options, policy, license, log, and small read-only resources."""

from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import JSONResponse

from shardwright.api.codes import not_acceptable
from shardwright.api.deps import Caller, Context, RawBody, flag, get_caller, require
from shardwright.api.openapi import Routes, object_body, query_of
from shardwright.api.schemas.v1 import cluster as wire
from shardwright.api.schemas.v1.common import Json
from shardwright.api.schemas.v1.events import event
from shardwright.api.schemas.v1.requests import json_object
from shardwright.api.services import cluster as service
from shardwright.api.services.intent import look, submit
from shardwright.model.event import Event
from shardwright.store.keys import EVENTS

router = Routes(tags=["cluster"])
MayView = Annotated[Caller, Depends(require("view_cluster_info"))]
MayUpdate = Annotated[Caller, Depends(require("update_cluster"))]


@router.get("/v1/cluster", response_model=Json)
async def get_cluster(context: Context, _: MayView) -> JSONResponse:
    """Get the cluster and its options."""
    view = (await look(context)).view
    return JSONResponse(wire.cluster(service.cluster_of(view), view))


@router.put("/v1/cluster", response_model=Json, openapi_extra={**object_body("Options to change."), **query_of("dry_run")})
async def change_cluster(request: Request, context: Context, body: RawBody, caller: MayUpdate) -> JSONResponse:
    """Change options of the cluster."""
    given = json_object(body)
    is_dry_run = flag(request, "dry_run")
    cluster = await submit(
        context, caller.user.email, lambda seen: service.change_options(seen, given, is_dry_run=is_dry_run)
    )
    return JSONResponse(wire.cluster(cluster, context.mirror.view()))


@router.get("/v1/cluster/policy", response_model=Json)
async def get_policy(context: Context, _: MayView) -> JSONResponse:
    """Get the cluster-wide policy."""
    view = (await look(context)).view
    return JSONResponse(wire.policy(view.policy, view.cluster))


@router.put("/v1/cluster/policy", response_model=Json, openapi_extra=object_body("Rules to change."))
async def change_policy(context: Context, body: RawBody, caller: MayUpdate) -> JSONResponse:
    """Change keys of the policy."""
    given = json_object(body)
    policy = await submit(context, caller.user.email, lambda seen: service.change_policy(seen, given))
    return JSONResponse(wire.policy(policy, context.mirror.view().cluster))


@router.get("/v1/cluster/stats", response_model=Json)
async def get_cluster_stats(context: Context, _: Annotated[Caller, Depends(require("view_cluster_stats"))]) -> JSONResponse:
    """Get the latest statistics."""
    seen = await look(context)
    return JSONResponse({"intervals": [wire.statistics(seen.view, seen.now)]})


@router.get("/v1/cluster/stats/last", response_model=Json)
async def get_last_cluster_stats(
    context: Context, _: Annotated[Caller, Depends(require("view_cluster_stats"))]
) -> JSONResponse:
    """Get the latest statistics as a flat object."""
    seen = await look(context)
    return JSONResponse(wire.statistics(seen.view, seen.now))


@router.get("/v1/license", response_model=Json)
async def get_license(context: Context, _: Annotated[Caller, Depends(require("view_license"))]) -> JSONResponse:
    """Get the license. Shardwright is free software: its license never expires."""
    seen = await look(context)
    return JSONResponse(wire.license_object(seen.view, seen.now))


@router.put("/v1/license", response_model=Json)
async def put_license(_: Annotated[Caller, Depends(require("install_new_license"))]) -> JSONResponse:
    """Refused: there is no license to install."""
    raise not_acceptable("license_not_needed", "Shardwright is free software: there is no license to install.")


@router.get("/v1/logs", response_model=list[Json], openapi_extra=query_of("stime", "etime", "order", "limit", "offset"))
async def get_logs(
    request: Request, context: Context, _: Annotated[Caller, Depends(require("view_logged_events"))]
) -> JSONResponse:
    """List events: time, user, cause."""
    query = service.log_query(dict(request.query_params))
    await look(context)
    events = (record for record in context.mirror.records(EVENTS) if isinstance(record, Event))
    return JSONResponse([event(line) for line in service.log_lines(events, query)])


@router.get("/v1/local/node/master_healthcheck", response_model=Json)
async def get_leader_check(context: Context, _: Annotated[Caller, Depends(get_caller)]) -> JSONResponse:
    """Get whether the answering node leads."""
    return JSONResponse({"status": "active" if context.is_leader() else "inactive"})


@router.get("/v1/modules", response_model=list[Json])
async def get_modules(_: Annotated[Caller, Depends(require("view_cluster_modules"))]) -> JSONResponse:
    """List modules: always empty."""
    return JSONResponse([])


@router.get("/v1/proxies", response_model=list[Json])
async def get_proxies(context: Context, _: Annotated[Caller, Depends(require("view_all_proxies_info"))]) -> JSONResponse:
    """List proxies: one per node, its endpoint process."""
    return JSONResponse(wire.proxies((await look(context)).view))
