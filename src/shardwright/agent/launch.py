"""Prepares and starts a server: its files, port and program. Blocks; the agent calls it in a thread.

Owns the order of steps by which an incarnation starts at most once: the intent is on disk before the program runs. Must
not decide whether to start (``reconcile/shard.py`` does).
"""

import contextlib
import errno
import os
import socket
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from shardwright.agent.damage import damage_in_log, with_extent
from shardwright.errors import Permanent, ShardwrightError
from shardwright.machine.files import last_line, make_private_directory, rotate, sync_directory, write_private
from shardwright.machine.processes import server_environment, spawn_process
from shardwright.model.codes import Code
from shardwright.model.database import Damage, Persistence, ServerKind, Shard, StartWith
from shardwright.model.ids import DatabaseUid, GroupUid, ShardUid
from shardwright.model.seen import ProcessIdentity
from shardwright.model.view import ClusterView
from shardwright.server.aof import cut_damaged_end
from shardwright.server.binaries import find_exact
from shardwright.server.config import ServerFile, render_config, settings_of
from shardwright.server.files import aside_of, forget_old_asides, prepare_directory, put_aside
from shardwright.server.network import LINK_ON_ONE_MACHINE, LINK_OVER_NETWORK, TlsFiles
from shardwright.trust.files import MemberFiles

RECORD_NAME = "process.json"
CONFIG_NAME = "server.conf"
LOG_NAME = "server.log"
OUTPUT_NAME = "server.out"
LOG_BYTES_MAX = 10 * 1024 * 1024


class Stage(StrEnum):
    """The stage that a start has reached."""

    INTENDED = "intended"
    """The program may or may not have been started."""
    STARTED = "started"
    FAILED = "failed"
    """The program certainly does not run and never served a client."""


@dataclass(frozen=True, slots=True)
class StartRecord:
    """``process.json`` in a shard's directory."""

    incarnation: int
    stage: Stage
    executable: str
    """Its real path, as the kernel shows it."""
    identity: ProcessIdentity | None = None
    text: str = ""
    damage: Damage | None = None
    """The damage to its files because of which it ended at once; None: it did not end for that reason."""
    database_uid: DatabaseUid | None = None
    """Whose copy it is, like the next one, for a record that is lost; None: written by a version that did not say it."""
    group_uid: GroupUid | None = None


_adapter = TypeAdapter(StartRecord)


