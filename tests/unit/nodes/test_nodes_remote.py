"""The link to a node of another machine, over real TLS: what may wait, what never does, and what is a proof."""

import asyncio
import os
from pathlib import Path

import pytest
import uvloop

from shardwright.endpoint.channel import Message
from shardwright.endpoint.protocol import EndpointProcessEnded, HoldResult, ReleaseResult
from shardwright.errors import LostLeadership, Permanent, Transient
from shardwright.machine.processes import identity_of
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.seen import Sighting
from shardwright.nodes.joined import JoinedNodes
from shardwright.nodes.local import LocalNodes
from shardwright.nodes.protocol import NOT_SEEN, ProcessLook
from testkit.deadlines import Stopwatch, until_async
from tests.unit.nodes.remote_machine import (
    ENDPOINT,
    NEW,
    NEWS,
    NODE,
    OLD,
    PROCESS,
    Loop,
    Machine,
    failure,
    repeated,
    run,
)

pytestmark = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


# -- endpoint processes ------------------------------------------------------------------------------------------------


def test_hold_and_release_use_the_connection_that_status_has_opened(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("process")
        process = machine.link.endpoint_process
        await machine.connect()
        seen = await process.status()
        assert (seen.node_uid, seen.answers, seen.pid) == (NODE, True, 7)
        assert await process.hold(ENDPOINT, OLD, NEW) == HoldResult(True, True)
        assert await process.release(ENDPOINT, NEW) == ReleaseResult(1.0, 2, 3)
        assert (await failure(process.drop(ENDPOINT))).code == Code.ENDPOINT_PROCESS_REFUSED

    run(loop, scenario)


def test_a_hold_without_a_connection_asks_nothing_and_has_it_opened(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("process")
        process = machine.link.endpoint_process
        for call in (process.hold(ENDPOINT, OLD, NEW), process.release(ENDPOINT, NEW)):
            watch = Stopwatch()
            assert (await failure(call)).code == Code.ENDPOINT_PROCESS_NOT_CONNECTED
            assert watch.is_within(0.05), "it does not wait for the handshake"
        assert machine.asked == []

        async def holds() -> bool:
            try:
                return (await process.hold(ENDPOINT, OLD, NEW)).was_held
            except Transient:
                return False

        await repeated(holds)
        assert machine.asked == ["hold"], "what was refused before is not sent later"

    run(loop, scenario)


def test_a_slow_status_and_a_long_calm_do_not_delay_a_hold(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("process")
        process = machine.link.endpoint_process
        await machine.connect()
        machine.is_slow = True
        slow = [asyncio.ensure_future(process.status()) for _ in range(3)]
        calming = asyncio.ensure_future(process.calm(ENDPOINT))
        await until_async("they are asked", lambda: machine.asked[-1:] == ["calm"], seconds=10)
        watch = Stopwatch()
        assert (await process.hold(ENDPOINT, OLD, NEW)).was_held
        assert (await process.release(ENDPOINT, NEW)).generation == 3
        assert watch.is_within(0.2)
        assert not any(task.done() for task in (*slow, calming)) or watch.seconds >= 0.3
        for seen in await asyncio.gather(*slow):
            assert (seen.answers, seen.has_ended) == (False, False)
        calming.cancel()
        await asyncio.gather(calming, return_exceptions=True)

    run(loop, scenario)


def test_a_refused_connection_is_silence_unless_the_agent_says_more(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("process")
        await machine.start("agent")
        process = machine.link.endpoint_process
        await machine.connect()
        await machine.stop("process")
        for look in (NOT_SEEN, ProcessLook(Sighting.RUNS, 1.0)):
            machine.look = look
            seen = await process.status()
            assert (seen.answers, seen.has_ended) == (False, False)
            assert type(await failure(process.hold(ENDPOINT, OLD, NEW))) is Transient
        machine.look = ProcessLook(Sighting.ENDED)

        async def has_ended() -> bool:
            return (await process.status()).has_ended

        async def cannot_hold() -> bool:
            return type(await failure(process.hold(ENDPOINT, OLD, NEW))) is EndpointProcessEnded

        # An agent that answers late proves nothing; the next question may be answered in time.
        await repeated(has_ended)
        await repeated(cannot_hold)
        assert type(await failure(process.release(ENDPOINT, NEW))) is Transient
        await machine.stop("agent")
        assert not (await process.status()).has_ended, "what the agent has said before is no proof of now"
        assert type(await failure(process.hold(ENDPOINT, OLD, NEW))) is Transient

    run(loop, scenario)


def test_a_process_that_has_returned_is_reached_again(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("process")
        process = machine.link.endpoint_process
        await machine.connect()
        await machine.stop("process")
        assert not (await process.status()).answers
        await machine.start("process")

        async def answers() -> bool:
            return (await process.status()).answers

        await repeated(answers)
        assert (await process.hold(ENDPOINT, OLD, NEW)).was_held

    run(loop, scenario)


def test_an_unknown_node_is_silent(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        machine.is_known = False
        seen = await machine.link.endpoint_process.status()
        assert (seen.answers, seen.has_ended) == (False, False)
        error = await failure(machine.link.news(None))
        assert (error.code, "no address of node 2" in error.text) == (Code.AGENT_SILENT, True)
        assert await machine.link.look(PROCESS) == NOT_SEEN

    run(loop, scenario)


# -- agents ------------------------------------------------------------------------------------------------------------


def test_an_agent_is_asked_for_news_and_for_processes(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("agent")
        link = machine.link
        machine.look = ProcessLook(Sighting.RUNS, 1.5)
        news, look = await asyncio.gather(link.news(None), link.look(PROCESS))
        assert (news, look) == (NEWS, machine.look)
        await link.end(PROCESS)
        assert sorted(machine.asked) == ["agent end", "agent look", "agent news"]

    run(loop, scenario)


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        ({"error": "term 7 is over", "code": "lost_leadership"}, LostLeadership, Code.LOST_LEADERSHIP),
        ({"error": "not one of this node", "code": "agent_refused"}, Transient, Code.AGENT_REFUSED),
        ({"error": "new", "code": "something_new"}, Transient, Code.AGENT_REFUSED),
        ({}, Transient, Code.AGENT_REFUSED),
    ],
)
def test_a_process_is_not_ended_without_the_agents_word(
    loop: Loop, answer: Message, kind: type[Exception], code: Code
) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("agent")
        machine.end_answer = answer
        with pytest.raises(kind) as found:
            await machine.link.end(PROCESS)
        assert found.value.code == code  # type: ignore[attr-defined]

    run(loop, scenario)


def test_an_agent_that_ends_is_noticed_at_once(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("agent")
        assert await machine.link.news(None) == NEWS
        await machine.stop("agent")
        watch = Stopwatch()
        assert (await failure(machine.link.news(NEWS.mark))).code == Code.AGENT_SILENT
        assert await machine.link.look(PROCESS) == NOT_SEEN
        assert (await failure(machine.link.end(PROCESS))).code == Code.AGENT_SILENT
        assert watch.is_within(2.0)

    run(loop, scenario)


# -- machines ----------------------------------------------------------------------------------------------------------


def test_an_endpoint_is_not_passed_to_another_machine(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        passed: list[NodeUid] = []

        def path_of(uid: NodeUid) -> str | None:
            passed.append(uid)
            return None

        nodes = JoinedNodes(LocalNodes(path_of), machine.nodes, is_here=lambda uid: uid in (1, 3))
        for node, to_node in ((2, 1), (2, 2), (1, 2)):
            with pytest.raises(Permanent, match=f"1:1 cannot be passed to node {to_node}") as found:
                await nodes.link(NodeUid(node)).pass_endpoint(ENDPOINT, NodeUid(to_node))
            assert found.value.code == Code.ENDPOINT_ON_OTHER_MACHINE
        passed.clear()
        with pytest.raises(Transient, match="node 3"):
            await nodes.link(NodeUid(1)).pass_endpoint(ENDPOINT, NodeUid(3))
        assert passed == [3], "within the machine it is tried"

    run(loop, scenario)


def test_each_node_is_reached_in_its_own_way(loop: Loop, tmp_path: Path) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("process")
        await machine.start("agent")
        missing = str(tmp_path / "none.sock")
        here = LocalNodes(lambda uid: missing, agent_of=lambda uid: missing)
        nodes = JoinedNodes(here, machine.nodes, is_here=lambda uid: uid == 1)
        assert (await nodes.link(NODE).endpoint_process.status()).answers
        assert await nodes.link(NODE).news(None) == NEWS
        own = nodes.link(NodeUid(1))
        assert (await own.endpoint_process.status()).has_ended, "a refused socket of this machine is a proof"
        assert (await failure(own.news(None))).code == Code.AGENT_SILENT
        assert await own.look(PROCESS) == NOT_SEEN
        of_this_machine = identity_of(os.getpid())
        assert of_this_machine is not None
        assert own.is_here(of_this_machine)
        assert not own.is_here(PROCESS)
        assert not nodes.link(NODE).is_here(of_this_machine), "a node of another machine is not here, whatever its ids"
        assert (await failure(own.end(PROCESS))).code == Code.PROCESS_OF_ANOTHER_MACHINE
        nodes.close()

    run(loop, scenario)
