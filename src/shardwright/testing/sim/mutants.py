"""Mistakes that one could make, planted one by one: the simulation must notice each of them within a few seeds.

Each mutant replaces a piece of the product by a wrong one for as long as it is tried. The wrong piece is written as somebody
might have written it who did not know the trap.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from shardwright.actions import handoff as rules
from shardwright.actions import maintenance_on, move, progress, remove, turn
from shardwright.actions.handoff import Candidate, OldPrimary, Recovery
from shardwright.endpoint import gate
from shardwright.errors import OutcomeUnknown, Permanent, Transient
from shardwright.leader import handoff, loop
from shardwright.leader import recovery as recoveries
from shardwright.leader.targets import server_target
from shardwright.model.action import MoveState
from shardwright.model.database import GroupPhase, ShardWanted
from shardwright.model.decision import Decision
from shardwright.model.seen import Health
from shardwright.model.view import Put
from shardwright.plan import ledger, quorum
from shardwright.reconcile import group as groups
from shardwright.store import commit as commits
from shardwright.testing.sim import daemon, servers
from shardwright.testing.sim.checker import Violation
from shardwright.testing.sim.simulation import Simulation

Patch = tuple[Any, str, Any]


Make = Callable[[], Sequence[Patch]]
Situation = Callable[[Simulation], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mistake: what it replaces, by what. ``situation`` sets the trap that it walks into, where chance sets it too seldom;
    the right product walks through it unharmed (``tests/sim/test_mutants.py``)."""

    name: str
    patches: Make
    situation: Situation | None = None


MUTANTS: list[Mutant] = []


def mutant(make: Make) -> Make:
    """Register a mistake under its function's name."""
    MUTANTS.append(Mutant(make.__name__, make))
    return make


def mutant_in(situation: Situation) -> Callable[[Make], Make]:
    """Register a mistake that needs a situation."""

    def register(make: Make) -> Make:
        MUTANTS.append(Mutant(make.__name__, make, situation))
        return make

    return register


# -- situations --------------------------------------------------------------------------------------------------------


def _when(simulation: Simulation, point: str, do: Callable[[Any], None]) -> None:
    def reached(daemon: Any, name: str) -> None:
        if name == point and daemon is not None and daemon.process.runs and not simulation.faults.is_over:
            simulation.world.on_point.remove(reached)
            do(daemon)

    simulation.world.on_point.append(reached)


def a_leader_killed_before_the_promotion(simulation: Simulation) -> None:
    """Again and again."""

    def kill(daemon: Any) -> None:
        simulation.faults._kill(daemon)
        _when(simulation, "handoff:promote:before", kill)

    _when(simulation, "handoff:promote:before", kill)


def an_endpoint_that_sleeps_through_the_hold(simulation: Simulation) -> None:
    """It goes on with the old primary when it wakes, just when the leader is frozen before the demotion."""
    world = simulation.world
    asleep: list[Any] = []

    def sleep(daemon: Any) -> None:
        for uid in world.nodes:
            found = world.endpoint_process(uid)
            if found is not None and found.endpoints:
                found.process.freeze()
                asleep.append(found)
        world.loop.at(3.0, wake, None)

    def wake(daemon: Any) -> None:
        while asleep:
            asleep.pop().process.thaw(world.loop)
        if daemon is not None:
            simulation.faults._freeze(daemon)

    _when(simulation, "handoff:hold:before", sleep)
    _when(simulation, "handoff:demote:before", wake)


def a_promotion_on_its_way_for_long(simulation: Simulation) -> None:
    """The leader freezes behind it; it arrives when the next one has begun to act."""
    world = simulation.world

    def hold(daemon: Any) -> None:
        world.kept_back = "promote"
        world.loop.at(0.0, freeze, daemon)

    def freeze(daemon: Any) -> None:
        daemon.process.freeze()
        world.loop.at(25.0, daemon.process.thaw, world.loop)

    def act(daemon: Any) -> None:
        world.loop.at(0.05, world.network.let_arrive)

    _when(simulation, "handoff:promote:before", hold)
    _when(simulation, "handoff:undo_fence:after", act)


def databases_that_barely_fit(simulation: Simulation) -> None:
    """Large ones, on few nodes."""
    for number in range(4):
        simulation.world.loop.at(
            8.0 + number, lambda: simulation.operator.create(400, replication=True, persistence="disabled")
        )


