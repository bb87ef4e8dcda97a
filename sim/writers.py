"""Clients that write through the endpoints: rarely, but more often during disturbances."""

from typing import TYPE_CHECKING

from sim.clients import Pipeline
from sim.world import World, WriteAttempt

if TYPE_CHECKING:
    from sim.served import Served

TIMEOUT_S = 6.0
SCRIPT_EACH = 3
"""One write in this many is a script that catches its errors."""

PIPELINE_DRAIN_S = 0.15
"""Longer than a drain: a handoff must calm the pipeline."""
PIPELINE_UID = 1000


class Writers:
    """One client per database."""

    def __init__(self, world: World, *, calm_s: float = 3.0, busy_s: float = 0.05) -> None:
        self.world = world
        self.calm_s = calm_s
        self.busy_s = busy_s
        self.is_over = False
        self.has_pipelines = False
        """Every second database also has a client with a long pipeline."""
        self._pipelines: dict[int, Pipeline] = {}
        self.failing_since: dict[int, float] = {}
        self._number = 0
        self._ports: dict[int, int] = {}
        self._chains: dict[int, int] = {}

    def follow(self, ports: dict[int, int]) -> None:
        """Follow the databases, by uid, with their ports. A new database gets a client."""
        for uid in sorted(ports.keys() - self._ports.keys()):
            self._chains[uid] = 0
            self.world.loop.at(0.5, self._write, uid, 0)
            if self.has_pipelines and uid % 2:
                self._pipelines[uid] = Pipeline(self.world, PIPELINE_UID + uid, ports[uid], drain_s=PIPELINE_DRAIN_S)
        for uid in self._ports.keys() - ports.keys():
            self.failing_since.pop(uid, None)
            if uid in self._pipelines:
                self._pipelines.pop(uid).is_over = True
        self._ports = dict(ports)

    def write_soon(self, uid: int) -> None:
        """Something begins in this database: write now."""
        if uid in self._ports:
            self._chains[uid] += 1
            self.world.loop.at(0.001, self._write, uid, self._chains[uid])

    def _write(self, uid: int, chain: int) -> None:
        if self.is_over or uid not in self._ports or chain != self._chains[uid]:
            return
        self._send(uid)
        world = self.world
        busy = world.checker.is_busy(uid)
        pause = (self.busy_s if busy else self.calm_s) * (0.5 + world.rng.random())
        world.loop.at(pause, self._write, uid, chain)

    def _send(self, uid: int) -> None:
        world = self.world
        self._number += 1
        write = WriteAttempt(self._number, uid, sent_at=world.loop.now)
        write.hides_refusal = self._number % SCRIPT_EACH == 0
        holders = world.holders_of(self._ports[uid])
        if not holders:
            self.answered(write, False, "nothing listens")
            return
        served: Served = holders[self._number % len(holders)]
        write.served = served
        world.loop.at(0.0002, self._arrive, write, process=served.owner.process)
        world.loop.at(TIMEOUT_S, self._give_up, write)

    def _arrive(self, write: WriteAttempt) -> None:
        if write.served is not None:
            write.served.take(write)

    def _give_up(self, write: WriteAttempt) -> None:
        if not write.is_answered:
            if write.served is not None:
                write.served.forget(write)
            self.answered(write, None, "no answer in time")

    def answered(self, write: WriteAttempt, outcome: bool | None, why: str = "") -> None:
        """Acknowledged, refused (False), or unknown (None). ``why`` is counted."""
        if write.is_answered:
            return
        write.is_answered = True
        if write.client is not None:
            write.client.answered(write)
        if why:
            self.world.tally.clients[f"{'refused' if outcome is False else 'unknown'}: {why}"] += 1
        self.world.tally.writes["acknowledged" if outcome else "refused" if outcome is False else "unknown"] += 1
        if outcome:
            self.failing_since.pop(write.database_uid, None)
        elif write.database_uid in self._ports:  # An answer may arrive after the database's deletion.
            self.failing_since.setdefault(write.database_uid, self.world.loop.now)
