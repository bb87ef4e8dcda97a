"""``cluster backup``, ``backups`` and ``restore``, and ``node follow-restore``: the cluster's state, kept and brought back.

They act on this machine, because a store without its quorum has no API: as root or as the daemon's user. What they need is
imported when they run. Own the dialog with the user, not the operations.
"""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from shardwright.cli.direct import AsJson, failures, sayer
from shardwright.cli.failure import Exit, Failure, usage
from shardwright.cli.session import Yes
from shardwright.cli.table import table
from shardwright.errors import Refusal, Rejected
from shardwright.model.codes import Code
from shardwright.node.settings import SETTINGS_FILE, NodeSettings
from shardwright.units import format_bytes

if TYPE_CHECKING:
    from shardwright.node.backing_up import Listed
    from shardwright.node.restore import Examined
    from shardwright.node.services import Say
    from shardwright.trust.authority import Authority

Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="The settings of this machine's node.")]
NoStart = Annotated[
    bool, typer.Option("--no-start", help="Write the files only, and print the commands that start the node.")
]
_BACKUP: Final = """\b
Examples:
  shardwright cluster backup
  shardwright cluster backup --to /mnt/safe/cluster.backup
  shardwright cluster backup --own-member      when the store has lost its quorum
"""
_BACKUPS: Final = """\b
Examples:
  shardwright cluster backups
"""
_RESTORE: Final = """\b
Examples:
  shardwright cluster restore /var/lib/shardwright/backups/cluster-20261129T190000Z.backup
"""
_FOLLOW: Final = """\b
Examples:
  shardwright node follow-restore 10.0.0.1
"""


def register_cluster(group: typer.Typer) -> None:
    """Add the commands to the group ``cluster``."""
    group.command("backup", epilog=_BACKUP)(_backup)
    group.command("backups", epilog=_BACKUPS)(_backups)
    group.command("restore", epilog=_RESTORE)(_restore)


def register_node(group: typer.Typer) -> None:
    """Add the command to the group ``node``."""
    group.command("follow-restore", epilog=_FOLLOW)(_follow)


# -- backups -----------------------------------------------------------------------------------------------------------


def _backup(
    *,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to [default: with the hourly ones].")] = None,
    own_member: Annotated[
        bool, typer.Option("--own-member", help="Read this node's member of the store alone: it needs no quorum.")
    ] = False,
    config: Config = SETTINGS_FILE,
    as_json: AsJson = False,
) -> None:
    """Write a backup of the cluster's state: its records, not the data of its databases.

    Each node that runs a member of the store writes one every hour by itself, and keeps 48. Secrets in it are sealed: keep a
    copy of the cluster key (cluster.key) too, in another place.
    """
    with failures(as_json):
        from shardwright.node.backing_up import back_up

        settings = _own(config)
        written = back_up(settings, _absolute(to), now=datetime.now(UTC), alone=own_member)
        shown = _shown(written.header) | {"file": str(written.path), "bytes": written.size_bytes}
        header, size = written.header, format_bytes(written.size_bytes)
        text = f"{written.path}: {header.records} records of {header.cluster} at revision {header.revision}, {size}"
        print(json.dumps(shown, indent=2) if as_json else text, flush=True)


def _backups(*, config: Config = SETTINGS_FILE, as_json: AsJson = False) -> None:
    """List the backups on this machine, the newest last. Each is read and checked as a whole."""
    with failures(as_json):
        from shardwright.node.backing_up import backups_of

        settings = _own(config)
        found = backups_of(settings)
        if as_json:
            print(json.dumps([_listed(one) for one in found], indent=2), flush=True)
        elif found:
            print(table(("FILE", "TIME", "CLUSTER", "RECORDS", "SIZE", "STATE"), [_row(one) for one in found]), flush=True)
        else:
            print(f"There is no backup in {settings.directories.backups}.", flush=True)


def _listed(one: "Listed") -> Mapping[str, object]:
    header: Mapping[str, object] = {} if one.header is None else _shown(one.header)
    return {**header, "file": str(one.path), "bytes": one.size_bytes, "state": one.flaw or "ok"}


def _row(one: "Listed") -> tuple[str, ...]:
    header = one.header
    said = ("-", "-", "-") if header is None else (f"{header.at:%Y-%m-%d %H:%M:%S} UTC", header.cluster, str(header.records))
    return (str(one.path), *said, format_bytes(one.size_bytes), one.flaw or "OK")


def _shown(header: Any) -> dict[str, object]:
    return {
        "cluster": header.cluster,
        "cluster_id": header.cluster_id,
        "cluster_version": header.cluster_version,
        "revision": header.revision,
        "at": header.at.astimezone(UTC).isoformat(),
        "node_uid": header.node_uid,
        "records": header.records,
    }


# -- restore -----------------------------------------------------------------------------------------------------------


