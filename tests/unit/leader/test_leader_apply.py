"""How commands are given: one after the other for a database, side by side for several, not again at once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from shardwright.clock import SystemClock
from shardwright.errors import LostLeadership, OutcomeUnknown, Permanent, Transient
from shardwright.leader.apply import FAILURE_REST_S, REPEAT_REST_S, Applier
from shardwright.leader.observe import Observer
from shardwright.model.cluster import DeclaredOff, Node
from shardwright.model.codes import Code
from shardwright.model.commands import (
    ApplySettings,
    Attach,
    Command,
    DropEndpoint,
    EndStuckServer,
    HandOff,
    Open,
    Park,
    PassEndpoint,
    Promote,
    ProveStrict,
    RecoverHandoff,
    SaveNow,
    ServeEndpoint,
    SwitchOff,
    TellLease,
    YieldLeadership,
)
from shardwright.model.database import Role, ServerSecrets
from shardwright.model.ids import DatabaseUid, NodeUid, ShardUid
from shardwright.model.lease import Lease
from shardwright.model.parking import Parked, Parking
from shardwright.model.view import ClusterView, Put
from shardwright.store.protocol import StoreUnavailable
from testkit.builders import NOW
from tests.unit.leader.leader_fakes import DATABASE, ENDPOINT, GROUP, NEW, OLD, FakeNodes, Gate, World, intended, ready

ONE, THREE = NodeUid(1), NodeUid(3)


@dataclass
class Given:
    """A world whose applier has been told something."""

    world: World
    yielded: list[bool] = field(default_factory=list)
    lost: list[bool] = field(default_factory=list)
    wakes: list[bool] = field(default_factory=list)
    applier: Any = None
    fences: list[NodeUid] = field(default_factory=list)
    """The nodes whose machines were to be switched off."""
    fence_fails: bool = False

    async def switch_off(self, node: Node) -> str | None:
        self.fences.append(node.uid)
        if self.fence_fails:
            raise Transient(Code.FENCING_FAILED, "the hook ipmi ended with status 1")
        return "ipmi"

    async def submit(self, *commands: Command) -> list[str]:
        """Give these commands; what was then commanded."""
        before = len(self.world.steps)
        self.applier.submit(commands, self.world.view)
        await self.idle()
        return [s for s in self.world.steps[before:] if not s.endswith((":session", ":info"))]

    async def idle(self) -> None:
        """Wait until every queue has been worked off."""
        await asyncio.gather(*(t for t in asyncio.all_tasks() if t.get_name().startswith("apply database")))


def run(world: World, scenario: Callable[[Given], Awaitable[None]]) -> Given:
    """Let an applier of the product work in this world."""

    async def main() -> Given:
        given = Given(world)
        nodes = FakeNodes(world)
        observer = Observer(world, nodes, clock=SystemClock(), wake=lambda: None)
        given.applier = Applier(
            world,
            nodes,
            handoffs=world.handoffs(),
            observer=observer,
            commit=world.commit,
            current=world.current,
            yield_leadership=lambda: given.yielded.append(True),
            switch_off=given.switch_off,
            clock=world.clock,
            on_lost=lambda: given.lost.append(True),
            wake=lambda: given.wakes.append(True),
        )
        try:
            await scenario(given)
        finally:
            await given.applier.close()
            await observer.close()
        return given

    return asyncio.run(main())


def submitted(world: World, *commands: Command) -> list[str]:
    """What these commands, given once, make a leader command."""
    found: list[str] = []

    async def scenario(given: Given) -> None:
        found.extend(await given.submit(*commands))

    run(world, scenario)
    return found


def ready_world() -> World:
    return World(ready().view)


FINGERPRINT = ready().view.databases[DATABASE].settings_fingerprint
STEPS: dict[Command, list[str]] = {
    Attach(NEW, OLD): ["2:end_clients", "2:attach"],
    Promote(OLD): ["1:promote"],
    Open(NEW): ["2:unfence"],
    ApplySettings(NEW, FINGERPRINT): ["2:apply volatile-lru", "commit: Shard"],
    SaveNow(OLD): ["1:save disabled"],
    EndStuckServer(OLD): ["node 1:end 50001"],
    ServeEndpoint(ONE, ENDPOINT): ["node 1:serve"],
    DropEndpoint(ONE, ENDPOINT): ["node 1:drop"],
    PassEndpoint(ENDPOINT, DATABASE, ONE, THREE): ["node 1:pass to 3"],
}


@pytest.mark.parametrize("command", STEPS, ids=lambda c: type(c).__name__)
def test_what_a_command_makes_the_leader_do(command: Command) -> None:
    assert submitted(ready_world(), command) == STEPS[command]


def test_a_lease_is_told_unless_it_has_changed_again() -> None:
    view = ready().view
    leased = view.with_writes((Put(replace(view.groups[GROUP], lease=Lease(5))),))
    assert submitted(World(leased), TellLease(ONE, ENDPOINT, 5)) == ["node 1:lease 5"]
    assert submitted(World(leased), TellLease(ONE, ENDPOINT, 4)) == []
    assert submitted(World(view), TellLease(ONE, ENDPOINT, 5)) == []


def test_a_handoff_is_performed_and_a_pending_one_recovered() -> None:
    world = ready_world()
    assert submitted(world, HandOff(GROUP, OLD, NEW))[-1] == "commit: SlotGroup, Shard, Move, Event"
    assert world.view.groups[GROUP].primary == NEW
    world = World(intended().view)
    assert submitted(world, RecoverHandoff(GROUP))[-1] == "commit: SlotGroup, Move"
    assert world.view.groups[GROUP].handoff is None


def parking_world() -> World:
    group = replace(ready().view.groups[GROUP], parking=Parking(OLD, 1, NOW))
    return World(ready().with_records(group).view)


def test_a_copy_is_parked_by_its_own_session_and_what_it_holds_is_recorded() -> None:
    world = parking_world()
    assert submitted(world, Park(NEW)) == ["2:attach", "commit: SlotGroup"]
    seen = world.servers[NEW].seen
    assert (seen.primary_address, seen.primary_port, seen.is_link_up) == ("127.0.0.2", 1, False)
    parking = world.view.groups[GROUP].parking
    assert parking is not None
    assert parking.parked == (Parked(NEW, 1, seen.replication_id, seen.offset),)


def test_a_copy_that_does_not_do_as_it_is_told_is_not_recorded_as_parked() -> None:
    world = parking_world()
    world.servers[NEW].ignores = "attach"
    assert submitted(world, Park(NEW)) == ["2:attach"]


def strict_world(**changes: Any) -> World:
    return World(ready().with_database_changed(DATABASE, is_strict=True, **changes).view)


def test_strict_mode_is_in_force_everywhere_when_a_replica_holds_all_that_the_primary_holds() -> None:
    world = strict_world()
    assert submitted(world, ProveStrict(DATABASE)) == ["commit: Database"]
    assert world.view.databases[DATABASE].is_strict_everywhere


@pytest.mark.parametrize(
    "changes",
    [{"offset": 99}, {"replication_id": "b" * 40}, {"is_syncing": True}, {"role": Role.PRIMARY}],
    ids=["behind", "of another history", "in a full sync", "no replica"],
)
def test_a_replica_that_may_lack_what_was_answered_in_default_mode_proves_nothing(changes: dict[str, Any]) -> None:
    world = strict_world()
    world.servers[NEW].catches_up = False
    for uid in (OLD, NEW):
        world.servers[uid].seen = replace(world.servers[uid].seen, offset=100)
    world.servers[NEW].seen = replace(world.servers[NEW].seen, **changes)
    assert submitted(world, ProveStrict(DATABASE)) == []


@pytest.mark.parametrize(
    "world", [strict_world(is_strict_everywhere=True), ready_world()], ids=["known already", "default mode"]
)
def test_only_what_is_not_known_of_strict_mode_is_looked_at(world: World) -> None:
    assert submitted(world, ProveStrict(DATABASE)) == world.steps == []


def test_a_mode_that_was_changed_meanwhile_is_not_recorded_as_in_force() -> None:
    world = strict_world()
    later = ready().with_database_changed(DATABASE, is_strict=True, changed_at=NOW + timedelta(seconds=1))
    world.on_step["2:info"] = lambda: setattr(world, "view", later.view)
    assert submitted(world, ProveStrict(DATABASE)) == []


def silent_world() -> World:
    return World(ready().without_daemon(3).view)


def test_a_machine_that_a_hook_has_switched_off_is_declared_off() -> None:
    world = silent_world()
    assert submitted(world, SwitchOff(THREE)) == ["commit: Node, Event"]
    word = world.view.nodes[THREE].declared_off
    assert word is not None
    assert word.by == "the fencing hook ipmi"


def test_people_are_told_once_that_the_hooks_fail() -> None:
    world = silent_world()

    async def scenario(given: Given) -> None:
        given.fence_fails = True
        assert await given.submit(SwitchOff(THREE)) == ["commit: Event"]
        assert await given.submit(SwitchOff(THREE)) == [], "it rests"
        given.applier._rests_until.clear()
        assert await given.submit(SwitchOff(THREE)) == []
        assert given.fences == [THREE, THREE]

    run(world, scenario)
    assert world.view.nodes[THREE].declared_off is None


@pytest.mark.parametrize(
    "view",
    [
        ready().view,
        ready().without_daemon(3).with_leader(3).view,
        ready().without_daemon(3).with_node_changed(3, declared_off=DeclaredOff(NOW, "another")).view,
    ],
    ids=["its daemon runs", "the leader's own", "declared off"],
)
def test_a_machine_is_not_switched_off(view: ClusterView) -> None:
    async def scenario(given: Given) -> None:
        assert await given.submit(SwitchOff(THREE)) == []
        assert given.fences == []

    run(World(view), scenario)


UNFIT: tuple[Command, ...] = (
    Attach(NEW, OLD),
    Promote(OLD),
    Park(NEW),
    Open(NEW),
    HandOff(GROUP, OLD, NEW),
    ServeEndpoint(ONE, ENDPOINT),
)


@pytest.mark.parametrize("command", UNFIT, ids=lambda c: type(c).__name__)
def test_a_command_that_no_longer_fits_is_not_given(command: Command) -> None:
    """A handoff has the group by the time it is given."""
    world = World(intended().view)
    assert submitted(world, command) == world.steps == []


def test_settings_of_a_server_that_was_started_again_meanwhile_are_not_recorded() -> None:
    world = ready_world()
    again = replace(world.view.shards[NEW], incarnation=2)
    world.on_step["2:apply volatile-lru"] = lambda: setattr(world, "view", ready().with_records(again).view)
    assert submitted(world, ApplySettings(NEW, FINGERPRINT)) == ["2:apply volatile-lru"]


def test_an_endpoint_that_holds_is_released_and_an_unbound_one_never_listens_again() -> None:
    world = ready_world()
    node = world.nodes[ONE]
    node.endpoints[ENDPOINT] = replace(node.endpoints[ENDPOINT], held_generation=2)
    assert submitted(world, ServeEndpoint(ONE, ENDPOINT)) == ["node 1:release to 1"]
    world = ready_world()
    world.nodes[THREE].endpoints = dict(world.nodes[ONE].endpoints)
    assert submitted(world, ServeEndpoint(THREE, ENDPOINT)) == ["node 3:release to 1"]


def test_leadership_is_yielded_at_once_and_waits_in_no_queue() -> None:
    async def scenario(given: Given) -> None:
        assert await given.submit(YieldLeadership()) == []
        assert given.yielded == [True]

    run(ready_world(), scenario)


def test_a_command_is_given_again_only_after_a_rest() -> None:
    """What is seen does not show yet that it was done."""

    async def scenario(given: Given) -> None:
        assert await given.submit(Open(NEW)) == ["2:unfence"]
        assert await given.submit(Open(NEW)) == []
        given.world.clock.passed_s += REPEAT_REST_S + 0.001
        assert await given.submit(Open(NEW)) == ["2:unfence"]

    run(ready_world(), scenario)


@pytest.mark.parametrize(
    "error",
    [
        Transient(Code.SERVER_BUSY, "loading"),
        OutcomeUnknown(Code.SERVER_NO_ANSWER, "no answer"),
        Permanent(Code.SERVER_REFUSED, "refused"),
        StoreUnavailable(Code.STORE_CLOSED, "away"),
    ],
    ids=["transient", "unknown", "permanent", "store"],
)
def test_a_command_that_fails_is_not_repeated_and_rests_longer(error: Exception) -> None:
    async def scenario(given: Given) -> None:
        given.world.fails["2:unfence"] = error
        assert await given.submit(Open(NEW), Promote(OLD)) == ["2:unfence failed", "1:promote"]
        given.world.fails.clear()
        given.world.clock.passed_s += REPEAT_REST_S + 0.001
        assert await given.submit(Open(NEW)) == []
        given.world.clock.passed_s += FAILURE_REST_S
        assert await given.submit(Open(NEW)) == ["2:unfence"]

    run(ready_world(), scenario)


def test_a_command_that_waits_or_runs_is_not_queued_a_second_time() -> None:
    assert submitted(ready_world(), Open(NEW), Promote(OLD), Open(NEW)) == ["2:unfence", "1:promote"]


def test_the_end_of_a_queue_wakes_the_leader() -> None:
    async def scenario(given: Given) -> None:
        await given.submit(Open(NEW), Promote(OLD))
        assert given.wakes == [True]

    run(ready_world(), scenario)


def test_a_leadership_that_is_lost_ends_the_queue_and_is_told() -> None:
    async def scenario(given: Given) -> None:
        given.world.fails["2:unfence"] = LostLeadership("term 7 is over")
        assert await given.submit(Open(NEW), Promote(OLD)) == ["2:unfence failed"]
        assert given.lost == [True]

    run(ready_world(), scenario)


def two_databases() -> World:
    builder = ready().with_database(on=((2, 3),)).with_records(ServerSecrets(DatabaseUid(2), "a", "b", "c", "d", "e"))
    return World(builder.view)


def test_a_database_waits_for_its_own_commands_and_not_for_those_of_another() -> None:
    world = two_databases()

    async def scenario(given: Given) -> None:
        gate = world.gates[OLD] = Gate()
        other = asyncio.Event()
        world.on_step["3:unfence"] = other.set
        given.applier.submit([Open(OLD), Open(NEW), Open(ShardUid(3))], world.view)
        await gate.reached.wait()
        await other.wait()
        assert [s for s in world.steps if s.endswith("unfence")] == ["3:unfence"]
        given.applier.submit([Open(OLD)], world.view)  # It runs: it is not queued beside itself.
        gate.opened.set()
        await given.idle()
        assert [s for s in world.steps if s.endswith("unfence")] == ["3:unfence", "1:unfence", "2:unfence"]

    run(world, scenario)


def test_what_was_begun_is_left_to_the_next_leader_when_this_one_ends() -> None:
    world = World(ready().view)

    async def scenario(given: Given) -> None:
        gate = world.gates[OLD] = Gate()
        given.applier.submit([Open(OLD), Open(NEW)], world.view)
        await gate.reached.wait()
        await given.applier.close()
        gate.opened.set()
        await given.idle()
        assert world.steps == []

    run(world, scenario)
