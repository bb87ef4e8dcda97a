"""The files of this node's member of the store, for a store that takes the place of one that is lost.

Used by ``cluster restore`` and ``node follow-restore``, which have made all checks. Data of the earlier member are moved
aside, never deleted. Each step may be repeated after an interruption.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from shardwright.agent.launch import check_port
from shardwright.errors import Permanent, Refusal, Rejected
from shardwright.machine.files import sync_directory, write_private
from shardwright.machine.lock import try_lock
from shardwright.node import files, services
from shardwright.node.etcd_config import NAME as ETCD_NAME
from shardwright.node.etcd_config import render_etcd
from shardwright.node.known_store import forget_learned
from shardwright.node.places import daemon_lock, trust_files
from shardwright.node.settings import SETTINGS_FILE, NodeSettings
from shardwright.node.settings_file import write_settings

MEMBER: Final = "member"
"""Where etcd keeps its data, in the directory that it is given."""


@contextmanager
def without_daemon(settings: NodeSettings) -> Iterator[None]:
    """No daemon of this node runs, and none can start, until the context ends. Raises Rejected ``node_runs``."""
    path = daemon_lock(settings.directories)
    is_new = not path.exists()
    descriptor = try_lock(path)
    if descriptor is None:
        remedy = "systemctl stop shardwright-node" if services.is_managed(settings.directories) else "stop shardwright-node"
        text = f"the daemon of node {settings.node_uid} runs on this machine"
        raise Rejected(Refusal.CONFLICT, "node_runs", text, remedy=f"{remedy}, then repeat the command")
    try:
        if is_new:
            files.hand_over([path], files.service_owner())
        yield
    finally:
        os.close(descriptor)


def check_stopped(settings: NodeSettings) -> None:
    """Whether nothing listens at the ports of the node's member. Raises Rejected ``node_runs``."""
    for port in (settings.ports.store_clients, settings.ports.store_members):
        try:
            check_port(str(settings.address), port)
        except Permanent as e:
            text = f"the store's member of this node still runs: {e.text}"
            raise Rejected(Refusal.CONFLICT, "node_runs", text, remedy="stop etcd, then repeat the command") from e


def write_member(
    settings: NodeSettings, members: Mapping[str, str], *, is_new: bool, now: datetime, token: str = ""
) -> Path | None:
    """Write the configuration of a member that begins without data, then move the data of the earlier one aside. Returns
    where they are; None: there were none. ``members``: as in ``render_etcd``. Raises OSError."""
    directories = settings.directories
    text = render_etcd(settings, trust_files(directories), initial_cluster=members, is_new=is_new, token=token)
    # Before the data go: with the former file, an empty member could found the former store again.
    write_private(directories.configuration / ETCD_NAME, text.encode())
    owner = files.service_owner()
    files.hand_over([directories.configuration / ETCD_NAME], owner)
    files.make_directories(directories, owner)
    data = directories.etcd / MEMBER
    if not data.exists():
        return None
    aside = directories.etcd / f"{MEMBER}-{now:%Y%m%d-%H%M%S}"
    os.replace(data, aside)
    sync_directory(directories.etcd)
    return aside


def point_at(settings: NodeSettings, endpoints: Sequence[str]) -> NodeSettings:
    """From now on the node looks for its store there, and has learned nothing. Returns the new settings. Raises Rejected,
    OSError."""
    changed = replace(settings, store=replace(settings.store, endpoints=tuple(endpoints)))
    owner = files.service_owner()
    path = settings.directories.configuration / SETTINGS_FILE.name
    write_settings(path, changed, group=None if owner is None else owner.group)
    forget_learned(settings)
    return changed
