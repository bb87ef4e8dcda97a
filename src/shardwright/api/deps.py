"""The daemon's interface to the API, and the API's interface to its routes: the context, the caller, permissions, the body.

Decides nothing but permissions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.routing import APIRoute

from shardwright.api.codes import forbidden, invalid
from shardwright.api.machines import Machines
from shardwright.api.permissions import may
from shardwright.api.services.check import Checks
from shardwright.api.services.figures import Figures
from shardwright.clock import Clock
from shardwright.model.account import User
from shardwright.model.ids import NodeUid
from shardwright.store.members import Members
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import Store
from shardwright.tasks import RightOfWay


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The daemon's parts that the API needs."""

    store: Store
    mirror: Mirror
    """The daemon keeps it running."""
    clock: Clock
    node_uid: NodeUid
    """The answering node."""
    is_leader: Callable[[], bool]
    new_uid: Callable[[], str]
    """A new GUID in lower case."""
    random_text: Callable[[], str]
    """A few random characters for the keys of events."""
    figures: Figures
    checks: Checks
    right_of_way: RightOfWay = field(default_factory=RightOfWay)
    """Of the handoffs that this daemon performs, if it leads."""
    machines: Machines | None = None
    """None: a local cluster."""
    members: Members | None = None
    """Of the store; None: it is a file."""
    api_certificate: Callable[[], bytes] | None = None
    """Reads the file of the certificate that this node's API shows. Raises OSError."""
    asked_at: float | None = None
    """When the request arrived, by ``Mirror.now``. A look shows all changes that ended before; None (no request): all that
    ended before the look."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The user of a request."""

    user: User = field(repr=False)

    def may(self, permission: str) -> bool:
        """Whether the user's role has the permission."""
        return may(self.user.role, permission)


def get_context(request: Request) -> ApiContext:
    """The daemon's context for this request, of which the gate has set the time."""
    return replace(cast(ApiContext, request.app.state.context), asked_at=cast(float, request.scope["asked_at"]))


def get_caller(request: Request) -> Caller:
    """The authenticated user; the gate in front of all routes has set it."""
    return cast(Caller, request.scope["caller"])


async def get_body(request: Request) -> bytes:
    """The body's bytes, regardless of the content type; the gate has limited their size."""
    return await request.body()


def require(permission: str) -> Callable[[Caller], Caller]:
    """A dependency that admits only callers with the permission. Raises Rejected (403)."""

    def check(caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
        if not caller.may(permission):
            raise forbidden("forbidden", f"The role {caller.user.role} does not have the permission {permission}.")
        return caller

    check.__name__ = f"require_{permission}"
    check.__doc__ = permission
    return check


def refuse_unknown_query(request: Request) -> None:
    """A dependency of every route: a changing request with an unknown query parameter is refused. Otherwise a misspelled
    ``dry_run`` would execute a request that was meant as a preview. Raises Rejected."""
    route = request.scope.get("route")
    if request.method in ("GET", "HEAD") or not isinstance(route, APIRoute):
        return
    known = [str(parameter["name"]) for parameter in (route.openapi_extra or {}).get("parameters", ())]
    for name in request.query_params:
        if name not in known:
            raise invalid(
                "unknown_parameter", f"This path has no query parameter {name[:100]!r}.", remedy=_nearest(name, known)
            )


def _nearest(name: str, known: Sequence[str]) -> str:
    if not known:
        return "It takes no query parameters."
    near = get_close_matches(name.lower(), known, n=1)
    return f"{f'Did you mean {near[0]}? ' if near else ''}It takes: {', '.join(known)}."


def flag(request: Request, name: str) -> bool:
    """A boolean query parameter; true if given without a value. Raises Rejected."""
    given = request.query_params.get(name)
    if given is None:
        return False
    match given.lower():
        case "" | "true" | "1":
            return True
        case "false" | "0":
            return False
        case _:
            raise invalid("invalid_parameter", f"{name}: must be true or false.")


Context = Annotated[ApiContext, Depends(get_context)]
RawBody = Annotated[bytes, Depends(get_body)]
