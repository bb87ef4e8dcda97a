"""A simulated server: one process of Redis or Valkey with its replication history, links, fences, pause and files.

Data is a position in a tree of histories. A server holds everything on the path from the root to its position, so a copy
costs nothing, and whether a server holds a write depends only on the positions. Behaves as measured on real servers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from shardwright.model.database import Persistence, Role
from shardwright.model.ids import GroupUid, database_of
from sim.confirmations import Confirmations
from sim.files import Files
from sim.history import History, Position
from sim.loop import SimProcess
from sim.network import REPLICATION

if TYPE_CHECKING:
    from sim.world import World

BACKLOG = 400
"""Maximum number of writes that a partial sync can transfer."""
SNAPSHOT_AGE_S_MAX = 600.0
"""An older snapshot does not replace an append-only file."""
RELINK_S = 1.0
"""Interval at which a replica retries its primary."""


class WriteOutcome(StrEnum):
    """The server's answer to a write."""

    DONE = "done"
    REFUSED = "refused"
    """Not executed: read-only, fenced, loading, out of memory."""
    HIDDEN = "hidden"
    """Not executed, but answered as a success: a script that catches its errors."""
    NO_ROOM = "no_room"
    """Not executed, and no other server will execute it: an error for the client."""
    SILENT = "silent"
    """Sent, and no answer will arrive."""


Reply = Callable[[WriteOutcome, Position | None], None]


@dataclass(slots=True, eq=False)
class Connection:
    """A client's connection to a server, after the checks. ``server``: the checked server."""

    server: "SimServer"
    is_ended: bool = False
    """The server has closed it: later bytes on it are not read."""


@dataclass(slots=True)
class PostponedWrite:
    """A write that a paused server has read but not executed."""

    answer: Reply
    hides_refusal: bool


