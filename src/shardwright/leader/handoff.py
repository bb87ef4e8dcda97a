"""Performs a handoff: prove, calm, intend, hold, fence, promote, release, demote, verify, commit; or undoes it.

Owns the order of the steps (``docs/architecture.md``, *A handoff*). ``moves/handoff_rules.py`` decides whether the candidate
is proven, and what a successor does. Called by the applier, for one handoff of a database at a time. Once the promote
command may have been sent, this module must not lift the old primary's fence or release an endpoint to the old primary.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from shardwright.clock import Clock
from shardwright.endpoint.protocol import EndpointControl, EndpointProcessEnded, LeaseTerms, ReleaseResult, Target
from shardwright.endpoint.spec import terms_of
from shardwright.errors import ClusterError, OutcomeUnknown, Permanent, Transient
from shardwright.leader.attempt import (
    Attempt,
    attempt_of,
    evidence_of,
    fence_failure,
    has_reached,
    lag_reason,
    new_intent,
    next_look_s,
    silent_reasons,
    with_passed_on,
)
from shardwright.leader.probe import Probe, step
from shardwright.leader.targets import processes_to_hold
from shardwright.model.codes import Code
from shardwright.model.database import Role
from shardwright.model.ids import EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import ServerSeen, Sighting
from shardwright.model.view import ClusterView, Write
from shardwright.moves import handoff_records as records
from shardwright.moves import handoff_rules as rules
from shardwright.nodes.protocol import Nodes
from shardwright.server.protocol import ManagementSession, Servers
from shardwright.server.targets import server_target
from shardwright.tasks import RightOfWay

PAUSE_S = 600.0
"""Length of the old primary's pause, which expires by itself; the hard fence follows within milliseconds. The pause must
outlast this leader's lease, and any cut of the network that keeps the next leader from the server. Otherwise a postponed
script could run on the fenced server when the pause expires: it could hide that its write was refused, and its OK would be
passed on. Scripts are postponed if this leader was frozen before the fence, so that the endpoints released by themselves. If
the leader dies after the fence, the next leader lifts the fence and ends the pause. A longer pause keeps back no more than
the fence refuses."""
SETTLE_S = 0.004
"""From the commit of the intent to the hold. The commit wakes every daemon and every member of the store. Where they share
processors with endpoints and servers, most of this work would lengthen the pause of the clients, who do not wait yet."""
Build = Callable[[ClusterView], Sequence[Write]]
Answer = TypeVar("Answer")
Commit = Callable[[Build], Awaitable[None]]
"""Builds writes from the current view and commits them with the term. If another writer was faster, it builds them again.
Raises LostLeadership."""

_log = structlog.get_logger(__name__)


class _NotNow(Exception):
    """Ends an attempt before the promotion, with the reasons."""

    def __init__(self, *reasons: Reason) -> None:
        super().__init__("; ".join(r.text for r in reasons))
        self.reasons = reasons


_FAILURES = (_NotNow, Transient, OutcomeUnknown, Permanent)
"""Failures that end an attempt before the promotion."""


class Handoffs:
    """See the module's text. ``current`` returns the newest view; ``term`` is the term of this leadership; ``right_of_way``
    has each slot group from the proof on, until its clients no longer wait."""

    def __init__(
        self,
        servers: Servers,
        nodes: Nodes,
        *,
        commit: Commit,
        current: Callable[[], ClusterView],
        term: int,
        clock: Clock,
        probe: Probe,
        right_of_way: RightOfWay,
    ) -> None:
        self.servers = servers
        self._nodes = nodes
        self.commit = commit
        self.current = current
        self._term = term
        self.clock = clock
        self.probe = probe
        self._right_of_way = right_of_way

    def process_of(self, node: NodeUid) -> EndpointControl:
        """The endpoint process of a node."""
        return self._nodes.link(node).endpoint_process

    # -- a new handoff -------------------------------------------------------------------------------------------------

    async def hand_off(self, group_uid: GroupUid, from_shard: ShardUid, to_shard: ShardUid) -> None:
        """Make one attempt. A failure before the promotion is undone and recorded on the group's move. After a later failure
        the committed intent remains, and ``recover`` finishes it. Raises LostLeadership."""
        view = self.current()
        intent = new_intent(view, group_uid, from_shard, to_shard, term=self._term, now=self.clock.now())
        if intent is None:
            return
        attempt = attempt_of(view, view.groups[group_uid], intent)
        self._right_of_way.begin(group_uid)
        try:
            await self._carry_out(attempt)
        finally:
            self._right_of_way.end(group_uid)

    async def _carry_out(self, attempt: Attempt) -> None:
        try:
            old, new = await self._prove(attempt)
            async with step(self.probe, "handoff:calm"):
                await self._calm(attempt)
        except _FAILURES as e:
            await self._note(attempt.group.uid, _reasons_of(e))
            return
        await self._intend(attempt)
        await self.tell_lease(attempt)
        await self.clock.sleep(SETTLE_S)
        await self._pass_role(attempt, old, new)

    async def _pass_role(self, attempt: Attempt, old: ManagementSession, new: ManagementSession) -> None:
        try:
            async with step(self.probe, "handoff:hold"):
                await self._hold(attempt)
        except _FAILURES as e:
            # The old primary has received no command yet. It may be busy, and would then not answer an undo either.
            await self._let_go(attempt, _reasons_of(e))
            return
        try:
            await self._fence(attempt, old, new)
        except _FAILURES as e:
            await self.undo(attempt, old, _reasons_of(e))
            return
        async with step(self.probe, "handoff:promote"):
            promoted = await _after(new.promote(), new.info())
        await self.forward(attempt, old, new, promoted, finished_by="handoff")

    async def _prove(self, attempt: Attempt) -> tuple[ManagementSession, ManagementSession]:
        """Open this term's sessions, and check that the candidate holds what the primary held a moment ago."""
        view = self.current()
        old = await self.servers.manage(server_target(view, attempt.old_shard))
        new = await self.servers.manage(server_target(view, attempt.new_shard))
        primary, candidate = await asyncio.gather(old.info(), new.info())
        reasons = rules.unproven(
            attempt.group, attempt.old_shard, attempt.old_target.address, primary=primary, candidate=candidate
        )
        if reasons:
            raise _NotNow(*reasons)
        await self._wait_offset(new, primary.offset, Code.REPLICA_LAGS, "the replica does not reach the primary's offset")
        attempt.before = primary
        attempt.old_target = replace(attempt.old_target, run_id=primary.run_id)
        attempt.new_target = replace(attempt.new_target, run_id=candidate.run_id)
        return old, new

    async def _wait_offset(self, session: ManagementSession, offset: int, code: Code, text: str) -> ServerSeen:
        began = self.clock.monotonic()
        while True:
            seen = await session.info()
            if has_reached(seen, offset):
                return seen
            pause_s = next_look_s(self.clock.monotonic() - began)
            if pause_s is None:
                raise _NotNow(lag_reason(code, text, seen, offset))
            await self.clock.sleep(pause_s)

    async def _intend(self, attempt: Attempt) -> None:
        async with step(self.probe, "handoff:intend"):
            await self.commit(lambda view: records.intended(view, attempt.handoff, attempt.group.uid))
        # From now on no node is added: the record of each endpoint that several nodes serve was a part of the commit.
        attempt.endpoints = processes_to_hold(self.current(), attempt.group)

    async def tell_lease(self, attempt: Attempt) -> None:
        """Tell the processes that no proof is needed any more, which the intent's commit has decided. One that does not
        answer lets its clients wait for a proof of the new primary."""
        group = self.current().groups.get(attempt.group.uid)
        terms = None if group is None else terms_of(group)
        if terms is not None:
            asked = [(uid, node) for uid, nodes in attempt.endpoints for node in nodes]
            await asyncio.gather(*(self._tell_one(uid, node, terms) for uid, node in asked))

    async def _tell_one(self, endpoint: EndpointUid, node: NodeUid, terms: LeaseTerms) -> None:
        with suppress(Transient):
            await self.process_of(node).tell_lease(endpoint, terms)

    async def _fence(self, attempt: Attempt, old: ManagementSession, new: ManagementSession) -> None:
        """Fence the old primary, and wait until the candidate reaches the offset that was read after the fence."""
        attempt.fence_began = self.clock.monotonic()
        async with step(self.probe, "handoff:fence"):
            attempt.fenced = await _after(old.pause_writes(PAUSE_S), old.fence(), *_cut_off(attempt, old), old.info())
        if reason := fence_failure(attempt.fenced, held_s=self.clock.monotonic() - attempt.hold_began):
            raise _NotNow(reason)
        async with step(self.probe, "handoff:compare"):
            text = "the replica does not reach the offset that was read after the fence"
            attempt.candidate = await self._wait_offset(new, attempt.fenced.offset, Code.REPLICA_LAGS_FENCED, text)

    async def _calm(self, attempt: Attempt) -> None:
        """Let long pipelines and downloads finish first. The hold stops every client and then need not wait for them."""
        await self._ask_serving(attempt, lambda endpoint, node: self.process_of(node).calm(endpoint))

    async def _hold(self, attempt: Attempt) -> None:
        """Hold all client commands, and check that none is in flight."""
        attempt.began_at, attempt.hold_began = self.clock.now(), self.clock.monotonic()
        old, new = attempt.old_target, attempt.new_target
        await self._find_passed_on(attempt)
        answers = await self._ask_serving(attempt, lambda endpoint, node: self.process_of(node).hold(endpoint, old, new))
        attempt.held = tuple(node for node, answer in answers if answer is not None and answer.was_held)
        attempt.not_held = tuple(node for node, answer in answers if answer is None or not answer.was_held)
        if reason := rules.busy_reason([b for _, answer in answers if answer is not None for b in answer.busy]):
            raise _NotNow(reason)

    async def _find_passed_on(self, attempt: Attempt) -> None:
        """Find the endpoint processes to which a rebind has passed an endpoint since the last observation. No endpoint is
        passed on during a handoff, so one query is enough. Raises _NotNow if a process does not answer."""
        nodes = rules.nodes_of_rebinds(self.current().live_moves(), [uid for uid, _ in attempt.endpoints])
        seen = await asyncio.gather(*(self.process_of(node).status() for node in nodes))
        if late := silent_reasons(seen):
            raise _NotNow(*late)
        attempt.endpoints = with_passed_on(attempt.endpoints, seen)

    async def _ask_serving(
        self, attempt: Attempt, ask: Callable[[EndpointUid, NodeUid], Awaitable[Answer]]
    ) -> list[tuple[NodeUid, Answer | None]]:
        """Ask every endpoint process that may serve the database. The answer of a process that has ended is None: it has no
        clients. A late process must not be skipped: it would cut off the commands that its clients have in flight. Raises
        _NotNow."""

        async def one(endpoint: EndpointUid, node: NodeUid) -> tuple[NodeUid, Answer | None, Reason | None]:
            try:
                return node, await ask(endpoint, node), None
            except EndpointProcessEnded:
                _log.warning("an endpoint process has ended; it has no commands in flight", node=node)
                return node, None, None
            except Transient as e:
                return node, None, rules.late_reason(node, e.text)

        asked = await asyncio.gather(*(one(uid, node) for uid, nodes in attempt.endpoints for node in nodes))
        if late := [reason for _, _, reason in asked if reason is not None]:
            raise _NotNow(*late)
        return [(node, answer) for node, answer, _ in asked]

    async def undo(self, attempt: Attempt, old: ManagementSession, reasons: tuple[Reason, ...]) -> None:
        """Return to the old primary. If that fails, the intent remains, and ``recover`` tries again."""
        try:
            async with step(self.probe, "handoff:undo_fence"):
                await old.unfence()
        except (Transient, OutcomeUnknown, Permanent) as e:
            _log.warning("an undo could not lift the fence; it is tried again", group=attempt.group.uid, reason=e.text)
            return
        await self._let_go(attempt, reasons)

    async def _let_go(self, attempt: Attempt, reasons: tuple[Reason, ...]) -> None:
        """The old primary has no fence: release the endpoints to it, and remove the intent."""
        async with step(self.probe, "handoff:undo_release"):
            await self._release(attempt, attempt.old_target)
        async with step(self.probe, "handoff:undo_commit"):
            await self._note(attempt.group.uid, reasons, forgets_intent=True)

    async def _note(self, group_uid: GroupUid, reasons: tuple[Reason, ...], *, forgets_intent: bool = False) -> None:
        """Record a failed attempt on the group's move, with the time of the next attempt."""
        now = self.clock.now()
        _log.info("a handoff attempt failed", group=group_uid, reasons=[r.text for r in reasons])
        await self.commit(lambda view: records.failed(view, group_uid, reasons, now, forgets_intent=forgets_intent))

    # -- after the promotion -------------------------------------------------------------------------------------------

    async def forward(
        self, attempt: Attempt, old: ManagementSession | None, new: ManagementSession, seen: ServerSeen, *, finished_by: str
    ) -> None:
        """Complete the handoff after the promotion, which ``seen`` shows: release the endpoints to the new primary, demote
        the old one, verify, commit."""
        if seen.role is not Role.PRIMARY:
            raise Transient(Code.PROMOTION_UNCONFIRMED, "the candidate does not report itself as a primary")
        if seen.is_fenced:
            await new.unfence()
        if attempt.fence_began:
            attempt.fence_ms = (self.clock.monotonic() - attempt.fence_began) * 1000
        async with step(self.probe, "handoff:release"):
            await self._release(attempt, attempt.new_target)
        attempt.released_at = self.clock.now()
        if old is not None:
            await self._demote(attempt, old)
        async with step(self.probe, "handoff:verify"):
            after = await self._verified(attempt, new, seen)
        async with step(self.probe, "handoff:commit"):
            await self._commit_done(attempt, after, finished_by)

    async def _verified(self, attempt: Attempt, new: ManagementSession, seen: ServerSeen) -> ServerSeen:
        """The state of the new primary, whose clients have come. One of them may keep it busy for hours: if the same process
        still runs, what it said after its promotion holds."""
        try:
            return await new.info()
        except (Transient, OutcomeUnknown) as e:
            process = self.current().processes.get(attempt.new_shard.uid)
            if process is None or process.identity is None:
                raise
            look = await self._nodes.link(attempt.new_shard.node_uid).look(process.identity)
            if look.sighting is not Sighting.RUNS:
                raise
            _log.warning("the new primary runs and does not answer", shard=attempt.new_shard.uid, reason=e.text)
            return seen

    async def _release(self, attempt: Attempt, target: Target) -> None:
        """Tell every process in parallel, whether it held or not: each one has clients of its own."""

        async def one(endpoint: EndpointUid, node: NodeUid) -> tuple[NodeUid, ReleaseResult | None]:
            try:
                return node, await self.process_of(node).release(endpoint, target)
            except Transient as e:
                _log.warning(
                    "an endpoint process did not answer a release; it will query the servers itself",
                    node=node,
                    reason=e.text,
                )
                return node, None

        found = await asyncio.gather(*(one(uid, node) for uid, nodes in attempt.endpoints for node in nodes))
        self._right_of_way.end(attempt.group.uid)
        attempt.releases.extend(r for _, r in found if r is not None)
        attempt.not_released = tuple(node for node, r in found if r is None and node not in attempt.not_held)

    async def _demote(self, attempt: Attempt, old: ManagementSession) -> None:
        """Demote the old primary. If a step fails, the slot group's reconciliation repairs it: the new primary already
        serves.

        The clients' connections end first, during the pause. Otherwise commands that the server has not executed yet would
        run on a replica. There a script that catches its errors answers OK although it has written nothing.
        """
        try:
            async with step(self.probe, "handoff:end_clients"):
                await old.end_application_connections()
            async with step(self.probe, "handoff:demote"):
                await old.attach(attempt.new_target.address, attempt.new_target.port)
            async with step(self.probe, "handoff:end_pause"):
                await old.end_pause()
            async with step(self.probe, "handoff:unfence"):
                await old.unfence()
        except (Transient, OutcomeUnknown, Permanent) as e:
            _log.warning("the old primary could not be demoted immediately", shard=attempt.old_shard.uid, reason=e.text)

    async def _commit_done(self, attempt: Attempt, after: ServerSeen, finished_by: str) -> None:
        evidence, now, group = evidence_of(attempt, after, finished_by), self.clock.now(), attempt.group.uid
        await self.commit(lambda view: records.completed(view, group, evidence, now))
        _log.info("handoff", group=group, pause_ms=evidence.pause_ms, fence_ms=evidence.fence_ms)


async def _after(*calls: Awaitable[Any]) -> Any:
    """Execute the calls in this order, and return the result of the last one. They share one round trip, because each round
    trip lengthens the clients' pause. After all calls have ended, raises the error of the first call that failed."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found[-1]


def _cut_off(attempt: Attempt, old: ManagementSession) -> tuple[Awaitable[None], ...]:
    """After the fence: end the clients' connections to the old primary if an endpoint process did not hold. A new process in
    its place may have sent scripts, which the pause postpones. If this leader dies, they would run when the pause expires.
    Under the fence, a script that catches its errors answers OK although it has written nothing."""
    return (old.end_application_connections(),) if attempt.not_held else ()


def _reasons_of(e: _NotNow | ClusterError) -> tuple[Reason, ...]:
    return e.reasons if isinstance(e, _NotNow) else (Reason(e.code, e.text, Grade.SOFT_LIMIT),)
