"""``/v1/cluster/virtual_addresses``: addresses that move between the nodes. An extension."""

from typing import Annotated

from fastapi import Depends
from starlette.responses import JSONResponse

from shardwright.api.deps import Caller, Context, RawBody, require
from shardwright.api.openapi import Routes, body_of
from shardwright.api.schemas.v1.requests import VirtualAddressBody, read_body
from shardwright.api.schemas.v1.virtual_addresses import VirtualAddressAnswer, virtual_address
from shardwright.api.services import virtual_addresses as service
from shardwright.api.services.intent import look, submit

router = Routes(tags=["cluster"])
MayView = Annotated[Caller, Depends(require("view_cluster_info"))]
MayUpdate = Annotated[Caller, Depends(require("update_cluster"))]


@router.get("/v1/cluster/virtual_addresses", response_model=list[VirtualAddressAnswer])
async def get_virtual_addresses(context: Context, _: MayView) -> JSONResponse:
    """Extension: list the virtual addresses, and which node has each."""
    view = (await look(context)).view
    return JSONResponse([virtual_address(one, view) for _, one in sorted(view.virtual_addresses.items())])


@router.post("/v1/cluster/virtual_addresses", response_model=VirtualAddressAnswer, openapi_extra=body_of(VirtualAddressBody))
async def add_virtual_address(context: Context, body: RawBody, caller: MayUpdate) -> JSONResponse:
    """Extension: add a virtual address. The leader gives it to a node within seconds."""
    wish = read_body(VirtualAddressBody, body)
    added = await submit(context, caller.user.email, lambda seen: service.add(seen, wish))
    return JSONResponse(virtual_address(added, context.mirror.view()))


@router.get("/v1/cluster/virtual_addresses/{address}", response_model=VirtualAddressAnswer)
async def get_virtual_address(address: str, context: Context, _: MayView) -> JSONResponse:
    """Extension: get one virtual address."""
    view = (await look(context)).view
    return JSONResponse(virtual_address(service.find(view, address), view))


@router.delete("/v1/cluster/virtual_addresses/{address}", response_model=VirtualAddressAnswer)
async def remove_virtual_address(address: str, context: Context, caller: MayUpdate) -> JSONResponse:
    """Extension: remove a virtual address. Its clients are closed first, each behind a reply; that takes seconds."""
    gone = await submit(context, caller.user.email, lambda seen: service.remove(seen, address))
    return JSONResponse(virtual_address(gone, context.mirror.view()))
