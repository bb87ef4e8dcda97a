"""What a leader hears from agents: which nodes are away, which boots are over, and ends that the store does not have yet."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest

from shardwright.clock import SystemClock
from shardwright.errors import Transient
from shardwright.leader.attendance import remember
from shardwright.leader.observe import Observer
from shardwright.leader.presence import Lasting, Presence
from shardwright.model.codes import Code
from shardwright.model.database import ServerSecrets
from shardwright.model.ids import DatabaseUid, EndpointUid, NodeUid, ShardUid
from shardwright.model.liveness import Ended, Liveness, Proof, Silence, Silent
from shardwright.model.seen import (
    EndpointProcessSeen,
    Health,
    NodeFigures,
    NodeSeen,
    ProcessIdentity,
    ProcessSeen,
    ProcessState,
    ServerSeen,
    Sighting,
)
from shardwright.model.view import ClusterView
from shardwright.nodes.protocol import NewsMark, NodeNews, ProcessLook
from shardwright.server.protocol import ServerTarget
from testkit.builders import NOW, cluster
from testkit.deadlines import until_async

SHARD, NODE = ShardUid(1), NodeUid(1)
HERE, THERE = "this machine", "another machine"
DAEMON_PID = 5


def daemon(machine: str, boot: str, pid: int = DAEMON_PID) -> ProcessIdentity:
    return ProcessIdentity(pid, boot, 1, "python3", "/", machine)


def of_boot(boot: str, *, machine: str = THERE, has_presence: bool = True) -> ClusterView:
    """A database whose primary on node 1 was reported to run in this boot of a machine."""
    builder = cluster(nodes=3).with_database(on=((1, 2),))
    builder = builder.with_records(ServerSecrets(DatabaseUid(1), "a", "b", "c", "d", "e"))
    if not has_presence:
        builder = builder.without_daemon(NODE)
    identity = ProcessIdentity(77, boot, 1, "valkey-server", "/shards/1", machine)
    processes = {**builder.view.processes, SHARD: ProcessSeen(SHARD, 1, ProcessState.RUNNING, identity)}
    seen = {**builder.view.node_seen, NODE: NodeSeen(NODE, NOW, daemon=daemon(machine, boot))}
    return replace(builder.view, processes=processes, node_seen=seen)


class Net:
    """Nodes of which node 1 does not serve. Its agent answers as told, or not at all."""

    def __init__(self) -> None:
        self.daemon: ProcessIdentity | None = None
        self.ended: tuple[ProcessSeen, ...] = ()
        self.answers = True
        self.health = Health.TIMEOUT
        self.asked = asyncio.Event()
        self.questions = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.number = 0
        self.probes = 0

    def link(self, node: NodeUid) -> Any:
        return self

    def close(self) -> None: ...

    async def news(self, since: NewsMark | None) -> NodeNews:
        """An answer may be late: it names the daemon of the time of the question."""
        found = self.daemon
        self.questions += 1
        self.asked.set()
        await self.may_answer.wait()
        if not self.answers:
            raise Transient(Code.AGENT_SILENT, "it is cut off")
        await asyncio.sleep(0.001)
        self.number += 1
        return NodeNews(NewsMark("run", self.number), NOW, 0.0, NodeFigures(), (), daemon=found, ended=self.ended)

    @property
    def endpoint_process(self) -> Any:
        return self

    async def status(self, suspects: Collection[EndpointUid] = ()) -> EndpointProcessSeen:
        return EndpointProcessSeen(NODE, NOW, answers=False)

    def is_here(self, process: ProcessIdentity) -> bool:
        return process.machine_id == HERE

    async def look(self, process: ProcessIdentity) -> ProcessLook:
        """This machine has neither the daemon nor the server. On another machine the next daemon answers already: the one
        before has ended, and the server runs."""
        is_gone = process.machine_id == HERE or process.pid == DAEMON_PID
        return ProcessLook(Sighting.ENDED if is_gone else Sighting.RUNS)

    async def observe(self, target: ServerTarget) -> ServerSeen:
        self.probes += 1
        return ServerSeen(target.shard_uid, target.incarnation, NOW, self.health, unanswered_since=NOW)


def run(net: Callable[[], Net], check: Callable[[Observer, Net], Any]) -> None:
    async def work() -> None:
        made = net()
        servers: Any = made
        looking = Observer(servers, made, clock=SystemClock(), wake=lambda: None, idle_s=0.02, hot_s=0.02)
        try:
            await check(looking, made)
        finally:
            await looking.close()

    asyncio.run(work())


def liveness(looking: Observer, view: ClusterView) -> object:
    return looking.augment(view).liveness(view.shards[SHARD])


async def until(looking: Observer, view: ClusterView, expected: object) -> None:
    await until_async(f"the server is {expected}", lambda: liveness(looking, view) == expected, seconds=10)


async def probed(net: Net, times: int) -> None:
    """Wait until the server has been asked this often."""
    last = net.probes + times
    await until_async("the server is asked", lambda: net.probes >= last, seconds=10)


async def heard(net: Net, times: int) -> None:
    """Wait until the agents have answered this often."""
    last = net.number + times
    await until_async("the agents answer", lambda: net.number >= last, seconds=10)


def test_a_daemon_that_answers_in_another_boot_proves_the_end_of_the_older_one() -> None:
    async def check(looking: Observer, net: Net) -> None:
        net.daemon = daemon(THERE, "boot 2")
        view = of_boot("boot 1")
        looking.follow(view, hot=frozenset())
        await until(looking, view, Ended(Proof.REBOOTED))

    run(Net, check)


def test_an_answer_of_the_same_boot_or_of_another_machine_proves_nothing() -> None:
    async def check(looking: Observer, net: Net) -> None:
        view = of_boot("boot 1")
        for answering in (daemon(THERE, "boot 1"), daemon("a third machine", "boot 2"), daemon("", "boot 2"), None):
            net.daemon = answering
            looking.follow(view, hot=frozenset({SHARD}))
            await heard(net, 10)
            await until(looking, view, Silent(Silence.NO_ANSWER, NOW))

    run(Net, check)


def test_an_answer_to_a_question_from_before_the_process_was_on_record_proves_nothing() -> None:
    """It may be late: the machine has booted and started the process since."""

    async def check(looking: Observer, net: Net) -> None:
        net.may_answer.clear()
        net.daemon = daemon(THERE, "boot 1")
        earlier, view = replace(of_boot("boot 0"), processes={}), of_boot("boot 2")
        looking.follow(earlier, hot=frozenset())
        await until_async("every agent is asked", lambda: net.questions == len(earlier.nodes), seconds=10)
        net.daemon = daemon(THERE, "boot 2")
        looking.follow(view, hot=frozenset({SHARD}))
        net.may_answer.set()
        await heard(net, 20)
        await until(looking, view, Silent(Silence.NO_ANSWER, NOW))

    run(Net, check)


def test_an_end_that_an_agent_tells_is_known_before_the_store_has_it() -> None:
    async def check(looking: Observer, net: Net) -> None:
        net.daemon = daemon(THERE, "boot 1")
        view = of_boot("boot 1")
        looking.follow(view, hot=frozenset())
        net.ended = (ProcessSeen(SHARD, 1, ProcessState.GONE, ended_at=NOW),)
        await until(looking, view, Ended(Proof.REPORTED, NOW))
        net.ended = (ProcessSeen(SHARD, 2, ProcessState.GONE),)
        await until(looking, view, Silent(Silence.NO_ANSWER, NOW))
        net.ended = (ProcessSeen(SHARD, 1, ProcessState.ABSENT),)
        await heard(net, 10)
        assert liveness(looking, view) == Silent(Silence.NO_ANSWER, NOW), "only an end is final"

    run(Net, check)


@pytest.mark.parametrize(("machine", "is_away"), [(HERE, True), (THERE, False)])
def test_a_node_on_this_machine_is_away_as_soon_as_its_daemon_has_no_process(machine: str, is_away: bool) -> None:
    """On another machine the next daemon says so of the one before: it will soon be present again."""

    async def check(looking: Observer, net: Net) -> None:
        net.answers = False
        view = of_boot("boot 1", machine=machine, has_presence=False)
        looking.follow(view, hot=frozenset())
        await until(looking, view, Silent(Silence.NO_ANSWER, NOW) if machine == THERE else Ended(Proof.SEEN))
        await probed(net, 3)
        assert looking.augment(view).is_away(NODE) is is_away

    run(Net, check)


@pytest.mark.parametrize(("machine", "expected"), [(HERE, Ended(Proof.PORT_CLOSED)), (THERE, Silent(Silence.STARTING, NOW))])
def test_a_closed_port_of_an_unreported_process_proves_its_end_on_this_machine_only(
    machine: str, expected: Liveness
) -> None:
    async def check(looking: Observer, net: Net) -> None:
        net.answers, net.health = False, Health.REFUSED
        view = replace(of_boot("boot 1", machine=machine, has_presence=False), processes={})
        looking.follow(view, hot=frozenset({SHARD}))
        await until(looking, view, expected)
        await probed(net, 10)
        assert liveness(looking, view) == expected

    run(Net, check)


@pytest.mark.parametrize("report", [ProcessState.ABSENT, ProcessState.UNKNOWN])
def test_a_closed_port_proves_the_end_of_a_process_whose_agent_died_between_its_start_and_the_report(
    report: ProcessState,
) -> None:
    """Its last word is from before the start, or that a start is under way. Both name no process to look for."""

    async def check(looking: Observer, net: Net) -> None:
        net.answers, net.health = False, Health.REFUSED
        view = of_boot("boot 1", machine=HERE, has_presence=False)
        view = replace(view, processes={SHARD: ProcessSeen(SHARD, 1, report)})
        looking.follow(view, hot=frozenset())
        await until(looking, view, Ended(Proof.PORT_CLOSED))

    run(Net, check)


def test_a_refusal_while_the_agent_answers_is_no_part_of_a_proof() -> None:
    """The agent may start the process after the question, and die before the next one."""

    async def check(looking: Observer, net: Net) -> None:
        net.health = Health.REFUSED
        view = replace(of_boot("boot 1", machine=HERE, has_presence=False), processes={})
        looking.follow(view, hot=frozenset({SHARD}))
        await heard(net, 1)
        await probed(net, 5)
        assert SHARD not in looking.augment(view).sightings

    run(Net, check)


def test_a_node_without_presence_whose_agent_answers_is_not_away() -> None:
    async def check(looking: Observer, net: Net) -> None:
        net.daemon = daemon(HERE, "boot 1", pid=6)
        view = of_boot("boot 1", machine=HERE, has_presence=False)
        looking.follow(view, hot=frozenset())
        await heard(net, 9)
        assert not looking.augment(view).is_away(NODE)

    run(Net, check)


def test_an_agent_that_was_not_asked_yet_makes_no_node_away() -> None:
    """This daemon remembers that the key is missing for long; whether the agent answers, it learns only when it leads."""

    async def check(looking: Observer, net: Net) -> None:
        net.may_answer.clear()
        view = of_boot("boot 1", has_presence=False)
        long_ago = dict.fromkeys([NODE], SystemClock().monotonic() - 100.0)
        looking.attendance._presence = Presence(frozenset({NodeUid(2), NodeUid(3)}), long_ago)
        looking.follow(view, hot=frozenset())
        await net.asked.wait()
        assert not looking.augment(view).is_away(NODE)
        net.answers = False
        net.may_answer.set()
        await until_async("node 1 is away", lambda: looking.augment(view).is_away(NODE), seconds=10)

    run(Net, check)


def test_a_daemon_remembers_a_storm_for_the_leadership_that_follows() -> None:
    """The storm took the former leader's lease too."""

    class Records:
        """A mirror whose records are set."""

        def __init__(self) -> None:
            self.now = of_boot("boot 1")
            self.calls: list[Callable[[list[str]], None]] = []

        def view(self) -> ClusterView:
            return self.now

        def subscribe(self, call: Callable[[list[str]], None]) -> None:
            self.calls.append(call)

        def change(self, view: ClusterView) -> None:
            self.now = view
            self.calls[0](["daemons/00000001"])

    records, lasting = Records(), Lasting()
    remember(lasting, records, SystemClock())  # type: ignore[arg-type]
    records.change(records.now)
    records.change(records.now.changed(daemons={}))
    assert lasting.presence.storm_of == (1, 2, 3)
    assert lasting.presence.has_storm(SystemClock().monotonic())