def _restore(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup of this cluster.")],
    config: Config = SETTINGS_FILE,
    no_start: NoStart = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Found the cluster's store again on this machine, from a backup. Only for a store that has lost its quorum for good.

    Stop the daemon first: `systemctl stop shardwright-node`. Databases go on serving. Afterwards run `shardwright node
    follow-restore` on each other machine: until then, or until its node is declared off, nothing is decided about databases.
    """
    say = sayer(as_json)
    with failures(as_json):
        from shardwright.node.preflight import look_at_machine
        from shardwright.node.restore import examine, restore

        path = _absolute(file)
        assert path is not None
        examined = examine(_own(config), path, look_at_machine(), say=say, now=datetime.now(UTC))
        say(_consequences(examined))
        _confirm(examined.header.cluster, is_confirmed=yes)
        written = restore(examined, say=say, now=datetime.now(UTC))
        if written.moved_to is not None:
            say(f"The data of the earlier member of the store are in {written.moved_to}.")
        is_running, commands = _start(written.settings, say, has_member=True, is_wanted=not no_start)
        address = written.settings.address
        if is_running:
            say("The cluster's records are back on this node.")
        say(f"Next, on each other machine of the cluster:\n  shardwright node follow-restore {address}")
        if as_json:
            print(json.dumps(_restored(examined, written.moved_to, commands, is_running), indent=2), flush=True)


def _consequences(examined: "Examined") -> str:
    header, raised = examined.header, examined.raised
    silent = [f"  {one.endpoint}: {one.why_not or 'it has no records'}" for one in examined.members]
    ended = len(raised.actions) + len(raised.moves)
    return "\n".join(
        [
            f"The backup: cluster {header.cluster} at {header.at:%Y-%m-%d %H:%M:%S} UTC, {header.records} records.",
            f"Databases in it: {', '.join(raised.databases) or 'none'}.",
            "What was changed later is lost: databases, users, passwords, settings and nodes that were added since.",
            *([f"{ended} actions and moves that were under way end as failed."] if ended else []),
            "No member of the store answers with a quorum:",
            *silent,
            "If members that do not answer here run and reach each other, the cluster works there: then stop now.",
            "Their machines must not start them again before they have followed this restore.",
        ]
    )


def _confirm(cluster: str, *, is_confirmed: bool) -> None:
    """The name of the cluster as the operator types it. Raises Failure."""
    if is_confirmed:
        return
    if not sys.stdin.isatty():
        raise usage("A restore needs a confirmation, and there is no terminal.", remedy="confirm with --yes")
    typed = str(typer.prompt("Type the name of the cluster to restore it", err=True)).strip()
    if typed != cluster:
        raise Failure(Exit.FAILED, "not_confirmed", f"{typed!r} is not the name of the cluster: nothing was done")


def _restored(examined: "Examined", moved_to: Path | None, commands: list[str], is_running: bool) -> dict[str, object]:
    return _shown(examined.header) | {
        "restored_on": examined.settings.node_uid,
        "ended_actions": list(examined.raised.actions),
        "ended_moves": list(examined.raised.moves),
        "moved_to": None if moved_to is None else str(moved_to),
        "running": is_running,
        "start": commands,
    }


def _follow(
    *,
    host: Annotated[str, typer.Argument(metavar="ADDRESS", help="The machine on which `cluster restore` ran.")],
    config: Config = SETTINGS_FILE,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """After `cluster restore` on another machine: let this machine's node go on with the restored store.

    The node's servers run all the time. Its daemon starts again, says what runs on this machine, and corrects the records by
    that. Its member of the store begins again without data. May be repeated.
    """
    say = sayer(as_json)
    with failures(as_json):
        from shardwright.node.follow import follow
        from shardwright.node.preflight import look_at_machine

        settings = _own(config)
        endpoint = _endpoint(host, settings)
        has_program = look_at_machine().has_store_program
        followed = follow(settings, endpoint, has_program=has_program, say=say, now=datetime.now(UTC))
        if followed.moved_to is not None:
            say(f"The data of the earlier member of the store are in {followed.moved_to}.")
        is_running, commands = _start(followed.settings, say, has_member=followed.has_member, is_wanted=not no_start)
        uid = settings.node_uid
        if is_running:
            say(f"Node {uid} is active.")
        shown = {
            "node_uid": uid,
            "store": list(followed.settings.store.endpoints),
            "runs_store_member": followed.has_member,
            "moved_to": None if followed.moved_to is None else str(followed.moved_to),
            "running": is_running,
            "start": commands,
        }
        if as_json:
            print(json.dumps(shown, indent=2), flush=True)


# -- this machine ------------------------------------------------------------------------------------------------------


def _own(config: Path) -> NodeSettings:
    """The settings of this machine's node. Raises Rejected."""
    from shardwright.cli.own_node import settings_of_own

    try:
        return settings_of_own(config)
    except Rejected as e:
        if e.code != Code.NODE_SETTINGS_ABSENT:
            raise
        code = Code.BACKUP_NOT_SUPPORTED
        text = f"this machine is no node of a cluster of machines: {config} does not exist"
        raise Rejected(Refusal.NOT_FOUND, code, text, remedy=code.remedy) from None


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else Path.cwd() / path.expanduser()


def _endpoint(host: str, settings: NodeSettings) -> str:
    """Where the store's member on that machine serves clients. Every node has the same ports. Raises Failure (usage)."""
    from shardwright.node.etcd_config import client_url
    from shardwright.node.settings import read_address

    address = read_address(host)
    if address is None:
        raise usage(f"{host!r} is not an IP address", remedy="give the address that `cluster restore` has printed")
    return client_url(address, settings.ports.store_clients)


def _start(settings: NodeSettings, say: "Say", *, has_member: bool, is_wanted: bool) -> tuple[bool, list[str]]:
    """Start the node and wait until it serves, where systemd supervises it; otherwise print the commands. Returns whether it
    serves, and the commands if not."""
    from shardwright.node import services
    from shardwright.node.files import service_owner

    if is_wanted and services.is_managed(settings.directories):
        say("starting the node's services")
        services.start_units()
        services.wait_serving(settings, _authority(settings), say)
        return True, []
    commands = services.start_commands(settings.directories, has_member=has_member, owner=service_owner())
    say("To start the node:\n" + "\n".join(f"  {line}" for line in commands))
    return False, commands


def _authority(settings: NodeSettings) -> "Authority":
    from shardwright.trust.authority import read_authority

    return read_authority((settings.directories.configuration / "ca.pem").read_bytes())
