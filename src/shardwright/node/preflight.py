"""What must be right on a machine before it becomes a node: its addresses, ports, directories and programs.

Called by ``init`` and ``join`` before their first change. Changes nothing. Decisions are functions of values; the few
functions that look at the machine say so.
"""

import os
import re
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

from shardwright.agent.launch import check_port
from shardwright.errors import Permanent, Refusal, Rejected
from shardwright.machine.addresses import is_own_address, own_addresses
from shardwright.machine.figures import read_figures
from shardwright.machine.processes import machine_id
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.node.etcd_config import metrics_port
from shardwright.node.founding import Place, default_memory, members_store, settings_of
from shardwright.node.settings import Address, Directories, Network, Ports, problems
from shardwright.server.binaries import ServerBinary, all_servers
from shardwright.store.etcd_identity import is_suitable

MEMORY_BYTES_MIN: Final = 16 * 1024 * 1024
STORE_PROGRAM: Final = Path("/usr/bin/etcd")
"""Where the package of the distribution puts it; the service manager's unit names the same."""
_STORE_VERSION = re.compile(r"etcd Version: (\S+)")
_VERSION_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class PlaceOptions:
    """What an operator may say about the place of a node."""

    address: str | None = None
    """None: the only address of the machine."""
    external_address: str | None = None
    cluster_network: str | None = None
    is_public_network_accepted: bool = False
    memory_bytes: int | None = None
    """None: the machine's, less a reserve."""
    rack: str = ""
    directories: Directories = field(default_factory=Directories)
    ports: Ports = field(default_factory=Ports)


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine is."""

    machine_id: str
    addresses: tuple[Address, ...]
    memory_bytes: int
    servers: tuple[ServerBinary, ...]
    store_version: str
    """Of its etcd; empty: it has none."""

    @property
    def has_store_program(self) -> bool:
        """Whether its etcd can run a member of the store."""
        return is_suitable(self.store_version)


def look_at_machine() -> Machine:
    """This machine."""
    return Machine(
        machine_id(),
        own_addresses(),
        read_figures(Path("/")).memory_total_bytes,
        all_servers(),
        store_version(STORE_PROGRAM),
    )


def store_version(program: Path) -> str:
    """The version of the etcd at that path; empty if there is none that runs."""
    try:
        done = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = _STORE_VERSION.search(done.stdout.decode(errors="replace"))
    return found[1] if found is not None else ""


# -- where -------------------------------------------------------------------------------------------------------------


def place_of(options: PlaceOptions, own: Sequence[Address]) -> Place:
    """The place that the options and the machine's own addresses give. Raises Rejected."""
    network = None if options.cluster_network is None else _network(options.cluster_network)
    first = _address("--address", options.address) if options.address is not None else _only(own)
    addresses = [first]
    if network is not None and first not in network:
        inside = [address for address in own if address in network]
        if not inside:
            raise invalid(f"--cluster-network {network}: this machine has no address in it", remedy=_choose(own))
        addresses.append(inside[0])
    external = None if options.external_address is None else _address("--external-address", options.external_address)
    place = Place(
        tuple(addresses), external, network, options.is_public_network_accepted, options.ports, options.directories
    )
    # With any uid and store: those are not the operator's.
    found = problems(settings_of(NodeUid(1), place, members_store(place, ("https://127.0.0.1:2379",))))
    if found:
        text = "; ".join(f"{_OPTIONS.get(p.key, p.key)} {p.text}" for p in found)
        remedies = dict.fromkeys(p.remedy.replace("set network.accept_public to true", "--insecure-network") for p in found)
        raise invalid(text, remedy="; ".join(remedies))
    return place


def check_place(place: Place) -> None:
    """Whether this machine has the addresses. Looks at the machine. Raises Rejected."""
    for address in place.addresses:
        if not is_own_address(address):
            raise invalid(f"{address} is not an address of this machine", remedy=_choose(own_addresses()))


def memory_of(options: PlaceOptions, total_bytes: int) -> int:
    """The memory that the node offers. Raises Rejected."""
    wished = default_memory(total_bytes) if options.memory_bytes is None else options.memory_bytes
    if wished < MEMORY_BYTES_MIN:
        raise invalid(f"--memory: {wished} bytes are too little", remedy="for instance 4gb")
    if wished > total_bytes:
        raise invalid(f"--memory: this machine has {total_bytes} bytes, fewer than {wished}", remedy="give less")
    return wished


_OPTIONS: Final = {
    "node.addresses": "--address",
    "node.external_address": "--external-address",
    "network.cluster": "--cluster-network",
    "directories.configuration": "--config-dir",
    "directories.state": "--state-dir",
    "directories.run": "--run-dir",
    "directories.log": "--log-dir",
}


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        raise invalid(f"--cluster-network {text!r} is not a network", remedy="for instance 10.0.0.0/24") from None


