"""The OpenAPI description: FastAPI's knowledge of the routes, plus errors, authentication and request bodies.

The routes parse bodies themselves (any content type, ``null``, an empty body), so each route names its model with
``body_of``.
"""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from shardwright.api.codes import CODES
from shardwright.api.schemas.v1.requests import Body

_DESCRIPTION: Final = (
    "The REST API of Shardwright, an open cluster manager for Redis and Valkey. Paths, formats and words are those that "
    "operators of Redis Enterprise know."
)
_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Error",
    "required": ["error_code", "description", "message"],
    "properties": {
        "error_code": {"type": "string", "enum": sorted(CODES)},
        "description": {"type": "string"},
        "message": {"type": "string", "description": "The same text as description."},
    },
}


def body_of(*models: type[Body]) -> dict[str, Any]:
    """``openapi_extra`` of a route whose body is one of these models. An empty body is allowed, too."""
    schemas = [model.model_json_schema() for model in models]
    for schema in schemas:
        _inline(schema, schema.pop("$defs", {}))
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}


def object_body(text: str) -> dict[str, Any]:
    """``openapi_extra`` of a route whose body is an object of options."""
    schema = {"type": "object", "description": text, "additionalProperties": True}
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}


def query_of(*names: str) -> dict[str, Any]:
    """``openapi_extra`` of a route that reads these query parameters itself."""
    return {"parameters": [{"name": n, "in": "query", "required": False, "schema": {"type": "string"}} for n in names]}


def _inline(schema: Any, definitions: dict[str, Any]) -> None:
    """Insert definitions at their references: a route's fragment cannot contain its own definitions."""
    if isinstance(schema, list):
        for item in schema:
            _inline(item, definitions)
    elif isinstance(schema, dict):
        reference = schema.pop("$ref", None)
        if reference is not None:
            schema.update(definitions[reference.rpartition("/")[2]])
        for item in schema.values():
            _inline(item, definitions)


def describe(app: FastAPI) -> dict[str, Any]:
    """The document; created once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
        components = document.setdefault("components", {})
        components["securitySchemes"] = {"basic": {"type": "http", "scheme": "basic"}}
        schemas = components.setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Error"] = _ERROR
        document["security"] = [{"basic": []}]
        for operations in document["paths"].values():
            for operation in operations.values():
                _with_errors(operation)
        app.openapi_schema = document
    return app.openapi_schema


def _with_errors(operation: dict[str, Any]) -> None:
    operation["responses"].pop("422", None)
    operation["responses"]["default"] = {
        "description": "An error",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
