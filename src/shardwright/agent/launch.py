"""What starting a server takes, and the start itself: files, port, program. Blocking; the agent calls it in a thread.

Owns the order that makes an incarnation start at most once: the intent is on disk before the program runs. Must not
decide whether to start (``reconcile/shard.py`` does).
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
from shardwright.model.ids import ShardUid
from shardwright.model.seen import ProcessIdentity
from shardwright.model.view import ClusterView
from shardwright.server.aof import cut_damaged_end
from shardwright.server.binaries import find_exact
from shardwright.server.config import ServerFile, render_config, settings_of
from shardwright.server.files import aside_of, forget_old_asides, prepare_directory, put_aside

RECORD_NAME = "process.json"
CONFIG_NAME = "server.conf"
LOG_NAME = "server.log"
OUTPUT_NAME = "server.out"
LOG_BYTES_MAX = 10 * 1024 * 1024


class Stage(StrEnum):
    """How far a start came."""

    INTENDED = "intended"
    """The program may have been started or not."""
    STARTED = "started"
    FAILED = "failed"
    """It certainly does not run and never answered anybody."""


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
    """It ended at once because of its files; None: not for that reason."""


_adapter = TypeAdapter(StartRecord)


def read_record(directory: Path) -> StartRecord | None:
    """The last start in this directory; None when there was none (or its record cannot be read)."""
    try:
        return _adapter.validate_json((directory / RECORD_NAME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_record(directory: Path, record: StartRecord) -> None:
    """Make the record durable. Raises OSError."""
    write_private(directory / RECORD_NAME, _adapter.dump_json(record, indent=1))


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything one start needs."""

    shard_uid: ShardUid
    incarnation: int
    kind: ServerKind
    version: str
    configured: str | None
    """Path of the program that the cluster was told to use; None: the usual places."""
    address: str
    port: int
    directory: Path
    kept: Persistence
    """By which its data files were written."""
    starts_with: StartWith
    file: ServerFile = field(repr=False)
    """What its configuration is rendered from, once it is known which data it starts with."""


def launch_of(view: ClusterView, shard: Shard, directory: Path, *, memory_free_bytes: int) -> Launch:
    """The start that the records ask for. Raises Permanent when a record that it needs is missing or unusable."""
    database, secrets = view.databases.get(shard.database_uid), view.secrets.get(shard.database_uid)
    node = view.nodes.get(shard.node_uid)
    if database is None or secrets is None or node is None:
        raise Permanent(Code.SHARD_START_FAILED, f"the records of database {shard.database_uid} are incomplete")
    file = ServerFile(
        kind=database.server_kind,
        version=database.server_version,
        shard_uid=shard.uid,
        incarnation=shard.incarnation,
        address=node.address,
        port=shard.port,
        directory=str(directory),
        log_file=str(directory / LOG_NAME),
        settings=settings_of(database),
        secrets=secrets,
        memory_free_bytes=memory_free_bytes,
    )
    try:
        render_config(file)
    except ValueError as e:
        raise Permanent(Code.SHARD_START_FAILED, f"the server's configuration cannot be written: {e}") from e
    return Launch(
        shard_uid=shard.uid,
        incarnation=shard.incarnation,
        kind=database.server_kind,
        version=database.server_version,
        configured=(view.cluster.server_path or None) if view.cluster is not None else None,
        address=node.address,
        port=shard.port,
        directory=directory,
        kept=shard.kept or database.persistence,
        starts_with=shard.starts_with,
        file=file,
    )


def program_of(launch: Launch) -> str:
    """Path of exactly the recorded kind and version. Raises Permanent with the line that installs it."""
    try:
        return find_exact(launch.kind, launch.version, configured=launch.configured).path
    except ShardwrightError as e:
        remedy = getattr(e, "remedy", "")
        raise Permanent(Code.of(e.code), f"{e.text}; remedy: {remedy}" if remedy else e.text) from e


def start(launch: Launch, program: str) -> StartRecord:
    """Start the server; its directory must hold no process any more. What comes back is also on disk.

    Never raises for what an operator can meet (disk, port, program): the record's stage is then FAILED and says why.
    """
    executable = os.path.realpath(program)
    log = launch.directory / LOG_NAME
    logged = _size_of(log)
    intended = StartRecord(launch.incarnation, Stage.INTENDED, executable)
    try:
        done = _prepare(launch)
        check_port(launch.address, launch.port)
        write_record(launch.directory, intended)
        identity = spawn_process(
            # By the path that was found: Debian's redis-server is a link to redis-check-rdb, which looks at its name.
            [program, str(launch.directory / CONFIG_NAME)],
            directory=launch.directory,
            output=launch.directory / OUTPUT_NAME,
            environment=server_environment(),
        )
    except (OSError, Permanent) as e:
        has_run = isinstance(e, ChildProcessError)
        if has_run and _size_of(log) != logged and (damaged := damage_in_log(log)) is not None:
            # On a busy machine a server may have ended before we have looked who it is.
            return fail(launch, executable, with_extent(launch.directory, *damaged), damage=damaged[0])
        said = last_line(launch.directory / OUTPUT_NAME) if has_run else ""
        return fail(launch, executable, f"{e.text if isinstance(e, Permanent) else e}{f': {said}' if said else ''}")
    started = replace(intended, stage=Stage.STARTED, identity=identity, text=done)
    with contextlib.suppress(OSError):  # It runs; the next agent finds it by the intent and its directory.
        write_record(launch.directory, started)
    return started


def fail(launch: Launch, executable: str, text: str, *, damage: Damage | None = None) -> StartRecord:
    """Record that an incarnation could not be started."""
    failed = StartRecord(launch.incarnation, Stage.FAILED, executable, text=text, damage=damage)
    with contextlib.suppress(OSError):  # A full disk may be the very reason.
        make_private_directory(launch.directory)
        write_record(launch.directory, failed)
    return failed


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _prepare(launch: Launch) -> str:
    """Make the directory ready. What was done to the data files, for people; empty: nothing."""
    make_private_directory(launch.directory)
    done = _prepare_damaged(launch)
    starts_with_aof = prepare_directory(launch.directory, launch.file.settings.persistence, kept=launch.kept)
    sync_directory(launch.directory)
    rotate(launch.directory / LOG_NAME, bytes_max=LOG_BYTES_MAX)
    (launch.directory / OUTPUT_NAME).unlink(missing_ok=True)
    config = render_config(replace(launch.file, starts_with_aof=starts_with_aof))
    write_private(launch.directory / CONFIG_NAME, config.encode())
    return done


def _prepare_damaged(launch: Launch) -> str:
    match launch.starts_with:
        case StartWith.FILES:
            return ""
        case StartWith.NOTHING:
            put_aside(launch.directory, launch.incarnation)
            done = ""
        case StartWith.CUT_FILES:
            done = str(cut_damaged_end(launch.directory, aside_of(launch.directory, launch.incarnation)))
    forget_old_asides(launch.directory)
    return done


def check_port(address: str, port: int) -> None:
    """Whether a server could listen there. Raises Permanent with the reason."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # As the servers do: ended connections do not matter.
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as e:
            if e.errno == errno.EADDRINUSE:
                raise Permanent(Code.PORT_IN_USE, f"port {port} of {address} is in use by another process") from e
            raise Permanent(Code.PORT_UNUSABLE, f"{address}:{port} cannot be used: {os.strerror(e.errno or 0)}") from e
