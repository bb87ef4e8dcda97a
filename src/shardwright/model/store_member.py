"""The members of a store that runs on the cluster's own nodes: what the store itself says of them, and what a node's record
says. Values only; ``plan/store_members.py`` decides by them."""

from dataclasses import dataclass
from enum import StrEnum


class StoreRole(StrEnum):
    """What a node is in the store. The leader keeps the node's record in agreement with the store."""

    NONE = "none"
    """It runs no member: its daemon is a client."""
    LEARNER = "learner"
    """Its member, started or not, receives everything and does not vote yet."""
    VOTER = "voter"
    """Its member votes. The store works while more than half of the voters do."""


@dataclass(frozen=True, slots=True)
class StoreMember:
    """A member of the store, as the store knows it."""

    id: int
    name: str
    """Empty: it was added and has not started yet."""
    peer_urls: tuple[str, ...]
    """Where the other members reach it."""
    client_urls: tuple[str, ...]
    """Where clients reach it; empty as long as it has not started."""
    is_learner: bool


@dataclass(frozen=True, slots=True)
class MemberState:
    """A member and what it answered just now."""

    member: StoreMember
    is_reached: bool
    """Whether it answered. False proves nothing: only this machine's way to it may be interrupted."""
    is_leader: bool = False
    """Whether it leads the store, by its own word. Not the leadership of the cluster."""
