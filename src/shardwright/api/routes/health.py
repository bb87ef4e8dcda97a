"""``/v1/local/bdbs/…/endpoint/ready``: whether a balancer should send new clients of a database to this node.

Answered without credentials and without the store, because a balancer asks every second or two, and must not take all nodes
out when the store is away. Says nothing but yes or no.
"""

import re

from starlette.responses import JSONResponse

from shardwright.api.deps import Context
from shardwright.api.errors import coded
from shardwright.api.openapi import Routes
from shardwright.api.services.availability import Readiness, readiness
from shardwright.model.ids import DatabaseUid

router = Routes(tags=["databases"])
_PUBLIC = re.compile(r"/v1/local/bdbs/[0-9]{1,9}/endpoint/ready")


def is_public(method: str, path: str) -> bool:
    """Whether the request needs no credentials."""
    return method == "GET" and _PUBLIC.fullmatch(path) is not None


@router.get("/v1/local/bdbs/{uid:int}/endpoint/ready")
async def get_ready(uid: int, context: Context) -> JSONResponse:
    """Extension, for balancers, without credentials: whether this node accepts new clients of the database. 200: it does;
    404: it does not serve them, or is about to stop; 503: it should serve them and cannot."""
    match readiness(context.mirror.view(), DatabaseUid(uid), context.node_uid):
        case Readiness.READY:
            return JSONResponse({"status": "ready"})
        case Readiness.LEAVING:
            return coded("endpoint_leaving", "This node accepts no new clients of the database.")
        case Readiness.FAILED:
            return coded("bdb_endpoint_unavailable", "This node does not serve the endpoint of the database.")
