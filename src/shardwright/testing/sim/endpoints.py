"""Modelled endpoint processes, and the ``Endpoints`` through which a simulated leader speaks to them.

What a hold, a release and a specification do is the product's own ``endpoint/gate.py``; the sockets and the clients'
commands around it are modelled here, with the limits of ``endpoint/protocol.py``.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from shardwright.clock import Clock
from shardwright.endpoint.gate import Change, Gate, Hold, is_same_server
from shardwright.endpoint.protocol import (
    CALL_TIMEOUT_S,
    CALM_S,
    DRAIN_S,
    HOLD_MAX_S,
    HOLD_TIMEOUT_S,
    SELF_RELEASE_S,
    EndpointProcessEnded,
    EndpointSpec,
    HoldResult,
    PassResult,
    ReleaseResult,
    Target,
)
from shardwright.errors import Transient
from shardwright.model.database import Role
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.seen import BusyCommand, EndpointProcessSeen, EndpointSeen, EndpointState
from shardwright.testing.sim.loop import SimProcess
from shardwright.testing.sim.network import Answer, NoReply, Refused
from shardwright.testing.sim.server import Connection, Outcome, Position, SimServer
from shardwright.testing.sim.world import World, WriteAttempt

LOOK_AGAIN_S = 0.2
RETRY_S = 0.2


class Served:
    """One endpoint in one process."""

    def __init__(self, owner: "SimEndpointProcess", spec: EndpointSpec) -> None:
        self.owner = owner
        self.world = owner.world
        self.gate = Gate(spec)
        self.is_listening = False
        self.is_draining = False
        self.is_ended = False
        self.held: list[WriteAttempt] = []
        self.in_flight: list[WriteAttempt] = []
        self.retry_is_due = False
        self.asks = False
        self.connections: dict[bool, tuple[Target, Connection]] = {}
        """To the server, one for scripts and one for other writes: a plain refusal makes its own connection leave."""

    # -- the listener --------------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Bind, if no other process holds the address."""
        self.is_draining = False
        port = self.gate.spec.port
        holders = self.world.holders_of(port)
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
        return EndpointSeen(self.gate.spec.uid, state, self.gate.generation, held, len(self.in_flight) + len(self.held))

    # -- clients -------------------------------------------------------------------------------------------------------

    def take(self, write: WriteAttempt) -> None:
        """A client's command has arrived."""
        if self.is_ended:
            self.world.writers.answered(write, None)
            return
        write.held_at = -1.0
        self._forward(write)

    def _forward(self, write: WriteAttempt) -> None:
        target = self.gate.target
        if not self.gate.is_open or target is None:
            self._hold_back(write)
            return
        if not write.is_answered:
            self.in_flight.append(write)  # Else its client has closed the connection: what was read is sent all the same.
        world = self.world
        node = world.node_at(target.address)
        delay = 0.0001 + world.rng.random() * 0.0003
        world.loop.at(delay, self._arrive, write, target, node, self._connection(write, target))

    def _connection(self, write: WriteAttempt, target: Target) -> Connection | None:
        """The one that leads there; None: it must be opened."""
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

        def answer(outcome: Outcome, position: Position | None) -> None:
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
                answer(Outcome.SILENT, None)
            else:
                chosen.write(answer, hides_refusal=write.hides_refusal)

        if server.process.is_frozen:
            world.loop.at(0.0, execute, process=server.process)
        else:
            execute()

    def _set_up(self, write: WriteAttempt, target: Target, server: SimServer) -> None:
        """A new connection is checked before anything is sent on it. What the checks saw is one way back and one way there
        old when the write arrives; older when this process stands still meanwhile."""
        world = self.world
        if not server.is_open or self.is_ended or not world.network.passes(server.node_uid, self.owner.node_uid):
            self._lost(write, None)
            return
        connection = server.connect()
        self.connections[write.hides_refusal] = (target, connection)
        delay = 0.0001 + world.rng.random() * 0.0003
        world.loop.at(delay, self._checked, write, target, connection, process=self.owner.process)

    def _checked(self, write: WriteAttempt, target: Target, connection: Connection) -> None:
        """The checks have passed: now the write itself."""
        world = self.world
        delay = 0.0001 + world.rng.random() * 0.0003
        if self.gate.is_open and self.gate.target == target:
            world.loop.at(delay, self._arrive, write, target, connection.server.node_uid, connection)
        else:
            self._refused(write)

    def _lost(self, write: WriteAttempt, connection: Connection | None) -> None:
        """It did not arrive at a server."""
        self._leave(write, connection)
        self.world.loop.at(0.0001, self._refused, write, process=self.owner.process)

    def _leave(self, write: WriteAttempt, connection: Connection | None) -> None:
        """Open another connection for what comes next."""
        if connection is not None and self.connections.get(write.hides_refusal, (None, None))[1] is connection:
            del self.connections[write.hides_refusal]

    def _refused(self, write: WriteAttempt) -> None:
        if write in self.in_flight:
            self.in_flight.remove(write)
            self._hold_back(write)

    def _reply(self, write: WriteAttempt, outcome: Outcome, position: Position | None, connection: Connection) -> None:
        if write not in self.in_flight:
            return
        self.in_flight.remove(write)
        match outcome:
            case Outcome.DONE:
                assert position is not None
                self.world.acknowledged(write, position, connection.server)
            case Outcome.HIDDEN:
                self.world.hidden(write, connection.server)
            case Outcome.REFUSED:
                self._leave(write, connection)
                self._hold_back(write)
            case Outcome.NO_ROOM:
                self.world.writers.answered(write, False)
            case Outcome.SILENT:
                self.world.writers.answered(write, None)

    def _hold_back(self, write: WriteAttempt) -> None:
        """It certainly was not executed: keep it for a server that will."""
        if write.is_answered:
            return
        now = self.world.loop.now
        if write.held_at < 0:
            write.held_at = now
        if now - write.held_at >= HOLD_MAX_S or self.is_ended:
            self.world.writers.answered(write, False)
            return
        self.held.append(write)
        if not self.retry_is_due:
            self.retry_is_due = True
            self.world.loop.at(RETRY_S, self._retry, process=self.owner.process)

    def _retry(self) -> None:
        self.retry_is_due = False
        self.flush()

    def flush(self) -> None:
        """Send on what is held, as far as it may go."""
        held, self.held = self.held, []
        for write in held:
            if self.gate.is_open:
                self._forward(write)
            else:
                self._hold_back(write)

    def forget(self, write: WriteAttempt) -> None:
        """Its client has closed the connection."""
        if write in self.in_flight:
            self.in_flight.remove(write)
        if write in self.held:
            self.held.remove(write)

    # -- the leader ----------------------------------------------------------------------------------------------------

    def begin_hold(self, old: Target, new: Target) -> None:
        """Hold; at its time look for the writable primary."""
        now = self.world.loop.now
        if self.gate.begin_hold(old, new, now) is Change.HELD:
            self.world.log(f"endpoint {self.gate.spec.uid} on {self.owner.node_uid}: holds for generation {new.generation}")
        self.ask_in_time()

    def ask_in_time(self) -> None:
        """A hold of whose leader nothing is heard is ended by looking."""
        if self.gate.hold is not None and not self.asks:
            self.asks = True
            wait = max(0.0, self.gate.hold.since + SELF_RELEASE_S - self.world.loop.now)
            self.world.loop.at(wait, self._look, process=self.owner.process)

    def _look(self) -> None:
        self.asks = False
        hold = self.gate.hold
        if hold is None or self.is_ended:
            return
        wait = hold.since + SELF_RELEASE_S - self.world.loop.now
        if wait > 1e-6:
            self.ask_in_time()
            return
        for target in (hold.new, hold.old):
            if self._is_writable(target):
                self.world.log(
                    f"endpoint {self.gate.spec.uid} on {self.owner.node_uid}: released itself to {target.shard_uid}"
                )
                self.release(target)
                return
        self.asks = True
        self.world.loop.at(LOOK_AGAIN_S, self._look, process=self.owner.process)

    def _is_writable(self, target: Target) -> bool:
        server = self.world.listener(target.address, target.port)
        if server is None or not server.process.runs or server.is_loading:
            return False
        network, own = self.world.network, self.owner.node_uid
        if not network.passes(own, server.node_uid) or not network.passes(server.node_uid, own):
            return False
        is_it = not target.run_id or server.run_id == target.run_id
        return is_it and server.role is Role.PRIMARY and not server.is_fenced

    def release(self, target: Target) -> ReleaseResult:
        """See ``Endpoints.release``."""
        hold = self.gate.hold
        held = len(self.held)
        if self.gate.release(target) is not Change.MOVED:
            return ReleaseResult(0.0, 0, self.gate.generation)
        pause_s = 0.0 if hold is None else self.world.loop.now - hold.since
        self.flush()
        return ReleaseResult(round(pause_s * 1000, 3), held, self.gate.generation)

    def end(self) -> None:
        """Stop serving it."""
        self.is_ended = True
        self.is_listening = False
        for write in (*self.held, *self.in_flight):
            self.world.writers.answered(write, None)
        self.held.clear()
        self.in_flight.clear()


