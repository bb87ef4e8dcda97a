"""The settings of one node on its machine, as values, and what makes them unusable.

They are what a daemon needs before it can read the store, and nothing that the store knows better. ``settings_text.py`` is
their form in ``node.toml``, ``settings_file.py`` reads and writes that file. Must do no I/O.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from urllib.parse import urlsplit

from shardwright.model.ids import NodeUid

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SETTINGS_FILE = Path("/etc/shardwright/node.toml")
RESERVED_PORTS = range(10_000, 30_000)
"""Databases have the lower half, servers the upper one."""
RUN_DIRECTORY_BYTES_MAX = 66
"""The path of a Unix socket has 107 bytes at most, and the longest name of a socket of a node has 40."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The TCP ports of a node. Those of databases and servers (10000-29999) are the cluster's choice."""

    api: int = 9443
    """The REST API and joins; for operators and nodes."""
    agent: int = 9444
    """The agent; for nodes."""
    control: int = 9445
    """The endpoint process's control channel; for nodes."""
    discovery: int = 8001
    """Where clients ask for the address of a database."""
    store_clients: int = 2379
    """etcd; for nodes. Matters on a node that runs a member of the store."""
    store_members: int = 2380
    """etcd; for the other members of the store."""


@dataclass(frozen=True, slots=True)
class StorePlace:
    """Where the members of the store are, and the files with which this node proves itself to them."""

    endpoints: tuple[str, ...]
    """``https://host:port``, in the order in which they are tried. ``http`` only on loopback."""
    authority: Path | None = None
    """The authority's certificate. The three files belong to ``https``; None: ``http``."""
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Directories:
    """Where the node keeps its files."""

    configuration: Path = Path("/etc/shardwright")
    state: Path = Path("/var/lib/shardwright")
    """What must survive a reboot and an upgrade."""
    run: Path = Path("/run/shardwright")
    """Sockets."""
    log: Path = Path("/var/log/shardwright")

    @property
    def cluster_key(self) -> Path:
        """The key under which secrets in the store are sealed."""
        return self.configuration / "cluster.key"

    @property
    def shards(self) -> Path:
        """Parent of the directories of the node's servers, one for each shard."""
        return self.state / "shards"

    @property
    def etcd(self) -> Path:
        """The data of this node's member of the store, if it runs one."""
        return self.state / "etcd"

    @property
    def endpoint(self) -> Path:
        """Identity and log of the endpoint process."""
        return self.state / "endpoint"

    @property
    def store_endpoints(self) -> Path:
        """What the daemon has learned of the members of the store, for its next start."""
        return self.state / "store-endpoints.json"

    @property
    def backups(self) -> Path:
        """Copies of the cluster's state."""
        return self.state / "backups"


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What a node's daemon needs before it can read the store."""

    node_uid: NodeUid
    addresses: tuple[Address, ...]
    """The node's own addresses. The other nodes reach it at the first one."""
    store: StorePlace
    external_address: Address | None = None
    """Told to clients that come from outside. None: the first address."""
    cluster_network: Network | None = None
    """The network that carries the traffic of the servers, which may be in clear. None: that of the first address."""
    is_public_network_accepted: bool = False
    """Whether the operator accepts that this traffic may pass a public network."""
    ports: Ports = field(default_factory=Ports)
    directories: Directories = field(default_factory=Directories)

    @property
    def address(self) -> Address:
        """The address at which the other nodes reach this one."""
        return self.addresses[0]

    @property
    def server_address(self) -> Address:
        """The address of the node's servers: the first one in the cluster network."""
        return next((a for a in self.addresses if self.cluster_network is None or a in self.cluster_network), self.address)

    @property
    def secret_files(self) -> tuple[Path, ...]:
        """Files that only the daemon's user may read. Not all of them must exist on every node."""
        directory = self.directories.configuration
        usual = (directory / "node-key.pem", directory / "ca-key.pem", self.directories.cluster_key)
        return tuple(dict.fromkeys(path for path in (*usual, self.store.key) if path is not None))


def read_address(text: str) -> Address | None:
    """The IP address in a text; None if the text is something else."""
    try:
        return ip_address(text)
    except ValueError:
        return None


# -- what makes them unusable -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the settings cannot be used."""

    key: str
    """The setting, as in the file: ``ports.api``. Empty: the file as a whole."""
    text: str
    """What is wrong: the end of a sentence that begins with the key."""
    remedy: str


def problems(settings: NodeSettings) -> list[Problem]:
    """Everything that makes the settings unusable, in the order of the file; empty: they can be used."""
    return [
        *_of_node(settings),
        *_of_network(settings),
        *_of_store(settings.store),
        *_of_ports(settings.ports),
        *_of_directories(settings.directories),
    ]


