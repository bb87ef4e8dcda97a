"""One endpoint in one simulated endpoint process: its listener, its clients' commands, its holds.

The product's own ``endpoint/gate.py`` decides the effect of a hold, a release and a specification. This module models the
sockets and the clients' commands around it, with the limits of ``endpoint/protocol.py``.
"""

from typing import TYPE_CHECKING

from shardwright.endpoint.gate import Change, Gate, is_same_server
from shardwright.endpoint.protocol import (
    ALONE_MAX_S,
    CALM_MAX_S,
    HOLD_MAX_S,
    EndpointSpec,
    ReleaseResult,
    Target,
)
from shardwright.model.seen import EndpointSeen, EndpointState
from sim.clients import CALM, ENDED, HOLD, Client, cut, join
from sim.history import Position
from sim.lease import Prover
from sim.passing import Passing
from sim.self_release import SelfRelease
from sim.server import Connection, SimServer, WriteOutcome
from sim.strict import confirm
from sim.suspicion import Suspicion
from sim.world import WriteAttempt

if TYPE_CHECKING:
    from sim.endpoints import SimEndpointProcess

RETRY_S = 0.2


class Served:
    """One endpoint in one process."""

    def __init__(self, owner: "SimEndpointProcess", spec: EndpointSpec) -> None:
        self.owner = owner
        self.world = owner.world
        self.gate = Gate(spec, standing=owner.standing(spec.uid))
        self.is_listening = False
        self.bound_address = spec.address
        """Where it listens, or listened last."""
        self.is_draining = False
        self.is_ended = False
        self.clients: dict[int, Client] = {}
        """Lasting connections; each write of ``writers.py`` has a connection of its own."""
        self.passing: Passing | None = None
        self.suspicion = Suspicion(self)
        self.prover = Prover(self)
        self.calm_ends_at = 0.0
        self.held: list[WriteAttempt] = []
        self.in_flight: list[WriteAttempt] = []
        self.retry_is_due = False
        self.self_release = SelfRelease(self)
        self.connections: dict[bool, tuple[Target, Connection]] = {}
        """The server connections, one for scripts and one for other writes, because a plain refusal makes its own connection
        leave."""

    # -- the listener --------------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Bind, unless another process holds the address."""
        self.is_draining = self.gate.is_retiring = False
        spec = self.gate.spec
        if self.bound_address != spec.address:
            self.is_listening, self.bound_address = False, spec.address
        found = self.world.holders_of(spec.port, spec.address)
        holders = [h for h in found if self.world.share_machine(h.owner.node_uid, self.owner.node_uid)]
        if not self.is_listening and not holders:
            self.is_listening = True

    def seen(self) -> EndpointSeen:
        if not self.is_listening and not self.is_draining:
            self.listen()
        if self.is_draining:
            state = EndpointState.DRAINING
        else:
            state = EndpointState.LISTENING if self.is_listening else EndpointState.BIND_FAILED
        held = None if self.gate.hold is None else self.gate.hold.new.generation
        own = sum(w.client is None or w.client.uid < 0 for w in (*self.in_flight, *self.held))
        in_transit = 0 if self.passing is None else len(self.passing.packed)
        count = own + len(self.clients) + in_transit
        return EndpointSeen(
            *(self.gate.spec.uid, state, self.gate.generation, held, count),
            address=self.gate.spec.address,
            is_strict=self.gate.spec.is_strict,
            server_silent_s=self.suspicion.silent_s,
        )

    # -- clients -------------------------------------------------------------------------------------------------------

    def take(self, write: WriteAttempt) -> None:
        """A client's command has arrived."""
        if self.is_ended:
            self.world.writers.answered(write, None, ENDED)
            return
        write.held_at = -1.0
        self._forward(write)

    def _forward(self, write: WriteAttempt) -> None:
        target = self.gate.target
        self.gate.look_at_proof(self.prover.now)
        if not self.gate.is_open or target is None or (write.client is not None and write.client.is_frozen):
            self._hold_back(write)
            return
        if not write.is_answered:
            self.in_flight.append(write)  # Otherwise its client has left; the command was read and is still sent.
        world = self.world
        node = world.node_at(target.address)
        delay = 0.0001 + world.rng.random() * 0.0003
        world.loop.at(delay, self._arrive, write, target, node, self._connection(write, target))

    def _connection(self, write: WriteAttempt, target: Target) -> Connection | None:
        """The connection to that server; None: it must be opened."""
        leads_to, connection = self.connections.get(write.hides_refusal, (None, None))
        if connection is None or connection.is_ended or not is_same_server(leads_to, target):
            self.connections.pop(write.hides_refusal, None)
            return None
        return connection

    def _arrive(self, write: WriteAttempt, target: Target, node: int, connection: Connection | None) -> None:
        world = self.world
        own = self.owner.node_uid
        if not world.network.passes(own, node):
            return
        server = world.listener(target.address, target.port)
        is_it = server is not None and (not target.run_id or server.run_id == target.run_id)
        if server is None or not is_it or (connection is not None and connection.server is not server):
            self._lost(write, connection)
            return
        if connection is None:
            world.loop.at(0.0, self._set_up, write, target, server, process=server.process)
            return
        chosen = server

        def answer(outcome: WriteOutcome, position: Position | None) -> None:
            if world.network.passes(node, own):
                world.loop.at(
                    0.0001 + world.rng.random() * 0.0003,
                    self._reply,
                    write,
                    outcome,
                    position,
                    connection,
                    process=self.owner.process,
                )

        def execute() -> None:
            if connection.is_ended:
                answer(WriteOutcome.SILENT, None)
            else:
                chosen.write(answer, hides_refusal=write.hides_refusal)

        if server.process.is_frozen:
            world.loop.at(0.0, execute, process=server.process)
        else:
            execute()

    def _set_up(self, write: WriteAttempt, target: Target, server: SimServer) -> None:
        """A new connection is checked before anything is sent on it. The checked state is one round trip old when the write
        arrives, or older if this process is frozen meanwhile."""
        world = self.world
        if not server.is_open or self.is_ended or not world.network.passes(server.node_uid, self.owner.node_uid):
            self._lost(write, None)
            return
        connection = server.connect()
        self.connections[write.hides_refusal] = (target, connection)
        delay = 0.0001 + world.rng.random() * 0.0003
        world.loop.at(delay, self._checked, write, target, connection, process=self.owner.process)

    def _checked(self, write: WriteAttempt, target: Target, connection: Connection) -> None:
        """The checks have passed: send the write."""
        world = self.world
        delay = 0.0001 + world.rng.random() * 0.0003
        if self.gate.is_open and self.gate.target == target:
            world.loop.at(delay, self._arrive, write, target, connection.server.node_uid, connection)
        else:
            self._refused(write)

    def _lost(self, write: WriteAttempt, connection: Connection | None) -> None:
        """The write did not arrive at a server."""
        self._leave(write, connection)
        self.world.loop.at(0.0001, self._refused, write, process=self.owner.process)

    def _leave(self, write: WriteAttempt, connection: Connection | None) -> None:
        """Open another connection for the next writes."""
        if connection is not None and self.connections.get(write.hides_refusal, (None, None))[1] is connection:
            del self.connections[write.hides_refusal]

    def _refused(self, write: WriteAttempt) -> None:
        if write in self.in_flight:
            self.in_flight.remove(write)
            self._hold_back(write)
            self.came_in(write)

    def came_in(self, write: WriteAttempt) -> None:
        """The write is no longer in flight; a passing may wait for that."""
        if self.passing is not None and write.client is not None and write.client.is_frozen:
            self.passing.check()

    def _reply(self, write: WriteAttempt, outcome: WriteOutcome, position: Position | None, connection: Connection) -> None:
        if write not in self.in_flight:
            return
        self.in_flight.remove(write)
        if self._is_unproven(connection):
            self._leave(write, connection)
            self.world.writers.answered(write, None, "no replica proves that its primary is in force")
            self.came_in(write)
            return
        match outcome:
            case WriteOutcome.DONE:
                assert position is not None
                if self.gate.spec.is_strict:
                    self.in_flight.append(write)
                    confirm(self, write, position, connection.server)
                    return
                self.world.acknowledged(write, position, connection.server)
            case WriteOutcome.HIDDEN:
                self.world.hidden(write, connection.server)
            case WriteOutcome.REFUSED:
                self._leave(write, connection)
                self._hold_back(write)
            case WriteOutcome.NO_ROOM:
                self.world.writers.answered(write, False, "no room")
            case WriteOutcome.SILENT:
                self._silent(write)
        self.came_in(write)

    def _is_unproven(self, connection: Connection) -> bool:
        """Whether the reply must not be passed on: the server may have been replaced without a proof of its end."""
        gate, server = self.gate, connection.server
        if gate.is_outdated(self.prover.now):
            return True
        target = gate.target
        is_target = target is not None and (target.address, target.port) == (server.address, server.port)
        return gate.is_leased and not is_target

    def _silent(self, write: WriteAttempt) -> None:
        """The server closed the connection and lives, so it meant this client."""
        client = write.client
        if client is None:
            self.world.writers.answered(write, None, "the server closed the connection")
        else:
            self.clients.pop(client.uid, None)
            cut(self.world, client, "the server closed the connection")

    def _hold_back(self, write: WriteAttempt) -> None:
        """The write was certainly not executed: keep it for a server that accepts it."""
        if write.is_answered:
            return
        now = self.world.loop.now
        if write.held_at < 0:
            write.held_at = now
        if now - write.held_at >= (ALONE_MAX_S if self.gate.is_unproven else HOLD_MAX_S) or self.is_ended:
            self.world.writers.answered(write, False, "held for too long")
            return
        self.held.append(write)
        if not self.retry_is_due:
            self.retry_is_due = True
            self.world.loop.at(RETRY_S, self._retry, process=self.owner.process)

    def _retry(self) -> None:
        self.retry_is_due = False
        self.flush()

    def flush(self) -> None:
        """Send the held writes as far as possible."""
        held, self.held = self.held, []
        for write in held:
            if self.gate.is_open:
                self._forward(write)
            else:
                self._hold_back(write)

    def forget(self, write: WriteAttempt) -> None:
        """The client has closed the connection."""
        if write in self.in_flight:
            self.in_flight.remove(write)
        if write in self.held:
            self.held.remove(write)

    # -- connections ---------------------------------------------------------------------------------------------------

    def all_clients(self) -> list[Client]:
        """All connections, including those of single writes."""
        found = list(self.clients.values())
        for write in (*self.held, *self.in_flight):
            if write.client is None:
                write.client = Client(-write.number, active_at=write.sent_at, writes=[write], served=self)
            if write.client.uid < 0:
                found.append(write.client)
        return found

    def forget_client(self, client: Client) -> None:
        """The client's connection is passed, or ends."""
        self.clients.pop(client.uid, None)
        for write in client.writes:
            self.forget(write)

    def adopt(self, client: Client) -> None:
        """Adopt a connection that another process served, or this process until it was packed."""
        if self.is_ended:
            cut(self.world, client, ENDED)
            return
        client.served = self
        if client.uid >= 0:
            join(self, client)
        for write in list(client.writes):
            write.served = self
            self._forward(write)

    def stop_clients(self) -> None:
        """A hold has begun: no client sends anything new."""
        for client in self.clients.values():
            client.stop(HOLD, self.world.loop.now)

    def _let_go_on(self) -> None:
        for client in self.clients.values():
            client.resume(HOLD)
            client.resume(CALM)

    def is_drained(self, why: str) -> bool:
        """Whether nothing is in flight that ends by itself, among the clients that this reason has stopped."""
        now = self.world.loop.now
        found = [c for c in self.clients.values() if c.is_stopped_by(why) and not c.is_tied]
        return all(c.drained_at <= now for c in found) and (why == CALM or not self.in_flight)

    def calm(self) -> None:
        """See ``EndpointControl.calm``."""
        for client in self.clients.values():
            if client.drain_s:
                client.stop(CALM, self.world.loop.now)
        self.calm_ends_at = self.world.loop.now + CALM_MAX_S
        self.world.loop.at(CALM_MAX_S, self._end_calm, process=self.owner.process)

    def _end_calm(self) -> None:
        if self.world.loop.now >= self.calm_ends_at - 1e-6:
            for client in self.clients.values():
                client.resume(CALM)

    # -- the leader ----------------------------------------------------------------------------------------------------

    def begin_hold(self, old: Target, new: Target) -> None:
        """Hold; after the time limit, search for the writable primary."""
        now = self.world.loop.now
        if self.gate.begin_hold(old, new, now) is Change.HELD:
            self.stop_clients()
            self.prover.look()
            self.world.log(f"endpoint {self.gate.spec.uid} on {self.owner.node_uid}: holds for generation {new.generation}")
        self.self_release.schedule()

    def release(self, target: Target) -> ReleaseResult:
        """See ``EndpointControl.release``."""
        self.lapse()
        hold = self.gate.hold
        held = len(self.held)
        if self.gate.release(target) is not Change.MOVED:
            return ReleaseResult(0.0, 0, self.gate.generation)
        pause_s = 0.0 if hold is None else self.world.loop.now - hold.since
        self.moved()
        return ReleaseResult(round(pause_s * 1000, 3), held, self.gate.generation)

    def lapse(self) -> None:
        """Before replies may be passed on again: no one receives what the server sent while there was no proof."""
        if self.gate.is_outdated(self.prover.now):
            lost, self.in_flight = self.in_flight, []
            for write in lost:
                self.world.writers.answered(write, None, "no proof held for a while")
                self.came_in(write)

    def lease_changed(self) -> None:
        """Proofs may be needed now, or no longer."""
        self.prover.look()
        if self.gate.is_open:
            self.flush()

    def moved(self) -> None:
        """The endpoint forwards to another server, or to the old one again: notify every connection."""
        self.prover.look()
        self._let_go_on()
        self.flush()

    def end(self) -> None:
        """Stop serving it."""
        self.is_ended = True
        self.is_listening = False
        if self.passing is not None:
            self.passing.ended()
        for client in list(self.clients.values()):
            cut(self.world, client, ENDED)
        self.clients.clear()
        for write in (*self.held, *self.in_flight):
            self.world.writers.answered(write, None, ENDED)
        self.held.clear()
        self.in_flight.clear()
