"""Why a database waits, on the wire: an extension of the database's object and of its availability. Pure."""

from collections.abc import Iterable

from typing_extensions import TypedDict

from shardwright.api.schemas.v1.actions import ReasonAnswer, reason_json
from shardwright.api.schemas.v1.common import iso_or_none
from shardwright.plan.waiting import CopyStanding, Waiting


class CopyAnswer(TypedDict):
    """The known state of one copy. The ``served_`` keys are from its last observation while the group served."""

    shard_uid: str
    node_uid: str
    role: str
    state: str
    damage: str | None
    keys: int | None
    in_sync: bool
    missing_since: str | None
    served_at: str | None
    served_offset: int | None
    served_keys: int | None
    may_lack: str


class WaitingAnswer(TypedDict):
    """One slot group that waits for something that does not pass by itself. ``start_from``: the copy that an operator
    chose."""

    slot_group: str
    since: str | None
    start_from: str | None
    reasons: list[ReasonAnswer]
    copies: list[CopyAnswer]


def waiting_json(waiting: Iterable[Waiting]) -> list[WaitingAnswer]:
    """Why a database waits."""
    return [
        {
            "slot_group": one.group.uid,
            "since": iso_or_none(one.since),
            "start_from": None if one.group.start_from is None else str(one.group.start_from),
            "reasons": [reason_json(r) for r in one.reasons],
            "copies": [_copy(c) for c in one.copies],
        }
        for one in waiting
    ]


def _copy(copy: CopyStanding) -> CopyAnswer:
    return {
        "shard_uid": str(copy.shard.uid),
        "node_uid": str(copy.shard.node_uid),
        "role": "master" if copy.was_primary else "slave",
        "state": copy.state.value,
        "damage": None if copy.damage is None else copy.damage.value,
        "keys": copy.keys,
        "in_sync": copy.was_in_sync,
        "missing_since": iso_or_none(copy.shard.missing_since),
        "served_at": iso_or_none(copy.served_at),
        "served_offset": copy.served_offset,
        "served_keys": copy.served_keys,
        "may_lack": copy.may_lack,
    }
