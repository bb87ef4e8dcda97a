"""What a check of the nodes knows and what it finds: values that agents, the API and the judgment share.

Pure data. ``plan/node_check.py`` judges the facts. ``docs/reference/checks.md`` is generated from the codes.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from shardwright.model.catalogue import Catalogue
from shardwright.model.ids import NodeUid

# -- facts -----------------------------------------------------------------------------------------------------------------


class PortUse(StrEnum):
    """What a port of a node is for."""

    API = "api"
    AGENT = "agent"
    CONTROL = "control"
    STORE = "store"
    """Of a member of the store, for daemons."""
    STORE_MEMBERS = "store_members"
    """Of a member of the store, for the other members."""
    DATABASES = "databases"
    """One of 10000-19999, opened for the check."""
    SERVERS = "servers"
    """One of 20000-29999, opened for the check."""


class Reach(StrEnum):
    """What became of an attempt to connect."""

    OPEN = "open"
    REFUSED = "refused"
    """The machine, or a firewall in its name, refused at once."""
    NO_ANSWER = "no_answer"
    """Nothing came back in time."""
    NO_ROUTE = "no_route"
    """The network, or a firewall, says that the address cannot be reached."""


@dataclass(frozen=True, slots=True)
class PortOffer:
    """A port at which a node accepts other nodes."""

    use: PortUse
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class PortLook:
    """What became of one attempt to connect to a port of another node."""

    node_uid: NodeUid
    """The node to which it is."""
    offer: PortOffer
    reach: Reach
    text: str = ""
    """The system's words; empty: none."""


@dataclass(frozen=True, slots=True)
class CertificateEnd:
    """When a certificate of a node ends."""

    name: str
    """``node``, ``store``, ``api`` or ``authority``."""
    at: datetime


@dataclass(frozen=True, slots=True)
class EtcdFacts:
    """The etcd program of a node that runs a member of the store."""

    version: str
    """Empty: unknown."""
    is_suitable: bool
    """Whether an etcd of this version can be the store."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the agent of a node says of its machine."""

    at: datetime
    """By the machine's own clock, at the end of the collection."""
    took_s: float
    """Duration of the collection."""
    version: str
    """Of Shardwright."""
    servers: tuple[tuple[str, str], ...]
    """Kind and version of each server program."""
    files_max: int
    """The highest number of files that a process of the node may open."""
    disk_total_bytes: int
    disk_free_bytes: int
    """Of the file system with the node's state."""
    sync_p99_ms: float | None = None
    """Of small writes to the disk with the node's state. None: not measured."""
    local_ports: tuple[int, int] | None = None
    """First and last port that the kernel gives to outgoing connections. None: unknown."""
    reserved_ports: tuple[tuple[int, int], ...] = ()
    """The ports that it leaves out."""
    certificates: tuple[CertificateEnd, ...] = ()
    etcd: EtcdFacts | None = None
    """None: the node runs no member of the store."""
    offers: tuple[PortOffer, ...] = ()
    """Where the node accepts other nodes now. Empty: the nodes share a machine."""
    interfaces: tuple[str, ...] = ()
    """The network interfaces of the machine."""
    may_move_addresses: bool = True
    """Whether the daemon has the capabilities that virtual addresses need."""
    unusable: tuple[tuple[PortOffer, str], ...] = ()
    """Addresses on which no port could be opened for the check, with the system's words."""


@dataclass(frozen=True, slots=True)
class Checked:
    """All that a check knows of one node."""

    uid: NodeUid
    address: str
    facts: NodeFacts | None
    """None: its agent has not answered."""
    silence: str = ""
    """Why it has not answered."""
    clock_ahead_s: float = 0.0
    """Of the clock of the node that asks; negative: behind. Meaningless without facts."""
    clock_uncertain_s: float = 0.0
    """Half the round trip: the difference may be larger or smaller by this."""
    looks: tuple[PortLook, ...] = ()
    """Its attempts to connect to other nodes."""


# -- findings --------------------------------------------------------------------------------------------------------------


class CheckGrade(StrEnum):
    """How serious a finding is."""

    WARNING = "warning"
    """It works, but may not for long, or not well."""
    FAILED = "failed"
    """Something does not work."""


class CheckCode(Catalogue):
    """What a check may find, with its meaning and its smallest remedy."""

    NODE_SILENT = "node_silent", "The agent of the node does not answer.", "start the daemon of the node"
    PORT_REFUSED = (
        "port_refused",
        "A node refuses a connection from another node.",
        "start what listens there, or open the port",
    )
    PORT_NO_ANSWER = "port_no_answer", "A connection from one node to another is not answered.", "open the port"
    PORT_NO_ROUTE = (
        "port_no_route",
        "The network does not lead from one node to another.",
        "repair the route, or open the port",
    )
    ADDRESS_UNUSABLE = (
        "address_unusable",
        "A node cannot listen at an address of its own.",
        "give the address to the machine, or correct node.toml",
    )
    CLOCK_DIFFERS = "clock_differs", "The clocks of two nodes differ.", "synchronize the clocks, for instance with chrony"
    DISK_SLOW = "disk_slow", "Small synchronous writes to the disk of the state are slow.", "use a faster disk for the state"
    DISK_FULL = "disk_full", "Little space is free on the disk of the state.", "free space, or enlarge the disk"
    VERSIONS_DIFFER = "versions_differ", "The nodes run different versions of Shardwright.", "finish the upgrade"
    SERVER_MISSING = "server_missing", "A node lacks the server program of a database.", "install it"
    ETCD_UNSUITABLE = (
        "etcd_unsuitable",
        "This version of etcd cannot be the store.",
        "install etcd 3.4.23 or newer of 3.4, or 3.5.3 or newer of 3.5",
    )
    FILES_FEW = (
        "files_few",
        "A process of the node may open too few files.",
        "raise LimitNOFILE of its unit (`ulimit -Hn`)",
    )
    CERTIFICATE_ENDS = (
        "certificate_ends",
        "A certificate ends soon.",
        "let a node with the authority's key run: it renews them",
    )
    CERTIFICATE_ENDED = "certificate_ended", "A certificate has expired.", "join again in the node's place"
    INTERFACE_MISSING = (
        "interface_missing",
        "A node lacks the network interface of a virtual address.",
        "give the interface the same name on every node",
    )
    CAPABILITY_MISSING = (
        "capability_missing",
        "The daemon of a node may not add virtual addresses.",
        "install virtual-address.conf for shardwright-node.service, and restart the daemon",
    )
    PORTS_NOT_RESERVED = (
        "ports_not_reserved",
        "The kernel may give ports of databases and servers to outgoing connections.",
        "sysctl -w net.ipv4.ip_local_reserved_ports=10000-29999",
    )


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check has found at a node."""

    code: CheckCode
    grade: CheckGrade
    node_uid: NodeUid
    text: str
    remedy: str
    from_uid: NodeUid | None = None
    """The node from which a connection comes; None: only one node is concerned."""
