"""Which servers the leader asks."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from shardwright.clock import SystemClock
from shardwright.errors import Transient
from shardwright.leader.observe import (
    Observer,
    _nodes_of_endpoints,
    _with_machines_off,
    is_unreported,
    is_worth_asking,
)
from shardwright.model.cluster import DeclaredOff
from shardwright.model.codes import Code
from shardwright.model.database import ServerSecrets, ShardWanted
from shardwright.model.ids import DatabaseUid, EndpointUid, NodeUid, ShardUid
from shardwright.model.liveness import Ended, Proof
from shardwright.model.move import MoveState
from shardwright.model.seen import (
    EndpointProcessSeen,
    Health,
    NodeFigures,
    ProcessIdentity,
    ProcessState,
    ServerSeen,
    Sighting,
)
from shardwright.model.view import ClusterView, Put
from shardwright.nodes.protocol import NOT_SEEN, NewsMark, NodeNews, ProcessLook
from shardwright.server.protocol import ServerTarget
from testkit import moves
from testkit.builders import NOW, cluster
from testkit.deadlines import until_async

SHARD = ShardUid(1)


def test_a_running_server_is_asked_whether_its_daemon_lives_or_not() -> None:
    builder = cluster(nodes=3).with_database(on=((1, 2),))
    for one in (builder, builder.without_daemon(1)):
        assert is_worth_asking(one.view, one.view.shards[SHARD])
        assert not is_unreported(one.view, one.view.shards[SHARD])


def test_what_an_agent_reported_as_ended_is_not_asked() -> None:
    for state in (ProcessState.GONE, ProcessState.FAILED):
        view = cluster(nodes=3).with_database(on=((1, 2),)).with_process(1, state).without_daemon(1).view
        assert not is_worth_asking(view, view.shards[SHARD])


def test_an_incarnation_that_no_agent_will_report_is_asked_also_when_it_is_unwanted() -> None:
    """A node that dies with all its processes: its shards got new incarnations that nobody started."""
    builder = cluster(nodes=3).with_database(on=((1, 2),))
    shard = replace(builder.view.shards[SHARD], incarnation=2, wanted=ShardWanted.GONE)
    dead = replace(builder.with_records(shard).without_daemon(1).view, processes={})
    assert is_unreported(dead, shard)
    assert is_worth_asking(dead, shard)
    alive = replace(builder.with_records(shard).view, processes={})
    assert not is_worth_asking(alive, shard)


def test_a_server_is_asked_whose_agent_died_before_it_could_report_the_start() -> None:
    builder = cluster(nodes=3).with_database(on=((1, 2),)).with_process(1, ProcessState.ABSENT)
    assert not is_worth_asking(builder.view, builder.view.shards[SHARD])
    dead = builder.without_daemon(1).view
    assert is_worth_asking(dead, dead.shards[SHARD])


class Machine:
    """A node whose server is silent and whose process runs, until it is ended."""

    def __init__(self) -> None:
        self.has_ended = False
        self.is_cut_off = False
        self.cpu_s = 1.0
        self.at = NOW
        self.suspects: tuple[EndpointUid, ...] = ()

    def link(self, node: NodeUid) -> Any:
        return self

    def close(self) -> None: ...

    async def news(self, since: NewsMark | None) -> NodeNews:
        raise Transient(Code.AGENT_SILENT, "it is dead")

    @property
    def endpoint_process(self) -> Any:
        return self

    async def status(self, suspects: Collection[EndpointUid] = ()) -> EndpointProcessSeen:
        self.suspects = tuple(suspects)
        return EndpointProcessSeen(NodeUid(1), NOW, answers=False)

    def is_here(self, process: ProcessIdentity) -> bool:
        return True

    async def look(self, process: ProcessIdentity) -> ProcessLook:
        if self.is_cut_off:
            return NOT_SEEN
        return ProcessLook(Sighting.ENDED) if self.has_ended else ProcessLook(Sighting.RUNS, self.cpu_s)

    async def observe(self, target: ServerTarget) -> ServerSeen:
        return ServerSeen(target.shard_uid, target.incarnation, self.at, Health.TIMEOUT, unanswered_since=NOW)


def observer(machine: Machine) -> Observer:
    servers: Any = machine
    return Observer(servers, machine, clock=SystemClock(), wake=lambda: None)


def test_a_view_is_made_anew_only_when_something_has_changed() -> None:
    looking = observer(Machine())
    view = cluster(nodes=3).view
    assert looking.augment(view) is looking.augment(view)
    assert looking.augment(replace(view, revision=view.revision + 1)).revision == view.revision + 1


def test_what_is_silent_on_a_machine_that_was_declared_off_has_ended() -> None:
    """A look at the machine, and an answer, prevail over the word."""
    builder = cluster(nodes=3).with_database(on=((1, 2),)).with_endpoints_seen().without_daemon(1)
    word = DeclaredOff(NOW, "admin@example.com")
    silent = EndpointProcessSeen(NodeUid(1), NOW, answers=False)
    off = builder.with_node_changed(1, declared_off=word).with_server(1, health=Health.TIMEOUT)
    view = off.view.changed(endpoint_processes={**off.view.endpoint_processes, NodeUid(1): silent})
    judged = _with_machines_off(view)
    assert judged.liveness(view.shards[SHARD]) == Ended(Proof.DECLARED_OFF)
    assert judged.endpoint_processes[NodeUid(1)].has_ended
    assert judged.sightings.keys() == {SHARD}, "its replica is on another node"
    assert not _with_machines_off(off.view).endpoint_processes[NodeUid(1)].has_ended, "it answers"
    seen = _with_machines_off(view.changed(sightings={SHARD: Sighting.RUNS}))
    assert seen.sightings[SHARD] is Sighting.RUNS
    assert _with_machines_off(builder.view) is builder.view


def test_endpoint_processes_are_asked_about_a_primary_whose_machine_is_silent() -> None:
    machine = Machine()
    looking = observer(machine)
    secrets = ServerSecrets(DatabaseUid(1), "a", "b", "c", "d", "e")
    view = cluster(nodes=3).with_database(on=((1, 2),)).with_records(secrets).view

    async def suspects_after(shard: ShardUid) -> tuple[EndpointUid, ...]:
        await looking.ask(view.shards[shard])
        await looking._ask_endpoint_process(NodeUid(1))
        return machine.suspects

    async def run() -> None:
        looking.follow(view, hot=frozenset())
        assert await suspects_after(SHARD) == (), "its machine answers"
        machine.is_cut_off = True
        assert await suspects_after(ShardUid(2)) == (), "a replica serves no clients"
        assert await suspects_after(SHARD) == (EndpointUid("1:1"),)
        await looking.close()

    asyncio.run(run())


def test_the_process_of_a_silent_server_is_looked_at_each_time() -> None:
    """It may end at any moment, and its dead agent will not say so."""
    machine = Machine()
    looking = observer(machine)
    secrets = ServerSecrets(DatabaseUid(1), "a", "b", "c", "d", "e")
    view = cluster(nodes=3).with_database(on=((1, 2),)).with_records(secrets).view
    shard = view.shards[SHARD]

    async def run() -> None:
        looking.follow(view, hot=frozenset())

        async def asked() -> ClusterView:
            await looking.ask(shard)
            return looking.augment(view)

        assert (await asked()).sightings[SHARD] is Sighting.RUNS
        assert (await asked()).servers[SHARD].cpu_active_at is None, "it has used none since the first look"
        machine.cpu_s += 0.1
        assert (await asked()).servers[SHARD].cpu_active_at == NOW
        machine.has_ended = True
        now = await asked()
        assert now.liveness(shard) == Ended(Proof.SEEN)
        restarted = now.with_writes((Put(replace(shard, incarnation=shard.incarnation + 1)),))
        assert SHARD not in looking.augment(restarted).sightings
        await looking.close()

    asyncio.run(run())


def test_a_cut_of_the_network_ends_a_series_of_looks() -> None:
    """What a server did while its machine was not heard is unknown."""
    machine = Machine()
    looking = observer(machine)
    secrets = ServerSecrets(DatabaseUid(1), "a", "b", "c", "d", "e")
    view = cluster(nodes=3).with_database(on=((1, 2),)).with_records(secrets).view
    shard = view.shards[SHARD]

    async def watched_since(second: int, *, is_cut_off: bool = False) -> datetime | None:
        machine.at, machine.is_cut_off = NOW + timedelta(seconds=second), is_cut_off
        await looking.ask(shard)
        return looking.augment(view).servers[SHARD].machine_heard_since

    async def run() -> None:
        looking.follow(view, hot=frozenset())
        assert await watched_since(0) == NOW
        assert await watched_since(1) == NOW
        assert await watched_since(12, is_cut_off=True) is None
        assert await watched_since(13) == NOW + timedelta(seconds=13)
        await looking.close()

    asyncio.run(run())


class Agent(Machine):
    """A node whose agent reports that its servers answer, until it is silent."""

    def __init__(self) -> None:
        super().__init__()
        self.health = Health.OK
        self.is_silent = False
        self.asked: list[ShardUid] = []
        self.number = 0

    async def news(self, since: NewsMark | None) -> NodeNews:
        await asyncio.sleep(0)
        if self.is_silent:
            raise Transient(Code.AGENT_SILENT, "it is dead")
        self.number += 1
        at = NOW - timedelta(seconds=100)  # by another clock
        found = tuple(ServerSeen(ShardUid(uid), 1, at, self.health, offset=self.number) for uid in (1, 2))
        return NodeNews(NewsMark("life", self.number), at, 0.0, NodeFigures(self.number), found)

    async def observe(self, target: ServerTarget) -> ServerSeen:
        self.asked.append(target.shard_uid)
        return ServerSeen(target.shard_uid, target.incarnation, SystemClock().now(), Health.OK)


def test_the_servers_of_a_node_are_asked_when_its_endpoint_process_falls_silent() -> None:
    """The whole node may be gone, and its agent may still owe the news of a second."""
    agent = Agent()
    looking = observer(agent)
    secrets = ServerSecrets(DatabaseUid(1), "a", "b", "c", "d", "e")
    view = cluster(nodes=3).with_database(on=((1, 2),)).with_records(secrets).view

    async def run() -> None:
        looking._view = view
        looking._processes[NodeUid(1)] = EndpointProcessSeen(NodeUid(1), NOW, answers=True)
        await looking._ask_endpoint_process(NodeUid(1))
        await until_async("it is asked", lambda: SHARD in agent.asked, seconds=5, state=lambda: str(agent.asked))
        assert set(agent.asked) == {SHARD}, "its replica is on another node"
        await looking.close()

    asyncio.run(run())


class UnhurriedClock(SystemClock):
    """Its time runs slowly: an agent that is late on a busy machine is not taken for a silent one."""

    def monotonic(self) -> float:
        return super().monotonic() / 200


def test_a_leader_does_not_ask_what_an_agent_reports_unless_it_is_hot_or_silent() -> None:
    agent = Agent()
    looking = Observer(agent, agent, clock=UnhurriedClock(), wake=lambda: None, idle_s=0.02, hot_s=0.005)  # type: ignore[arg-type]
    secrets = ServerSecrets(DatabaseUid(1), "a", "b", "c", "d", "e")
    view = cluster(nodes=3).with_database(on=((1, 2),)).with_records(secrets).view
    hot: frozenset[ShardUid] = frozenset()

    async def until(is_so: Callable[[], bool]) -> None:
        def turn() -> bool:
            looking.follow(view, hot=hot)
            return is_so()

        await until_async("what is seen", turn, seconds=20, state=lambda: str(looking.augment(view).servers))

    def offset() -> int:
        return looking.augment(view).servers[SHARD].offset

    async def run() -> None:
        nonlocal hot
        looking.follow(view, hot=hot)
        await until(lambda: SHARD in looking.augment(view).servers and offset() > 5)
        seen = looking.augment(view).servers[SHARD]
        assert abs((SystemClock().now() - seen.at).total_seconds()) < 5, "by the leader's own clock"
        agent.asked.clear()
        known = offset()
        await until(lambda: offset() > known + 5)
        assert agent.asked == []
        assert looking.augment(view).figures[NodeUid(1)].memory_free_bytes >= known
        hot = frozenset({SHARD})
        await until(lambda: agent.asked.count(SHARD) > 3)
        assert set(agent.asked) == {SHARD}
        hot = frozenset()
        agent.is_silent = True
        await until(lambda: {1, 2} <= set(agent.asked))
        await looking.close()

    asyncio.run(run())


class SlowMachine(Machine):
    """It answers when another incarnation is on record already."""

    def __init__(self) -> None:
        super().__init__()
        self.has_ended = True
        self.meanwhile: Callable[[], None] = lambda: None

    async def look(self, process: ProcessIdentity) -> ProcessLook:
        self.meanwhile()
        return await super().look(process)


def test_what_was_seen_of_one_process_is_not_said_of_the_next() -> None:
    machine = SlowMachine()
    looking = observer(machine)
    secrets = ServerSecrets(DatabaseUid(1), "a", "b", "c", "d", "e")
    view = cluster(nodes=3).with_database(on=((1, 2),)).with_records(secrets).view
    shard, process = view.shards[SHARD], view.processes[SHARD]
    assert process.identity is not None
    identity = replace(process.identity, pid=process.identity.pid + 1)
    next_one = replace(process, incarnation=shard.incarnation + 1, identity=identity)
    started = view.with_writes((Put(replace(shard, incarnation=shard.incarnation + 1)),))
    started = started.changed(processes={**started.processes, SHARD: next_one})

    async def run() -> None:
        looking.follow(view, hot=frozenset())
        machine.meanwhile = lambda: looking.follow(started, hot=frozenset())
        await looking.ask(shard)
        assert SHARD in looking.augment(view).sightings
        assert SHARD not in looking.augment(started).sightings
        await looking.close()

    asyncio.run(run())


def test_only_the_endpoint_processes_that_something_waits_for_are_asked_often() -> None:
    """All of them were, in any cluster, for as long as one copy was being synced."""
    builder = cluster(nodes=5).with_database(on=((1, 2),), endpoint_on=3).with_database(on=((4, 5),))
    assert _nodes_of_endpoints(builder.view, frozenset()) == frozenset()
    assert _nodes_of_endpoints(builder.view, frozenset({SHARD})) == {3}
    rebind = moves.rebind(
        state=MoveState.HANDOFF, database_uid=DatabaseUid(2),
        endpoint_uid=EndpointUid("2:1"), from_node=NodeUid(4), to_node=NodeUid(2),
    )  # fmt: skip
    assert _nodes_of_endpoints(builder.with_move(rebind).view, frozenset({SHARD})) == {2, 3, 4}
