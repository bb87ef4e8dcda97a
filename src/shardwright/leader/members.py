"""Keeps the members of the store in agreement with the cluster's nodes: looks every few seconds, takes at most one step.

Part of a leadership, in a task of its own, because a change of the members may take seconds. ``plan/store_members.py``
decides. etcd knows no terms, so the leadership is checked before each change. A late change is harmless: it was safe when
it was decided, and etcd refuses what would cost the quorum.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import assert_never

import structlog

from shardwright.clock import Clock
from shardwright.errors import LostLeadership, Permanent, ShardwrightError
from shardwright.leader.handoff import Commit
from shardwright.model.codes import Code
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import NodeUid
from shardwright.model.reason import Reason
from shardwright.model.store_member import StoreRole
from shardwright.model.view import ClusterView, Put, Write
from shardwright.plan.store_members import (
    MemberSilence,
    Note,
    PromoteMember,
    Remove,
    next_step,
    strangers,
    unanswering_members,
)
from shardwright.store import keys
from shardwright.store.commit import Fence
from shardwright.store.members import Members
from shardwright.store.protocol import Store, StoreError
from shardwright.tasks import spawn

LOOK_S = 5.0
"""Between two looks while nothing is to be done."""
STEP_S = 1.0
"""After a step, while a new member catches up (a join waits for it), and until a member counts as silent."""

_log = structlog.get_logger(__name__)


class Membership:
    """See the module's text. ``on_lost`` is called when a check finds that the term is over."""

    def __init__(
        self,
        members: Members,
        store: Store,
        *,
        fence: Fence,
        commit: Commit,
        current: Callable[[], ClusterView],
        clock: Clock,
        on_lost: Callable[[], None],
    ) -> None:
        self.silent: frozenset[NodeUid] | None = None
        """Nodes whose voting member is silent (``MemberSilence``); None: unknown yet, not certain, or none was reached."""
        self._members = members
        self._store = store
        self._fence = fence
        self._commit = commit
        self._current = current
        self._clock = clock
        self._on_lost = on_lost
        self._silence = MemberSilence()
        self._unknown_since: dict[int, float] = {}
        self._told: tuple[Reason, ...] = ()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look now, and from now on. Call it once."""
        self._task = spawn("store members", self._run())

    async def close(self) -> None:
        """Stop immediately. The next leader goes on from what the store says."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._members.close()

    async def _run(self) -> None:
        while True:
            pause_s = LOOK_S
            try:
                pause_s = await self._look()
            except LostLeadership:
                self._on_lost()
                return
            except ShardwrightError as e:
                if isinstance(e, StoreError):
                    self.silent = None
                _log.warning("the members of the store cannot be kept", code=e.code, reason=e.text)
            except Exception:
                _log.exception("a look at the members of the store failed; a defect")
            await self._clock.sleep(pause_s)

    async def _look(self) -> float:
        """One look and at most one step. Returns the seconds until the next."""
        if all(node.store_role is StoreRole.NONE for node in self._current().nodes.values()):
            return LOOK_S
        states = await self._members.states()
        view, now = self._current(), self._clock.monotonic()
        self._silence = self._silence.after(unanswering_members(view, states))
        self.silent = self._silence.nodes
        since = self._unknown_since
        self._unknown_since = {member: since.get(member, now) for member in strangers(view, states)}
        known_for = {member: timedelta(seconds=now - at) for member, at in self._unknown_since.items()}
        judgment = next_step(view, states, unknown_for=known_for)
        self._tell(judgment.reasons)
        match judgment.step:
            case None:
                return LOOK_S if self.silent is not None and not judgment.reasons else STEP_S
            case Note() as note:
                await self._commit(lambda view: noted(view, note, self._clock))
            case PromoteMember() as step:
                await self._check_term()
                if await self._promote(step.member_id):
                    _log.info("a new member of the store votes", node=step.node_uid, member=f"{step.member_id:x}")
            case Remove() as step:
                await self._check_term()
                await self._members.remove(step.member_id)
                _log.info(
                    "a member of the store was removed", node=step.node_uid, member=f"{step.member_id:x}", reason=step.why
                )
            case _:
                assert_never(judgment.step)
        return STEP_S

    async def _promote(self, member_id: int) -> bool:
        try:
            return await self._members.promote(member_id)
        except Permanent as e:
            if e.code is not Code.STORE_MEMBER_GONE:
                raise
            return False

    async def _check_term(self) -> None:
        leader = await self._store.get(keys.LEADER)
        if leader is None or leader.create_revision != self._fence.revision_created:
            raise LostLeadership()

    def _tell(self, reasons: tuple[Reason, ...]) -> None:
        """Log what is waited for, once."""
        if reasons != self._told:
            self._told = reasons
            for reason in reasons:
                _log.warning("a member of the store waits", code=reason.code, reason=reason.text, remedy=reason.remedy)


def noted(view: ClusterView, note: Note, clock: Clock) -> list[Write]:
    """The writes by which a node's record says what its member is; none if it does, or if the node is gone."""
    node = view.nodes.get(note.node_uid)
    if node is None or node.store_role is note.role:
        return []
    kind, text = _SAID[note.role]
    event = Event(clock.now(), kind, Severity.INFO, text.format(node.uid), node_uid=node.uid)
    return [Put(replace(node, store_role=note.role)), Put(event)]


_SAID = {
    StoreRole.LEARNER: (EventKind.STORE_MEMBER_ADDED, "node {} runs a new member of the store, which does not vote yet"),
    StoreRole.VOTER: (EventKind.STORE_MEMBER_PROMOTED, "the store's member of node {} votes"),
    StoreRole.NONE: (EventKind.STORE_MEMBER_REMOVED, "node {} has no member of the store any more"),
}
