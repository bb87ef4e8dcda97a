"""``shardwright status``: the whole cluster in four tables, its faults, and a change of its key or an upgrade under way."""

from collections.abc import Mapping

import typer

from shardwright.cli.cluster_key import rotation_text
from shardwright.cli.overview import (
    Json,
    databases_table,
    endpoints_table,
    nodes_table,
    shards_table,
    troubles_text,
    upgrade_text,
)
from shardwright.cli.session import CommandSession, command
from shardwright.cli.unserved import waiting_text


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "status", examples="shardwright status\nshardwright status --dir ~/sw --json")(_status)


def _status(session: CommandSession) -> None:
    """Show nodes, databases, endpoints and shards, the faults of databases, and what is under way: a change of the cluster
    key, an upgrade and what it waits for."""
    nodes = session.api.get("/v1/nodes")
    statuses = session.api.get("/v1/nodes/status")
    databases = session.api.get("/v1/bdbs")
    shards = session.api.get("/v1/shards")
    actions = session.api.get("/v1/cluster/actions")["actions"]
    cluster = session.api.get("/v1/cluster")
    upgrade = {key: cluster.get(key) for key in ("cluster_version", "upgrade")}
    answer = {
        "nodes": nodes,
        "nodes_status": statuses,
        "bdbs": databases,
        "shards": shards,
        "cluster_actions": actions,
        "cluster": upgrade,
    }
    session.show(answer, lambda: _shown(nodes, statuses, databases, shards, (rotation_text(actions), upgrade_text(upgrade))))


def _shown(
    nodes: list[Json],
    statuses: Mapping[str, Json],
    databases: list[Json],
    shards: list[Json],
    under_way: tuple[str, ...],
) -> str:
    tables = (
        nodes_table(nodes, statuses, title="CLUSTER NODES"),
        databases_table(databases, title="DATABASES"),
        endpoints_table(databases, title="ENDPOINTS"),
        shards_table(shards, databases, title="SHARDS"),
        troubles_text(databases),
        *under_way,
    )
    return "\n\n".join(part for part in (*tables, *map(waiting_text, databases)) if part)
