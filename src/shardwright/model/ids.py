"""Identifiers: their types, and the only place that knows how the composed ones are written."""

from typing import NewType

NodeUid = NewType("NodeUid", int)
DatabaseUid = NewType("DatabaseUid", int)
ShardUid = NewType("ShardUid", int)
UserUid = NewType("UserUid", int)
GroupUid = NewType("GroupUid", str)
"""``"<database>:<number>"``, number from 1."""
EndpointUid = NewType("EndpointUid", str)
"""``"<database>:<number>"``, number from 1."""
ActionUid = NewType("ActionUid", str)
"""A GUID in lower case."""
MoveUid = NewType("MoveUid", str)
"""``"<owner>-<number>"``: the owner's uid and a number from 1, so that a decision can name a new move without a
generator."""
LeaseId = NewType("LeaseId", int)
JoinTokenUid = NewType("JoinTokenUid", str)
"""The first part of a join token, which is not secret."""
KeyUid = NewType("KeyUid", str)
"""Of a cluster key: 16 hexadecimal characters, derived from the key. The same key has the same uid everywhere, and the uid
reveals nothing of it."""


def uid_of_group(database: DatabaseUid, number: int) -> GroupUid:
    """The slot group of a database with this number."""
    return GroupUid(f"{database}:{number}")


def uid_of_endpoint(database: DatabaseUid, number: int = 1) -> EndpointUid:
    """The endpoint of a database with this number."""
    return EndpointUid(f"{database}:{number}")


def database_of(uid: GroupUid | EndpointUid) -> DatabaseUid:
    """Whose slot group or endpoint it is."""
    return DatabaseUid(int(uid.partition(":")[0]))


def uid_of_move(owner: str, number: int) -> MoveUid:
    """The move with this number of an action, or of what the cluster does by itself."""
    return MoveUid(f"{owner}-{number}")


def number_of_move(uid: MoveUid) -> int:
    """Its number among the moves of its owner."""
    return int(uid.rpartition("-")[2])
