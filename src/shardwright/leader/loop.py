"""The leader's loop: observe → decide → commit → apply, one turn after another, for as long as the leadership lasts.

Owns the order of the deciders and the commit of what they write. Knows nothing before it begins but the store: everything
else is rebuilt from it. An event only shortens the sleep between turns.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import structlog

from shardwright.actions.base import decide_action
from shardwright.clock import Clock
from shardwright.errors import LostLeadership, ShardwrightError
from shardwright.leader.apply import Applier
from shardwright.leader.batch import Batch
from shardwright.leader.companions import companions
from shardwright.leader.handoff import Build, Handoffs
from shardwright.leader.observe import HOT_S, IDLE_S, Observer
from shardwright.leader.probe import Probe
from shardwright.leader.publish import Publisher
from shardwright.leader.retention import decide_retention
from shardwright.leader.takeover import decide_takeover
from shardwright.model.codes import Code
from shardwright.model.commands import Command
from shardwright.model.database import DatabaseStatus, GroupPhase, ShardWanted, SlotGroup
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.ids import ActionUid, DatabaseUid, EndpointUid, GroupUid, MoveUid, ShardUid
from shardwright.model.move import GroupMove
from shardwright.model.seen import ProcessState
from shardwright.model.view import ClusterView, Write
from shardwright.moves.decide import decide_move
from shardwright.nodes.protocol import Nodes
from shardwright.reconcile.database import decide_database
from shardwright.reconcile.endpoint import decide_endpoint, decide_strays
from shardwright.reconcile.group import decide_group, decide_unwanted
from shardwright.reconcile.rebinding import decide_rebinding
from shardwright.reconcile.repair import decide_repair
from shardwright.reconcile.troubles import decide_troubles
from shardwright.server.protocol import Servers
from shardwright.store import keys
from shardwright.store.commit import Conflict, Fence, commit
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import Store, StoreError
from shardwright.tasks import Wake

TURN_MAX_S = 1.0
"""A turn at least this often: losing every event must be harmless."""
BUSY_TURN_S = 0.1
"""While moves, starts or changes are under way."""
STILL_AFTER_S = 30.0
"""When nothing has changed for this long, whatever is under way waits for something that may take hours, such as a node
that is down: it is asked no more often than if nothing were under way, until something changes."""
CONFLICTS_MAX = 20
UNDECIDING = (keys.EVENTS, keys.SEEN_SERVERS)
"""Records on which no decision rests: a change of them calls for no turn."""
RETENTION_EVERY = timedelta(minutes=5)

Uid = TypeVar("Uid")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a leader looks and decides when no event calls it, in seconds."""

    turn_s: float = TURN_MAX_S
    busy_turn_s: float = BUSY_TURN_S
    idle_poll_s: float = IDLE_S
    hot_poll_s: float = HOT_S


NORMAL_PACE = Pace()


@dataclass(frozen=True, slots=True)
class LeaderParts:
    """What a leader works with."""

    store: Store
    mirror: Mirror
    servers: Servers
    nodes: Nodes
    clock: Clock
    probe: Probe
    random_text: Callable[[], str]
    yield_leadership: Callable[[], None]


