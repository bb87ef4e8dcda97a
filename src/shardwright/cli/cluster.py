"""``shardwright cluster``: the members of the store, the leader, the cluster key, virtual addresses, backups, and the move
of a stopped local cluster's records into an etcd.

The move uses ``shardwright.local``, because a stopped cluster has no API; the rest is in ``leadership.py``,
``key_rotation.py``, ``virtual_address.py`` and ``backup.py``. Owns the dialog with the user, not the operation.
"""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from shardwright.cli import backup, key_rotation, leadership, virtual_address
from shardwright.cli.direct import AsJson, Directory, directory_of, failures, sayer
from shardwright.local.access import etcd_settings
from shardwright.local.move_store import Copied, Moved, OnProgress, move_store

_STEP = 500
"""Records between two messages of progress."""
_EXAMPLES = """\b
Examples:
  shardwright down
  shardwright cluster move-store --endpoint https://10.0.0.1:2379 --endpoint https://10.0.0.2:2379 \\
    --endpoint https://10.0.0.3:2379 --ca ca.pem --cert client.pem --key client-key.pem
  shardwright up --detach
"""


def register(app: typer.Typer) -> None:
    """Add the command group ``cluster``."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Members of the store, the leader, the cluster key, virtual addresses, backups, the move of the records.",
    )
    app.add_typer(group, name="cluster")
    leadership.register(group)
    key_rotation.register(group)
    virtual_address.register(group)
    backup.register_cluster(group)
    group.command("move-store", epilog=_EXAMPLES)(_move_store)


def _move_store(
    *,
    endpoint: Annotated[list[str], typer.Option(metavar="URL", help="A member, https://HOST:PORT; repeat for each.")],
    ca: Annotated[Path | None, typer.Option(help="The authority of the members' certificates.")] = None,
    cert: Annotated[Path | None, typer.Option(help="The certificate that the cluster shows to etcd.")] = None,
    key: Annotated[Path | None, typer.Option(help="The key of that certificate.")] = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Move the records of the stopped cluster on this machine into an etcd of its own.

    The next `up` uses the etcd. The former file is kept as store.db.moved and is not used again. The certificates are read
    where they are. The command may be repeated after an interruption.
    """
    say = sayer(as_json)
    with failures(as_json):
        settings = etcd_settings(endpoint, ca, cert, key)
        moved = asyncio.run(move_store(directory_of(directory), settings, _progress(say)))
        if as_json:
            shown = {"dir": str(moved.layout.directory), "records": moved.records, "endpoints": list(settings.endpoints)}
            print(json.dumps(shown, indent=2), flush=True)
        _say_moved(moved, say)


def _progress(say: Callable[[str], None]) -> OnProgress:
    said = -_STEP

    def tell(copied: Copied) -> None:
        nonlocal said
        if copied.records - said >= _STEP or copied.records == copied.records_total != said:
            said = copied.records
            say(f"{copied.records} of {copied.records_total} records copied")

    return tell


def _say_moved(moved: Moved, say: Callable[[str], None]) -> None:
    if moved.records is None:
        say("The records were in etcd already; the former file was set aside.")
    else:
        say(f"All {moved.records} records are in etcd and were compared.")
    say(f"The former file is {moved.layout.store}.moved. Next: shardwright up --dir {moved.layout.directory}")
