"""``up``, ``down`` and the processes that they start: the commands that run a local cluster.

All other commands use the API; these use ``shardwright.local``. Owns the dialog with the user, not the operations.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from shardwright.cli.access import default_directory
from shardwright.cli.direct import AsJson, Directory, directory_of, failures, sayer
from shardwright.cli.failure import Exit
from shardwright.cli.session import confirm, parsed
from shardwright.local.creation import UpOptions
from shardwright.local.down import Stopped, bring_down
from shardwright.local.layout import layout_of
from shardwright.local.supervisor import SupervisorEnd
from shardwright.local.up import DAEMON_MODULE, Started, prepare, run_in_background, run_in_foreground
from shardwright.model.database import Database
from shardwright.model.ids import NodeUid
from shardwright.node.settings import SETTINGS_FILE
from shardwright.units import parse_bytes

_UP_EXAMPLES = """\b
Examples:
  shardwright up --detach
  shardwright up --dir ./cluster --nodes 5 --rack a,a,b,b,c --node-memory 2gb
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("up", epilog=_UP_EXAMPLES)(up)
    app.command("down")(down)
    app.command("daemon", hidden=True)(daemon)
    app.command("supervise", hidden=True)(supervise)


def up(
    *,
    directory: Directory = None,
    nodes: Annotated[int, typer.Option(help="Number of nodes of a new cluster.")] = 3,
    node_memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Limit of the memory provisioned to the shards of one node.")
    ] = "4gb",
    rack: Annotated[str | None, typer.Option(metavar="A,B,…", help="Rack of each node [default: none].")] = None,
    api_port: Annotated[int, typer.Option(help="API port at every node's address.")] = 9443,
    endpoint_address: Annotated[str, typer.Option(help="Address at which databases listen.")] = "127.0.0.1",
    address_base: Annotated[str, typer.Option(help="The first node's address; the others follow it.")] = "127.0.0.1",
    server: Annotated[str, typer.Option(metavar="auto|valkey|redis|PATH", help="Server program of new databases.")] = "auto",
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when the cluster is ready; it continues in the background.")
    ] = False,
    admin_email: Annotated[
        str, typer.Option(help="E-mail address of the first user, an administrator.")
    ] = "admin@shardwright.local",
    as_json: AsJson = False,
    daemon_module: Annotated[str, typer.Option(hidden=True)] = DAEMON_MODULE,
) -> None:
    """Start a cluster on this machine; create it first if it does not exist.

    Options other than --dir and --detach only apply to a new cluster; an existing one starts with its recorded settings.
    The administrator's password comes from SHARDWRIGHT_ADMIN_PASSWORD or is generated, and is kept in DIR/admin.json.
    """
    say = sayer(as_json)
    with failures(as_json):
        options = UpOptions(
            directory=directory_of(directory),
            nodes=nodes,
            node_memory_bytes=parsed(parse_bytes, node_memory),
            racks=tuple(name.strip() for name in rack.split(",")) if rack is not None else (),
            api_port=api_port,
            endpoint_address=endpoint_address,
            address_base=address_base,
            server=server,
            admin_email=admin_email,
            node_settings=SETTINGS_FILE,
        )
        started, lock = prepare(options, os.environ)
        if lock is None:
            say(f"The cluster in {started.layout.directory} is already running.")
            _show_up(started, as_json)
            return
        place = started.layout.directory
        say(f"Created a cluster in {place}." if started.is_new else f"Starting the cluster in {place}.")
        if started.password:
            # Before the wait: a user who interrupts the wait must have seen the password.
            say(f"Administrator: {started.username}, password: {started.password}\n  (kept in {started.layout.admin})")

        def ready() -> None:
            _say_next(started, say, is_detached=detach)
            _show_up(started, as_json)

        if detach:
            try:
                run_in_background(started, lock, say=say, module=daemon_module)
            except KeyboardInterrupt:
                say("The cluster continues to start in the background; `shardwright down` stops it.")
                raise typer.Exit(Exit.INTERRUPTED) from None
            ready()
            return
        outcome = run_in_foreground(started, lock, say=say, on_ready=ready, module=daemon_module)
        say("Everything is stopped." if outcome is SupervisorEnd.STOPPED else "Another command has taken over the cluster.")


