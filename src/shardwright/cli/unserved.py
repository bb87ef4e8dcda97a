"""Texts about a database that waits for a copy, and about the price of continuing with another one. Pure: API answers in,
text out."""

from collections.abc import Mapping, Sequence
from typing import Any

from shardwright.cli.overview import SHARD_ROLES
from shardwright.cli.table import UNKNOWN, table

Json = Mapping[str, Any]


def price_text(database: Json, shard: int, *, cuts: bool = False) -> str:
    """The price of continuing with a copy."""
    copies = [copy for one in database.get("waiting") or [] for copy in one.get("copies") or []]
    chosen = next((copy for copy in copies if str(copy.get("shard_uid")) == str(shard)), None)
    if chosen is None:
        return f"redis:{shard} is not a copy of a waiting slot group."
    said = f"redis:{shard}: {chosen['may_lack']}\n" if chosen.get("may_lack") else ""
    if cuts:
        said += "The unreadable end of its append-only file is cut; the original file is kept next to it.\n"
    return f"{said}The data of all other copies is overwritten when they return."


def waiting_text(database: Json) -> str:
    """Why a database waits, and the state of its copies; empty if it does not wait."""
    parts = []
    for one in database.get("waiting") or []:
        since = f" since {one['since']}" if one.get("since") else ""
        lines = [f"db:{database['uid']} {database.get('name')} waits{since}:"]
        for reason in one.get("reasons") or []:
            lines.append(f"  {reason.get('description')} ({reason.get('code')})")
            if reason.get("remedy"):
                lines.append(f"    remedy: {reason['remedy']}")
        parts.append("\n".join(lines) + "\n\n" + _copies_table(one.get("copies") or []))
    return "\n\n".join(parts)


def _copies_table(copies: Sequence[Json]) -> str:
    rows = [
        [
            f"redis:{copy.get('shard_uid')}",
            f"node:{copy.get('node_uid')}",
            SHARD_ROLES.get(str(copy.get("role")), UNKNOWN),
            copy.get("state"),
            _known(copy.get("keys")),
            "yes" if copy.get("in_sync") else "no",
            copy.get("served_at") or UNKNOWN,
            _known(copy.get("served_keys")),
            _known(copy.get("served_offset")),
        ]
        for copy in copies
    ]
    columns = ("COPY", "NODE", "ROLE", "STATE", "KEYS", "IN_SYNC", "LAST_SERVED", "KEYS_THEN", "OFFSET_THEN")
    return table(columns, rows)


def _known(value: object) -> object:
    return UNKNOWN if value is None else value
