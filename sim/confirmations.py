"""What a simulated replica and its primary hear of each other, beside the data: confirmations, and signs of life.

Owned by ``server.py``. A replica confirms what it has applied (``REPLCONF ACK``), and ``WAIT`` counts that; a primary sends
something every second.
"""

from typing import TYPE_CHECKING

from shardwright.model.seen import ReplicaSeen
from sim.history import Position
from sim.network import REPLICATION

if TYPE_CHECKING:
    from sim.server import SimServer

CONFIRMATION_S = 0.0005
"""Time in which a replica's confirmation reaches its primary."""
REPL_TIMEOUT_S = 10.0
BELIEF_S = 40.0
"""How long a primary takes a replica behind a cut for linked. Only a planted mistake depends on it; longer than the
failovers of a simulation, whose leaders ask rarely."""


class Confirmations:
    """Of one server, as a primary and as a replica."""

    def __init__(self, server: "SimServer") -> None:
        self.server = server
        self._said: dict[int, Position] = {}
        """What each linked replica holds by its own word, by shard; only of strict databases."""
        self._heard_at = 0.0
        self._replica_heard_at: dict[int, float] = {}
        """When each linked replica was last known to report, by shard."""
        self._missed_at: dict[int, float] = {}
        """When a replica has left without a word that came through, by shard."""

    def send(self, source: "SimServer") -> None:
        """Tell the primary what is here."""
        server = self.server
        passes = server.world.network.passes(server.node_uid, source.node_uid, REPLICATION)
        if passes and server.world.is_strict(server.group_uid):
            server.loop.at(CONFIRMATION_S, source.confirmations.hear, server, server.position, process=source.process)

    def hear(self, replica: "SimServer", position: Position) -> None:
        """A replica says what it holds; of one that has left, nothing counts."""
        if replica in self.server.replicas:
            self._said[replica.shard_uid] = position

    def forget(self, replica: "SimServer") -> None:
        """A replica has left."""
        self._said.pop(replica.shard_uid, None)
        self._replica_heard_at.pop(replica.shard_uid, None)
        if not self.server.world.network.passes(replica.node_uid, self.server.node_uid, REPLICATION):
            self._missed_at[replica.shard_uid] = self.server.loop.now

    def has(self, position: Position) -> bool:
        """``WAIT 1``: a linked replica has said that it holds this write."""
        said = (self._said.get(replica.shard_uid) for replica in self.server.replicas)
        return any(s is not None and s.history is position.history and s.offset >= position.offset for s in said)

    @property
    def believes_in_a_replica(self) -> bool:
        """Whether the server has a link to a replica, as far as it knows: the end of one is noticed only after a while."""
        now = self.server.loop.now
        return bool(self.server.replicas) or any(now - at < BELIEF_S for at in self._missed_at.values())

    def heard_primary_s(self) -> int:
        """Seconds since this replica last heard of its primary; 0 without a link. After ``repl-timeout`` the link ends."""
        server, now = self.server, self.server.loop.now
        source = server.source_server
        if not server.is_link_up or source is None:
            return 0
        if source.process.runs:
            self._heard_at = now
        if now - self._heard_at > REPL_TIMEOUT_S:
            server.link_lost()
        return int(now - self._heard_at)

    def replicas(self) -> tuple[ReplicaSeen, ...]:
        """The linked replicas, with the seconds since each of them last reported. A replica reports once per second."""
        return tuple(self._replica(replica) for replica in self.server.replicas)

    def _replica(self, replica: "SimServer") -> ReplicaSeen:
        server, now, uid = self.server, self.server.loop.now, replica.shard_uid
        if replica.process.runs and server.world.network.passes(replica.node_uid, server.node_uid, REPLICATION):
            self._replica_heard_at[uid] = now
        lag_s = int(now - self._replica_heard_at.setdefault(uid, now))
        return ReplicaSeen(replica.address, replica.port, "online", replica.position.offset, lag_s)
