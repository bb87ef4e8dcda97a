"""``/v1/cluster/certificates``: what the answering node shows, and what the cluster's authority has issued."""

import asyncio
from typing import Annotated

from fastapi import Depends
from starlette.responses import JSONResponse

from shardwright.api.deps import Caller, Context, RawBody, require
from shardwright.api.errors import coded
from shardwright.api.openapi import Routes
from shardwright.api.schemas.v1.certificates import CertificatesAnswer, certificates
from shardwright.api.schemas.v1.common import Json
from shardwright.api.schemas.v1.requests import json_object
from shardwright.api.services.intent import look

router = Routes(tags=["cluster"])
MayUpdate = Annotated[Caller, Depends(require("update_cluster"))]


@router.get("/v1/cluster/certificates", response_model=CertificatesAnswer)
async def get_certificates(context: Context, _: Annotated[Caller, Depends(require("view_cluster_info"))]) -> JSONResponse:
    """Get the certificate of this node's API, and all that the cluster's authority has issued. Keys are not shown."""
    view = (await look(context)).view
    shown = b"" if context.api_certificate is None else await asyncio.to_thread(context.api_certificate)
    return JSONResponse(certificates(shown, view.issued_certificates.values()))


@router.put("/v1/cluster/certificates", response_model=Json)
async def put_certificates(body: RawBody, _: MayUpdate) -> JSONResponse:
    """Not available: the cluster's authority issues all certificates, and each node renews its own."""
    json_object(body)
    return _not_replaceable()


@router.delete("/v1/cluster/certificates/{name}", response_model=Json)
async def delete_certificate(name: str, _: MayUpdate) -> JSONResponse:
    """Not available, for the same reason."""
    return _not_replaceable()


@router.put("/v1/cluster/update_cert", response_model=Json)
async def put_certificate(body: RawBody, _: MayUpdate) -> JSONResponse:
    """Not available, for the same reason."""
    json_object(body)
    return _not_replaceable()


def _not_replaceable() -> JSONResponse:
    text = "The cluster's authority issues all certificates and renews them in time; they cannot be replaced one by one."
    return coded("certificates_not_replaceable", text)
