"""Users and management roles."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from shardwright.model.ids import UserUid

_EMAIL = re.compile(r"[^@\s:]+@[^@\s:]+")


def is_email(text: str) -> bool:
    """Whether the text can be a login name. A colon would end the name in a request's credentials."""
    return _EMAIL.fullmatch(text) is not None


class ManagementRole(StrEnum):
    """The permissions of a user; ``api/permissions.py`` has the table."""

    ADMIN = "admin"
    CLUSTER_MEMBER = "cluster_member"
    CLUSTER_VIEWER = "cluster_viewer"
    DB_MEMBER = "db_member"
    DB_VIEWER = "db_viewer"
    USER_MANAGER = "user_manager"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class User:
    """An account of the management API. The e-mail address is the login name."""

    uid: UserUid
    email: str
    name: str
    role: ManagementRole
    password_hash: str = field(repr=False)
    """An argon2id hash in the PHC string format."""
    created_at: datetime
    password_changed_at: datetime
    email_alerts: bool = False
