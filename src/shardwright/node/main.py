"""``shardwright-node``: the daemon of a node of a cluster of machines, and the short commands of its units.

Reads the command line and calls ``daemon.py``, ``ended.py`` or ``drain.py``. Each is imported only when it is asked for: the
next leader waits for ``--ended``, and importing all parts of a daemon takes seconds on a busy machine.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from shardwright.errors import Permanent, Rejected, ShardwrightError
from shardwright.node.exits import EXIT_SETTINGS, refusal_line, say_failure
from shardwright.node.settings import SETTINGS_FILE
from shardwright.node.settings_file import load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run the daemon, or one of the short commands. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="shardwright-node", description="The daemon of a node of a cluster of machines.")
    parser.add_argument("--config", type=Path, default=SETTINGS_FILE, help=f"the node's settings (default: {SETTINGS_FILE})")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--ended", action="store_true", help="the daemon has ended: let others lead without a wait")
    what.add_argument("--drain", action="store_true", help="empty the node if the policy wants that at a shutdown")
    given = parser.parse_args(arguments)
    os.umask(0o077)
    try:
        if given.ended:
            return _ended(given.config)
        return _drain(given.config) if given.drain else _daemon(given.config)
    except ShardwrightError as e:
        return say_failure(e.text, 1)


def _ended(path: Path) -> int:
    try:
        # Without a look at keys and certificates: the store's client reads those that it needs.
        settings = load_settings(path)
    except (Rejected, Permanent) as e:
        return say_failure(refusal_line(e), EXIT_SETTINGS)
    from shardwright.log import configure_logging
    from shardwright.node.ended import revoke_ended

    configure_logging(None)
    return 0 if asyncio.run(revoke_ended(settings)) else 1


def _drain(path: Path) -> int:
    from shardwright.log import configure_logging
    from shardwright.node.daemon import load
    from shardwright.node.drain import drain

    try:
        loaded = load(path)
    except (Rejected, Permanent) as e:
        return say_failure(refusal_line(e), EXIT_SETTINGS)
    configure_logging(None)
    return 0 if asyncio.run(drain(loaded.settings, loaded.sealing, say=print)) else 1


def _daemon(path: Path) -> int:
    from shardwright.node.daemon import run

    return run(path)


if __name__ == "__main__":
    sys.exit(main())