class SimEndpointProcess:
    """One node's endpoint process."""

    def __init__(self, world: World, node_uid: int) -> None:
        self.world = world
        self.node_uid = node_uid
        self.pid = world.next_pid()
        self.process = SimProcess(f"endpoint process {node_uid}")
        self.process.on_death.append(self._ended)
        self.endpoints: dict[EndpointUid, Served] = {}

    def _ended(self) -> None:
        for served in self.endpoints.values():
            served.end()
        self.endpoints.clear()

    def serve(self, spec: EndpointSpec) -> None:
        served = self.endpoints.get(spec.uid)
        if served is None:
            served = self.endpoints[spec.uid] = Served(self, spec)
        if served.gate.serve(spec) is Change.MOVED:
            served.flush()
        served.listen()

    def drop(self, uid: EndpointUid) -> None:
        served = self.endpoints.pop(uid, None)
        if served is not None:
            served.end()

    def known(self, uid: EndpointUid) -> Served:
        """Raises Transient for one that it does not serve."""
        served = self.endpoints.get(uid)
        if served is None:
            raise Transient("endpoint_process_refused", f"endpoint {uid} is unknown here")
        return served

    def pass_along(self, uid: EndpointUid, to: "SimEndpointProcess") -> PassResult:
        """The listener and every quiet connection go to the other process."""
        served = self.known(uid)
        other = to.endpoints.get(uid)
        if other is None:
            other = to.endpoints[uid] = Served(to, replace(served.gate.spec))
        if served.gate.target is not None:
            other.gate.release(served.gate.target)
        if served.is_listening or not self.world.holders_of(served.gate.spec.port):
            other.is_listening = True
        other.is_draining = False
        hold: Hold | None = served.gate.hold
        if hold is not None and other.gate.begin_hold(hold.old, hold.new, hold.since) is Change.HELD:
            other.ask_in_time()
        held, served.held = served.held, []
        served.is_listening = False
        served.is_draining = True
        for write in held:
            write.served = other
            other._forward(write)
        return PassResult(len(held), len(served.in_flight))


