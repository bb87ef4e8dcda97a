"""``/v1/shards``."""

from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import JSONResponse

from shardwright.api.codes import not_found
from shardwright.api.deps import Caller, Context, require
from shardwright.api.openapi import Routes, query_of
from shardwright.api.schemas.v1.shards import ShardAnswer, shard, shown
from shardwright.api.services.intent import look
from shardwright.model.ids import ShardUid

router = Routes(tags=["shards"])


@router.get("/v1/shards", response_model=list[ShardAnswer], openapi_extra=query_of("extra_info_keys"))
async def get_shards(
    request: Request, context: Context, _: Annotated[Caller, Depends(require("view_all_shard_stats"))]
) -> JSONResponse:
    """List shards."""
    view = (await look(context)).view
    keys = request.query_params.getlist("extra_info_keys")
    return JSONResponse([shard(s, view, info_keys=keys) for s in shown(view)])


@router.get("/v1/shards/{uid:int}", response_model=ShardAnswer, openapi_extra=query_of("extra_info_keys"))
async def get_shard(
    uid: int, request: Request, context: Context, _: Annotated[Caller, Depends(require("view_shard_stats"))]
) -> JSONResponse:
    """Get one shard."""
    view = (await look(context)).view
    found = view.shards.get(ShardUid(uid))
    if found is None:
        raise not_found("shard_not_exist", f"The shard {uid} does not exist.")
    return JSONResponse(shard(found, view, info_keys=request.query_params.getlist("extra_info_keys")))
