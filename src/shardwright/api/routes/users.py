"""``/v1/users`` and ``/v1/roles``: accounts of the management API."""

import asyncio
from typing import Annotated, cast

from fastapi import Depends, Request
from starlette.responses import JSONResponse

from shardwright.api.auth import Authenticator
from shardwright.api.codes import forbidden, invalid, not_found
from shardwright.api.deps import Caller, Context, RawBody, flag, get_caller, require
from shardwright.api.openapi import Routes, body_of, query_of
from shardwright.api.permissions import PERMISSIONS
from shardwright.api.schemas.v1 import users as wire
from shardwright.api.schemas.v1.common import Json
from shardwright.api.schemas.v1.requests import PasswordBody, UserBody, read_body
from shardwright.api.services import users as service
from shardwright.api.services.intent import look, submit
from shardwright.errors import Refusal, Rejected
from shardwright.model.account import ManagementRole
from shardwright.model.ids import UserUid
from shardwright.passwords import hash_password

router = Routes(tags=["users"])
Anyone = Annotated[Caller, Depends(get_caller)]


@router.get("/v1/users", response_model=list[wire.UserAnswer])
async def get_users(context: Context, _: Annotated[Caller, Depends(require("view_all_users_info"))]) -> JSONResponse:
    """List users."""
    view = (await look(context)).view
    return JSONResponse([wire.user(view.users[uid]) for uid in sorted(view.users)])


@router.get("/v1/users/permissions", response_model=dict[str, list[str]])
async def get_permissions(_: Anyone) -> JSONResponse:
    """List the permissions of each role."""
    return JSONResponse({role.value: sorted(PERMISSIONS[role]) for role in ManagementRole})


@router.get("/v1/users/permissions/{role}", response_model=list[str])
async def get_permissions_of_role(role: str, _: Anyone) -> JSONResponse:
    """List the permissions of one role."""
    if role not in list(ManagementRole):
        raise not_found("role_not_exist", f"The role {role!r} does not exist.")
    return JSONResponse(sorted(PERMISSIONS[ManagementRole(role)]))


@router.get("/v1/users/role", response_model=Json)
async def get_own_role(caller: Anyone) -> JSONResponse:
    """Get the caller's role."""
    return JSONResponse({"role": caller.user.role.value})


@router.put("/v1/users/password", response_model=Json, openapi_extra=body_of(PasswordBody))
async def change_password(request: Request, context: Context, body: RawBody, caller: Anyone) -> JSONResponse:
    """Change the caller's own password (the old one is required), or another user's with ``update_user``."""
    wish = read_body(PasswordBody, body)
    if not wish.new_password:
        raise invalid("invalid_parameter", "new_password: is required.")
    view = (await look(context)).view
    user = caller.user if wish.username is None else service.by_email(view, wish.username)
    if user is None or user.uid != caller.user.uid:
        if not caller.may("update_user"):
            raise forbidden("forbidden", "Users may only change their own password.")
        if user is None:
            raise not_found("user_not_exist", f"The user {wish.username!r} does not exist.")
        if user.role is ManagementRole.ADMIN and caller.user.role is not ManagementRole.ADMIN:
            raise forbidden("unauthorized_action", "Only an admin may change an admin's password.")
    authenticator = cast(Authenticator, request.scope["authenticator"])
    is_own = user.uid == caller.user.uid
    if (is_own or wish.old_password is not None) and not await authenticator.is_password(user, wish.old_password or ""):
        raise Rejected(Refusal.UNAUTHENTICATED, "wrong_password", "old_password: is not the current password.")
    service.checked_password(view, wish.new_password)
    if await authenticator.is_password(user, wish.new_password):
        raise invalid("new_password_same_as_current", "The new password equals the current one.")
    hashed = await asyncio.to_thread(hash_password, wish.new_password)
    uid = user.uid
    await submit(context, caller.user.email, lambda seen: service.set_password(seen, uid, password_hash=hashed))
    return JSONResponse({"status": "changed"})


@router.get("/v1/users/{uid:int}", response_model=wire.UserAnswer)
async def get_user(uid: int, context: Context, _: Annotated[Caller, Depends(require("view_user_info"))]) -> JSONResponse:
    """Get one user."""
    return JSONResponse(wire.user(service.user_of((await look(context)).view, UserUid(uid))))


@router.post("/v1/users", response_model=wire.UserAnswer, openapi_extra={**body_of(UserBody), **query_of("dry_run")})
async def create_user(
    request: Request, context: Context, body: RawBody, caller: Annotated[Caller, Depends(require("create_new_user"))]
) -> JSONResponse:
    """Create a user."""
    wish = read_body(UserBody, body)
    is_dry_run = flag(request, "dry_run")
    seen = await look(context, by=caller.user.email)
    _, password, _ = service.check_new(seen, wish, caller.user)
    if is_dry_run:
        return JSONResponse(wire.user(service.create(seen, wish, caller.user, password_hash="").answer))
    hashed = await asyncio.to_thread(hash_password, password)
    user = await submit(context, caller.user.email, lambda now: service.create(now, wish, caller.user, password_hash=hashed))
    return JSONResponse(wire.user(user))


@router.put("/v1/users/{uid:int}", response_model=wire.UserAnswer, openapi_extra=body_of(UserBody))
async def change_user(
    uid: int, context: Context, body: RawBody, caller: Annotated[Caller, Depends(require("update_user"))]
) -> JSONResponse:
    """Change a user's name, role, alerts or password."""
    wish = read_body(UserBody, body)
    hashed: str | None = None
    if wish.password is not None:
        view = (await look(context)).view
        service.user_of(view, UserUid(uid))
        hashed = await asyncio.to_thread(hash_password, service.checked_password(view, wish.password))
    user = await submit(
        context,
        caller.user.email,
        lambda seen: service.change(seen, UserUid(uid), wish, caller.user, password_hash=hashed),
    )
    return JSONResponse(wire.user(user))


@router.delete("/v1/users/{uid:int}", response_model=wire.UserAnswer)
async def delete_user(
    uid: int, context: Context, caller: Annotated[Caller, Depends(require("delete_user"))]
) -> JSONResponse:
    """Delete a user; the last admin cannot be deleted."""
    user = await submit(context, caller.user.email, lambda seen: service.delete(seen, UserUid(uid), caller.user))
    return JSONResponse(wire.user(user))


@router.get("/v1/roles", response_model=list[wire.RoleAnswer])
async def get_roles(_: Annotated[Caller, Depends(require("view_all_roles_info"))]) -> JSONResponse:
    """List roles; all roles are built in."""
    return JSONResponse(wire.roles())


@router.get("/v1/roles/{uid:int}", response_model=wire.RoleAnswer)
async def get_role(uid: int, _: Annotated[Caller, Depends(require("view_role_info"))]) -> JSONResponse:
    """Get one role."""
    found = next((role for role in wire.roles() if role["uid"] == uid), None)
    if found is None:
        raise not_found("role_not_exist", f"The role {uid} does not exist.")
    return JSONResponse(found)