class SimEndpoints:
    """``Endpoints`` of one leader."""

    def __init__(self, world: World, *, process: SimProcess, place: int, clock: Clock) -> None:
        self.world = world
        self.process = process
        self.place = place
        self.clock = clock

    async def _ask(
        self, node: NodeUid, do: Callable[[SimEndpointProcess], Any], *, name: str, timeout_s: float = CALL_TIMEOUT_S
    ) -> Any:
        found: list[SimEndpointProcess] = []

        def receiver() -> SimProcess | None:
            endpoint_process = self.world.endpoint_process(node)
            if endpoint_process is None:
                return None
            found.append(endpoint_process)
            return endpoint_process.process

        def execute(answer: Answer) -> None:
            try:
                result = do(found[-1])
                if callable(result):
                    result(answer)
                else:
                    answer(result)
            except Transient as e:
                answer(e)

        if name != "status":
            self.world.command(self, None, f"{name} node {node}", "before")
        try:
            reply = await self.world.network.call(
                self.place,
                node,
                receiver,
                execute,
                timeout_s=timeout_s,
                is_kept_back=name != "status" and self.world.keeps_back(name),
            )
        except Refused as e:
            raise EndpointProcessEnded("endpoint_process_ended", f"the endpoint process of node {node} has ended") from e
        except NoReply as e:
            raise Transient("endpoint_process_silent", f"the endpoint process of node {node} does not answer") from e
        if name != "status":
            self.world.command(self, None, f"{name} node {node}", "after")
            if not self.process.runs:
                await asyncio.sleep(0)
        return reply

    async def status(self, node: NodeUid) -> EndpointProcessSeen:
        try:
            found = await self._ask(
                node, lambda p: (p.pid, tuple(s.seen() for _, s in sorted(p.endpoints.items()))), name="status"
            )
        except EndpointProcessEnded:
            return EndpointProcessSeen(node, self.clock.now(), answers=False, has_ended=True)
        except Transient:
            return EndpointProcessSeen(node, self.clock.now(), answers=False)
        return EndpointProcessSeen(node, self.clock.now(), answers=True, pid=found[0], endpoints=found[1])

    async def serve(self, node: NodeUid, spec: EndpointSpec) -> None:
        await self._ask(node, lambda p: p.serve(spec), name=f"serve {spec.uid}")

    async def drop(self, node: NodeUid, endpoint: EndpointUid) -> None:
        await self._ask(node, lambda p: p.drop(endpoint), name=f"drop {endpoint}")

    async def calm(self, node: NodeUid, endpoint: EndpointUid) -> None:
        def do(process: SimEndpointProcess) -> None:
            process.known(endpoint)  # no client here has more than one command in flight

        await self._ask(node, do, name=f"calm {endpoint}", timeout_s=CALM_S + HOLD_TIMEOUT_S)

    async def hold(self, node: NodeUid, endpoint: EndpointUid, old: Target, new: Target) -> HoldResult:
        has_left = False

        def do(process: SimEndpointProcess) -> Any:
            if has_left:
                return lambda answer: None  # a hold whose caller has left is not begun
            served = process.known(endpoint)
            served.begin_hold(old, new)
            deadline = self.world.loop.now + DRAIN_S

            def drained(answer: Answer) -> None:
                if served.gate.hold is None:
                    answer(HoldResult(False, False))
                elif not served.in_flight:
                    answer(HoldResult(True, True))
                elif self.world.loop.now >= deadline:
                    answer(HoldResult(True, False, (BusyCommand("client", "SET"),)))
                else:
                    self.world.loop.at(0.002, drained, answer, process=process.process)

            return drained

        try:
            result: HoldResult = await self._ask(node, do, name=f"hold {endpoint}", timeout_s=HOLD_TIMEOUT_S)
        finally:
            has_left = True
        return result

    async def release(self, node: NodeUid, endpoint: EndpointUid, target: Target) -> ReleaseResult:
        result: ReleaseResult = await self._ask(
            node, lambda p: p.known(endpoint).release(target), name=f"release {endpoint}"
        )
        return result

    async def pass_along(self, node: NodeUid, endpoint: EndpointUid, to_node: NodeUid) -> PassResult:
        def do(process: SimEndpointProcess) -> PassResult:
            other = self.world.endpoint_process(to_node)
            if other is None or not other.process.runs or not self.world.network.passes(node, to_node):
                raise Transient("endpoint_process_refused", "the other process does not take it")
            return process.pass_along(endpoint, other)

        result: PassResult = await self._ask(node, do, name=f"pass {endpoint}", timeout_s=CALL_TIMEOUT_S + 0.3)
        return result
