"""Mistakes of a leader that follows another one, or does not know that it has lost the leadership."""

from collections.abc import Sequence
from typing import Any

from shardwright.errors import OutcomeUnknown, Permanent, Transient
from shardwright.leader import loop
from shardwright.leader import recovery as recoveries
from shardwright.model.decision import Decision
from shardwright.moves import handoff_rules as rules
from shardwright.moves.handoff_rules import CandidateState, OldPrimary, Recovery
from shardwright.server.targets import server_target
from shardwright.store import commit as commits
from sim import daemon, servers
from sim.mutants.registry import Patch, mutant, mutant_in
from sim.mutants.situations import (
    a_leader_killed_after_the_promotion,
    a_leader_killed_before_the_fence,
    a_leader_that_does_not_know_its_loss,
    a_promotion_that_is_delayed_in_transit,
    clocks_that_jump_while_a_server_is_frozen,
)


@mutant_in(a_leader_killed_after_the_promotion)
def trusts_a_stale_role() -> Sequence[Patch]:
    right = recoveries.Recoveries.__init__
    published: dict[int, Any] = {}

    def begin(self: Any, handoffs: Any) -> None:
        right(self, handoffs)
        published[id(self)] = handoffs.commit.__self__._parts.mirror.view().servers

    async def look(self: Any, view: Any, shard: Any, *, has_ended: bool) -> Any:
        try:
            session = await self._handoffs.servers.manage(server_target(view, shard))
        except (Transient, OutcomeUnknown, Permanent):
            return None, None
        # The observations that the previous leader published are present at once.
        seen = published[id(self)].get(shard.uid)
        return session, seen if seen is not None else await session.info()

    return [(recoveries.Recoveries, "__init__", begin), (recoveries.Recoveries, "_look", look)]


@mutant_in(a_promotion_that_is_delayed_in_transit)
def looks_before_older_sessions_are_ended() -> Sequence[Patch]:
    async def look(self: Any, view: Any, shard: Any, *, has_ended: bool) -> Any:
        if has_ended:
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


@mutant_in(a_leader_that_does_not_know_its_loss)
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


@mutant_in(a_promotion_that_is_delayed_in_transit)
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
        if candidate is CandidateState.PRIMARY and old in (OldPrimary.FENCED, OldPrimary.WRITABLE):
            return Recovery.UNDO, "wrong"
        return right(old, candidate, endpoints)

    return [(rules, "recovery", recovery)]


@mutant_in(a_leader_killed_before_the_fence)
def goes_forward_without_a_fence() -> Sequence[Patch]:
    right = rules.recovery

    def recovery(old: Any, candidate: Any, endpoints: Any) -> Any:
        if candidate is CandidateState.REPLICA and old is OldPrimary.WRITABLE:
            return Recovery.FORWARD, "wrong"
        return right(old, candidate, endpoints)

    async def finish(self: Any, attempt: Any, old: Any, new: Any, old_state: Any, new_state: Any) -> None:
        self._handoffs.probe("recovery:promote:before")
        await new.promote()
        await self._handoffs.forward(attempt, old, new, await new.info(), finished_by="recovery")

    return [(rules, "recovery", recovery), (recoveries.Recoveries, "_finish", finish)]


@mutant
def never_recovers_a_handoff() -> Sequence[Patch]:
    async def recover(self: Any, group_uid: Any) -> None:
        return None

    return [(recoveries.Recoveries, "recover", recover)]


@mutant_in(a_leader_that_does_not_know_its_loss)
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


@mutant_in(clocks_that_jump_while_a_server_is_frozen)
def measures_with_the_wall_clock() -> Sequence[Patch]:
    return [
        (daemon, "SteadyClock", lambda clock: clock),
        (loop, "decide_takeover", lambda view, now, *, began_at: Decision()),
    ]
