"""Simulated endpoint processes, and the ``EndpointControl`` with which a simulated leader calls one.

``served.py`` models an endpoint within a process; this module models the requests over the control socket.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from shardwright.clock import Clock
from shardwright.endpoint.gate import Change
from shardwright.endpoint.lease import LeaseStanding
from shardwright.endpoint.process import PASS_ANSWER_S
from shardwright.endpoint.protocol import (
    CALL_TIMEOUT_S,
    CALM_S,
    DRAIN_S,
    HOLD_TIMEOUT_S,
    EndpointProcessEnded,
    EndpointSpec,
    HoldResult,
    LeaseTerms,
    PassResult,
    ReleaseResult,
    Target,
)
from shardwright.errors import Transient
from shardwright.model.codes import Code
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.lease import LeaseSeen
from shardwright.model.seen import BusyCommand, EndpointProcessSeen
from sim.clients import CALM, HOLD
from sim.loop import SimProcess
from sim.network import CONTROL, Answer, NoReply, Refused
from sim.passing import Passing
from sim.retiring import retire
from sim.served import Served
from sim.world import START, World


class SimEndpointProcess:
    """The endpoint process of one node."""

    def __init__(self, world: World, node_uid: int) -> None:
        self.world = world
        self.node_uid = node_uid
        self.process = SimProcess(f"endpoint process {node_uid}")
        self.pid = world.machine_of(node_uid).new_pid(self.process)
        self.process.on_death.append(self._ended)
        self.instance = world.new_id("endpoint process")
        self.endpoints: dict[EndpointUid, Served] = {}
        self.standings: dict[EndpointUid, LeaseStanding] = {}
        self.late_s = 0.0
        """How late it answers its control socket, while it serves clients normally."""

    def _ended(self) -> None:
        for served in self.endpoints.values():
            served.end()
        self.endpoints.clear()

    def standing(self, uid: EndpointUid) -> LeaseStanding:
        """What the process knows of an endpoint's lease, for as long as it lives."""
        return self.standings.setdefault(uid, LeaseStanding(self.instance))

    def status(self, suspects: Collection[EndpointUid]) -> EndpointProcessSeen:
        for uid in suspects:
            if uid in self.endpoints:
                self.endpoints[uid].suspicion.suspect()
        return EndpointProcessSeen(
            NodeUid(self.node_uid),
            START,
            answers=True,
            pid=self.pid,
            endpoints=tuple(served.seen() for _, served in sorted(self.endpoints.items())),
            instance=self.instance,
            leases={uid: seen for uid in sorted(self.standings) if (seen := self._lease_seen(uid)) is not None},
        )

    def _lease_seen(self, uid: EndpointUid) -> LeaseSeen | None:
        served = self.endpoints.get(uid)
        return self.standings[uid].seen(uid, None if served is None else served.prover.unconfirmed_s)

    def serve(self, spec: EndpointSpec) -> None:
        served = self.endpoints.get(spec.uid)
        if served is None:
            served = self.endpoints[spec.uid] = Served(self, spec)
        served.lapse()
        if served.gate.serve(spec) is Change.MOVED:
            served.moved()
        served.lease_changed()
        served.listen()

    def tell_lease(self, uid: EndpointUid, terms: LeaseTerms) -> None:
        served = self.endpoints.get(uid)
        if served is None:
            self.standing(uid).apply(terms)
            self.standing(uid).end_waiver()
        else:
            served.lapse()
            served.gate.tell_lease(terms)
            served.lease_changed()

    def drop(self, uid: EndpointUid) -> None:
        served = self.endpoints.pop(uid, None)
        if served is not None:
            served.end()

    def retire(self, uid: EndpointUid) -> None:
        served = self.endpoints.get(uid)
        if served is not None:
            retire(served)

    def known(self, uid: EndpointUid) -> Served:
        """Raises Transient for an endpoint that it does not serve."""
        served = self.endpoints.get(uid)
        if served is None:
            raise Transient(Code.ENDPOINT_PROCESS_REFUSED, f"endpoint {uid} is unknown here")
        return served

    def pass_endpoint(self, uid: EndpointUid, to: "SimEndpointProcess") -> Callable[[Answer], None]:
        """Pass the listener and every quiet connection to the other process. Returns the function that sends the answer
        later."""
        served = self.known(uid)
        passing = served.passing
        if passing is None or passing.is_over or passing.to is not to:
            if passing is not None and not passing.is_over:
                passing.stop()
            other = to.endpoints.get(uid)
            if other is None:
                other = to.endpoints[uid] = Served(to, replace(served.gate.spec))
            passing = served.passing = Passing(served, to, other)
            passing.begin()
        until = self.world.loop.now + PASS_ANSWER_S

        def report(answer: Answer) -> None:
            if not passing.is_over and self.world.loop.now < until:
                self.world.loop.at(0.01, report, answer, process=self.process)
            elif passing.failure:
                answer(Transient(Code.ENDPOINT_PROCESS_REFUSED, passing.failure))
            else:
                answer(PassResult(passing.passed, served.seen().connections))

        return report