def down(
    *,
    directory: Directory = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask about databases without persistence.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="Also delete the cluster and all its data; implies --yes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the cluster on this machine after a clean save.

    Databases without persistence lose their data: the command names them and asks for confirmation.
    """
    say = sayer(as_json)

    def ask(databases: Sequence[Database]) -> None:
        names = ", ".join(d.name for d in databases)
        text = f"{names} {'keeps' if len(databases) == 1 else 'keep'} nothing on disk: this data will be lost."
        if yes or purge:
            say(text)
        confirm(f"{text} Stop anyway?", is_confirmed=yes or purge)

    with failures(as_json):
        stopped = asyncio.run(bring_down(directory_of(directory), is_purge=purge, confirm=ask, say=say))
        _say_stopped(stopped, say, is_purge=purge)
        if as_json:
            shown = {
                "dir": str(stopped.layout.directory),
                "existed": stopped.existed,
                "was_running": stopped.was_running,
                "purged": purge,
                "left": [str(path) for path in stopped.left],
                "kept_in_etcd": stopped.kept_in_etcd,
            }
            print(json.dumps(shown, indent=2))


def daemon(
    *,
    directory: Annotated[Path, typer.Option("--dir")],
    node: Annotated[int, typer.Option()],
) -> None:
    """One node's daemon. The supervisor starts it."""
    from shardwright.local import daemon as daemon_process

    raise typer.Exit(daemon_process.run(layout_of(directory), NodeUid(node)))


def supervise(*, directory: Annotated[Path, typer.Option("--dir")]) -> None:
    """The supervisor of an existing cluster. `up` starts it."""
    from shardwright.local import supervisor as supervisor_process

    sys.argv = ["shardwright supervise", "--dir", str(directory)]
    raise typer.Exit(supervisor_process.main())


# -- messages ------------------------------------------------------------------------------------------------------------


def _say_next(started: Started, say: Callable[[str], None], *, is_detached: bool) -> None:
    place = (
        ""
        if started.layout.directory == layout_of(default_directory(os.environ)).directory
        else (f" --dir {started.layout.directory}")
    )
    say("The cluster is ready. Next:")
    say(f"  shardwright db create orders --memory 256mb --replication{place}")
    say(f"  shardwright status{place}")
    say(f"  shardwright down{place}" if is_detached else "  Ctrl-C stops it.")


def _say_stopped(stopped: Stopped, say: Callable[[str], None], *, is_purge: bool) -> None:
    place = stopped.layout.directory
    if not stopped.existed:
        say(f"There is no cluster in {place}.")
    elif is_purge:
        say(f"The cluster in {place} is stopped and deleted.")
        if stopped.left:
            say("Not deleted, because Shardwright did not create it: " + ", ".join(str(path) for path in stopped.left))
        if stopped.kept_in_etcd:
            say(
                f"Its records may still be in its etcd, which could not be emptied: {stopped.kept_in_etcd}. "
                "To delete them: etcdctl del --prefix shardwright/"
            )
    else:
        say(f"The cluster in {place} is stopped." if stopped.was_running else f"The cluster in {place} was not running.")


def _show_up(started: Started, as_json: bool) -> None:
    if not as_json:
        return
    try:
        admin = json.loads(started.layout.admin.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        admin = {}
    shown = {
        "dir": str(started.layout.directory),
        "created": started.is_new,
        "was_running": started.was_running,
        "admin": str(started.layout.admin),
        **{key: admin[key] for key in ("url", "urls", "username") if key in admin},
    }
    if started.password:
        shown["password"] = started.password
    print(json.dumps(shown, indent=2), flush=True)