def read_record(directory: Path) -> StartRecord | None:
    """The last start in this directory; None if there was none, or if its record is unreadable."""
    try:
        return _adapter.validate_json((directory / RECORD_NAME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_record(directory: Path, record: StartRecord) -> None:
    """Make the record durable. Raises OSError."""
    write_private(directory / RECORD_NAME, _adapter.dump_json(record, indent=1))


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that one start needs."""

    shard_uid: ShardUid
    database_uid: DatabaseUid
    group_uid: GroupUid
    incarnation: int
    kind: ServerKind
    version: str
    configured: str | None
    """Path of the program that the cluster's configuration names; None: the usual places."""
    address: str
    port: int
    directory: Path
    kept: Persistence
    """The persistence with which its data files were written."""
    starts_with: StartWith
    uses_tls: bool
    file: ServerFile = field(repr=False)
    """The input of its configuration file, which is rendered when the data that it starts with is known."""


def launch_of(
    view: ClusterView, shard: Shard, directory: Path, *, memory_free_bytes: int, tls: TlsFiles | None = None
) -> Launch:
    """The start that the records require. ``tls``: the node's files for encrypted connections; None: it has none. Raises
    Permanent if a record is missing or unusable, or if the files are needed and missing."""
    database, secrets = view.databases.get(shard.database_uid), view.secrets.get(shard.database_uid)
    node = view.nodes.get(shard.node_uid)
    if database is None or secrets is None or node is None:
        raise Permanent(Code.SHARD_START_FAILED, f"the records of database {shard.database_uid} are incomplete")
    if database.uses_tls and tls is None:
        raise Permanent(Code.SHARD_START_FAILED, "the server needs a certificate, and this node has none")
    file = ServerFile(
        kind=database.server_kind,
        version=database.server_version,
        shard_uid=shard.uid,
        incarnation=shard.incarnation,
        address=node.servers_at,
        port=shard.port,
        directory=str(directory),
        log_file=str(directory / LOG_NAME),
        settings=settings_of(database),
        secrets=secrets,
        memory_free_bytes=memory_free_bytes,
        link=LINK_OVER_NETWORK if view.cluster is not None and view.cluster.is_of_machines else LINK_ON_ONE_MACHINE,
        tls=tls if database.uses_tls else None,
    )
    try:
        render_config(file)
    except ValueError as e:
        raise Permanent(Code.SHARD_START_FAILED, f"the server's configuration cannot be written: {e}") from e
    return Launch(
        shard_uid=shard.uid,
        database_uid=shard.database_uid,
        group_uid=shard.group_uid,
        incarnation=shard.incarnation,
        kind=database.server_kind,
        version=database.server_version,
        configured=(view.cluster.server_path or None) if view.cluster is not None else None,
        address=node.servers_at,
        port=shard.port,
        directory=directory,
        kept=shard.kept or database.persistence,
        starts_with=shard.starts_with,
        uses_tls=database.uses_tls,
        file=file,
    )


def tls_files(files: MemberFiles) -> TlsFiles:
    """What the node's servers show and trust: what its daemon does."""
    return TlsFiles(str(files.certificate), str(files.key), str(files.authority))


def program_of(launch: Launch) -> str:
    """Path of the program with exactly the recorded kind and version. Raises Permanent with the command that installs it."""
    try:
        return find_exact(launch.kind, launch.version, configured=launch.configured, needs_tls=launch.uses_tls).path
    except ShardwrightError as e:
        remedy = getattr(e, "remedy", "")
        raise Permanent(Code.of(e.code), f"{e.text}; remedy: {remedy}" if remedy else e.text) from e


def start(launch: Launch, program: str) -> StartRecord:
    """Start the server; no process may still run in its directory. The result is also on disk.

    Does not raise for an operational cause (disk, port, program): the result's stage is FAILED, and its text names the
    cause.
    """
    executable = os.path.realpath(program)
    log = launch.directory / LOG_NAME
    log_size = _size_of(log)
    intended = StartRecord(
        launch.incarnation, Stage.INTENDED, executable, database_uid=launch.database_uid, group_uid=launch.group_uid
    )
    try:
        preparation = _prepare(launch)
        check_port(launch.address, launch.port)
        write_record(launch.directory, intended)
        identity = spawn_process(
            # By the unresolved path: Debian's redis-server is a link to redis-check-rdb, which acts by its own name.
            [program, str(launch.directory / CONFIG_NAME)],
            directory=launch.directory,
            output=launch.directory / OUTPUT_NAME,
            environment=server_environment(),
        )
    except (OSError, Permanent) as e:
        has_run = isinstance(e, ChildProcessError)
        if has_run and _size_of(log) != log_size and (damage := damage_in_log(log)) is not None:
            # On a busy machine a server may end before its identity has been read.
            return fail(launch, executable, with_extent(launch.directory, *damage), damage=damage[0])
        output = last_line(launch.directory / OUTPUT_NAME) if has_run else ""
        return fail(launch, executable, f"{e.text if isinstance(e, Permanent) else e}{f': {output}' if output else ''}")
    started = replace(intended, stage=Stage.STARTED, identity=identity, text=preparation)
    with contextlib.suppress(OSError):  # It runs; the next agent finds it by the intent and its directory.
        write_record(launch.directory, started)
    return started


def fail(launch: Launch, executable: str, text: str, *, damage: Damage | None = None) -> StartRecord:
    """Record that an incarnation could not be started."""
    failed = StartRecord(
        launch.incarnation,
        Stage.FAILED,
        executable,
        text=text,
        damage=damage,
        database_uid=launch.database_uid,
        group_uid=launch.group_uid,
    )
    with contextlib.suppress(OSError):  # The cause may be a full disk.
        make_private_directory(launch.directory)
        write_record(launch.directory, failed)
    return failed


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _prepare(launch: Launch) -> str:
    """Prepare the directory. Returns a description of the changes to damaged data files, for people; empty: no change."""
    make_private_directory(launch.directory)
    description = _prepare_damaged(launch)
    starts_with_aof = prepare_directory(launch.directory, launch.file.settings.persistence, kept=launch.kept)
    sync_directory(launch.directory)
    rotate(launch.directory / LOG_NAME, bytes_max=LOG_BYTES_MAX)
    (launch.directory / OUTPUT_NAME).unlink(missing_ok=True)
    config = render_config(replace(launch.file, starts_with_aof=starts_with_aof))
    write_private(launch.directory / CONFIG_NAME, config.encode())
    return description


def _prepare_damaged(launch: Launch) -> str:
    match launch.starts_with:
        case StartWith.FILES:
            return ""
        case StartWith.NOTHING:
            put_aside(launch.directory, launch.incarnation)
            description = ""
        case StartWith.CUT_FILES:
            description = str(cut_damaged_end(launch.directory, aside_of(launch.directory, launch.incarnation)))
    forget_old_asides(launch.directory)
    return description


def check_port(address: str, port: int) -> None:
    """Check that a server can listen there. Raises Permanent with the cause."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # As the servers do: ended connections do not block the port.
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as e:
            if e.errno == errno.EADDRINUSE:
                raise Permanent(Code.PORT_IN_USE, f"port {port} of {address} is in use by another process") from e
            raise Permanent(Code.PORT_UNUSABLE, f"{address}:{port} cannot be used: {os.strerror(e.errno or 0)}") from e
