"""``init`` and ``join``: the commands that make this machine a node of a cluster of machines.

They use ``shardwright.node``, because a machine that is no node has no API. Own the dialog with the user, not the
operations. ``node token`` and ``node leave`` are in ``cli/membership.py``.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from shardwright.cli.access import credentials_file
from shardwright.cli.direct import AsJson, failures, sayer
from shardwright.cli.session import parsed
from shardwright.model.ids import NodeUid
from shardwright.node import services
from shardwright.node.files import service_owner
from shardwright.node.init import CLUSTER_NAME, Founded, InitOptions, found
from shardwright.node.join import Joined, JoinOptions, join
from shardwright.node.preflight import PlaceOptions, look_at_machine
from shardwright.node.services import Say
from shardwright.node.settings import Directories
from shardwright.trust.tokens import read_address, read_ca_hash
from shardwright.units import parse_bytes

_USUAL: Final = Directories()
_INIT_EXAMPLES: Final = """\b
Examples:
  shardwright init --address 10.0.0.1
  shardwright init --address 192.0.2.1 --cluster-network 10.0.0.0/24 --memory 24gb --rack a
"""
_JOIN_EXAMPLES: Final = """\b
Examples:
  shardwright join 10.0.0.1:9443 --token TOKEN --ca-hash sha256:HASH
  shardwright join 10.0.0.1:9443 --token TOKEN --ca-hash sha256:HASH --address 10.0.0.2 --rack b
  shardwright join 10.0.0.1:9443 --token TOKEN --ca-hash sha256:HASH --replace 3
"""

Address = Annotated[
    str | None, typer.Option(metavar="IP", help="Address of this machine for the other nodes [default: its only address].")
]
External = Annotated[str | None, typer.Option(metavar="IP", help="Address for clients that come from outside.")]
Network = Annotated[
    str | None, typer.Option(metavar="CIDR", help="Private network for the traffic between servers, such as 10.0.0.0/24.")
]
Insecure = Annotated[
    bool, typer.Option("--insecure-network", help="Accept that this traffic passes a public network in clear.")
]
Memory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Memory for the databases of this node [default: the machine's, less a reserve]."),
]
Rack = Annotated[str, typer.Option(help="Where the machine is: copies of a rack-aware database never share a rack.")]
NoStart = Annotated[
    bool, typer.Option("--no-start", help="Write the files only, and print the commands that start the node.")
]
ConfigDir = Annotated[Path, typer.Option(metavar="DIR", help="Settings, certificates and keys.")]
StateDir = Annotated[Path, typer.Option(metavar="DIR", help="Data.")]
RunDir = Annotated[Path, typer.Option(metavar="DIR", help="Sockets.")]
LogDir = Annotated[Path, typer.Option(metavar="DIR", help="Logs.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("init", epilog=_INIT_EXAMPLES)(init_command)
    app.command("join", epilog=_JOIN_EXAMPLES)(join_command)


def init_command(
    *,
    address: Address = None,
    name: Annotated[str, typer.Option(help="Name of the cluster.")] = CLUSTER_NAME,
    memory: Memory = None,
    rack: Rack = "",
    external_address: External = None,
    cluster_network: Network = None,
    insecure_network: Insecure = False,
    server: Annotated[str, typer.Option(metavar="auto|valkey|redis|PATH", help="Server program of new databases.")] = "auto",
    ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Certificate of your own authority, PEM [default: a new one is made]."),
    ] = None,
    ca_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Key of your own authority, PEM.")] = None,
    store: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A member of an etcd of your own, https://HOST:PORT; repeat for each."),
    ] = None,
    store_ca: Annotated[Path | None, typer.Option(metavar="FILE", help="Authority of its members' certificates.")] = None,
    store_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate that the nodes show to it.")] = None,
    store_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Key of that certificate.")] = None,
    admin_email: Annotated[
        str, typer.Option(help="E-mail address of the first user, an administrator.")
    ] = "admin@shardwright.local",
    config_dir: ConfigDir = _USUAL.configuration,
    state_dir: StateDir = _USUAL.state,
    run_dir: RunDir = _USUAL.run,
    log_dir: LogDir = _USUAL.log,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Found a cluster of machines: this machine becomes its first node.

    Checks everything before the first change. After an interruption, the same command continues. The administrator's
    password comes from SHARDWRIGHT_ADMIN_PASSWORD or is generated; the commands of this user find it in a private file.
    """
    say = sayer(as_json)
    with failures(as_json):
        place = _place(
            Directories(*(_absolute(path) for path in (config_dir, state_dir, run_dir, log_dir))),
            address=address,
            external_address=external_address,
            cluster_network=cluster_network,
            is_public_network_accepted=insecure_network,
            memory=memory,
            rack=rack,
        )
        options = InitOptions(
            place, name, server, admin_email, ca, ca_key, tuple(store or ()), (store_ca, store_cert, store_key)
        )
        credentials = credentials_file(os.environ)
        founded = found(options, look_at_machine(), os.environ, credentials=credentials, now=datetime.now(UTC))
        _say_founded(founded, credentials, say)
        is_running = _start(founded, say, is_wanted=not no_start)
        if is_running:
            say("The cluster is ready. Next:\n  shardwright node token    prints the line to run on the next machine")
        if as_json:
            print(json.dumps(_shown(founded, is_running) | _admin(founded, credentials), indent=2), flush=True)


