"""Entry point of one node's daemon: ``python -m shardwright.local.daemon --dir DIR --node N``. Started by the supervisor.

Owns the parts that every daemon needs first: one process per node (a lock), its identity on disk, the log, the answer to
pings, and a clean end on SIGTERM. ``wiring.py`` owns the composition of a daemon.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import importlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from shardwright.daemon_config import DaemonConfig
from shardwright.errors import Rejected, ShardwrightError
from shardwright.local.access import store_settings
from shardwright.local.config import read_config
from shardwright.local.layout import Layout, layout_of
from shardwright.local.ping import PingServer
from shardwright.log import configure_logging
from shardwright.machine.files import make_private_directory
from shardwright.machine.identity_file import write_identity
from shardwright.machine.lock import try_lock
from shardwright.machine.processes import identity_of
from shardwright.model.ids import NodeUid
from shardwright.store.open import open_store
from shardwright.store.protocol import StoreReplaced, StoreUnavailable

EXIT_TAKEN = 3
"""Another daemon of this node is running."""
EXIT_REFUSED = 4
"""The cluster or the node does not exist."""
OPEN_AGAIN_S = 0.5
"""Pause before another attempt to reach the store."""

Body = Callable[[DaemonConfig], Awaitable[None]]

_log = structlog.get_logger(__name__)


def run(layout: Layout, node_uid: NodeUid, body: Body | None = None) -> int:
    """Run the daemon until SIGTERM; returns its exit status. ``body`` None: the product's own, ``wiring.run_daemon``."""
    make_private_directory(layout.node(node_uid))
    lock = try_lock(layout.daemon_lock(node_uid))
    if lock is None:
        print(f"another daemon of node {node_uid} is already running", file=sys.stderr)
        return EXIT_TAKEN
    # Processes that outlive the daemon are recognized by their working directory, so it must be unique.
    os.chdir(layout.node(node_uid))
    me = identity_of(os.getpid())
    assert me is not None
    write_identity(layout.daemon(node_uid), me)
    configure_logging(layout.daemon_log(node_uid))
    structlog.contextvars.bind_contextvars(node=node_uid)
    faulthandler.enable()
    try:
        asyncio.run(_serve(layout, node_uid, body or _product))
    except Rejected as e:
        _log.error("the daemon cannot run", code=e.code, reason=e.text)
        print(e.text, file=sys.stderr)
        return EXIT_REFUSED
    except StoreReplaced as e:
        _log.error("the daemon ends, because its store was replaced", code=e.code, reason=e.text, remedy=e.code.remedy)
        print(e.text, file=sys.stderr)
        return 1
    except ShardwrightError as e:
        _log.exception("the daemon has failed", code=e.code)
        print(e.text, file=sys.stderr)
        return 1
    except Exception as e:
        _log.exception("the daemon has failed")
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        return 1
    finally:
        os.close(lock)
    return 0


async def _product(config: DaemonConfig) -> None:
    # Imported late: the composition root imports everything, and this module must be importable without it.
    wiring = importlib.import_module("shardwright.wiring")
    await wiring.run_daemon(config)


async def _serve(layout: Layout, node_uid: NodeUid, body: Body) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    is_asked = False

    def stop() -> None:
        nonlocal is_asked
        if not is_asked:  # A second signal must not interrupt the clean end.
            is_asked = True
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if body is _product:
        # The import takes seconds on a busy machine; a process that listens for pings must be able to answer them.
        importlib.import_module("shardwright.wiring")
    server = await PingServer.start(layout.ping(node_uid))
    _log.info("the daemon runs", pid=os.getpid())
    try:
        await body(await _config(layout, node_uid))
        raise RuntimeError("a daemon's work ended by itself")
    except asyncio.CancelledError:
        if not is_asked:
            raise
        _log.info("the daemon ends as requested")
    finally:
        with contextlib.suppress(OSError):
            await server.close()


async def _config(layout: Layout, node_uid: NodeUid) -> DaemonConfig:
    """The configuration, as soon as the store can be reached. Raises as ``read_config``."""
    while True:
        try:
            store = await open_store(store_settings(layout))
            try:
                return await read_config(store, layout, node_uid)
            finally:
                await store.close()
        except StoreUnavailable as e:
            _log.warning("the daemon waits for the store", code=e.code, reason=e.text)
        await asyncio.sleep(OPEN_AGAIN_S)


def daemon_command(layout: Layout, node_uid: NodeUid) -> list[str]:
    """The command with which the supervisor starts a daemon."""
    return [sys.executable, "-m", "shardwright.local.daemon", "--dir", str(layout.directory), "--node", str(node_uid)]


def main() -> int:
    """Parse the command line and run the daemon."""
    parser = argparse.ArgumentParser(prog="shardwright daemon", description="One node's daemon; `shardwright up` starts it.")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--node", type=int, required=True)
    given = parser.parse_args()
    return run(layout_of(given.dir), NodeUid(given.node))


if __name__ == "__main__":
    sys.exit(main())
