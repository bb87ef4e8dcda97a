"""``shardwright node leave``: takes a node's programs and files out of service on its own machine.

Called after the cluster has removed the node. Files are moved aside, never deleted: the operator decides about them. The
settings go last, so that an interrupted leave is repeated.
"""

import asyncio
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from shardwright.agent.launch import check_port
from shardwright.errors import Permanent, Refusal, Rejected
from shardwright.machine.files import make_private_directory, sync_directory
from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import end, is_running
from shardwright.node import files, services
from shardwright.node.etcd_config import NAME as ETCD_NAME
from shardwright.node.services import Say
from shardwright.node.settings import SETTINGS_FILE, NodeSettings

GRACE_S: Final = 10.0
"""For the daemon and the endpoint process, which serve nothing any more."""


@dataclass(frozen=True, slots=True)
class Left:
    """Where the files are now."""

    moved_to: tuple[Path, ...]


def take_out(settings: NodeSettings, *, say: Say, now: datetime) -> Left:
    """Stop the node's programs and move its files aside. Raises Rejected if something of the node still runs; Permanent,
    OSError."""
    directories = settings.directories
    with files.locked(directories):
        if services.is_managed(directories):
            say("stopping the node's services")
            services.stop_units()
        # A daemon whose node was removed waits for its end. The endpoint process outlives it.
        for path in (directories.state / "daemon.json", directories.endpoint / "endpoint.json"):
            identity = read_identity(path)
            if identity is not None and is_running(identity):
                asyncio.run(end(identity, GRACE_S))
        _check_stopped(settings)
        return Left(move_aside(settings, now))


def _check_stopped(settings: NodeSettings) -> None:
    """Without a service manager, the operator must stop what the operator started."""
    ports = settings.ports
    watched = {ports.api: "shardwright-node"}
    # Without this file the node has no member of the store, and an etcd at that port is the operator's own.
    if (settings.directories.configuration / ETCD_NAME).exists():
        watched[ports.store_clients] = "etcd"
    runs = [program for port, program in watched.items() if not _is_free(settings, port)]
    if runs:
        text = f"{' and '.join(runs)} of this node still runs"
        raise Rejected(Refusal.CONFLICT, "node_runs", text, remedy="stop it, then repeat `shardwright node leave`")
    servers = [
        path.parent.name
        for path in settings.directories.shards.glob("*/process.json")
        if (identity := read_identity(path)) is not None and is_running(identity)
    ]
    if servers:
        text = f"servers of the node still run: shard {', '.join(sorted(servers))}"
        raise Rejected(Refusal.CONFLICT, "node_runs", text, remedy="remove the node from the cluster first")


def _is_free(settings: NodeSettings, port: int) -> bool:
    try:
        check_port(str(settings.address), port)
    except Permanent:
        return False
    return True


def move_aside(settings: NodeSettings, now: datetime) -> tuple[Path, ...]:
    """Move the node's files into new directories beside them. Returns these. Raises OSError."""
    directories, name = settings.directories, f"retired-{now:%Y%m%d-%H%M%S}"
    kept = (directories.etcd, directories.shards, directories.endpoint, directories.store_endpoints)
    state = [path for path in kept if path.exists()]
    configuration = directories.configuration
    toml = configuration / SETTINGS_FILE.name
    own = [path for path in files.all_in(configuration) if path.parent == configuration]
    made = []
    for parent, paths in ((directories.state, state), (configuration, [*own, toml])):
        if not paths:
            continue
        target = parent / name
        make_private_directory(target)
        for path in paths:
            os.replace(path, target / path.name)
        sync_directory(parent)
        made.append(target)
    return tuple(made)