def join_command(
    *,
    node: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The API of any node of the cluster.")],
    token: Annotated[str, typer.Option(help="The join token; one token admits one machine.")],
    ca_hash: Annotated[str, typer.Option(metavar="sha256:…", help="Names the authority that the node must show.")],
    address: Address = None,
    memory: Memory = None,
    rack: Rack = "",
    external_address: External = None,
    cluster_network: Network = None,
    insecure_network: Insecure = False,
    replace: Annotated[
        int | None,
        typer.Option(
            metavar="NODE",
            min=1,
            help="Take the place of a node whose machine is off: its rack, its member of the store, and then its copies.",
        ),
    ] = None,
    config_dir: ConfigDir = _USUAL.configuration,
    state_dir: StateDir = _USUAL.state,
    run_dir: RunDir = _USUAL.run,
    log_dir: LogDir = _USUAL.log,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Make this machine a node of a cluster, with the line that `shardwright node token` prints.

    Nothing is sent before the node has shown the expected authority. After an interruption, the same line continues.
    With --replace, the machine gets a number of its own, and the removal of that node begins when this one runs.
    """
    say = sayer(as_json)
    with failures(as_json):
        host, port = read_address(node)
        place = _place(
            Directories(*(_absolute(path) for path in (config_dir, state_dir, run_dir, log_dir))),
            address=address,
            external_address=external_address,
            cluster_network=cluster_network,
            is_public_network_accepted=insecure_network,
            memory=memory,
            rack=rack,
        )
        replaces = None if replace is None else NodeUid(replace)
        options = JoinOptions(host, port, token.strip(), read_ca_hash(ca_hash), place, replaces)
        joined = join(options, look_at_machine(), say=say, now=lambda: datetime.now(UTC))
        uid = joined.settings.node_uid
        if joined.was_member and not joined.is_sure:
            text = f"This machine has the files of node {uid} of the cluster; nothing was changed."
            say(f"{text}\n  If the node was removed from the cluster: shardwright node leave")
        elif joined.was_member:
            say(f"This machine is node {uid} of the cluster already; nothing was changed.")
        else:
            say(f"This machine is node {uid} of the cluster.")
        is_running = _start(joined, say, is_wanted=not no_start)
        if is_running:
            say(f"Node {uid} is active.")
        if is_running and replaces is not None and not joined.was_member:
            text = f"The removal of node {replaces} begins when no other action stands in its way."
            say(f"{text} Watch it on any node: shardwright action list")
        if as_json:
            print(json.dumps(_shown(joined, is_running), indent=2), flush=True)


def _place(directories: Directories, *, memory: str | None, **given: Any) -> PlaceOptions:
    return PlaceOptions(directories=directories, memory_bytes=parsed(parse_bytes, memory), **given)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))


def _start(made: Founded | Joined, say: Say, *, is_wanted: bool) -> bool:
    """Start the node and wait until it serves, where systemd supervises it; otherwise print the commands. Returns whether it
    serves."""
    settings = made.settings
    is_managed = services.is_managed(settings.directories)
    if not is_wanted or not is_managed:
        if made.was_member and services.is_listening(settings):
            say("It runs.")
            return True
        what = "To start the node" if is_managed else "Run, and keep running"
        say(f"{what}:\n" + "\n".join(f"  {line}" for line in _commands(made)))
        return False
    say("starting the node's services")
    services.start_units()
    services.wait_serving(settings, made.authority, say)
    return True


def _say_founded(founded: Founded, credentials: Path, say: Say) -> None:
    uid, address = founded.settings.node_uid, founded.settings.address
    if founded.was_member:
        pending = "; its first start is still to come" if founded.is_pending else ""
        say(f"This machine is node {uid} of a cluster already{pending}; nothing was changed.")
        return
    say(f"This machine, at {address}, is node {uid} of a new cluster. Its authority: {founded.authority.key_hash}")
    if founded.password:
        # Before the wait: a user who interrupts the wait must have seen the password.
        say(f"Administrator: {founded.username}, password: {founded.password}\n  (kept in {credentials})")
    say(f"Keep a copy of {founded.settings.directories.cluster_key}: without it, the secrets in the store are lost.")


def _commands(made: Founded | Joined) -> list[str]:
    return services.start_commands(made.settings.directories, has_member=made.has_member, owner=service_owner())


def _shown(made: Founded | Joined, is_running: bool) -> dict[str, Any]:
    settings = made.settings
    return {
        "node_uid": settings.node_uid,
        "address": str(settings.address),
        "ca_hash": made.authority.key_hash,
        "was_member": made.was_member,
        "runs_store_member": made.has_member,
        "running": is_running,
        "start": [] if is_running else _commands(made),
    }


def _admin(founded: Founded, credentials: Path) -> dict[str, Any]:
    if founded.was_member:
        return {}
    shown: dict[str, Any] = {"username": founded.username, "admin": str(credentials)}
    return shown | ({"password": founded.password} if founded.password else {})
