"""The OpenAPI description: FastAPI's knowledge of the routes, plus errors, authentication and request bodies.

The routes parse bodies themselves (any content type, ``null``, an empty body) and build their answers themselves, so the
models of both serve only this description: each route names the model of its body with ``body_of`` and that of its answer
with ``response_model``. Their schemas are built when the description is requested: a daemon's start does not wait for them.
"""

from collections.abc import Callable
from typing import Any, Final, Literal

from fastapi import APIRouter, FastAPI
from fastapi.datastructures import DefaultPlaceholder
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

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
_BODY: Final = "x-body"


class Routes(APIRouter):
    """A router that keeps the models of bodies and answers for the description, by operation id."""

    def __init__(self, *, tags: list[str]) -> None:
        super().__init__(tags=list(tags))
        self.answers: dict[str, Any] = {}
        self.bodies: dict[str, tuple[type[Body], ...]] = {}

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """See ``APIRouter``. ``response_model`` only describes the answer."""
        answer = options.pop("response_model")
        extra = dict(options.pop("openapi_extra", None) or {})
        models = extra.pop(_BODY, ())
        super().add_api_route(path, endpoint, response_model=None, openapi_extra=extra, **options)
        route = self.routes[-1]
        assert isinstance(route, APIRoute)
        if not isinstance(answer, DefaultPlaceholder):
            self.answers[route.unique_id] = answer
        self.bodies[route.unique_id] = models


def body_of(*models: type[Body]) -> dict[str, Any]:
    """``openapi_extra`` of a route whose body is one of these models. An empty body is allowed, too."""
    return {_BODY: models}


def _with_body(operation: dict[str, Any], models: tuple[type[Body], ...]) -> None:
    schemas = [model.model_json_schema() for model in models]
    for schema in schemas:
        _inline(schema, schema.pop("$defs", {}))
    if schemas:
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        operation["requestBody"] = {"required": False, "content": {"application/json": {"schema": schema}}}


def _answer_schemas(answers: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of each answer by operation id, and the definitions to which they refer."""
    inputs: list[tuple[str, Literal["serialization"], TypeAdapter[Any]]] = [
        (uid, "serialization", TypeAdapter(answer)) for uid, answer in answers.items()
    ]
    found, definitions = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")
    return {uid: schema for (uid, _), schema in found.items()}, definitions.get("$defs", {})


def object_body(text: str) -> dict[str, Any]:
    """``openapi_extra`` of a route whose body is an object of options."""
    schema = {"type": "object", "description": text, "additionalProperties": True}
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}


def query_of(*names: str) -> dict[str, Any]:
    """``openapi_extra`` of a route that reads these query parameters itself."""
    return {"parameters": [{"name": n, "in": "query", "required": False, "schema": {"type": "string"}} for n in names]}


def _inline(schema: Any, definitions: dict[str, Any]) -> None:
    """Insert definitions at their references: a route's fragment cannot contain its own definitions. An option without a
    default shows none."""
    if isinstance(schema, list):
        for item in schema:
            _inline(item, definitions)
    elif isinstance(schema, dict):
        reference = schema.pop("$ref", None)
        if reference is not None:
            schema.update(definitions[reference.rpartition("/")[2]])
        if "default" in schema and schema["default"] is None:
            del schema["default"]
        for item in schema.values():
            _inline(item, definitions)


def describe(app: FastAPI, *routers: Routes) -> dict[str, Any]:
    """The document of an application of these routers; created once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
        components = document.setdefault("components", {})
        components["securitySchemes"] = {"basic": {"type": "http", "scheme": "basic"}}
        schemas = components.setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Error"] = _ERROR
        answers, definitions = _answer_schemas({uid: a for router in routers for uid, a in router.answers.items()})
        schemas |= definitions
        bodies = {uid: models for router in routers for uid, models in router.bodies.items()}
        document["security"] = [{"basic": []}]
        for operations in document["paths"].values():
            for operation in operations.values():
                _with_errors(operation)
                _with_body(operation, bodies[operation["operationId"]])
                if (schema := answers.get(operation["operationId"])) is not None:
                    operation["responses"]["200"]["content"]["application/json"]["schema"] = schema
        app.openapi_schema = document
    return app.openapi_schema


def _with_errors(operation: dict[str, Any]) -> None:
    operation["responses"].pop("422", None)
    operation["responses"]["default"] = {
        "description": "An error",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
