"""A simulated node: everything that survives its daemon, that is, shard processes and files, the endpoint process, the
clock's error."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from shardwright.model.database import Database, Shard
from shardwright.model.ids import ShardUid
from shardwright.model.seen import ProcessIdentity
from shardwright.reconcile.shard import LocalShard, LocalState
from sim.files import Files
from sim.server import SimServer

if TYPE_CHECKING:
    from sim.daemon import SimDaemon
    from sim.endpoints import SimEndpointProcess
    from sim.machines import SimMachine
    from sim.world import World

ENDPOINT_RESTART_S = 0.5
ENDPOINT_STUCK_S = 10.0
"""The default of ``stuck_server_timeout_s``."""


@dataclass(slots=True)
class DiskShard:
    """A shard's directory and its process."""

    files: Files
    incarnation: int = 0
    server: SimServer | None = None
    identity: ProcessIdentity | None = None
    failure: str = ""
    ended_at: datetime | None = None
    """When the agent observed the end of the process."""


class SimNode:
    """See the module's docstring."""

    def __init__(self, world: "World", uid: int) -> None:
        self.world = world
        self.uid = uid
        self.address = f"127.0.0.{uid}"
        self.skew_s = 0.0
        self.is_down = False
        self.is_lost = False
        """The node is down for good."""
        self.shards: dict[ShardUid, DiskShard] = {}
        self.daemon: SimDaemon | None = None
        self.endpoint_process: SimEndpointProcess | None = None
        self.endpoint_dies_at = -10.0
        self.endpoint_moved_at = 0.0
        self.full_until = 0.0
        self.start_fails_until = 0.0

    @property
    def machine(self) -> "SimMachine":
        """The machine of the node."""
        return self.world.machine_of(self.uid)

    def local(self, busy: set[int]) -> list[LocalShard]:
        """All shards of which the node has a process or files, like an agent finds them."""
        found = []
        for uid, shard in sorted(self.shards.items()):
            server = shard.server
            identity = None
            if server is not None and server.is_alive:
                state = LocalState.RUNNING
                identity = shard.identity
            elif shard.failure:
                state = LocalState.FAILED
            else:
                state = LocalState.GONE if shard.incarnation else LocalState.FILES
            is_busy = uid in busy
            found.append(
                LocalShard(uid, state, shard.incarnation, identity, shard.failure, ended_at=shard.ended_at, is_busy=is_busy)
            )
        return found

    def start(self, shard: Shard, database: Database) -> None:
        """Start an incarnation, once."""
        disk = self.shards.setdefault(shard.uid, DiskShard(Files()))
        if disk.incarnation >= shard.incarnation or (disk.server is not None and disk.server.is_alive):
            return
        disk.incarnation = shard.incarnation
        disk.ended_at = None
        disk.failure = ""
        if self.start_fails_until > self.world.loop.now:
            disk.failure = "not enough memory to start"
            disk.server = None
            return
        starts_with_aof = disk.files.prepare(database.persistence, kept=shard.kept or database.persistence)
        disk.server = SimServer(
            self.world,
            shard_uid=shard.uid,
            group_uid=shard.group_uid,
            incarnation=shard.incarnation,
            node_uid=self.uid,
            address=self.address,
            port=shard.port,
            persistence=database.persistence,
            files=disk.files,
            starts_with_aof=starts_with_aof,
        )
        machine = self.machine
        disk.identity = machine.identity(
            machine.new_pid(disk.server.process, disk.server), "/usr/bin/valkey-server", f"/shards/{shard.uid}"
        )
        self.world.server_started(disk.server)

    def ensure_endpoint_process(self) -> None:
        """Like the agent: start the endpoint process if it does not run."""
        current = self.endpoint_process
        if current is not None and current.process.is_alive:
            self._end_if_hung(current)
            return
        if self.world.loop.now - self.endpoint_dies_at < ENDPOINT_RESTART_S:
            self.world.loop.at(ENDPOINT_RESTART_S, self._wake)
            return
        self.endpoint_process = self.world.new_endpoint_process(self.uid)
        self.endpoint_moved_at = self.world.loop.now
        self.endpoint_process.process.on_death.append(self._endpoint_died)

    def _end_if_hung(self, endpoint_process: "SimEndpointProcess") -> None:
        now = self.world.loop.now
        if not endpoint_process.process.is_frozen:
            self.endpoint_moved_at = now
        elif now - self.endpoint_moved_at >= ENDPOINT_STUCK_S:
            self.world.log(f"endpoint process of node {self.uid} hangs: its agent ends it")
            endpoint_process.process.kill()

    def _endpoint_died(self) -> None:
        self.endpoint_dies_at = self.world.loop.now
        self._wake()

    def _wake(self) -> None:
        if self.daemon is not None and not self.is_down:
            self.world.loop.at(0.01, self.daemon.wake_agent, process=self.daemon.process)

    def server_died(self, server: SimServer) -> None:
        """A server process of the node has ended: its agent, if it has one, notices."""
        shard = self.shards.get(ShardUid(server.shard_uid))
        if shard is not None and shard.server is server and self.daemon is not None and self.daemon.process.runs:
            shard.ended_at = self.daemon.clock.now()
        self._wake()
