"""All state of a simulation, and the parts' access to it. Owns the seed, the log and the look-ups.

The parts report events to the world (``server_died``, ``acknowledged``, ``command``), which reports them to the checker and
to armed faults.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from shardwright.leader.candidate import LeaseTimes
from shardwright.leader.loop import Pace
from shardwright.model.ids import GroupUid, database_of
from shardwright.model.view import ClusterView
from shardwright.store.keys import StoredRecord
from shardwright.store.mirror import Mirror, decode_item
from shardwright.store.protocol import KeyValue
from sim.history import Position
from sim.lease import BootClocks
from sim.loop import SimLoop
from sim.machines import Machines, SimMachine
from sim.network import Network
from sim.node import SimNode
from sim.server import SimServer
from sim.store import CentralStore

if TYPE_CHECKING:
    from sim.checker import Checker
    from sim.clients import Client
    from sim.daemon import SimDaemon
    from sim.endpoints import SimEndpointProcess
    from sim.served import Served
    from sim.writers import Writers

VIEWS_KEPT = 16
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True, eq=False)
class WriteAttempt:
    """One write of a client."""

    number: int
    database_uid: int
    served: "Served | None" = None
    held_at: float = -1.0
    is_answered: bool = False
    sent_at: float = 0.0
    client: "Client | None" = None
    """The connection that sent it; None: a connection of its own."""
    hides_refusal: bool = False
    """A script that catches its errors: refused while it runs, it answers as if it had written."""


class StoreClock:
    """The store's own clock: monotonic time only."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.now)

    def monotonic(self) -> float:
        return self._loop.now

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("the central store waits for nothing")


@dataclass(slots=True)
class Tally:
    """Events, for the report."""

    faults: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    clients: Counter[str] = field(default_factory=Counter)
    """Errors and ended connections that clients observed, by cause."""
    transitions: Counter[str] = field(default_factory=Counter)


