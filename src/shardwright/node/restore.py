"""``cluster restore``: from a backup, this machine founds the cluster's store again, alone, after its quorum was lost.

All checks come first (``examine``), then the operator confirms, then the files are written (``restore``) and the node is
started (``services.py``); its daemon writes the records (``store_wait.py``). The cluster's authority, certificates and key
stay. Each interruption leaves either the earlier store or a restore that the same command repeats: the records to write are
on disk before anything of the earlier store is touched.
"""

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from shardwright.backup_files import load_backup
from shardwright.errors import Refusal, Rejected
from shardwright.key_file import read_sealing
from shardwright.machine.files import write_private
from shardwright.model.cluster import Node
from shardwright.model.codes import Code
from shardwright.node import files, own_member, services
from shardwright.node.daemon_settings import restoring_file
from shardwright.node.etcd_config import client_url, member_name, peer_url
from shardwright.node.known_store import learning_of
from shardwright.node.places import trust_files
from shardwright.node.preflight import Machine, check_store_program
from shardwright.node.quorum import Asked, ask_members
from shardwright.node.services import Say
from shardwright.node.settings import NodeSettings
from shardwright.store import keys, records
from shardwright.store.admission import check_item
from shardwright.store.backup import Backup, Header, content_of
from shardwright.store.protocol import KeyValue
from shardwright.store.raising import Raised, Restore, raised
from shardwright.store.seal import Sealing
from shardwright.trust.files import own_key
from shardwright.trust.keys import hash_of_key

UID_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Examined:
    """A restore that has passed all checks."""

    settings: NodeSettings
    header: Header
    raised: Raised = field(repr=False)
    content: bytes = field(repr=False)
    """Of the file that the daemon restores from."""
    uid: str
    members: tuple[Asked, ...]
    """What the members of the earlier store said."""


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """The result of ``restore``."""

    settings: NodeSettings
    moved_to: Path | None
    """Data of the earlier member of the store; None: there were none."""


def examine(settings: NodeSettings, path: Path, machine: Machine, *, say: Say, now: datetime) -> Examined:
    """All checks, before the first change. Raises Rejected, Permanent (a key is missing), OSError."""
    if learning_of(settings) is None:
        code = Code.STORE_NOT_RESTORABLE
        text = "the store of this cluster is an etcd that you run yourself"
        raise Rejected(Refusal.NOT_ACCEPTABLE, code, text, remedy=code.remedy)
    check_store_program(machine.store_version)
    backup = load_backup(path)
    _check_is_own(settings, backup, path)
    sealing = read_sealing(settings.directories.cluster_key)
    clear = {key: _opened(sealing, key, value) for key, value in backup.items.items()}
    told = Restore(secrets.token_hex(UID_BYTES), settings.node_uid, now, backup.header.at)
    after = raised(clear, told, random_text=partial(secrets.token_hex, 4))
    with own_member.without_daemon(settings):
        asked = ask_members(settings, say)
    if (answering := next((one for one in asked if one.has_cluster), None)) is not None:
        code = Code.STORE_HAS_QUORUM
        text = f"the store answers at {answering.endpoint}: it has its quorum"
        raise Rejected(Refusal.CONFLICT, code, text, remedy=code.remedy)
    sealed = {
        key: backup.items[key] if clear.get(key) == value else sealing.seal(key, value) for key, value in after.items.items()
    }
    content = content_of(Backup(_header(backup.header, len(sealed)), dict(sorted(sealed.items()))))
    return Examined(settings, backup.header, after, content, told.uid, tuple(asked))


def restore(examined: Examined, *, say: Say, now: datetime) -> RestoreResult:
    """Write the files with which this node founds the store again. Raises Rejected (nothing was changed), Permanent, OSError
    (repeat it)."""
    settings = examined.settings
    directories, owner = settings.directories, files.service_owner()
    with files.locked(directories), own_member.without_daemon(settings):
        if services.is_managed(directories):
            say("stopping this node's member of the store")
            services.stop_programs()
        own_member.check_stopped(settings)
        write_private(restoring_file(directories), examined.content)
        files.hand_over([restoring_file(directories)], owner)
        members = {member_name(settings.node_uid): peer_url(settings)}
        token = f"restore-{examined.uid}"
        moved = own_member.write_member(settings, members, is_new=True, now=now, token=token)
        endpoint = client_url(settings.address, settings.ports.store_clients)
        return RestoreResult(own_member.point_at(settings, (endpoint,)), moved)


def _header(before: Header, count: int) -> Header:
    return Header(
        before.cluster,
        before.cluster_id,
        before.cluster_version,
        before.revision,
        before.at,
        before.node_uid,
        count,
    )


def _check_is_own(settings: NodeSettings, backup: Backup, path: Path) -> None:
    """Whether the backup knows this node, by its number and its key."""
    key = f"{keys.NODES}{settings.node_uid:08d}"
    value = backup.items.get(key)
    node = None if value is None else records.decode(key, value)
    own = hash_of_key(own_key(trust_files(settings.directories)).public_key())
    if not isinstance(node, Node) or node.key_hash != own:
        code = Code.BACKUP_OF_ANOTHER_CLUSTER
        text = f"{path}, of cluster {backup.header.cluster}, does not know this machine's node {settings.node_uid}"
        raise Rejected(Refusal.CONFLICT, code, text, remedy=code.remedy)


def _opened(sealing: Sealing, key: str, value: bytes) -> bytes:
    check_item(KeyValue(key, value, 0, 0), sealing)
    return sealing.open(key, value)
