"""Identifiers: only their types. All other modules of the model use them."""

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