class World:
    """See the module's docstring."""

    checker: "Checker"
    writers: "Writers"

    def __init__(self, seed: int, *, keeps_log: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.loop = SimLoop()  # type: ignore[abstract]
        self.network = Network(self.loop, self.rng)
        self.store = CentralStore(StoreClock(self.loop), self.loop)
        self.store.on_batch.append(lambda changes: self.checker.committed(changes))
        self.tally = Tally()
        self.nodes: dict[int, SimNode] = {}
        self.servers: dict[tuple[str, int], SimServer] = {}
        self.all_servers: list[SimServer] = []
        """Every server that ever ran, in the order of starts."""
        self.times = LeaseTimes()
        self.pace = Pace()
        self.replication_lag_s = 0.002
        self.sync_base_s = 0.3
        self.sync_hangs_until = 0.0
        self.sync_fails_until = 0.0
        self.late_until = 0.0
        self.lines: list[str] | None = [] if keeps_log else None
        self._digest = hashlib.sha256()
        self._numbers: Counter[str] = Counter()
        self._session = 0
        self.machines = Machines()
        self.boot_clocks = BootClocks(self)
        self._decoded: dict[tuple[str, int], StoredRecord | None] = {}
        self._views: dict[int, ClusterView] = {}
        self.kept_back = ""
        """The next command with this name stays in transit until the network lets it arrive."""
        self.on_point: list[Callable[[SimDaemon | None, str], None]] = []
        self.on_command: list[Callable[[SimDaemon | None, str, str], None]] = []

    # -- names, log ----------------------------------------------------------------------------------------------------

    def log(self, text: str, *, quiet: bool = False) -> None:
        """Add a line to the log. Its digest shows whether two runs were the same. ``quiet`` lines count but are not
        shown."""
        line = f"{self.loop.now:11.4f} {text}"
        self._digest.update(line.encode())
        if self.lines is not None and not quiet:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        """Digest of all events so far."""
        return self._digest.hexdigest()[:16]

    def new_id(self, kind: str) -> str:
        """A name that is unique in this simulation."""
        self._numbers[kind] += 1
        return f"{kind}-{self._numbers[kind]}"

    def next_session(self) -> int:
        """The number of the next management session."""
        self._session += 1
        return self._session

    def random_text(self) -> str:
        """Like secrets.token_hex(4)."""
        return f"{self.rng.getrandbits(32):08x}"

    def decode(self, item: KeyValue) -> StoredRecord | None:
        """Records are values: all mirrors of this store share them."""
        key = (item.key, item.modify_revision)
        if key not in self._decoded:
            self._decoded[key] = decode_item(item)
        return self._decoded[key]

    def view_of(self, mirror: Mirror) -> ClusterView:
        """``mirror.view()``, created once for all mirrors with the same revision."""
        view = self._views.get(mirror.revision)
        if view is None:
            view = self._views[mirror.revision] = mirror.view()
            if len(self._views) > VIEWS_KEPT:
                del self._views[next(iter(self._views))]
        return view

    # -- look-ups ------------------------------------------------------------------------------------------------------

    def listener(self, address: str, port: int) -> SimServer | None:
        """The server that listens at this address and port."""
        return self.servers.get((address, port))

    def machine_of(self, node: int) -> SimMachine:
        """The machine of a node."""
        return self.machines.of(node)

    def share_machine(self, node: int, other: int) -> bool:
        """Whether two nodes are on one machine."""
        return self.machines.of(node) is self.machines.of(other)

    def node_at(self, address: str) -> int:
        """The node with this address."""
        return int(address.rpartition(".")[2])

    def endpoint_process(self, node: int) -> "SimEndpointProcess | None":
        """The running endpoint process of a node."""
        found = self.nodes[node].endpoint_process if node in self.nodes else None
        return found if found is not None and found.process.is_alive else None

    def holders_of(self, port: int, address: str = "") -> "list[Served]":
        """The processes that listen on an endpoint's port, at this address or at any."""
        return [
            served
            for node in self.nodes.values()
            if node.endpoint_process is not None and node.endpoint_process.process.is_alive
            for served in node.endpoint_process.endpoints.values()
            if served.gate.spec.port == port and served.is_listening and address in ("", served.bound_address)
        ]

    def new_endpoint_process(self, node: int) -> "SimEndpointProcess":
        """A new endpoint process."""
        from sim.endpoints import SimEndpointProcess

        self.log(f"endpoint process of node {node} starts")
        return SimEndpointProcess(self, node)

    def is_strict(self, group_uid: str) -> bool:
        """Whether the database of a slot group answers a write only once a replica has it."""
        database = self.checker.database(database_of(GroupUid(group_uid)))
        return database is not None and bool(database["is_strict"])

    def servers_of(self, group_uid: str) -> list[SimServer]:
        """The living servers of a slot group, oldest first."""
        return [s for s in self.all_servers if s.group_uid == group_uid and s.is_alive]

    def daemons(self) -> "list[SimDaemon]":
        """The living daemons, frozen or not."""
        found = (n.daemon for n in self.nodes.values())
        return [d for d in found if d is not None and d.process.is_alive]

    def leader(self) -> "SimDaemon | None":
        """The daemon that considers itself the leader."""
        leading = [d for d in self.daemons() if d.leader is not None]
        return max(leading, key=lambda d: d.term or 0, default=None)

    # -- events --------------------------------------------------------------------------------------------------------

    def server_started(self, server: SimServer) -> None:
        """A server process runs and listens."""
        self.servers[server.address, server.port] = server
        self.all_servers.append(server)
        self.log(
            f"server {server.shard_uid}.{server.incarnation} of {server.group_uid} starts on node {server.node_uid}, "
            f"{server.position.keys} keys"
        )
        self.nodes[server.node_uid].server_died(server)

    def server_died(self, server: SimServer, *, planned: bool) -> None:
        """A server process has ended."""
        if self.servers.get((server.address, server.port)) is server:
            del self.servers[server.address, server.port]
        self.log(f"server {server.shard_uid}.{server.incarnation} ends{' as wanted' if planned else ''}")
        self.checker.server_died(server, planned=planned)
        self.nodes[server.node_uid].server_died(server)

    def server_promoted(self, server: SimServer) -> None:
        """REPLICAOF NO ONE was executed."""
        self.log(f"server {server.shard_uid} is a primary of {server.group_uid} at {server.position.offset}")

    def acknowledged(self, write: WriteAttempt, position: Position, server: SimServer) -> None:
        """A client has received a success."""
        if write.is_answered:
            return
        self.log(f"write {write.number} acknowledged by {server.shard_uid} at {position.offset}", quiet=True)
        self.writers.answered(write, True)
        self.checker.acknowledged(position, server)

    def hidden(self, write: WriteAttempt, server: SimServer) -> None:
        """A client has received a false success."""
        if not write.is_answered:
            self.writers.answered(write, True)
            self.checker.acknowledged_unwritten(write.number, server)

    def command(self, owner: Any, server: SimServer | None, name: str, when: str) -> None:
        """A leader is about to send a command, or has received its reply."""
        if name == "info" or not (self.on_point or self.on_command):
            return
        for call in self.on_command:
            call(self._daemon_of(owner), name.partition(" ")[0], when)
        words = name.split()
        where = "" if server is None else " server"
        self._reach(self._daemon_of(owner), f"{words[0]}{where}:{when}")

    def _daemon_of(self, owner: Any) -> "SimDaemon | None":
        return next((d for d in self.daemons() if d.process is owner.process), None)

    def probed(self, daemon: "SimDaemon", point: str) -> None:
        """A step of a handoff begins or has ended."""
        self.tally.points[point] += 1
        self.log(f"daemon {daemon.node.uid}: {point}", quiet=True)
        self._reach(daemon, point)

    def _reach(self, daemon: "SimDaemon | None", point: str) -> None:
        for call in list(self.on_point):
            call(daemon, point)

    # -- conditions of the machine -------------------------------------------------------------------------------------

    def is_full(self, node: int) -> bool:
        """Whether the node's disk is full."""
        return self.nodes[node].full_until > self.loop.now

    def answers_late(self, name: str) -> bool:
        """Whether the answer to a command gets lost although it was executed."""
        return self.late_until > self.loop.now and self.rng.random() < 0.3

    def keeps_back(self, name: str) -> bool:
        """Whether this command stays in transit."""
        if self.kept_back and name.startswith(self.kept_back):
            self.kept_back = ""
            self.log(f"delayed in transit: {name}")
            return True
        return False

    def sync_seconds(self, replica: SimServer, source: SimServer) -> float:
        """Duration of a full sync."""
        if self.sync_hangs_until > self.loop.now:
            return self.sync_hangs_until - self.loop.now + self.rng.random()
        return self.sync_base_s * (0.5 + self.rng.random()) + source.position.keys * 0.0005

    def sync_fails(self, source: SimServer, replica: SimServer) -> bool:
        """Whether the fork of a full sync fails, or the replica has no memory for it."""
        return self.sync_fails_until > self.loop.now and self.rng.random() < 0.7
