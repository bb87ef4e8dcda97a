"""The event log on the wire (``/v1/logs``). Pure."""

from typing import NotRequired

from typing_extensions import TypedDict

from shardwright.api.schemas.v1.common import iso
from shardwright.model.event import Event


class EventAnswer(TypedDict, extra_items=object):  # type: ignore[call-arg]
    """One line of the log; additional keys depend on the type. ``description``, ``by`` and ``action_uid`` are
    extensions."""

    time: str
    type: str
    severity: str
    description: str
    by: NotRequired[str]
    node_uid: NotRequired[int]
    bdb_uid: NotRequired[str]
    action_uid: NotRequired[str]


def event(record: Event) -> dict[str, object]:
    """The event; ``bdb_uid`` is a string and ``node_uid`` an integer. Extras never hide a documented key."""
    answer: dict[str, object] = {
        **record.extra,
        "time": iso(record.at),
        "type": record.kind,
        "severity": record.severity.value,
        "description": record.text,
    }
    if record.by:
        answer["by"] = record.by
    if record.node_uid is not None:
        answer["node_uid"] = record.node_uid
    if record.database_uid is not None:
        answer["bdb_uid"] = str(record.database_uid)
    if record.action_uid is not None:
        answer["action_uid"] = record.action_uid
    return answer
