"""``/v1/cluster/store_members``: the members of the store. An extension."""

from typing import Annotated

from fastapi import Depends
from starlette.responses import JSONResponse

from shardwright.api.deps import Caller, Context, require
from shardwright.api.openapi import Routes
from shardwright.api.schemas.v1.store_members import StoreMemberAnswer, store_member
from shardwright.api.services.intent import look

router = Routes(tags=["cluster"])


@router.get("/v1/cluster/store_members", response_model=list[StoreMemberAnswer])
async def get_store_members(context: Context, _: Annotated[Caller, Depends(require("view_cluster_info"))]) -> JSONResponse:
    """Extension: list the members of the store, each asked whether it answers; empty if the store is a file."""
    states = () if context.members is None else await context.members.states()
    view = (await look(context)).view
    return JSONResponse([store_member(state, view) for state in states])