def requests_that_are_undone(simulation: Simulation) -> None:
    """While a slow sync runs."""
    world = simulation.world
    world.sync_base_s = 4.0

    def cancel() -> None:
        for action in list(world.checker.tables["actions"].values()):
            if action["name"] == "maintenance_on" and action["status"] == "running":
                simulation.operator.cancel(action["node_uid"], "maintenance_on")
        world.loop.at(3.0, cancel)

    world.loop.at(25.0, cancel)


def a_leader_that_does_not_know_that_it_is_none(simulation: Simulation) -> None:
    """Its lease is revoked; it believes in it for seconds, and does not hear of the next leader."""
    world = simulation.world

    def revoke(daemon: Any) -> None:
        leader = world.store._items.get("leader")
        if leader is None or leader.lease is None:
            return
        world.store._end(leader.lease)
        uid = daemon.node.uid
        daemon.store.watch_stalls_until = world.loop.now + 6.0
        slow = {(0, uid)}
        world.network.cuts |= slow
        world.loop.at(1.0, world.network.cuts.difference_update, slow)
        for seconds in (0.3, 0.6, 1.2, 1.6):
            world.loop.at(seconds, simulation.operator.action, 1 + int(seconds * 10) % 3, "enslave_node")

    for point in ("handoff:hold:before", "handoff:fence:before", "handoff:commit:before"):
        _when(simulation, point, revoke)


@contextmanager
def planted(chosen: Mutant) -> Iterator[None]:
    """The product with this mistake."""
    patches = [(owner, name, owner.__dict__[name], wrong) for owner, name, wrong in chosen.patches()]
    try:
        for owner, name, _, wrong in patches:
            setattr(owner, name, wrong)
        yield
    finally:
        for owner, name, right, _ in patches:
            setattr(owner, name, right)


def hunt(chosen: Mutant, seeds: range) -> tuple[int, Violation] | None:
    """The first seed that notices the mistake, and how; None when none does."""
    for seed in seeds:
        with planted(chosen):
            simulation = Simulation(seed)
            try:
                if chosen.situation is not None:
                    chosen.situation(simulation)
                simulation.press()
                simulation.rest()
            except Violation as e:
                return seed, e
            finally:
                simulation.end()
    return None


# -- a handoff ---------------------------------------------------------------------------------------------------------


@mutant
def skips_the_offset_comparison() -> Sequence[Patch]:
    async def wait_offset(self: Any, session: Any, offset: int, code: str, text: str) -> Any:
        return await session.info()

    return [(handoff.Handoffs, "_wait_offset", wait_offset)]


@mutant
def forgets_the_hard_fence() -> Sequence[Patch]:
    async def fence(self: Any, attempt: Any, old: Any, new: Any) -> None:
        attempt.began_at = self.clock.now()
        await self._hold(attempt)
        self.probe("handoff:fence:before")
        await old.pause_writes(handoff.PAUSE_S)
        self.probe("handoff:fence:after")
        attempt.fenced = await old.info()
        self.probe("handoff:compare:before")
        attempt.candidate = await self._wait_offset(new, attempt.fenced.offset, "replica_lags_fenced", "lags")
        self.probe("handoff:compare:after")

    return [(handoff.Handoffs, "_fence", fence)]


@mutant
def fences_without_pausing_and_reads_the_offset_before() -> Sequence[Patch]:
    async def fence(self: Any, attempt: Any, old: Any, new: Any) -> None:
        attempt.began_at = self.clock.now()
        attempt.fenced = await old.info()
        await self._hold(attempt)
        self.probe("handoff:fence:before")
        await old.fence()
        self.probe("handoff:fence:after")
        attempt.candidate = await self._wait_offset(new, attempt.fenced.offset, "replica_lags_fenced", "lags")

    return [(handoff.Handoffs, "_fence", fence)]


@mutant
def commits_the_intent_after_acting() -> Sequence[Patch]:
    async def intend(self: Any, attempt: Any) -> None:
        return None

    return [(handoff.Handoffs, "_intend", intend)]


@mutant_in(a_leader_killed_before_the_promotion)
def releases_before_it_promotes() -> Sequence[Patch]:
    right = handoff.Handoffs._fence

    async def fence(self: Any, attempt: Any, old: Any, new: Any) -> None:
        await right(self, attempt, old, new)
        await old.unfence()
        await old.end_pause()
        await self._release(attempt, attempt.new_target)
        self.probe("handoff:promote:before")

    return [(handoff.Handoffs, "_fence", fence)]