class SimEndpointControl:
    """The ``EndpointControl`` of one node's process, for one leader."""

    notices_who_has_left = True
    """Whether a process that is late with a hold checks that its caller still waits."""

    def __init__(self, world: World, node: NodeUid, *, process: SimProcess, place: int, clock: Clock) -> None:
        self.world = world
        self.node = node
        self.process = process
        self.place = place
        self.clock = clock

    async def _ask(self, do: Callable[[SimEndpointProcess], Any], *, name: str, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        node = self.node
        found: list[SimEndpointProcess] = []

        def receiver() -> SimProcess | None:
            endpoint_process = self.world.endpoint_process(node)
            if endpoint_process is None:
                return None
            found.append(endpoint_process)
            return endpoint_process.process

        def execute(answer: Answer, is_heard: bool = False) -> None:
            asked = found[-1]
            if asked.late_s > 0.0 and not is_heard:
                self.world.loop.at(asked.late_s, execute, answer, True, process=asked.process)
                return
            try:
                result = do(asked)
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
                kind=CONTROL,
                is_kept_back=name != "status" and self.world.keeps_back(name),
            )
        except Refused as e:
            raise EndpointProcessEnded(Code.ENDPOINT_PROCESS_ENDED, f"the endpoint process of node {node} has ended") from e
        except NoReply as e:
            raise Transient(Code.ENDPOINT_PROCESS_SILENT, f"the endpoint process of node {node} does not answer") from e
        if name != "status":
            self.world.command(self, None, f"{name} node {node}", "after")
            if not self.process.runs:
                await asyncio.sleep(0)
        return reply

    async def status(self, suspects: Collection[EndpointUid] = ()) -> EndpointProcessSeen:
        try:
            found: EndpointProcessSeen = await self._ask(lambda p: p.status(suspects), name="status")
        except EndpointProcessEnded:
            return EndpointProcessSeen(self.node, self.clock.now(), answers=False, has_ended=True)
        except Transient:
            return EndpointProcessSeen(self.node, self.clock.now(), answers=False)
        return replace(found, at=self.clock.now())

    async def serve(self, spec: EndpointSpec) -> None:
        await self._ask(lambda p: p.serve(spec), name=f"serve {spec.uid}")

    async def tell_lease(self, endpoint: EndpointUid, terms: LeaseTerms) -> None:
        await self._ask(lambda p: p.tell_lease(endpoint, terms), name=f"lease {self.node} {endpoint}")

    async def drop(self, endpoint: EndpointUid) -> None:
        await self._ask(lambda p: p.drop(endpoint), name=f"drop {endpoint}")

    async def retire(self, endpoint: EndpointUid) -> None:
        await self._ask(lambda p: p.retire(endpoint), name=f"retire {endpoint}")

    async def calm(self, endpoint: EndpointUid) -> None:
        def do(process: SimEndpointProcess) -> Any:
            served = process.known(endpoint)
            deadline = self.world.loop.now + CALM_S

            def drain_calmed(answer: Answer) -> None:
                if served.gate.hold is None:
                    served.calm()
                if served.gate.hold is not None or served.is_drained(CALM) or self.world.loop.now >= deadline:
                    answer(None)
                else:
                    self.world.loop.at(0.01, drain_calmed, answer, process=process.process)

            return drain_calmed

        await self._ask(do, name=f"calm {endpoint}", timeout_s=CALM_S + HOLD_TIMEOUT_S)

    async def hold(self, endpoint: EndpointUid, old: Target, new: Target) -> HoldResult:
        has_left = False

        def do(process: SimEndpointProcess) -> Any:
            if has_left and self.notices_who_has_left:
                return lambda answer: None  # a hold whose caller has disconnected is not begun
            served = process.known(endpoint)
            served.begin_hold(old, new)
            deadline = self.world.loop.now + DRAIN_S

            def drained(answer: Answer) -> None:
                if served.gate.hold is None:
                    answer(HoldResult(False, False))
                elif served.is_drained(HOLD):
                    answer(HoldResult(True, True))
                elif self.world.loop.now >= deadline:
                    served.release(old)
                    answer(HoldResult(True, False, (BusyCommand("client", "SET"),)))
                else:
                    self.world.loop.at(0.002, drained, answer, process=process.process)

            return drained

        try:
            result: HoldResult = await self._ask(do, name=f"hold {endpoint}", timeout_s=HOLD_TIMEOUT_S)
        finally:
            has_left = True
        return result

    async def release(self, endpoint: EndpointUid, target: Target) -> ReleaseResult:
        result: ReleaseResult = await self._ask(lambda p: p.known(endpoint).release(target), name=f"release {endpoint}")
        return result

    async def pass_endpoint(self, endpoint: EndpointUid, to_node: NodeUid) -> PassResult:
        def do(process: SimEndpointProcess) -> Callable[[Answer], None]:
            other = self.world.endpoint_process(to_node)
            is_near = self.world.share_machine(self.node, to_node)  # Sockets pass through a Unix socket.
            if other is None or not other.process.runs or not is_near or not self.world.network.passes(self.node, to_node):
                raise Transient(Code.ENDPOINT_PROCESS_REFUSED, "the other process does not accept it")
            return process.pass_endpoint(endpoint, other)

        result: PassResult = await self._ask(do, name=f"pass {endpoint}", timeout_s=CALL_TIMEOUT_S + 0.3)
        return result
