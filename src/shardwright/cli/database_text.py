"""Pure: what ``shardwright db show`` says of one database, from the API's answer."""

from typing import Any

from shardwright.cli.overview import address_of, server_of, told
from shardwright.cli.table import fields
from shardwright.units import format_bytes


def addresses(database: dict[str, Any]) -> str:
    """Where its clients connect."""
    return ", ".join(address_of(endpoint) for endpoint in database.get("endpoints") or []) or "an address yet to be chosen"


def _loss(database: dict[str, Any]) -> list[tuple[str, str]]:
    """What the loss of the primary's machine would mean; nothing in a local cluster."""
    if (loss := database.get("machine_loss")) is None:
        return []
    waits = "the database waits for it: " if loss["outcome"] == "waits" else ""
    return [("loss of a machine", waits + loss["text"])]


def described(database: dict[str, Any]) -> str:
    """A line for each property."""
    size = int(database.get("memory_size") or 0)
    rules = ", ".join(f"{rule['secs']}:{rule['writes']}" for rule in database.get("snapshot_policy") or [])
    policy = database.get("aof_policy") if database.get("data_persistence") == "aof" else rules
    return fields(
        [
            ("database", f"db:{database['uid']} {database.get('name')}"),
            ("status", database.get("status")),
            *([("failure", database["failure_reason"])] if database.get("failure_reason") else []),
            *(("trouble", told(reason)) for reason in database.get("reasons") or []),
            ("endpoint", addresses(database)),
            ("server", server_of(database)),
            ("memory", format_bytes(size) if size else "no limit"),
            ("replication", bool(database.get("replication"))),
            ("persistence", f"{database.get('data_persistence')} {policy or ''}".strip()),
            ("eviction", database.get("eviction_policy")),
            ("notifications", database.get("notify_keyspace_events") or "none"),
            ("password", "required" if database.get("authentication_redis_pass") else "none, or hidden from this user"),
            ("rack aware", bool(database.get("rack_aware"))),
            ("strict", bool(database.get("strict"))),
            *_loss(database),
            ("connections of servers", "encrypted" if database.get("server_tls") else "in clear"),
            ("proxy policy", database.get("proxy_policy")),
            ("created", database.get("created_time")),
        ]
    )