def _address(option: str, text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise invalid(f"{option} {text!r} is not an IP address", remedy="for instance 10.0.0.1") from None


def _only(own: Sequence[Address]) -> Address:
    if len(own) != 1:
        said = "no address that others could reach" if not own else "several addresses"
        raise invalid(f"this machine has {said}", remedy=_choose(own))
    return own[0]


def _choose(own: Sequence[Address]) -> str:
    return f"--address with one of {', '.join(map(str, own))}" if own else "--address with an address of this machine"


def invalid(text: str, *, remedy: str = "") -> Rejected:
    """A refusal for a cause that the user can change."""
    return Rejected(Refusal.INVALID, "invalid_option", text, remedy=remedy)


# -- ports and directories ---------------------------------------------------------------------------------------------


def ports_of(place: Place, *, with_store: bool) -> dict[int, str]:
    """The ports that the node's programs will listen at, with what for."""
    ports = place.ports
    found = {ports.api: "the API", ports.agent: "the agent", ports.control: "the endpoint process"}
    if with_store:
        found |= {ports.store_clients: "the store", ports.store_members: "the store's members"}
    return found


def check_ports(place: Place, *, with_store: bool) -> None:
    """Whether they are free. Looks at the machine. Raises Rejected ``port_in_use``."""
    _check_free(_listeners(place, with_store=with_store))


def why_no_member(place: Place) -> str:
    """Why this machine can run no member of the cluster's store: something has one of its ports, perhaps an etcd of the
    operator's own. Empty: they are free. Looks at the machine."""
    others = _listeners(place, with_store=False)
    try:
        _check_free([one for one in _listeners(place, with_store=True) if one not in others])
    except Rejected as e:
        return e.text
    return ""


def _listeners(place: Place, *, with_store: bool) -> list[tuple[str, int, str]]:
    """Address, port and purpose."""
    address = str(place.addresses[0])
    found = [(address, port, what) for port, what in ports_of(place, with_store=with_store).items()]
    if with_store:
        settings = settings_of(NodeUid(1), place, members_store(place, ()))
        local = address if place.addresses[0].is_loopback else "127.0.0.1"
        found.append((local, metrics_port(settings), "the store's figures"))
    return found


def _check_free(wanted: Sequence[tuple[str, int, str]]) -> None:
    for at, port, what in wanted:
        try:
            check_port(at, port)
        except Permanent as e:
            remedy = f"find it: ss -tlnp 'sport = :{port}', and end it; or give another --address"
            raise Rejected(Refusal.CONFLICT, e.code, f"{what} cannot listen: {e.text}", remedy=remedy) from e


def check_directories(directories: Directories) -> None:
    """Whether the node's files can be kept there, and none of another node are there. Looks at the disk. Raises Rejected."""
    wanted = {
        "--config-dir": directories.configuration,
        "--state-dir": directories.state,
        "--run-dir": directories.run,
        "--log-dir": directories.log,
    }
    for option, path in wanted.items():
        _check_directory(option, path)
    for path in (directories.etcd / "member", directories.shards):
        if path.is_dir() and any(path.iterdir()):
            text = f"{path} has the files of an earlier node"
            raise Rejected(Refusal.CONFLICT, Code.NODE_EXISTS, text, remedy=f"move them away: {path}")


def _check_directory(option: str, path: Path) -> None:
    existing = path
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise invalid(f"{option} {path}: {existing} is not a directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        remedy = "run the command as root (sudo)" if os.geteuid() != 0 else "choose another directory"
        raise invalid(f"{option} {path}: you cannot write in {existing}", remedy=remedy)
    mode = existing.stat().st_mode
    if existing == path and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise invalid(f"{option} {path}: other users can write there", remedy=f"chmod o-w {path}")


# -- programs ----------------------------------------------------------------------------------------------------------


def check_store_program(version: str) -> None:
    """Whether an etcd of this version (empty: none) can run the first member of the store. Raises Rejected."""
    if not version:
        raise Rejected(
            Refusal.NOT_ACCEPTABLE, Code.STORE_UNFIT, f"there is no etcd at {STORE_PROGRAM}", remedy=Code.STORE_UNFIT.remedy
        )
    if not is_suitable(version):
        code = Code.STORE_VERSION_UNSUITABLE
        text = f"the etcd at {STORE_PROGRAM} has version {version}, which cannot be the store"
        raise Rejected(Refusal.NOT_ACCEPTABLE, code, text, remedy=code.remedy)
