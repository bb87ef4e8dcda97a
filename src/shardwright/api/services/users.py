"""Users as intents: create, change, delete, change a password. Pure: password hashes are computed before the decision.

Only admins may change admin accounts: otherwise a user manager could become an admin.
"""

import re
from dataclasses import replace
from typing import Final

from shardwright.api.codes import conflict, forbidden, invalid, not_acceptable, not_found
from shardwright.api.schemas.v1.requests import UserBody
from shardwright.api.schemas.v1.users import ROLES, UID_OF_ROLE
from shardwright.api.services.intent import Intent, Look, audit
from shardwright.model.account import ManagementRole, User
from shardwright.model.event import EventKind
from shardwright.model.ids import UserUid
from shardwright.model.view import ClusterView, Delete, Put
from shardwright.store import keys
from shardwright.store.protocol import Compare, DeleteKey, ModifiedAt, PutKey

PASSWORD_LENGTH_MIN: Final = 8
PASSWORD_LENGTH_MAX: Final = 256
_EMAIL = re.compile(r"[^@\s\x00-\x1f:/]+@[^@\s\x00-\x1f:/]+")


def user_of(view: ClusterView, uid: UserUid) -> User:
    """The user. Raises Rejected (404)."""
    found = view.users.get(uid)
    if found is None:
        raise not_found("user_not_exist", f"The user {uid} does not exist.")
    return found


def by_email(view: ClusterView, email: str) -> User | None:
    """The user with that login name, compared without case."""
    wanted = email.lower()
    return next((user for user in view.users.values() if user.email.lower() == wanted), None)


def checked_password(view: ClusterView, password: str) -> str:
    """The password if it meets the cluster's rules. Raises Rejected."""
    cluster = view.cluster
    configured = None if cluster is None else cluster.password_length_min
    shortest = PASSWORD_LENGTH_MIN if configured is None else configured
    if not shortest <= len(password) <= PASSWORD_LENGTH_MAX:
        raise invalid("password_not_complex", f"A password must have {shortest} to {PASSWORD_LENGTH_MAX} characters.")
    kinds = (r"[a-z]", r"[A-Z]", r"[0-9]", r"[^A-Za-z0-9]")
    is_complex = all(re.search(kind, password) for kind in kinds)
    if cluster is not None and cluster.wants_complex_passwords and not is_complex:
        text = "A password must have a lowercase and an uppercase letter, a digit and another character."
        raise invalid("password_not_complex", text)
    return password


def checked_role(body: UserBody) -> ManagementRole | None:
    """The role in the request, by word or uid; None if absent. Raises Rejected."""
    named: ManagementRole | None = None
    if body.role is not None:
        try:
            named = ManagementRole(body.role)
        except ValueError as e:
            raise invalid("invalid_parameter", f"role: must be one of {', '.join(ManagementRole)}.") from e
    if body.role_uids is None:
        return named
    if len(body.role_uids) != 1:
        raise not_acceptable("invalid_configuration", "role_uids: a user has exactly one role.")
    if body.role_uids[0] not in ROLES:
        raise not_found("role_not_exist", f"The role {body.role_uids[0]} does not exist.")
    role = ROLES[body.role_uids[0]][1]
    if named is not None and named is not role:
        raise invalid("conflicting_parameters", f"role {named} has the uid {UID_OF_ROLE[named]}.")
    return role


def check_new(seen: Look, body: UserBody, caller: User) -> tuple[str, str, ManagementRole]:
    """E-mail address, password and role of a new user. Raises Rejected."""
    if not body.email or not _EMAIL.fullmatch(body.email):
        raise invalid("invalid_email", "email: an e-mail address is required.")
    if body.auth_method not in (None, "regular"):
        raise not_acceptable("invalid_configuration", "auth_method: only regular users are available.")
    if body.password is None:
        raise invalid("invalid_parameter", "password: is required.")
    role = checked_role(body)
    if role is None:
        raise invalid("invalid_parameter", "role: is required (or role_uids).")
    _refuse_admins_matter(caller, role)
    if seen.bare(keys.email_key(body.email)) is not None or by_email(seen.view, body.email) is not None:
        raise conflict("email_already_exists", f"The address {body.email} is already in use.")
    return body.email, checked_password(seen.view, body.password), role