@mutant_in(an_endpoint_that_sleeps_through_the_hold)
def clears_the_fence_before_the_demotion() -> Sequence[Patch]:
    async def demote(self: Any, attempt: Any, old: Any) -> None:
        await old.unfence()
        await old.end_pause()
        self.probe("handoff:demote:before")
        try:
            await old.attach(attempt.new_target.address, attempt.new_target.port)
            self.probe("handoff:demote:after")
        except (Transient, OutcomeUnknown, Permanent):
            return

    return [(handoff.Handoffs, "_demote", demote)]


@mutant
def forgets_to_lift_the_fence_when_it_undoes() -> Sequence[Patch]:
    async def undo(self: Any, attempt: Any, old: Any, reasons: Any) -> None:
        await self._release(attempt, attempt.old_target)
        await self._note(attempt.group.uid, reasons, forgets_intent=True)

    def lead(primary: Any, others: Any) -> list[Any]:
        return []

    return [(handoff.Handoffs, "undo", undo), (groups, "_lead", _lead_without_opening())]


def _lead_without_opening() -> Callable[..., list[Any]]:
    right = groups._lead

    def lead(primary: Any, others: Any) -> list[Any]:
        if primary.shard.in_sync_generation > 1:
            return [c for c in right(primary, others) if type(c).__name__ != "Open"]
        return right(primary, others)

    return lead


# -- a successor -------------------------------------------------------------------------------------------------------


@mutant
def trusts_a_stale_role() -> Sequence[Patch]:
    async def look(self: Any, view: Any, shard: Any) -> Any:
        try:
            session = await self._handoffs.servers.manage(server_target(view, shard))
        except (Transient, OutcomeUnknown, Permanent):
            return None, None
        seen = view.servers.get(shard.uid)
        return session, seen if seen is not None else await session.info()

    return [(recoveries.Recoveries, "_look", look)]


@mutant_in(a_promotion_on_its_way_for_long)
def looks_before_older_sessions_are_ended() -> Sequence[Patch]:
    async def look(self: Any, view: Any, shard: Any) -> Any:
        if recoveries._is_gone(view, shard):
            return None, None
        try:
            seen = await self._handoffs.servers.observe(server_target(view, shard))
            self._handoffs.servers.world.network.let_arrive()
            await self._handoffs.clock.sleep(0.3)
            session = await self._handoffs.servers.manage(server_target(view, shard))
        except (Transient, OutcomeUnknown, Permanent):
            return None, None
        return session, seen

    return [(recoveries.Recoveries, "_look", look)]


@mutant_in(a_leader_that_does_not_know_that_it_is_none)
def drops_the_term_check() -> Sequence[Patch]:
    async def check(store: Any, held: Any) -> None:
        return None

    right = servers.SimSession.call

    async def call(self: Any, name: str, do: Any) -> Any:
        if not self.is_open:
            self.servers._sessions.pop(self.target.shard_uid, None)
            again = await self.servers.manage(self.target)
            return await right(again, name, do)
        return await right(self, name, do)

    return [(daemon, "check_term", check), (servers.SimSession, "call", call)]


@mutant_in(a_promotion_on_its_way_for_long)
def does_not_end_older_sessions() -> Sequence[Patch]:
    right = servers.SimSession.call

    async def call(self: Any, name: str, do: Any) -> Any:
        if name == "end_sessions":
            return None
        return await right(self, name, do)

    return [(servers.SimSession, "call", call)]


@mutant
def undoes_after_the_promotion() -> Sequence[Patch]:
    right = rules.recovery

    def recovery(old: Any, candidate: Any, endpoints: Any) -> Any:
        if candidate is Candidate.PRIMARY and old in (OldPrimary.FENCED, OldPrimary.WRITABLE):
            return Recovery.UNDO, "wrong"
        return right(old, candidate, endpoints)

    return [(rules, "recovery", recovery)]


@mutant
def goes_forward_without_a_fence() -> Sequence[Patch]:
    right = rules.recovery

    def recovery(old: Any, candidate: Any, endpoints: Any) -> Any:
        if candidate is Candidate.REPLICA and old is OldPrimary.WRITABLE:
            return Recovery.FORWARD, "wrong"
        return right(old, candidate, endpoints)

    async def finish(self: Any, attempt: Any, old: Any, new: Any, old_state: Any, new_state: Any) -> None:
        self._handoffs.probe("recovery:promote:before")
        await new.promote()
        await self._handoffs.forward(attempt, old, new, finished_by="recovery")

    return [(rules, "recovery", recovery), (recoveries.Recoveries, "_finish", finish)]


