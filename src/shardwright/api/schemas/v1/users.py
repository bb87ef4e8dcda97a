"""Users and roles on the wire. Pure."""

from typing import Final

from typing_extensions import TypedDict

from shardwright.api.schemas.v1.common import iso
from shardwright.model.account import ManagementRole, User


class UserAnswer(TypedDict):
    """A user, without any password data."""

    uid: int
    email: str
    name: str
    role: str
    role_uids: list[int]
    auth_method: str
    status: str
    email_alerts: bool
    cluster_email_alerts: bool
    bdbs_email_alerts: list[str]
    password_issue_date: str
    password_hash_method: str
    certificate_subject_line: str


class RoleAnswer(TypedDict):
    """A built-in role."""

    uid: int
    name: str
    management: str


ROLES: Final[dict[int, tuple[str, ManagementRole]]] = {
    1: ("Admin", ManagementRole.ADMIN),
    2: ("Cluster Member", ManagementRole.CLUSTER_MEMBER),
    3: ("Cluster Viewer", ManagementRole.CLUSTER_VIEWER),
    4: ("DB Member", ManagementRole.DB_MEMBER),
    5: ("DB Viewer", ManagementRole.DB_VIEWER),
    6: ("None", ManagementRole.NONE),
    7: ("User Manager", ManagementRole.USER_MANAGER),
}
"""Built-in roles by uid. 1 to 6 are wire facts; 7 is an extension."""

UID_OF_ROLE: Final[dict[ManagementRole, int]] = {role: uid for uid, (_, role) in ROLES.items()}


def user(record: User) -> UserAnswer:
    """The user; with both ``role`` and ``role_uids``, because clients read either key."""
    return {
        "uid": record.uid,
        "email": record.email,
        "name": record.name,
        "role": record.role.value,
        "role_uids": [UID_OF_ROLE[record.role]],
        "auth_method": "regular",
        "status": "active",
        "email_alerts": record.email_alerts,
        "cluster_email_alerts": False,
        "bdbs_email_alerts": [],
        "password_issue_date": iso(record.password_changed_at),
        "password_hash_method": "argon2id",
        "certificate_subject_line": "",
    }


def roles() -> list[RoleAnswer]:
    """All roles."""
    return [{"uid": uid, "name": name, "management": role.value} for uid, (name, role) in ROLES.items()]
