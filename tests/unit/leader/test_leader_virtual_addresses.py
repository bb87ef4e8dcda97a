"""What the leader observes for virtual addresses: since when a process is silent, and whom it asks often."""

import asyncio
from datetime import datetime, timedelta

from shardwright.clock import SystemClock
from shardwright.leader.observe import Observer, _endpoints_that_matter, _nodes_of_endpoints
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.seen import EndpointProcessSeen, EndpointSeen, EndpointState, VirtualSeen, VirtualState
from shardwright.model.virtual_address import VirtualAddress
from testkit.builders import NOW, cluster

N1 = NodeUid(1)
HELD = VirtualAddress("10.0.0.9", 24, "eth0", NOW, holder=N1, generation=1)


class Process:
    """Stands for all nodes; answers as it is told, a second later each time."""

    def __init__(self) -> None:
        self.answers = True
        self.at = NOW

    def link(self, node: NodeUid) -> "Process":
        return self

    @property
    def endpoint_process(self) -> "Process":
        return self

    async def status(self, suspects: object) -> EndpointProcessSeen:
        self.at += timedelta(seconds=1)
        return EndpointProcessSeen(N1, self.at, answers=self.answers)


def test_a_process_is_silent_since_its_first_silence() -> None:
    process = Process()
    observer = Observer(process, process, clock=SystemClock(), wake=lambda: None)  # type: ignore[arg-type]
    view = cluster(1).view

    async def ask(*, answers: bool) -> datetime | None:
        process.answers = answers
        await observer._ask_endpoint_process(N1)
        return observer.augment(view).endpoint_processes[N1].silent_since

    async def whole() -> list[datetime | None]:
        return [await ask(answers=answers) for answers in (True, False, False, True, False)]

    first, again = NOW + timedelta(seconds=2), NOW + timedelta(seconds=5)
    assert asyncio.run(whole()) == [None, first, first, None, again]


def test_a_node_that_closes_the_clients_of_an_address_is_asked_often() -> None:
    builder = cluster(3).with_database(on=((2, 3),))
    assert _nodes_of_endpoints(builder.with_records(HELD).view, frozenset()) == frozenset()
    leaving = VirtualAddress("10.0.0.9", 24, "eth0", NOW, holder=N1, generation=1, leaving_since=NOW)
    assert _nodes_of_endpoints(builder.with_records(leaving).view, frozenset()) == {N1}


def test_a_change_of_what_a_process_does_with_an_address_matters() -> None:
    def process(state: VirtualState, failed_s: float = 0.0) -> EndpointProcessSeen:
        seen = VirtualSeen("10.0.0.9", state, failed_s)
        return EndpointProcessSeen(
            N1, NOW, answers=True, endpoints=(EndpointSeen(EndpointUid("1:1"), EndpointState.LISTENING, virtual=(seen,)),)
        )

    assert _endpoints_that_matter(process(VirtualState.CLOSING)) != _endpoints_that_matter(process(VirtualState.LEFT))
    failed = VirtualState.BIND_FAILED
    assert _endpoints_that_matter(process(failed, 1.0)) == _endpoints_that_matter(process(failed, 2.0))