@mutant
def never_recovers_a_handoff() -> Sequence[Patch]:
    async def recover(self: Any, group_uid: Any) -> None:
        return None

    return [(recoveries.Recoveries, "recover", recover)]


@mutant_in(a_leader_that_does_not_know_that_it_is_none)
def does_not_check_the_lease() -> Sequence[Patch]:
    right = commits.commit

    async def commit(*args: Any, **kwargs: Any) -> int:
        kwargs["fence"] = None
        return await right(*args, **kwargs)

    async def check(store: Any, held: Any) -> None:
        return None

    async def wait_other(self: Any, term: Any) -> Any:
        while True:
            if self.held is not None and self.held.term != term:
                return self.held
            await self._changed.wait()

    return [(loop, "commit", commit), (daemon, "check_term", check), (daemon.Keeper, "wait_other", wait_other)]


# -- who is primary ----------------------------------------------------------------------------------------------------


@mutant
def restarts_an_empty_primary_in_place() -> Sequence[Patch]:
    right = groups._replace_primary

    def replace_primary(group: Any, database: Any, primary: Any, copies: Any, view: Any, now: datetime) -> Decision:
        if primary is None:
            return right(group, database, primary, copies, view, now)
        shard = primary.shard
        return Decision(writes=(Put(replace(shard, incarnation=shard.incarnation + 1)),))

    return [(groups, "_replace_primary", replace_primary)]


@mutant
def lets_an_empty_copy_lead() -> Sequence[Patch]:
    def choose(group: Any, copies: Any) -> Any:
        loaded = [c for c in copies if c.answers]
        return (loaded[0].shard, ()) if loaded else (None, ())

    return [(groups, "choose_primary", choose)]


@mutant
def promotes_a_replica_out_of_sync() -> Sequence[Patch]:
    right = groups._replace_primary

    def replace_primary(group: Any, database: Any, primary: Any, copies: Any, view: Any, now: datetime) -> Decision:
        marked = [replace(c, shard=replace(c.shard, in_sync_generation=group.generation)) for c in copies]
        return right(group, database, primary, marked, view, now)

    return [(groups, "_replace_primary", replace_primary)]


@mutant
def replaces_a_primary_that_only_does_not_answer() -> Sequence[Patch]:
    right = groups.Copy.is_gone

    def is_gone(self: Any) -> bool:
        is_silent = self.seen is not None and self.seen.health is Health.TIMEOUT
        return bool(right.__get__(self)) or is_silent

    return [(groups.Copy, "is_gone", property(is_gone))]


# -- moves -------------------------------------------------------------------------------------------------------------


@mutant
def starts_two_moves_of_a_group() -> Sequence[Patch]:
    right = turn._Starter._hindrance

    def hindrance(self: Any, proposal: Any, role_changes: Any) -> Any:
        found = right(self, proposal, role_changes)
        return None if found is not None and found.code == "group_busy" else found

    def is_busy(self: Any, group: Any, standing: Any) -> bool:
        return False

    from shardwright.plan import evacuate

    return [(turn._Starter, "_hindrance", hindrance), (evacuate._Evacuation, "_is_busy", is_busy)]


@mutant
def stops_the_old_copy_before_the_new_is_in_sync() -> Sequence[Patch]:
    def syncing(moving: Any, group: Any, new: Any, view: Any, now: datetime) -> Decision:
        return Decision(writes=(Put(move._enter(moving, MoveState.READY, now)),))

    def ready(moving: Any, group: Any, new: Any, view: Any, now: datetime) -> Decision:
        return Decision(writes=(Put(move._enter(moving, MoveState.CLEANING, now)),))

    def stop(moving: Any, old: Any, new: Any, view: Any, now: datetime) -> Decision:
        return Decision(writes=(Put(replace(old, wanted=ShardWanted.STOPPED)),))

    return [(move, "_syncing", syncing), (move, "_ready", ready), (move, "_stop_old", stop)]


@mutant_in(requests_that_are_undone)
def forgets_the_copy_that_it_undoes() -> Sequence[Patch]:
    def undo(moving: Any, new: Any, view: Any, now: datetime) -> Decision:
        return move._end(moving, now)

    def give_up(moving: Any, new: Any, now: datetime, *reasons: Any) -> Decision:
        if moving.state is MoveState.PLANNED:
            return move._end(moving, now, *reasons)
        return Decision(writes=(Put(move._enter(moving, MoveState.UNDOING, now, reasons=reasons)),))

    return [(move, "_undo", undo), (move, "_give_up", give_up)]


