"""The daemon of a node of a cluster of machines. Its service manager starts it (``main.py``) and keeps it alive.

Owns what every daemon needs first: usable settings, one process per node (a lock), its identity on disk, the log, what the
service manager is told, the wait for the store, and a clean end on SIGTERM. ``wiring.py`` owns the composition of a daemon.
"""

import asyncio
import contextlib
import faulthandler
import importlib
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from shardwright import __version__
from shardwright.api.certificate import ApiCertificate
from shardwright.daemon_config import DaemonConfig
from shardwright.errors import Permanent, Rejected, ShardwrightError
from shardwright.key_file import read_sealing
from shardwright.log import configure_logging
from shardwright.machine.capabilities import keep_from_children
from shardwright.machine.files import make_private_directory
from shardwright.machine.identity_file import write_identity
from shardwright.machine.lock import try_lock
from shardwright.machine.notify import Notifier, show_life
from shardwright.machine.processes import identity_of
from shardwright.model.codes import Code
from shardwright.model.trust import CertificateRole
from shardwright.node.admitting import machines_of
from shardwright.node.daemon_settings import daemon_config
from shardwright.node.exits import EXIT_SETTINGS, EXIT_TAKEN, refusal_line, say_failure
from shardwright.node.known_store import learning_of
from shardwright.node.places import daemon_file, daemon_lock, daemon_log, trust_files
from shardwright.node.settings import NodeSettings
from shardwright.node.settings_file import load_settings
from shardwright.node.store_wait import wait_for_store
from shardwright.node.unproven import without_virtual_addresses
from shardwright.store.protocol import StoreReplaced
from shardwright.store.seal import Sealing
from shardwright.tasks import spawn
from shardwright.trust.files import load_credentials

Body = Callable[[DaemonConfig], Awaitable[None]]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a daemon has read before it asks the store."""

    settings: NodeSettings
    sealing: Sealing


class _Unfit(Exception):
    """This daemon must not work on what the store contains; only a person can help."""

    def __init__(self, cause: Permanent) -> None:
        super().__init__(cause.text)
        self.cause = cause


def load(path: Path) -> Loaded:
    """Settings, keys and certificates, checked. Raises Rejected, Permanent."""
    settings = load_settings(path)
    files = trust_files(settings.directories)
    load_credentials(files.member(CertificateRole.NODE))
    ApiCertificate(files.certificate(CertificateRole.API), files.key).load()
    sealing = read_sealing(key := settings.directories.cluster_key)
    if sealing.uid is None:
        raise Permanent(Code.CLUSTER_KEY_UNUSABLE, f"{key} does not exist")
    return Loaded(settings, sealing)


def run(path: Path, body: Body | None = None) -> int:
    """Run the daemon until SIGTERM; returns its exit status. ``body`` None: the product's own, ``wiring.run_daemon``."""
    notifier = Notifier.take()
    loaded = _loaded(path, notifier)
    if loaded is None:
        return EXIT_SETTINGS
    directories, node_uid = loaded.settings.directories, loaded.settings.node_uid
    try:
        lock = _prepare(loaded.settings)
        if lock is None:
            return _failed(notifier, f"another daemon of node {node_uid} is already running", EXIT_TAKEN)
    except OSError as e:
        return _failed(notifier, f"{e.filename}: {e.strerror}", 1)
    configure_logging(daemon_log(directories))
    structlog.contextvars.bind_contextvars(node=node_uid)
    faulthandler.enable()
    try:
        asyncio.run(_serve(loaded, notifier, body or _product))
    except _Unfit as e:
        cause = e.cause
        _log.error("the daemon cannot work on this store", code=cause.code, reason=cause.text, remedy=cause.code.remedy)
        return _failed(notifier, cause.text, EXIT_SETTINGS)
    except StoreReplaced as e:
        _log.error("the daemon ends, because its store was replaced", code=e.code, reason=e.text, remedy=e.code.remedy)
        return _failed(notifier, e.text, 1)
    except ShardwrightError as e:
        _log.exception("the daemon has failed", code=e.code)
        return _failed(notifier, e.text, 1)
    except Exception as e:
        _log.exception("the daemon has failed")
        return _failed(notifier, f"{type(e).__name__}: {e}", 1)
    finally:
        notifier.close()
        os.close(lock)
    return 0


def _loaded(path: Path, notifier: Notifier) -> Loaded | None:
    """None: the settings cannot be used, and the one line that says why was printed."""
    try:
        return load(path)
    except (Rejected, Permanent) as e:
        _failed(notifier, refusal_line(e), EXIT_SETTINGS)
        return None


def _failed(notifier: Notifier, text: str, status: int) -> int:
    notifier.status(text)
    return say_failure(text, status)


def _prepare(settings: NodeSettings) -> int | None:
    """Directories, lock, identity. None: another daemon of this node runs. Raises OSError."""
    keep_from_children()
    directories = settings.directories
    for directory in (directories.state, directories.run, directories.log, directories.shards, directories.endpoint):
        make_private_directory(directory)
    lock = try_lock(daemon_lock(directories))
    if lock is None:
        return None
    # Processes that outlive the daemon are recognized by their working directory, so it must be unique.
    os.chdir(directories.state)
    me = identity_of(os.getpid())
    assert me is not None
    write_identity(daemon_file(directories), me)
    return lock


async def _product(config: DaemonConfig) -> None:
    # Imported late: the composition root imports everything, and this module must be importable without it.
    wiring = importlib.import_module("shardwright.wiring")
    await wiring.run_daemon(config)


async def _serve(loaded: Loaded, notifier: Notifier, body: Body) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    is_asked = False

    def stop() -> None:
        nonlocal is_asked
        if not is_asked:  # A second signal must not interrupt the clean end.
            is_asked = True
            notifier.stopping("ends as requested")
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if body is _product:
        # The import takes seconds on a busy machine; a daemon that is ready must show that its loop turns.
        importlib.import_module("shardwright.wiring")
    _log.info("the daemon runs", pid=os.getpid(), version=__version__)
    # Without the store: a member of the store may need those of other nodes, whose start may wait for this one's.
    notifier.ready("waits for the store")
    life = spawn("signs of life", show_life(notifier))
    try:
        while True:
            await _work(loaded, notifier, body)
    except asyncio.CancelledError:
        if not is_asked:
            raise
        _log.info("the daemon ends as requested")
    finally:
        life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await life


async def _work(loaded: Loaded, notifier: Notifier, body: Body) -> None:
    """Until cancelled, or until the node is removed: then it waits for a record again, and an operator to take it away."""
    try:
        machines = await asyncio.to_thread(machines_of, loaded.settings, loaded.sealing)
        async with without_virtual_addresses():
            store = await wait_for_store(loaded.settings, loaded.sealing, say=notifier.status)
    except Permanent as e:
        raise _Unfit(e) from e
    notifier.status("serves")
    try:
        learning = learning_of(loaded.settings)
        await body(daemon_config(loaded.settings, loaded.sealing, machines, store=store, learning=learning))
    except Permanent as e:
        if e.code is not Code.NODE_NOT_RECORDED:
            raise
        _log.warning("the daemon serves no longer", code=e.code, reason=e.text, remedy=e.code.remedy)
        return
    raise RuntimeError("a daemon's work ended by itself")