class SimServer:
    """See the module's docstring."""

    def __init__(
        self,
        world: "World",
        *,
        shard_uid: int,
        group_uid: str,
        incarnation: int,
        node_uid: int,
        address: str,
        port: int,
        persistence: Persistence,
        files: Files,
        starts_with_aof: bool,
    ) -> None:
        self.world = world
        self.loop = world.loop
        self.shard_uid = shard_uid
        self.group_uid = group_uid
        self.incarnation = incarnation
        self.node_uid = node_uid
        self.address = address
        self.port = port
        self.persistence = persistence
        self.is_aof_on = starts_with_aof
        self.files = files
        self.process = SimProcess(f"server {shard_uid}.{incarnation}")
        self.run_id = world.new_id("run")
        self.role = Role.PRIMARY
        self.is_fenced = True
        self.paused_until = 0.0
        self.second_history: History | None = None
        self.second_offset = -1
        self.position = self._loaded()
        self.loading_until = self.loop.now + 0.05 + world.rng.random() * 0.3
        self.source: tuple[str, int] | None = None
        self.source_server: SimServer | None = None
        self.is_link_up = False
        self.link_down_since = 0.0
        self.linked_at = -1e9
        self.primary_at = -1e9
        self.open_since = self.loop.now
        """When it was last promoted or opened: since then it may have executed writes, whatever other servers did."""
        self._executed: dict[int, float] = {}
        self.sync: Sync | None = None
        self.replicas: list[SimServer] = []
        self.is_delivering = False
        self.confirmations = Confirmations(self)
        self.sessions: list[int] = []
        self.connections: list[Connection] = []
        self.waiting: list[PostponedWrite] = []
        self.busy_until = 0.0
        self.saves = 0
        self.saving: Position | None = None
        self.saving_since = 0.0
        self.is_persistence_ok = True
        self.is_frozen_for_good = False
        """It is not thawed when the faults end; it can only be ended."""
        self.relink_order = 0
        self._append()

    def _loaded(self) -> Position:
        new = self.world.new_id("replication")
        stored = self.files.aof if self.is_aof_on else self.files.snapshot
        if stored is None:
            return Position(History(new), 0)
        if self.is_aof_on:
            return Position(History(new, 0, stored.history, stored.offset, stored.keys), 0)
        # Only a snapshot names its history and offset.
        self.second_history, self.second_offset = stored.history, stored.offset + 1
        return Position(History(new, stored.offset, stored.history, stored.offset, stored.keys), stored.offset)

    @property
    def comes_back(self) -> Position | None:
        """The data that it would have if it died now and were started again."""
        if self.is_aof_on:
            return self.files.aof
        return self.files.snapshot if self.persistence is Persistence.SNAPSHOT else None

    def _append(self) -> None:
        if self.is_aof_on:
            self.files.aof, self.files.aof_at = self.position, self.loop.now

    # -- the process ---------------------------------------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        """Its process exists, frozen or not."""
        return self.process.is_alive

    @property
    def is_loading(self) -> bool:
        """It answers INFO and refuses all other commands."""
        return self.loop.now < self.loading_until

    def die(self, *, planned: bool) -> None:
        """The process ends. ``planned``: requested by the cluster, after a save."""
        if not self.is_alive:
            return
        if planned and self.persistence is Persistence.SNAPSHOT:
            self.files.snapshot, self.files.snapshot_at = self.position, self.loop.now
        self.process.kill()
        self._unlink()
        for replica in list(self.replicas):
            replica.link_lost()
        self.replicas.clear()
        self.sessions.clear()
        self.waiting.clear()
        self.world.server_died(self, planned=planned)

    # -- clients -------------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """The check of a client's new connection: an open primary."""
        return not self.is_loading and self.role is Role.PRIMARY and not self.is_fenced

    def connect(self) -> Connection:
        """A client's connection passes its checks."""
        connection = Connection(self)
        self.connections.append(connection)
        return connection

    def write(self, answer: Reply, *, hides_refusal: bool = False) -> None:
        """Execute a write, or return why not. A script is accepted whatever the server's role and fence are, and is refused
        only when it runs; a plain command is refused before it can be postponed."""
        is_let_in = not self.is_loading and (hides_refusal or self.is_open)
        if is_let_in and self.loop.now < self.paused_until:
            self.waiting.append(PostponedWrite(answer, hides_refusal))
            return
        self._execute(answer, hides_refusal)

    def _execute(self, answer: Reply, hides_refusal: bool) -> None:
        if not self.is_open or self.sync is not None:
            answer(WriteOutcome.HIDDEN if hides_refusal and not self.is_loading else WriteOutcome.REFUSED, None)
            return
        if self.world.is_full(self.node_uid) and self.persistence is not Persistence.DISABLED:
            answer(WriteOutcome.NO_ROOM, None)
            return
        self.position = Position(self.position.history, self.position.offset + 1)
        self.primary_at = self._executed[self.position.offset] = self.loop.now
        self._append()
        self._feed()
        answer(WriteOutcome.DONE, self.position)

    def executed_at(self, position: Position) -> float:
        """When it executed the write at this position as a primary."""
        return self._executed.get(position.offset, self.loop.now)

    def _end_pause(self) -> None:
        if self.loop.now + 1e-9 < self.paused_until:
            return
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            self._execute(one.answer, one.hides_refusal)

    # -- replication: the primary's side -------------------------------------------------------------------------------

    def _feed(self) -> None:
        for replica in self.replicas:
            if replica.sync is None and not replica.is_delivering:
                replica.is_delivering = True
                lag = 0.0002 + self.world.rng.random() * self.world.replication_lag_s
                self.loop.at(lag, replica.deliver, self, self.position, process=replica.process)

    def deliver(self, source: "SimServer", upto: Position) -> None:
        """The primary's writes have arrived."""
        self.is_delivering = False
        if self.source_server is not source or not self.is_link_up or self.role is not Role.REPLICA:
            return
        if self.loop.now < self.paused_until:
            # A paused replica applies nothing until the pause ends.
            self.is_delivering = True
            self.loop.at(self.paused_until - self.loop.now, self.deliver, source, upto, process=self.process)
            return
        if not self.world.network.passes(source.node_uid, self.node_uid, REPLICATION):
            return
        self._advance(upto)
        self.confirmations.send(source)
        if source.is_alive and source.position.offset > self.position.offset:
            source._feed()

    def _advance(self, to: Position) -> None:
        if to.history is self.position.history and to.offset > self.position.offset:
            self.position = to
            self._append()

    # -- replication: the replica's side ---------------------------------------------------------------------------------

    def attach(self, address: str, port: int) -> None:
        """REPLICAOF."""
        if self.role is Role.REPLICA and self.source == (address, port):
            return
        if self.role is Role.PRIMARY:
            for replica in list(self.replicas):
                replica.link_lost()
            self.replicas.clear()
        self._unlink()
        self.role = Role.REPLICA
        self.source = (address, port)
        self.link_down_since = self.loop.now
        self._try_link_later(0.01)

    def promote(self) -> None:
        """REPLICAOF NO ONE."""
        if self.role is Role.PRIMARY:
            return
        if self.is_synced_copy:
            self.primary_at = self.loop.now
        self._unlink()
        self.role = Role.PRIMARY
        self.open_since = self.loop.now
        self.source = None
        self.sync = None
        here = self.position
        self.second_history, self.second_offset = here.history, here.offset + 1
        self.position = Position(
            History(self.world.new_id("replication"), here.offset, here.history, here.offset, here.keys), here.offset
        )
        self._append()
        self.world.server_promoted(self)

    def _unlink(self) -> None:
        if self.source_server is not None and self in self.source_server.replicas:
            self.source_server.replicas.remove(self)
            self.source_server.confirmations.forget(self)
        self.source_server = None
        if self.is_link_up:
            self.link_down_since = self.loop.now
        self.is_link_up = False
        if self.sync is not None and self.sync.has_loaded:
            # The old data was deleted when the new data began to load.
            self.position = Position(History(self.world.new_id("replication")), 0)
            self._append()
        self.sync = None

    def link_lost(self) -> None:
        """The primary, or the connection to it, was lost."""
        self._unlink()
        if self.role is Role.REPLICA and self.is_alive:
            self._try_link_later(RELINK_S)

    def _try_link_later(self, delay: float) -> None:
        self.relink_order += 1
        self.loop.at(delay, self._try_link, self.relink_order, process=self.process)

    def _try_link(self, order: int) -> None:
        if order != self.relink_order or self.role is not Role.REPLICA or self.is_link_up or self.sync is not None:
            return
        source = None if self.source is None else self.world.listener(*self.source)
        network = self.world.network
        reachable = (
            source is not None
            and source is not self
            and source.process.runs
            and not source.is_loading
            and network.passes(self.node_uid, source.node_uid, REPLICATION)
            and network.passes(source.node_uid, self.node_uid, REPLICATION)
            and database_of(GroupUid(source.group_uid)) == database_of(GroupUid(self.group_uid))
        )
        if source is None or not reachable or (source.role is Role.REPLICA and not source.is_link_up):
            self._try_link_later(RELINK_S)
            return
        if self._continues(source):
            self.loop.at(0.01, self._linked, source, order, process=self.process)
            return
        self.sync = Sync(source)
        duration = self.world.sync_seconds(self, source)
        self.loop.at(duration * 0.8, self._load_sync, self.sync, duration * 0.2, process=self.process)
        self.source_server = source

    def _continues(self, source: "SimServer") -> bool:
        """PSYNC: this history is the primary's, or the one that it continues."""
        here = self.position
        if here.history is source.position.history:
            return here.offset <= source.position.offset and source.position.offset - here.offset <= BACKLOG
        is_continued = here.history is source.second_history and here.offset < source.second_offset
        return is_continued and source.position.offset - here.offset <= BACKLOG

    def _linked(self, source: "SimServer", order: int) -> None:
        if order != self.relink_order or self.role is not Role.REPLICA or not source.process.runs or self.is_link_up:
            if order == self.relink_order and self.role is Role.REPLICA and not self.is_link_up:
                self._try_link_later(RELINK_S)
            return
        if not self._continues(source):
            self._try_link_later(RELINK_S)
            return
        if self.loop.now < self.paused_until:
            # Its link is up, but it applies nothing until the pause ends.
            self.loop.at(self.paused_until - self.loop.now, self._linked, source, order, process=self.process)
            return
        self.source_server = source
        if self not in source.replicas:
            source.replicas.append(self)
        self.is_link_up = True
        self.linked_at = self.loop.now
        here = source.position
        if self.position.history is not here.history:
            self.second_history, self.second_offset = self.position.history, self.position.offset + 1
            self.position = Position(here.history, self.position.offset)
        self._advance(Position(here.history, here.offset))
        self.confirmations.send(source)

    def _load_sync(self, sync: "Sync", seconds: float) -> None:
        if self.sync is not sync:
            return
        source = sync.source
        network = self.world.network
        is_fed = network.passes(source.node_uid, self.node_uid, REPLICATION) and network.passes(
            self.node_uid, source.node_uid, REPLICATION
        )
        if not source.process.runs or not is_fed or self.world.sync_fails(source, self):
            self.sync = None
            self.source_server = None
            self._try_link_later(RELINK_S)
            return
        sync.has_loaded = True
        self.loop.at(seconds, self._synced, sync, process=self.process)

    def _synced(self, sync: "Sync") -> None:
        if self.sync is not sync:
            return
        source = sync.source
        if not source.process.runs:
            self._unlink()
            self._try_link_later(RELINK_S)
            return
        self.sync = None
        self.position = source.position
        self.second_history, self.second_offset = None, -1
        self._append()
        self.is_link_up = True
        self.linked_at = self.loop.now
        if self not in source.replicas:
            source.replicas.append(self)
        self.confirmations.send(source)

    def check_link(self) -> None:
        """A partition has begun: links across it break."""
        source = self.source_server
        if source is None or self.role is not Role.REPLICA:
            return
        network = self.world.network
        if not network.passes(source.node_uid, self.node_uid, REPLICATION) or not network.passes(
            self.node_uid, source.node_uid, REPLICATION
        ):
            self.link_lost()

    # -- management ----------------------------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """CLIENT PAUSE … WRITE; the later end applies."""
        self.paused_until = max(self.paused_until, self.loop.now + seconds)
        self.loop.at(self.paused_until - self.loop.now, self._end_pause, process=self.process)

    def end_pause(self) -> None:
        """CLIENT UNPAUSE."""
        self.paused_until = 0.0
        self._end_pause()
        if self.role is Role.REPLICA and not self.is_link_up and self.sync is None:
            self._try_link_later(0.01)

    def unfence(self) -> None:
        """Lift the hard fence, and end a pause."""
        if self.is_fenced:
            self.is_fenced, self.open_since = False, self.loop.now
        self.end_pause()

    def end_clients(self) -> None:
        """CLIENT KILL USER application: drop waiting commands, and all later bytes on these connections."""
        for connection in self.connections:
            connection.is_ended = True
        self.connections.clear()
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            one.answer(WriteOutcome.SILENT, None)

    def apply(self, persistence: Persistence) -> bool:
        """CONFIG SET of a database's settings. False: the append-only file stays enabled until a snapshot replaces it."""
        kept_none = self.persistence is not Persistence.SNAPSHOT
        self.persistence = persistence
        has_fresh = self.files.snapshot is not None and self.loop.now - self.files.snapshot_at < SNAPSHOT_AGE_S_MAX
        if persistence is Persistence.SNAPSHOT and self.is_aof_on and not has_fresh:
            self.save()
            return False
        self.is_aof_on = persistence is Persistence.AOF
        self._append()
        if persistence is Persistence.SNAPSHOT and kept_none:
            self.save()
        return True

    def begin_save(self) -> bool:
        """Like an operator's save; False while a sync occupies the only background process."""
        if self.sync is not None:
            return False
        self.save()
        return True

    def save(self) -> None:
        """BGSAVE or BGREWRITEAOF."""
        if self.saving is not None:
            return
        self.saving = self.position
        self.saving_since = self.loop.now
        self.loop.at(0.3 + self.world.rng.random(), self._saved, process=self.process)

    def _saved(self) -> None:
        saved, self.saving = self.saving, None
        if saved is None:
            return
        self.is_persistence_ok = not self.world.is_full(self.node_uid)
        if self.is_persistence_ok:
            self.saves += 1
            if self.persistence is Persistence.SNAPSHOT:
                self.files.snapshot, self.files.snapshot_at = saved, self.saving_since

    @property
    def is_synced_copy(self) -> bool:
        """It was a linked replica, or the writing primary, within the last minute. A replica that is promoted stays one."""
        if self.sync is not None:
            return False
        if self.is_link_up:
            return True
        limit = self.loop.now - 60.0
        was_linked = self.linked_at > -1e8 and self.role is Role.REPLICA and self.link_down_since > limit
        return was_linked or self.primary_at > limit

    def info(self) -> dict[str, Any]:
        """The answer to INFO, as fields of ``ServerSeen``."""
        now, heard_primary_s = self.loop.now, self.confirmations.heard_primary_s()
        is_replica = self.role is Role.REPLICA
        link_shows_up = self.is_link_up or (is_replica and now < self.paused_until and self.sync is None)
        return {
            "run_id": self.run_id,
            "role": self.role,
            "replication_id": self.position.history.uid,
            "second_replication_id": "" if self.second_history is None else self.second_history.uid,
            "second_offset": self.second_offset,
            "offset": self.position.offset,
            "primary_address": "" if self.source is None else self.source[0],
            "primary_port": 0 if self.source is None else self.source[1],
            "is_link_up": is_replica and link_shows_up,
            "link_down_s": 0 if not is_replica or link_shows_up else int(now - self.link_down_since),
            "heard_primary_s": heard_primary_s,
            "is_syncing": self.sync is not None,
            "keys": 0 if self.sync is not None and self.sync.has_loaded else self.position.keys,
            "used_memory_bytes": 1_000_000 + self.position.keys * 1000,
            "is_fenced": self.is_fenced,
            "replicas": self.confirmations.replicas(),
            "is_aof_on": self.is_aof_on,
            "is_persistence_busy": self.saving is not None,
            "is_persistence_ok": self.is_persistence_ok,
            "saves_since_start": self.saves,
            "kind": "valkey",
            "version": "9.1.2",
        }


@dataclass(slots=True, eq=False)
class Sync:
    """A full sync in progress."""

    source: SimServer
    has_loaded: bool = False
