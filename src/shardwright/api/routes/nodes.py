"""``/v1/nodes``: nodes, their status, their snapshots."""

from typing import Annotated

from fastapi import Depends
from starlette.responses import JSONResponse

from shardwright.api.deps import Caller, Context, RawBody, require
from shardwright.api.errors import coded
from shardwright.api.openapi import Routes, body_of
from shardwright.api.schemas.v1 import nodes as wire
from shardwright.api.schemas.v1.requests import DeclareOffBody, NewNodeBody, NodeBody, json_object, read_body
from shardwright.api.services import declarations
from shardwright.api.services import nodes as service
from shardwright.api.services.intent import look, submit
from shardwright.model.ids import NodeUid

router = Routes(tags=["nodes"])
MayView = Annotated[Caller, Depends(require("view_node_info"))]
MayUpdate = Annotated[Caller, Depends(require("update_node"))]


@router.get("/v1/nodes", response_model=list[wire.NodeAnswer])
async def get_nodes(context: Context, _: Annotated[Caller, Depends(require("view_all_nodes_info"))]) -> JSONResponse:
    """List nodes."""
    view = (await look(context)).view
    return JSONResponse([wire.node(view.nodes[uid], view) for uid in sorted(view.nodes)])


@router.post("/v1/nodes", response_model=wire.NodeAnswer, openapi_extra=body_of(NewNodeBody))
async def add_node(
    context: Context, body: RawBody, caller: Annotated[Caller, Depends(require("update_cluster"))]
) -> JSONResponse:
    """Extension: add a node to a local cluster; its daemon starts on the next loopback address."""
    if context.machines is not None:
        text = "A node joins from its own machine: run there the line that `shardwright node token` prints."
        return coded("method_not_allowed", text, headers={"Allow": "GET, OPTIONS"})
    wish = read_body(NewNodeBody, body)
    node = await submit(context, caller.user.email, lambda seen: service.add(seen, wish))
    return JSONResponse(wire.node(node, context.mirror.view()))


@router.get("/v1/nodes/status", response_model=dict[str, wire.NodeStatusAnswer])
async def get_all_status(context: Context, _: MayView) -> JSONResponse:
    """Get the status of all nodes, by uid."""
    view = (await look(context)).view
    return JSONResponse({str(uid): wire.status(view.nodes[uid], view) for uid in sorted(view.nodes)})


@router.get("/v1/nodes/{uid:int}", response_model=wire.NodeAnswer)
async def get_node(uid: int, context: Context, _: MayView) -> JSONResponse:
    """Get one node."""
    view = (await look(context)).view
    return JSONResponse(wire.node(service.node_of(view, NodeUid(uid)), view))


@router.put("/v1/nodes/{uid:int}", response_model=wire.NodeAnswer, openapi_extra=body_of(NodeBody))
async def change_node(uid: int, context: Context, body: RawBody, caller: MayUpdate) -> JSONResponse:
    """Change a node; ``accept_servers: true`` reopens a node that a removal or maintenance left closed."""
    wish = read_body(NodeBody, body)
    node = await submit(context, caller.user.email, lambda seen: service.change(seen, NodeUid(uid), wish))
    return JSONResponse(wire.node(node, context.mirror.view()))


@router.get("/v1/nodes/{uid:int}/status", response_model=wire.NodeStatusAnswer)
async def get_status(uid: int, context: Context, _: MayView) -> JSONResponse:
    """Get the status of one node."""
    view = (await look(context)).view
    return JSONResponse(wire.status(service.node_of(view, NodeUid(uid)), view))


@router.get("/v1/nodes/check/{uid:int}", response_model=wire.NodeCheckAnswer)
@router.get("/v1/nodes/{uid:int}/check", response_model=wire.NodeCheckAnswer)
async def check_node(uid: int, context: Context, _: Annotated[Caller, Depends(require("view_node_check"))]) -> JSONResponse:
    """Check a node and its connections to and from all others. Takes seconds."""
    view = (await look(context)).view
    (found,) = await context.checks.check(view, (service.node_of(view, NodeUid(uid)).uid,))
    return JSONResponse(wire.check(found))


@router.get("/v1/cluster/check", response_model=wire.ClusterCheckAnswer)
async def check_all(context: Context, _: Annotated[Caller, Depends(require("view_all_nodes_checks"))]) -> JSONResponse:
    """Check all nodes and their connections to each other. Takes seconds."""
    view = (await look(context)).view
    found = [wire.check(one) for one in await context.checks.check(view, tuple(view.nodes))]
    return JSONResponse({"cluster_test_result": all(one["result"] for one in found), "nodes": found})


@router.post("/v1/nodes/{uid:int}/declare_off", response_model=wire.NodeAnswer, openapi_extra=body_of(DeclareOffBody))
async def declare_off(uid: int, context: Context, body: RawBody, caller: MayUpdate) -> JSONResponse:
    """Extension: say that the node's machine is off, so that its copies are replaced although nothing proves their end.
    Writes that only they hold are lost. Ends by itself when the node's daemon runs again."""
    wish = read_body(DeclareOffBody, body)
    node = await submit(context, caller.user.email, lambda seen: declarations.declare_off(seen, NodeUid(uid), wish))
    return JSONResponse(wire.node(node, context.mirror.view()))


@router.delete("/v1/nodes/{uid:int}/declare_off", response_model=wire.NodeAnswer)
async def withdraw_declaration(uid: int, context: Context, caller: MayUpdate) -> JSONResponse:
    """Extension: take back the word that the node's machine is off."""
    node = await submit(context, caller.user.email, lambda seen: declarations.withdraw(seen, NodeUid(uid)))
    return JSONResponse(wire.node(node, context.mirror.view()))


@router.get("/v1/nodes/{uid:int}/snapshots", response_model=list[wire.SnapshotAnswer])
async def get_snapshots(uid: int, context: Context, _: MayView) -> JSONResponse:
    """List the node's snapshots, oldest first."""
    view = (await look(context)).view
    service.node_of(view, NodeUid(uid))
    return JSONResponse([wire.snapshot(found) for found in view.snapshots_of(NodeUid(uid))])


@router.get("/v1/nodes/{uid:int}/snapshots/{name}", response_model=wire.SnapshotAnswer)
async def get_snapshot(uid: int, name: str, context: Context, _: MayView) -> JSONResponse:
    """Get one snapshot."""
    view = (await look(context)).view
    return JSONResponse(wire.snapshot(service.snapshot_of(view, NodeUid(uid), name)))


@router.post("/v1/nodes/{uid:int}/snapshots/{name}", response_model=wire.SnapshotAnswer)
async def take_snapshot(uid: int, name: str, context: Context, body: RawBody, caller: MayUpdate) -> JSONResponse:
    """Take a snapshot of the placement of the node's shards and endpoints."""
    json_object(body)
    taken = await submit(context, caller.user.email, lambda seen: service.take_snapshot(seen, NodeUid(uid), name))
    return JSONResponse(wire.snapshot(taken))


@router.delete("/v1/nodes/{uid:int}/snapshots/{name}", response_model=wire.SnapshotAnswer)
async def delete_snapshot(uid: int, name: str, context: Context, caller: MayUpdate) -> JSONResponse:
    """Delete a user's snapshot; maintenance snapshots are refused."""
    gone = await submit(context, caller.user.email, lambda seen: service.delete_snapshot(seen, NodeUid(uid), name))
    return JSONResponse(wire.snapshot(gone))
