"""Formats of the wire that all resources share. Pure."""

from datetime import datetime

from shardwright.model.action import ActionName

Json = dict[str, object]
"""A JSON object whose keys this project does not define."""

_NAMES = {ActionName.REMOVE: "remove_node", ActionName.STEP_DOWN: "enslave_node"}
_FROM_URL = {
    "remove": ActionName.REMOVE,
    "remove_node": ActionName.REMOVE,
    "maintenance_on": ActionName.MAINTENANCE_ON,
    "maintenance_off": ActionName.MAINTENANCE_OFF,
    "enslave_node": ActionName.STEP_DOWN,
}


def iso(at: datetime) -> str:
    """``YYYY-MM-DDTHH:MM:SSZ``: monitoring clients parse exactly this."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def iso_exact(at: datetime) -> str:
    """With microseconds, for extension keys that measure durations: a handoff takes milliseconds."""
    return f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"


def iso_or_none(at: datetime | None) -> str | None:
    """None stays None."""
    return None if at is None else iso(at)


def snapshot_time(at: datetime) -> str:
    """Only snapshots use ``YYYY-MM-DD HH:MM:SS``, without a time zone."""
    return f"{at:%Y-%m-%d %H:%M:%S}"


def action_name(name: ActionName) -> str:
    """The name in lists: a removal is ``remove_node`` there, although the path says ``remove``."""
    return _NAMES.get(name, name.value)


def action_of_url(word: str) -> ActionName | None:
    """The action that a path names; None for an unknown word."""
    return _FROM_URL.get(word)
