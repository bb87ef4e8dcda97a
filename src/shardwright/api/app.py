"""Assembles the API: routes, gate, error answers, OpenAPI. Called by the daemon's wiring and by tests."""

import re
from typing import Any, Final

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from shardwright import __version__
from shardwright.api.attempts import Attempts
from shardwright.api.deps import ApiContext, refuse_unknown_query
from shardwright.api.errors import coded, error_answer
from shardwright.api.gate import RequestGate
from shardwright.api.openapi import describe
from shardwright.api.routes import (
    actions,
    bootstrap,
    certificates,
    cluster,
    cluster_actions,
    databases,
    health,
    node_actions,
    nodes,
    shards,
    store_members,
    users,
    virtual_addresses,
)

MODULES: Final = (
    node_actions,
    nodes,
    databases,
    health,
    shards,
    actions,
    cluster,
    cluster_actions,
    certificates,
    store_members,
    virtual_addresses,
    bootstrap,
    users,
)

HINTS: Final = (
    (
        "POST",
        re.compile(r"/v1/nodes/(\d+)/actions"),
        "The action belongs in the path: POST /v1/nodes/{0}/actions/<action>, which is one of remove, maintenance_on, "
        "maintenance_off and enslave_node.",
    ),
    ("DELETE", re.compile(r"/v1/nodes/(\d+)"), "To remove a node: POST /v1/nodes/{0}/actions/remove."),
    (
        "POST",
        re.compile(r"/v1/nodes/(\d+)"),
        "For maintenance: POST /v1/nodes/{0}/actions/maintenance_on or maintenance_off. To change a node: PUT.",
    ),
)
"""Requests of older clients and of an incorrect support article: refused, with the correct way."""


def create_app(context: ApiContext) -> FastAPI:
    """The ASGI application of one daemon."""
    app = FastAPI(
        title="Shardwright",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # clients would read a redirect as "not the primary node"
    )
    app.state.context = context
    app.state.attempts = Attempts(context.clock)
    for module in MODULES:
        app.include_router(module.router, dependencies=[Depends(refuse_unknown_query)])
    app.add_middleware(
        RequestGate,
        context=context,
        allowed=allowed_methods,
        admitted_by_token=bootstrap.OPEN,
        is_public=health.is_public,
    )
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.openapi = lambda: describe(app, *(module.router for module in MODULES))  # type: ignore[method-assign]
    return app


def allowed_methods(path: str) -> set[str]:
    """The methods of a path, including OPTIONS; empty if the path does not exist."""
    found: set[str] = {"GET"} if path == "/openapi.json" else set()
    for module in MODULES:
        for route in module.router.routes:
            if isinstance(route, APIRoute) and route.path_regex.fullmatch(path):
                found |= route.methods or set()
    return found | {"OPTIONS"} if found else set()


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path
    if error.status_code == 405:
        methods = sorted(allowed_methods(path))
        hint = next((text.format(found[1]) for m, p, text in HINTS if m == method and (found := p.fullmatch(path))), "")
        text = f"{method} is not allowed here; allowed: {', '.join(methods)}. {hint}".strip()
        return coded("method_not_allowed", text, headers={"Allow": ", ".join(methods)})
    if error.status_code == 404:
        return error_answer(404, "not_found", f"The path {path} does not exist.")
    return error_answer(error.status_code, "invalid_request", str(error.detail))


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return error_answer(400, "invalid_parameter", f"{where}: {first['msg']}.")
