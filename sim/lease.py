"""A simulated endpoint process proves that its server has a replica, like ``endpoint/prover.py``. Called by ``served.py``.

The product's own ``Gate`` and ``LeaseStanding`` decide what an answer means. This module models the questions and answers,
which a cut, a freeze or a death may stop at any point, and the clock of the process's machine.
"""

import random
from typing import TYPE_CHECKING

from shardwright.endpoint.lease import WAIT_S
from shardwright.endpoint.prover import SILENT_MAX_S
from shardwright.model.database import Role
from sim.loop import Handle
from sim.network import REPLICATION

if TYPE_CHECKING:
    from sim.served import Served
    from sim.server import SimServer
    from sim.world import World

ASK_EVERY_S = 0.8
"""Twice as long as in the product, because each question costs events; a proof still lasts for several questions."""
WAY_S = 0.0003
RATE = 0.01
"""The clocks of machines run at most this share too fast or too slowly."""


class BootClocks:
    """The clocks of the machines since their boot, from a stream of their own."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._rng = random.Random(f"boot clocks of {world.seed}")
        self._rates: dict[str, float] = {}

    def at(self, node: int) -> float:
        """What the clock of a node's machine shows."""
        name = self._world.machine_of(node).machine_id
        if name not in self._rates:
            self._rates[name] = 1.0 + RATE * (2.0 * self._rng.random() - 1.0)
        return self._rates[name] * self._world.loop.now


class Prover:
    """See the module's docstring."""

    has_mark = True
    """Whether something is replicated before each question."""

    def __init__(self, served: "Served") -> None:
        self.served = served
        self.world = served.world
        self._asks: object = None
        self._number = 0
        self._timer: Handle | None = None
        self._is_answered = True
        self._is_coming = False
        self._asked_at = 0.0
        self._refused_since: float | None = None
        self._silent_since: float | None = None

    @property
    def now(self) -> float:
        """By the boot clock of the process's machine."""
        return self.world.boot_clocks.at(self.served.owner.node_uid)

    @property
    def is_about_to_hear(self) -> bool:
        """Whether a confirmation is on its way to the process."""
        return self._is_coming

    @property
    def unconfirmed_s(self) -> float | None:
        """See ``LeaseSeen.unconfirmed_s``."""
        return None if self._refused_since is None else self.now - self._refused_since

    def look(self) -> None:
        """Begin or stop asking, after a change of the gate."""
        gate = self.served.gate
        wanted = gate.target if gate.asks_for_proof and not self.served.is_ended else None
        if wanted == self._asks:
            return
        self._asks, self._refused_since, self._silent_since, self._is_answered = wanted, None, None, True
        self._number += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wanted is not None:
            gate.look_at_proof(self.now)
            self._ask()

    def _ask(self) -> None:
        """Send a question; without an answer to the last one, the server is silent."""
        served = self.served
        target = served.gate.target
        if served.is_ended or target is None or target != self._asks:
            return
        if not self._is_answered:
            self._refused_since = None
            self._silent_since = self._asked_at if self._silent_since is None else self._silent_since
            if self.now - self._silent_since >= SILENT_MAX_S:
                served.gate.end_waiver()
        self._number += 1
        self._is_answered = False
        self._asked_at = self.now
        node, server = self.world.node_at(target.address), self.world.listener(target.address, target.port)
        is_it = server is not None and (not target.run_id or server.run_id == target.run_id)
        if server is not None and is_it and self.world.network.passes(served.owner.node_uid, node):
            self.world.loop.at(WAY_S, self._arrive, server, self._number, self._asked_at, process=server.process)
        self._timer = self.world.loop.at(ASK_EVERY_S, self._ask, process=served.owner.process)

    # -- at the server -------------------------------------------------------------------------------------------------

    def _arrive(self, server: "SimServer", number: int, asked_at: float) -> None:
        if server.role is not Role.PRIMARY or not server.is_alive:
            return
        if not self.has_mark:
            self._answer(server, number, asked_at, server.confirmations.believes_in_a_replica)
            return
        for replica in server.replicas:
            if self.world.network.passes(server.node_uid, replica.node_uid, REPLICATION):
                self.world.loop.at(WAY_S, self._marked, server, replica, number, asked_at, process=replica.process)
        self.world.loop.at(WAIT_S, self._answer, server, number, asked_at, False, process=server.process)

    def _marked(self, server: "SimServer", replica: "SimServer", number: int, asked_at: float) -> None:
        """The replica receives what was replicated, and says so."""
        follows = replica.source_server is server and replica.is_link_up
        if follows and self.world.network.passes(replica.node_uid, server.node_uid, REPLICATION):
            self.world.loop.at(WAY_S, self._confirmed, server, replica, number, asked_at, process=server.process)

    def _confirmed(self, server: "SimServer", replica: "SimServer", number: int, asked_at: float) -> None:
        if replica in server.replicas and server.role is Role.PRIMARY:
            self._answer(server, number, asked_at, True)

    def _answer(self, server: "SimServer", number: int, asked_at: float, is_confirmed: bool) -> None:
        own = self.served.owner
        if server.is_alive and self.world.network.passes(server.node_uid, own.node_uid):
            self._is_coming = is_confirmed and number == self._number and not self._is_answered
            self.world.loop.at(WAY_S, self._told, number, asked_at, is_confirmed, process=own.process)

    # -- at the process ------------------------------------------------------------------------------------------------

    def _told(self, number: int, asked_at: float, is_confirmed: bool) -> None:
        served, gate = self.served, self.served.gate
        if number != self._number or self._is_answered or gate.target is None or gate.target != self._asks:
            return
        self._is_answered = True
        self._is_coming = False
        self._silent_since = None
        if not is_confirmed:
            self._refused_since = asked_at if self._refused_since is None else self._refused_since
            return
        self._refused_since = None
        served.lapse()
        was_unproven = gate.is_unproven
        gate.prove(gate.target, asked_at, self.now)
        if was_unproven and not gate.is_unproven:
            served.flush()