class Leader:
    """One leadership. ``fence`` and ``term`` are those under which everything is written."""

    def __init__(self, parts: LeaderParts, *, term: int, fence: Fence, pace: Pace = NORMAL_PACE) -> None:
        self._parts = parts
        self._pace = pace
        self._fence = fence
        self._wake = Wake()
        self._is_lost = False
        self._changed_at = parts.clock.monotonic()
        """When something was last written or seen that may move something on."""
        self._busy_until: datetime | None = None
        self._retained_at: datetime | None = None
        self._began_at: datetime | None = None
        self._has_taken_over = False
        self._commits_singly = False
        """After a failed turn, each decision is committed by itself: neither a record that another writer changes repeatedly
        nor a decision that fails keeps the others from being written."""
        self._recorded: ClusterView | None = None
        """The records that the last turn began with, and what is hot by them."""
        self._hot: frozenset[ShardUid] = frozenset()
        self._observer = Observer(
            parts.servers,
            parts.nodes,
            clock=parts.clock,
            wake=self._stir,
            idle_s=pace.idle_poll_s,
            hot_s=pace.hot_poll_s,
        )
        handoffs = Handoffs(
            parts.servers,
            parts.nodes,
            commit=self._commit_built,
            current=self._current,
            term=term,
            clock=parts.clock,
            probe=parts.probe,
        )
        self._applier = Applier(
            parts.servers,
            parts.nodes,
            handoffs=handoffs,
            observer=self._observer,
            commit=self._commit_built,
            current=self._current,
            yield_leadership=parts.yield_leadership,
            clock=parts.clock,
            on_lost=self._lose,
            wake=self._wake.set,
        )
        self._publisher = Publisher(parts.store, parts.mirror, self._fence, clock=parts.clock)

    async def run(self) -> None:
        """Lead until the leadership is lost (returns) or the task is cancelled. Leaves nothing running."""
        unsubscribe = self._parts.mirror.subscribe(self._changed)
        try:
            await self._parts.mirror.fresh()
            while not self._is_lost:
                await self._guarded_turn()
                await self._sleep()
        except LostLeadership:
            _log.info("leadership lost")
        finally:
            unsubscribe()
            await self._applier.close()
            await self._observer.close()
            await self._parts.servers.close()
            self._parts.nodes.close()

    def _lose(self) -> None:
        self._is_lost = True
        self._wake.set()

    async def _guarded_turn(self) -> None:
        """The loop's edge: a turn that fails is logged, and the next one recomputes."""
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
        """Until something that matters changes, at the latest until the next full turn."""
        limit = self._pace.turn_s
        if self._busy_until is not None:
            limit = min(limit, max(0.005, (self._busy_until - self._parts.clock.now()).total_seconds()))
        await self._wake.wait(limit)
        self._wake.clear()

    def _changed(self, changed: Collection[str]) -> None:
        """What the leader itself publishes, and the log of events, decide nothing."""
        if all(key.startswith(UNDECIDING) for key in changed):
            return
        if all(key.startswith(keys.SEEN_NODES) for key in changed) and not self._has_new_processes():
            self._wake.set()  # Figures of a machine, every few seconds.
        else:
            self._stir()

    def _has_new_processes(self) -> bool:
        return self._recorded is None or self._parts.mirror.view().processes != self._recorded.processes

    def _stir(self) -> None:
        """Something is going on."""
        self._changed_at = self._parts.clock.monotonic()
        self._wake.set()

    def _is_still(self) -> bool:
        return self._parts.clock.monotonic() - self._changed_at > STILL_AFTER_S

    # -- a turn --------------------------------------------------------------------------------------------------------

    def _current(self) -> ClusterView:
        return self._observer.augment(self._parts.mirror.view())

    async def _turn(self) -> None:
        now = self._parts.clock.now()
        recorded, hot = self._recorded, self._hot
        if self._parts.mirror.view() is not recorded:
            self._recorded = recorded = self._parts.mirror.view()
            self._hot = hot = _hot_shards(recorded)
        is_still = self._is_still()
        self._observer.follow(recorded, hot=frozenset() if is_still else hot)
        await self._take_over(now)
        view, commands, wake_at = await self._decide(now)
        self._applier.submit(commands, view)
        # What is observed only takes shards from the hot ones, so without a change the first answer holds.
        is_calm = not hot and not view.live_moves() and self._parts.mirror.view() is recorded
        is_busy = not is_calm and not is_still and _is_busy(view)
        self._busy_until = _earlier(wake_at, now + timedelta(seconds=self._pace.busy_turn_s) if is_busy else None)
        await self._publisher.publish(view, now)
        await self._retain(now)

    async def _decide(self, now: datetime) -> tuple[ClusterView, list[Command], datetime | None]:
        """Everything that is to be decided, each decision on the writes of those before it, and all of that committed. The
        view then, the commands to give, and when to look again."""
        wake_at: datetime | None = None
        commands: list[Command] = []
        singly, self._commits_singly = self._commits_singly, True
        batch = Batch(self._current())
        for deciders in DECIDERS:
            for decide in deciders(batch.view):
                decision = decide(batch.view, now)
                if decision.writes and not batch.has_room_for(decision.writes):
                    batch = await self._commit_batch(batch)
                    decision = decide(batch.view, now)
                if decision.writes:
                    batch.add(decision.writes)
                    batch = await self._commit_batch(batch) if singly else batch
                commands.extend(decision.commands)
                wake_at = _earlier(wake_at, decision.wake_at)
        batch = await self._commit_batch(batch)
        self._commits_singly = False
        return batch.view, list(dict.fromkeys(commands)), wake_at

    async def _commit_batch(self, batch: Batch) -> Batch:
        """Write it, if there is anything. An empty one on the view after that."""
        if not batch.writes:
            return batch
        await self._commit(batch.writes, batch.base)
        self._wake.set()
        return Batch(self._current())

    async def _take_over(self, now: datetime) -> None:
        """Once, before anything is decided."""
        if self._began_at is None:
            self._began_at = now
        while not self._has_taken_over:
            view = self._current()
            decision = decide_takeover(view, now, began_at=self._began_at)
            if decision.writes:
                await self._commit(decision.writes, view)
            self._has_taken_over = not decision.writes

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
        if self._retained_at is not None and now - self._retained_at < RETENTION_EVERY:
            return
        self._retained_at = now
        bare = (self._parts.mirror.bare(item.key) for item in self._parts.mirror.range(keys.last_actions_prefix()))
        shown = frozenset(ActionUid(uid) for uid in bare if uid is not None)
        view = self._current()
        decision = decide_retention(view, now, last_actions=shown)
        if decision.writes:
            await self._commit(decision.writes, view)


