"""The leader's loop: observe → decide → commit → apply, one turn after another, for as long as the leadership lasts.

Owns the parts of a leadership, and commits the decisions of each turn (``turn.py``). At the beginning it knows only the
store; it rebuilds everything else from there. An event only shortens the sleep between turns (``pace.py``).
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from shardwright.clock import Clock
from shardwright.errors import LostLeadership, ShardwrightError
from shardwright.leader.apply import Applier, SwitchOffMachine
from shardwright.leader.companions import companions
from shardwright.leader.handoff import Build, Handoffs
from shardwright.leader.members import Membership
from shardwright.leader.observe import Observer
from shardwright.leader.pace import (
    NORMAL_PACE,
    Call,
    Pace,
    call_of,
    hot_shards,
    is_busy,
    is_retention_due,
    is_still,
    look_again_at,
    sleep_s,
)
from shardwright.leader.presence import Lasting, storm_event
from shardwright.leader.probe import Probe
from shardwright.leader.publish import Publisher
from shardwright.leader.resealing import Resealing
from shardwright.leader.retention import DELETIONS_AT_ONCE, decide_retention, surplus_events
from shardwright.leader.takeover import decide_takeover
from shardwright.leader.turn import AGAIN, DECIDERS, TurnResult, decide_turn
from shardwright.leader.upgrade import BackUp, UpgradePreparation
from shardwright.model.codes import Code
from shardwright.model.ids import ActionUid, ShardUid
from shardwright.model.view import ClusterView, Put, Write
from shardwright.nodes.protocol import Nodes
from shardwright.server.protocol import Servers
from shardwright.store import keys
from shardwright.store.commit import Conflict, Fence, commit
from shardwright.store.members import Members
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import CreatedAt, DeleteKey, Store, StoreError, StoreUnavailable, Transaction
from shardwright.tasks import RightOfWay, Wake

CONFLICTS_MAX = 20
"""Limit of attempts of one commit while other writers change its records. After it the command fails, and the next turn
decides again."""

__all__ = ["DECIDERS", "NORMAL_PACE", "Leader", "LeaderParts", "Pace"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LeaderParts:
    """The parts that a leader receives."""

    store: Store
    mirror: Mirror
    servers: Servers
    nodes: Nodes
    clock: Clock
    probe: Probe
    random_text: Callable[[], str]
    yield_leadership: Callable[[], None]
    right_of_way: RightOfWay = field(default_factory=RightOfWay)
    """Of the handoffs; the rest of the daemon gives way to them too."""
    lasting: Lasting = field(default_factory=Lasting)
    """The daemon's own, for all of its leaderships."""
    members: Members | None = None
    """Of the store; None: it has none. The leader closes it."""
    switch_off: SwitchOffMachine | None = None
    """Switches another node's machine off; None: all nodes are on this machine."""
    back_up: BackUp | None = None
    """Writes a backup before an upgrade; None: none is prepared for."""


