"""Strict mode in a simulated endpoint process: a write is answered only when a replica has confirmed it (``WAIT 1``).

Called by ``served.py``. Models the questions and answers between the process and the server, which a cut, a freeze or a
death may stop at any point. Also draws which databases are strict.
"""

import random
from typing import TYPE_CHECKING

from shardwright.endpoint.protocol import CONFIRM_MAX_S
from sim.history import Position
from sim.server import SimServer
from sim.world import World, WriteAttempt

if TYPE_CHECKING:
    from sim.served import Served

ASK_EVERY_S = 0.1
"""Interval of the questions for one write; longer than in the product, because each costs an event."""
SHARE = 0.4
"""Of databases with a replica that are strict from the beginning."""
CHANGE_SHARE = 0.1
"""Share of the operator's requests after which a database changes its mode."""


class StrictDraws:
    """Which databases are strict, from a stream of its own: a change here leaves all other draws of a seed as they are."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"strict databases of {seed}")

    def changed(self, databases: list[int]) -> int | None:
        """The database that changes its mode now; None: usually none does."""
        wants = self._rng.random() < CHANGE_SHARE
        return self._rng.choice(databases) if wants and databases else None

    def draw(self, *, replication: bool) -> bool:
        """Whether the next database is strict."""
        return self._rng.random() < SHARE and replication


def confirm(served: "Served", write: WriteAttempt, position: Position, server: SimServer) -> None:
    """The server has executed the write: answer it when a replica has it, or with an error after a while."""
    _Confirmation(served, write, position, server).ask()


class _Confirmation:
    def __init__(self, served: "Served", write: WriteAttempt, position: Position, server: SimServer) -> None:
        self.served, self.write, self.position, self.server = served, write, position, server
        self.world: World = served.world
        self.deadline = self.world.loop.now + CONFIRM_MAX_S

    def ask(self) -> None:
        """Send the question; without an answer, the client gives up by itself."""
        if self.write not in self.served.in_flight:
            return
        if self.world.loop.now >= self.deadline:
            self.served.in_flight.remove(self.write)
            self.world.writers.answered(self.write, None, "no replica has confirmed it")
            self.served.came_in(self.write)
            return
        if self._passes(self.served.owner.node_uid, self.server.node_uid):
            self.world.loop.at(0.0003, self._asked, process=self.server.process)
        self.world.loop.at(ASK_EVERY_S, self.ask, process=self.served.owner.process)

    def _asked(self) -> None:
        if self.server.confirmations.has(self.position) and self._passes(self.server.node_uid, self.served.owner.node_uid):
            self.world.loop.at(0.0003, self._told, process=self.served.owner.process)

    def _told(self) -> None:
        if self.write in self.served.in_flight:
            self.served.in_flight.remove(self.write)
            self.world.acknowledged(self.write, self.position, self.server)
            self.served.came_in(self.write)

    def _passes(self, source: int, target: int) -> bool:
        return self.world.network.passes(source, target)


def lacks_replica(world: World, database_uid: int) -> bool:
    """Whether a strict database cannot confirm any write: no replica follows its primary."""
    database = world.checker.database(database_uid)
    if database is None or not database["is_strict"]:
        return False
    groups = [g for g in world.checker.tables["groups"].values() if g["database_uid"] == database_uid]
    for group in groups:
        primary = next((s for s in world.servers_of(group["uid"]) if s.shard_uid == group["primary"]), None)
        if primary is None or not any(replica.process.runs for replica in primary.replicas):
            return True
    return False
