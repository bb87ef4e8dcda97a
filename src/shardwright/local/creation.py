"""Creates a local cluster: all checks come first, then one store transaction; a refusal leaves nothing behind.

Called by ``up`` on a directory without a cluster; the lock is held from the first change on.
"""

import ipaddress
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from shardwright import __version__
from shardwright.agent.launch import check_port
from shardwright.errors import Permanent, Refusal, Rejected
from shardwright.local.access import ensure_key, store_settings
from shardwright.local.layout import Layout, make_run_directory
from shardwright.local.tls import ensure_certificate
from shardwright.machine.files import make_private_directory, write_private
from shardwright.model.account import ManagementRole, User, is_email
from shardwright.model.cluster import Cluster, Counters, Node, Policy
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import NodeUid, UserUid
from shardwright.model.version import CLUSTER_VERSION
from shardwright.passwords import PASSWORD_VARIABLE, first_password, hash_password
from shardwright.server.binaries import ServerBinary, choose_server
from shardwright.store.founding import first_transaction, founding_items
from shardwright.store.keys import StoredRecord
from shardwright.store.open import open_store
from shardwright.store.protocol import Transaction
from shardwright.store.seal import Sealing

__all__ = ["PASSWORD_VARIABLE", "CheckedOptions", "UpOptions", "check", "check_addresses", "create", "invalid"]

CLUSTER_NAME = "shardwright.local"
NODES_MAX = 32
"""Each node is a separate Python process on this machine."""
NODE_MEMORY_MIN = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The options of ``up``. If the cluster exists, only ``directory`` has an effect."""

    directory: Path
    nodes: int = 3
    node_memory_bytes: int = 4 << 30
    racks: tuple[str, ...] = ()
    api_port: int = 9443
    endpoint_address: str = "127.0.0.1"
    address_base: str = "127.0.0.1"
    server: str = "auto"
    """``auto``, ``valkey``, ``redis`` or the path of a server program."""
    admin_email: str = "admin@shardwright.local"
    node_settings: Path | None = None
    """Where this machine's settings are if it is a node of a cluster of machines; None: not checked."""


@dataclass(frozen=True, slots=True)
class CheckedOptions:
    """Options that have passed all checks."""

    options: UpOptions
    addresses: tuple[str, ...]
    server: ServerBinary
    server_path: str
    """The requested path; empty: search the usual places."""
    password: str = field(repr=False)
    is_generated: bool = False


def invalid(text: str, *, remedy: str = "") -> Rejected:
    """A refusal for a cause that the user can change."""
    return Rejected(Refusal.INVALID, "invalid_option", text, remedy=remedy)


def check(options: UpOptions, layout: Layout, environment: Mapping[str, str]) -> CheckedOptions:
    """All checks, before the first change. Raises Rejected."""
    _check_is_no_node(options.node_settings)
    if not 1 <= options.nodes <= NODES_MAX:
        raise invalid(f"--nodes {options.nodes}: a local cluster has 1 to {NODES_MAX} nodes")
    if options.node_memory_bytes < NODE_MEMORY_MIN:
        raise invalid(f"--node-memory: {options.node_memory_bytes} bytes are too little", remedy="for instance 4gb")
    if options.racks and (len(options.racks) != options.nodes or not all(options.racks)):
        raise invalid(
            f"--rack names {len(options.racks)} racks for {options.nodes} nodes", remedy="one name per node: a,b,c"
        )
    if not 1 <= options.api_port <= 65535:
        raise invalid(f"--api-port {options.api_port} is not a port")
    if not is_email(options.admin_email):
        raise invalid(f"--admin-email {options.admin_email!r} is not an e-mail address")
    _check_directory(layout)
    addresses = _addresses(options)
    server, server_path = choose_server(options.server)
    password, is_generated = first_password(environment)
    check_addresses(addresses, options.api_port)
    _check_endpoint_address(options.endpoint_address)
    return CheckedOptions(options, addresses, server, server_path, password, is_generated)


def check_addresses(addresses: tuple[str, ...], api_port: int) -> None:
    """Check that a daemon can listen at each of these addresses. Raises Rejected."""
    for address in addresses:
        try:
            check_port(address, api_port)
        except Permanent as e:
            remedy = (
                "choose another --api-port or --address-base" if e.code == "port_in_use" else "choose another --address-base"
            )
            if api_port < 1024 and os.getuid() != 0:
                remedy = "choose an --api-port above 1023"
            raise Rejected(Refusal.CONFLICT, e.code, f"the API cannot listen: {e.text}", remedy=remedy) from e