class Leader:
    """One leadership. ``fence`` guards all of its writes; ``term`` is its number."""

    def __init__(self, parts: LeaderParts, *, term: int, fence: Fence, pace: Pace = NORMAL_PACE) -> None:
        self._parts = parts
        self._pace = pace
        self._fence = fence
        self._wake = Wake()
        self._is_lost = False
        self._changed_at = parts.clock.monotonic()
        """Time of the last change that may advance some work."""
        self._busy_until: datetime | None = None
        self._retained_at: datetime | None = None
        self._began_at: datetime | None = None
        self._has_taken_over = False
        self._storm_at: float | None = None
        """The last storm of the presence keys whose event is written."""
        self._commits_singly = False
        """After a failed turn, each decision is committed separately. A record that another writer changes repeatedly, or a
        decision that fails, then does not prevent the commit of the others."""
        self._recorded: ClusterView | None = None
        """The records at the beginning of the last turn, and the hot shards according to them."""
        self._hot: frozenset[ShardUid] = frozenset()
        self._observer = Observer(
            parts.servers,
            parts.nodes,
            clock=parts.clock,
            wake=self._stir,
            idle_s=pace.idle_poll_s,
            hot_s=pace.hot_poll_s,
            known=parts.lasting.presence,
        )
        self._handoffs = Handoffs(
            parts.servers,
            parts.nodes,
            commit=self._commit_built,
            current=self._current,
            term=term,
            clock=parts.clock,
            probe=parts.probe,
            right_of_way=parts.right_of_way,
        )
        self._applier = Applier(
            parts.servers,
            parts.nodes,
            handoffs=self._handoffs,
            observer=self._observer,
            commit=self._commit_built,
            current=self._current,
            yield_leadership=parts.yield_leadership,
            switch_off=parts.switch_off,
            clock=parts.clock,
            on_lost=self._lose,
            wake=self._wake.set,
        )
        self._members = None if parts.members is None else self._membership(parts.members)
        self._resealing = self._resealing_with(parts)
        self._upgrade = None if parts.back_up is None else self._preparation(parts.back_up)
        self._publisher = Publisher(parts.store, parts.mirror, self._fence, clock=parts.clock)

    def _membership(self, members: Members) -> Membership:
        parts = self._parts
        return Membership(
            members,
            parts.store,
            fence=self._fence,
            commit=self._commit_built,
            current=self._current,
            clock=parts.clock,
            on_lost=self._lose,
        )

    def _resealing_with(self, parts: LeaderParts) -> Resealing:
        return Resealing(
            parts.store,
            parts.mirror,
            fence=self._fence,
            commit=self._commit_built,
            probe=parts.probe,
            random_text=parts.random_text,
        )

    def _preparation(self, back_up: BackUp) -> UpgradePreparation:
        return UpgradePreparation(
            back_up, commit=self._commit_built, current=self._current, clock=self._parts.clock, on_lost=self._lose
        )

    async def run(self) -> None:
        """Lead until the leadership is lost (returns) or the task is cancelled. Leaves no task running."""
        unsubscribe = self._parts.mirror.subscribe(self._changed)
        try:
            await self._begin()
            if self._members is not None:
                self._members.start()
            if self._upgrade is not None:
                self._upgrade.start()
            while not self._is_lost:
                await self._guarded_turn()
                await self._sleep()
        except LostLeadership:
            _log.info("leadership lost")
        finally:
            unsubscribe()
            await self._applier.close()
            await self._observer.close()
            if self._members is not None:
                await self._members.close()
            if self._upgrade is not None:
                await self._upgrade.close()
            await self._parts.servers.close()
            self._parts.nodes.close()

    async def _begin(self) -> None:
        """Wait until the mirror shows what earlier leaders wrote. The leadership may outlast an interruption of the store,
        and no other daemon leads meanwhile: ask until an answer comes, or until the task is cancelled."""
        while True:
            try:
                return await self._parts.mirror.fresh()
            except StoreUnavailable as e:
                _log.warning("the leader cannot begin", code=e.code, reason=e.text)
            await self._parts.clock.sleep(self._pace.busy_turn_s)

    def _lose(self) -> None:
        self._is_lost = True
        self._wake.set()

    async def _guarded_turn(self) -> None:
        """Log a failed turn; the next turn decides again."""
        try:
            await self._turn()
        except LostLeadership:
            raise
        except Conflict:
            self._wake.set()
        except (StoreError, ShardwrightError) as e:
            _log.warning("a turn failed", code=e.code, reason=e.text)
            await self._parts.clock.sleep(self._pace.busy_turn_s)
        except Exception:
            _log.exception("a turn failed; a defect")
            await self._parts.clock.sleep(self._pace.turn_s)

    async def _sleep(self) -> None:
        """Sleep until an event, or until the next turn is due."""
        await self._wake.wait(sleep_s(self._busy_until, self._parts.clock.now(), self._pace))
        self._wake.clear()
        # The commands of this turn begin before the next one.
        await asyncio.sleep(0)
        await self._parts.right_of_way.give_way()

    def _changed(self, changed: Collection[str]) -> None:
        """The mirror reports changed records."""
        match call_of(changed, has_new_processes=self._has_new_processes()):
            case Call.STIR:
                self._stir()
            case Call.TURN:
                self._wake.set()
            case Call.NOTHING:
                pass

    def _has_new_processes(self) -> bool:
        return self._recorded is None or self._parts.mirror.view().processes != self._recorded.processes

    def _stir(self) -> None:
        """Note a change, and begin a turn."""
        self._changed_at = self._parts.clock.monotonic()
        self._wake.set()

    def _is_still(self) -> bool:
        return is_still(self._changed_at, self._parts.clock.monotonic())

    # -- a turn --------------------------------------------------------------------------------------------------------

    def _current(self) -> ClusterView:
        view = self._observer.augment(self._parts.mirror.view())
        silent = frozenset() if self._members is None else self._members.silent
        return view if silent == view.silent_members else view.changed(silent_members=silent)

    async def _turn(self) -> None:
        now = self._parts.clock.now()
        recorded, hot = self._recorded, self._hot
        if self._parts.mirror.view() is not recorded:
            self._recorded = recorded = self._parts.mirror.view()
            self._hot = hot = hot_shards(recorded)
        still = self._is_still()
        self._observer.follow(recorded, hot=frozenset() if still else hot)
        await self._take_over(now)
        await self._attend(now)
        found = await self._decide(now)
        view = found.view
        self._applier.submit(found.commands, view)
        # Observations only remove shards from the hot ones. Without a change of the records, the first answer holds.
        is_calm = not hot and not view.live_moves() and self._parts.mirror.view() is recorded
        self._busy_until = look_again_at(found.wake_at, now, self._pace, is_busy=not is_calm and not still and is_busy(view))
        await self._publisher.publish(view, now)
        await self._retain(now)
        if await self._resealing.advance(now):
            self._wake.set()

    async def _decide(self, now: datetime) -> TurnResult:
        """Run all deciders, and commit their writes."""
        singly, self._commits_singly = self._commits_singly, True
        turn = decide_turn(self._current(), now, DECIDERS, again=AGAIN, singly=singly)
        try:
            batch = next(turn)
            while True:
                await self._commit(batch.writes, batch.base)
                self._wake.set()
                batch = turn.send(self._current())
        except StopIteration as done:
            self._commits_singly = False
            outcome: TurnResult = done.value
            return outcome

    async def _take_over(self, now: datetime) -> None:
        """Correct the times of earlier leaders, once, before the first decision."""
        if self._began_at is None:
            self._began_at = now
        while not self._has_taken_over:
            view = self._current()
            decision = decide_takeover(view, now, began_at=self._began_at)
            if decision.writes:
                await self._commit(decision.writes, view)
            self._has_taken_over = not decision.writes

    async def _attend(self, now: datetime) -> None:
        """Record a storm of the presence keys; yield if this leader is the one that is cut off."""
        attendance = self._observer.attendance
        storm = attendance.storm()
        if storm is not None and storm.storm_at != self._storm_at:
            await self._commit((Put(storm_event(storm, now)),), self._current())
            self._storm_at = storm.storm_at
        if attendance.is_to_yield(self._parts.lasting.yielded_at):
            self._parts.lasting.yielded_at = self._parts.clock.monotonic()
            _log.warning("this leader reaches fewer than half of the agents: it yields")
            self._parts.yield_leadership()

    async def _commit(self, writes: Sequence[Write], view: ClusterView) -> None:
        extra = companions(writes, view, self._parts.mirror.bare)
        await commit(
            self._parts.store,
            self._parts.mirror,
            writes,
            fence=self._fence,
            random_text=self._parts.random_text,
            extra=extra,
            view_revision=view.revision,
        )

    async def _commit_built(self, build: Build) -> None:
        for _ in range(CONFLICTS_MAX):
            view = self._current()
            writes = build(view)
            if not writes:
                return
            try:
                await self._commit(writes, view)
            except Conflict:
                continue
            self._wake.set()
            return
        raise Conflict(Code.CONFLICT, f"the records changed {CONFLICTS_MAX} times while they were being written")

    async def _retain(self, now: datetime) -> None:
        if not is_retention_due(self._retained_at, now):
            return
        self._retained_at = now
        bare = (self._parts.mirror.bare(item.key) for item in self._parts.mirror.range(keys.last_actions_prefix()))
        shown = frozenset(ActionUid(uid) for uid in bare if uid is not None)
        view = self._current()
        decision = decide_retention(view, now, last_actions=shown)
        if decision.writes:
            await self._commit(decision.writes, view)
        surplus = surplus_events([item.key for item in self._parts.mirror.range(keys.EVENTS)])
        if surplus:
            # A lost leadership shows at the next commit.
            compares = (CreatedAt(keys.LEADER, self._fence.revision_created),)
            await self._parts.store.transact(Transaction(compares, tuple(DeleteKey(key) for key in surplus)))
            if len(surplus) == DELETIONS_AT_ONCE:
                self._retained_at = None  # More may be left: the next turn continues.