# -- actions and plans -------------------------------------------------------------------------------------------------


@mutant
def takes_the_snapshot_after_marking() -> Sequence[Patch]:
    right = maintenance_on._snapshot
    evict = maintenance_on._evict

    def no_snapshot(at: Any, *, overwrites: bool) -> None:
        return None

    def late(at: Any, parameters: Any) -> None:
        if not at.action.snapshot_name:
            right(at, overwrites=parameters.overwrite_snapshot)
            return
        evict(at, parameters)

    return [(maintenance_on, "_snapshot", no_snapshot), (maintenance_on, "_evict", late)]


@mutant
def counts_nodes_in_maintenance_for_the_quorum() -> Sequence[Patch]:
    return [(quorum, "_away", lambda view, action: {})]


@mutant
def puts_two_copies_on_one_node() -> Sequence[Patch]:
    def none(self: Any, node: Any, request: Any) -> Iterator[Any]:
        return iter(())

    def even(self: Any, node: Any, request: Any) -> tuple[int, ...]:
        return (node.uid,)

    return [(ledger.Ledger, "_group_obstacles", none), (ledger.Ledger, "evenness", even), (ledger.Ledger, "tightness", even)]


@mutant
def ignores_marks_when_it_places() -> Sequence[Patch]:
    def none(self: Any, node: Any, **kwargs: Any) -> Iterator[Any]:
        return iter(())

    return [(ledger.Ledger, "_node_obstacles", none)]


@mutant_in(databases_that_barely_fit)
def ignores_memory_when_it_places() -> Sequence[Patch]:
    def none(self: Any, node: Any, request: Any) -> Iterator[Any]:
        return iter(())

    def even(self: Any, node: Any, request: Any) -> tuple[int, ...]:
        return (node.uid,)

    return [(ledger.Ledger, "_room_obstacles", none), (ledger.Ledger, "evenness", even), (ledger.Ledger, "tightness", even)]


@mutant
def completes_while_something_is_left() -> Sequence[Patch]:
    right = turn.advance

    def advance(at: Any, plan: Any, **kwargs: Any) -> Any:
        return replace(right(at, plan, **kwargs), is_under_way=False)

    return [(maintenance_on, "advance", advance), (remove, "advance", advance)]


@mutant
def lets_the_progress_fall() -> Sequence[Patch]:
    right = progress.progress

    def falling(action: Any, moves: Any, pending: Any) -> Any:
        found = list(moves)
        return max(0.0, right(action, found, pending) - 30.0 * sum(m.state.is_terminal for m in found))

    return [(turn, "progress", falling)]


# -- endpoints ---------------------------------------------------------------------------------------------------------


@mutant
def ignores_the_generation_at_endpoints() -> Sequence[Patch]:
    def release(self: Any, target: Any) -> Any:
        return gate.Change.NONE if self.hold is not None else self._move(target)

    def serve(self: Any, spec: Any) -> Any:
        self.spec = spec
        return gate.Change.NONE if spec.target is None or self.target is not None else self._move(spec.target)

    return [(gate.Gate, "release", release), (gate.Gate, "serve", serve)]


@mutant
def opens_a_group_before_its_copies_are_compared() -> Sequence[Patch]:
    def start(group: Any, database: Any, copies: Any, view: Any, now: datetime) -> Decision:
        answering = [c for c in copies if c.answers]
        if not answering:
            return _restart_all(database, copies, view, now)
        chosen = answering[-1].shard
        opened = replace(group, phase=GroupPhase.SERVING, primary=chosen.uid, generation=group.generation + 1)
        return Decision(writes=(Put(opened), Put(replace(chosen, in_sync_generation=opened.generation))))

    return [(groups, "_start", start)]


def _restart_all(database: Any, copies: Any, view: Any, now: datetime) -> Decision:
    writes, wake_at = groups._restarts(database, [c for c in copies if c.is_gone], view, now)
    return Decision(writes=writes, wake_at=wake_at)


RIGHT = Mutant("the_right_product", lambda: ())
SITUATIONS = (
    a_leader_killed_before_the_promotion,
    an_endpoint_that_sleeps_through_the_hold,
    a_promotion_on_its_way_for_long,
    a_leader_that_does_not_know_that_it_is_none,
    databases_that_barely_fit,
    requests_that_are_undone,
)