Decide = Callable[[ClusterView, datetime], Decision]


def _group(uid: GroupUid, view: ClusterView, now: datetime) -> Decision:
    group = view.groups.get(uid)
    return NOTHING if group is None else decide_group(group, view, now)


def _endpoint(uid: EndpointUid, view: ClusterView, now: datetime) -> Decision:
    endpoint = view.endpoints.get(uid)
    return NOTHING if endpoint is None else decide_endpoint(endpoint, view)


def _strays(view: ClusterView, now: datetime) -> Decision:
    return decide_strays(view)


def _database(uid: DatabaseUid, view: ClusterView, now: datetime) -> Decision:
    database = view.databases.get(uid)
    return NOTHING if database is None else decide_database(database, view, now)


def _unwanted(view: ClusterView, now: datetime) -> Decision:
    return decide_unwanted(view)


def _move(uid: MoveUid, view: ClusterView, now: datetime) -> Decision:
    move = view.moves.get(uid)
    return NOTHING if move is None or move.state.is_terminal else decide_move(move, view, now)


def _action(uid: ActionUid, view: ClusterView, now: datetime) -> Decision:
    action = view.actions.get(uid)
    return NOTHING if action is None or action.status.is_terminal else decide_action(action, view, now)


def _each(decide: Callable[[Uid, ClusterView, datetime], Decision], uids: Iterable[Uid]) -> list[Decide]:
    return [partial(decide, uid) for uid in uids]


DECIDERS: tuple[Callable[[ClusterView], list[Decide]], ...] = (
    lambda view: _each(_group, sorted(view.groups)),
    lambda view: _each(_endpoint, sorted(view.endpoints)),
    lambda view: [_strays],
    lambda view: _each(_database, sorted(view.databases)),
    lambda view: [_unwanted],
    lambda view: [decide_repair],
    lambda view: [decide_rebinding],
    lambda view: _each(decide_troubles, sorted(view.databases.keys() | view.troubles.keys())),
    lambda view: _each(_move, [m.uid for m in view.live_moves()]),
    lambda view: _each(_action, [a.uid for a in view.live_actions()]),
)
"""Roles first, then endpoints and databases, then what moves things, then who asked for it. Each decision sees the writes of
those before it."""


def _hot_shards(view: ClusterView) -> frozenset[ShardUid]:
    """Shards whose next answer something waits for."""
    unsettled = {d.uid for d in view.databases.values() if d.status is not DatabaseStatus.ACTIVE}
    moving = {m.group_uid for m in view.live_moves() if isinstance(m, GroupMove)}
    starting = {g.uid for g in view.groups.values() if g.phase is not GroupPhase.SERVING or g.handoff is not None}
    behind = {g.uid for g in view.groups.values() if _is_behind(g, view)}
    return frozenset(
        s.uid
        for s in view.shards.values()
        if s.wanted is ShardWanted.RUNNING and (s.database_uid in unsettled or s.group_uid in moving | starting | behind)
    )


def _is_behind(group: SlotGroup, view: ClusterView) -> bool:
    """Whether a running copy has yet to be seen in sync, as after every handoff, or alive, as before a failover."""
    primary = None if group.primary is None else view.shards.get(group.primary)
    return (primary is not None and primary.missing_since is not None) or any(
        s.wanted is ShardWanted.RUNNING
        and s.in_sync_generation != group.generation
        and view.process_state(s.uid) is ProcessState.RUNNING
        for s in view.shards_of_group(group.uid)
    )


def _is_busy(view: ClusterView) -> bool:
    return bool(view.live_moves()) or bool(_hot_shards(view))


def _earlier(a: datetime | None, b: datetime | None) -> datetime | None:
    if a is None or b is None:
        return a or b
    return min(a, b)