def _of_node(settings: NodeSettings) -> Iterator[Problem]:
    if settings.node_uid < 1:
        yield Problem(
            "node.uid", f"is {settings.node_uid}, but nodes are numbered from 1", "take the number of the node's record"
        )
    if not settings.addresses:
        yield Problem("node.addresses", "names no address", "give an address of this machine")
    for address, count in Counter(settings.addresses).items():
        if count > 1:
            yield Problem("node.addresses", f"names {address} twice", "name each address once")
    external = () if settings.external_address is None else (("node.external_address", settings.external_address),)
    for key, address in (*(("node.addresses", a) for a in dict.fromkeys(settings.addresses)), *external):
        if address.is_unspecified or address.is_multicast or address.is_link_local:
            yield Problem(
                key, f"has {address}, at which no other node can reach this one", "give an address of this machine"
            )


def _of_network(settings: NodeSettings) -> Iterator[Problem]:
    if not settings.addresses:
        return
    network = settings.cluster_network
    if network is not None and not any(a in network for a in settings.addresses):
        yield Problem(
            "network.cluster", f"is {network}, but none of the node's addresses is in it", "add this machine's address in it"
        )
        return
    if settings.server_address.is_global and not settings.is_public_network_accepted:
        yield Problem(
            "network.cluster",
            f"leads the traffic of the servers, which may be in clear, over the public address {settings.server_address}",
            "declare a private network, or set network.accept_public to true",
        )


def _of_store(store: StorePlace) -> Iterator[Problem]:
    key = "store.endpoints"
    if not store.endpoints:
        yield Problem(key, "names no member of the store", "give https://address:2379 of each member")
    for endpoint, count in Counter(store.endpoints).items():
        if count > 1:
            yield Problem(key, f"names {endpoint} twice", "name each member once")
        if (flaw := _flaw_of(endpoint)) is not None:
            yield Problem(key, f"has {endpoint!r}, {flaw}", "write it as https://address:2379")
    schemes = {endpoint.partition("://")[0] for endpoint in store.endpoints}
    if len(schemes) > 1:
        yield Problem(key, "mixes http and https", "use https for all members")
    files = {"authority": store.authority, "certificate": store.certificate, "key": store.key}
    for name, path in files.items():
        if schemes == {"https"} and path is None:
            yield Problem(f"store.{name}", "is missing, but members with https need it", "name the file")
        elif schemes == {"http"} and path is not None:
            yield Problem(f"store.{name}", "is given, but the members are asked without encryption", "use https")
        elif path is not None:
            yield from _of_path(f"store.{name}", path)


def _flaw_of(endpoint: str) -> str | None:
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "which is not an address"
    if parts.scheme not in ("http", "https") or not host or port is None or parts.path or parts.query or parts.fragment:
        return "which is not of the form https://address:port"
    if not endpoint.isprintable() or not endpoint.isascii() or " " in endpoint:
        return "which has characters that no address has"
    if parts.username is not None:
        return "which names a user; the certificate is the permission"
    if parts.scheme == "http" and not _is_loopback(host):
        return "which would carry the cluster's records in clear over a network"
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _of_ports(ports: Ports) -> Iterator[Problem]:
    owner: dict[int, str] = {}
    for name in (f.name for f in fields(ports)):
        port: int = getattr(ports, name)
        key = f"ports.{name}"
        if not 1 <= port <= 65_535:
            yield Problem(key, f"is {port}, which is not a TCP port", "take a port from 1 to 65535")
        elif port in RESERVED_PORTS:
            yield Problem(key, f"is {port}, in the range of databases and servers", "take a port outside 10000-29999")
        elif port in owner:
            yield Problem(key, f"is {port}, like {owner[port]}", "give each its own port")
        owner.setdefault(port, key)


def _of_directories(directories: Directories) -> Iterator[Problem]:
    owner: dict[Path, str] = {}
    for name in (f.name for f in fields(directories)):
        path: Path = getattr(directories, name)
        key = f"directories.{name}"
        yield from _of_path(key, path)
        if path in owner:
            yield Problem(key, f"is {path}, like {owner[path]}", "give each its own directory")
        owner.setdefault(path, key)
    if len(os.fsencode(directories.run)) > RUN_DIRECTORY_BYTES_MAX:
        remedy = f"take a path of at most {RUN_DIRECTORY_BYTES_MAX} bytes"
        yield Problem("directories.run", "is too long for the paths of sockets in it", remedy)


def _of_path(key: str, path: Path) -> Iterator[Problem]:
    if not path.is_absolute() or ".." in path.parts:
        yield Problem(
            key, f"is {str(path)!r}, whose meaning depends on where a process runs", "give an absolute path without .."
        )
    elif not str(path).isprintable():
        yield Problem(key, f"is {str(path)!r}, which has characters that are not printable", "choose another path")