def create(seen: Look, body: UserBody, caller: User, *, password_hash: str) -> Intent[User]:
    """A new user; ``password_hash`` is the hash of the body's password. Raises Rejected."""
    email, _, role = check_new(seen, body, caller)
    counters = seen.view.counters
    uid = UserUid(max(counters.next_user, max(seen.view.users, default=0) + 1))
    user = User(uid, email, body.name or email, role, password_hash, seen.now, seen.now, bool(body.email_alerts))
    key = keys.email_key(email)
    return Intent(
        user,
        (
            Put(user),
            Put(replace(counters, next_user=uid + 1)),
            audit(seen, EventKind.USER_CREATED, f"user {email} ({role}) was created"),
        ),
        (ModifiedAt(key, 0),),
        (PutKey(key, str(uid).encode()),),
    )


def change(seen: Look, uid: UserUid, body: UserBody, caller: User, *, password_hash: str | None) -> Intent[User]:
    """Change name, role, alerts or password (if ``password_hash`` is given). Raises Rejected."""
    old = user_of(seen.view, uid)
    role = checked_role(body)
    _refuse_admins_matter(caller, old.role, role)
    if body.email is not None and body.email.lower() != old.email.lower():
        raise not_acceptable("email_change_not_allowed", "The e-mail address is the login name and cannot change.")
    new = replace(
        old,
        name=old.name if body.name is None else body.name,
        role=old.role if role is None else role,
        email_alerts=old.email_alerts if body.email_alerts is None else body.email_alerts,
    )
    if password_hash is not None:
        new = replace(new, password_hash=password_hash, password_changed_at=seen.now)
    if new == old:
        return Intent(old)
    compares = () if new.role is old.role else _refuse_last_admin(seen, old)
    words = ("name", "role", "email_alerts")
    what = [word for word in words if getattr(old, word) != getattr(new, word)] + ["password"] * (password_hash is not None)
    return Intent(
        new, (Put(new), audit(seen, EventKind.USER_CHANGED, f"user {old.email} was changed: {', '.join(what)}")), compares
    )


def delete(seen: Look, uid: UserUid, caller: User) -> Intent[User]:
    """Delete a user. Raises Rejected, for instance if no admin would be left."""
    old = user_of(seen.view, uid)
    _refuse_admins_matter(caller, old.role)
    compares = _refuse_last_admin(seen, old)
    event = audit(seen, EventKind.USER_DELETED, f"user {old.email} was deleted")
    return Intent(old, (Delete(old), event), compares, (DeleteKey(keys.email_key(old.email)),))


def set_password(seen: Look, uid: UserUid, *, password_hash: str) -> Intent[User]:
    """Replace a password; the caller has checked the permission. Raises Rejected if the user no longer exists."""
    old = user_of(seen.view, uid)
    new = replace(old, password_hash=password_hash, password_changed_at=seen.now)
    return Intent(new, (Put(new), audit(seen, EventKind.USER_PASSWORD_CHANGED, f"the password of {old.email} was changed")))


def _refuse_admins_matter(caller: User, *roles: ManagementRole | None) -> None:
    if ManagementRole.ADMIN in roles and caller.role is not ManagementRole.ADMIN:
        raise forbidden("unauthorized_action", "Only an admin may create, change or delete admins.")


def _refuse_last_admin(seen: Look, old: User) -> tuple[Compare, ...]:
    """Compares that the other admins still exist: two admins might demote each other at the same moment."""
    if old.role is not ManagementRole.ADMIN:
        return ()
    others = [u for u in seen.view.users.values() if u.role is ManagementRole.ADMIN and u.uid != old.uid]
    if not others:
        raise not_acceptable("change_last_admin_role_not_allowed", "No admin would be left.")
    key = keys.key_of(min(others, key=lambda user: user.uid))
    return (ModifiedAt(key, seen.modified_at(key)),)