def _check_is_no_node(settings: Path | None) -> None:
    """A local cluster would take the ports of this machine's node, and its user's commands would go to the local cluster."""
    if settings is not None and os.path.exists(settings):
        text = f"this machine is a node of a cluster of machines ({settings}): `up` creates no local cluster here"
        remedy = (
            "to start the node: systemctl start shardwright.target; to take it out of its cluster: shardwright node leave"
        )
        raise Rejected(Refusal.CONFLICT, "machine_is_node", text, remedy=remedy)


def _check_directory(layout: Layout) -> None:
    """DIR, or the nearest existing parent, must be a directory in which only this user can write."""
    directory = layout.directory
    if "\n" in str(directory):
        raise invalid("--dir: the path contains a line break")
    existing = directory
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise invalid(f"--dir {directory}: {existing} is not a directory in which you can write")
    if existing == directory and stat.S_IMODE(directory.stat().st_mode) & 0o022:
        raise invalid(
            f"--dir {directory}: other users can write there",
            remedy=f"chmod go-w {directory}, or choose a directory below it",
        )


def _addresses(options: UpOptions) -> tuple[str, ...]:
    try:
        first = ipaddress.IPv4Address(options.address_base)
    except ValueError:
        raise invalid(
            f"--address-base {options.address_base!r} is not an IPv4 address", remedy="for instance 127.0.0.1"
        ) from None
    addresses = [ipaddress.IPv4Address(int(first) + n) for n in range(options.nodes)]
    network = ipaddress.IPv4Network("127.0.0.0/8")
    if not all(a in network and a not in (network.network_address, network.broadcast_address) for a in addresses):
        raise invalid(
            f"--address-base {first}: {options.nodes} consecutive addresses must be in 127.0.0.0/8: the nodes of a local "
            "cluster share this machine"
        )
    return tuple(str(a) for a in addresses)


def _check_endpoint_address(text: str) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise invalid(f"--endpoint-address {text!r} is not an IP address") from None
    if address.is_unspecified or address.is_multicast:
        raise invalid(f"--endpoint-address {text}: give one address of this machine, which clients can reach")
    try:
        check_port(text, 0)
    except Permanent as e:
        raise invalid(f"--endpoint-address {text}: this machine does not have this address") from e


# -- creation --------------------------------------------------------------------------------------------------------------


async def create(checked: CheckedOptions, layout: Layout, environment: Mapping[str, str]) -> None:
    """Create the cluster. The directory exists and its lock is held. Raises Rejected, Permanent, OSError, StoreUnavailable;
    the caller then deletes everything that was created."""
    options = checked.options
    now = datetime.now(UTC)
    make_run_directory(layout, environment)
    make_private_directory(layout.logs)
    make_private_directory(layout.nodes)
    ensure_certificate(layout.tls, checked.addresses, now)
    urls = [f"https://{a}:{options.api_port}" for a in checked.addresses]
    admin = {"url": urls[0], "urls": urls, "username": options.admin_email, "password": checked.password}
    # Before the cluster exists: a crash in between must not leave a cluster with an unknown password.
    write_private(layout.admin, (json.dumps(admin, indent=2) + "\n").encode())
    sealing = ensure_key(layout)
    store = await open_store(store_settings(layout))
    try:
        result = await store.transact(_first_transaction(checked, now, sealing))
    finally:
        await store.close()
    if not result.succeeded:
        raise Rejected(Refusal.CONFLICT, "cluster_exists", f"{layout.directory} already holds a cluster")


def _first_transaction(checked: CheckedOptions, now: datetime, sealing: Sealing) -> Transaction:
    options = checked.options
    cluster = Cluster(
        CLUSTER_NAME,
        now,
        options.endpoint_address,
        options.api_port,
        options={
            "server_kind": str(checked.server.kind),
            "server_version": checked.server.version,
            "server_path": checked.server_path,
        },
        cluster_version=CLUSTER_VERSION,
        prepared_for=__version__,
    )
    nodes = [
        Node(
            NodeUid(number),
            address,
            now,
            rack=options.racks[number - 1] if options.racks else "",
            memory_bytes=options.node_memory_bytes,
        )
        for number, address in enumerate(checked.addresses, 1)
    ]
    user = User(
        uid=UserUid(1),
        email=options.admin_email,
        name="administrator",
        role=ManagementRole.ADMIN,
        password_hash=hash_password(checked.password),
        created_at=now,
        password_changed_at=now,
    )
    event = Event(now, EventKind.CLUSTER_CREATED, Severity.INFO, f"a local cluster of {len(nodes)} nodes was created")
    made: list[StoredRecord] = [cluster, Policy(), Counters(next_node=len(nodes) + 1, next_user=2), *nodes, user, event]
    return first_transaction(founding_items(made, sealing, random_text=partial(secrets.token_hex, 4)))
