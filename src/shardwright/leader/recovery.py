"""Finishes or undoes a handoff that somebody else began: the intent is committed, and nobody here is performing it.

Opens this term's sessions first, which ends every older one, *then* looks, *then* does what the table in
``moves/handoff_rules.py`` says. May be called any number of times.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import structlog

from shardwright.errors import OutcomeUnknown, Permanent, Transient
from shardwright.leader.handoff import Attempt, Handoffs
from shardwright.leader.probe import step
from shardwright.model.codes import Code
from shardwright.model.database import GroupPhase, Handoff, Shard, SlotGroup
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import GroupUid
from shardwright.model.liveness import has_ended_after_start
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import ServerSeen
from shardwright.model.view import ClusterView, Put, Write
from shardwright.moves import handoff_rules as rules
from shardwright.moves.handoff_rules import Candidate, OldPrimary, Recovery
from shardwright.server.protocol import ManagementSession
from shardwright.server.targets import server_target

_log = structlog.get_logger(__name__)


class Recoveries:
    """See the module's text. ``handoffs`` lends its steps."""

    def __init__(self, handoffs: Handoffs) -> None:
        self._handoffs = handoffs

    async def recover(self, group_uid: GroupUid) -> None:
        """Look at both servers and the endpoints, and do what the table says. Raises LostLeadership, and Transient when it
        is to be looked at again."""
        view = self._handoffs.current()
        group = view.groups.get(group_uid)
        if group is None or group.handoff is None:
            return
        intent = group.handoff
        if intent.from_shard not in view.shards or intent.to_shard not in view.shards:
            await self._start_over(group, None, "a shard of a pending handoff is not recorded any more")
            return
        attempt = self._handoffs.attempt_of(view, group, intent)
        has_old_ended = _has_ended(view, attempt.old_shard, intent.from_incarnation)
        has_new_ended = _has_ended(view, attempt.new_shard, intent.to_incarnation)
        (old, old_seen), (new, new_seen) = await asyncio.gather(
            self._look(view, attempt.old_shard, has_ended=has_old_ended),
            self._look(view, attempt.new_shard, has_ended=has_new_ended),
        )
        old_state = rules.old_primary_state(old_seen, has_ended=has_old_ended)
        new_state = rules.candidate_state(new_seen, has_ended=has_new_ended)
        held = await self._endpoints(attempt)
        what, why = rules.recovery(old_state, new_state, held)
        _log.info("recovering a handoff", group=group_uid, old=old_state, new=new_state, endpoints=held, does=what, why=why)
        attempt.before = old_seen if old_state in (OldPrimary.WRITABLE, OldPrimary.FENCED) else None
        match what:
            case Recovery.UNDO:
                assert old is not None
                text = f"the leader that performed it ended; {why}"
                await self._handoffs.undo(attempt, old, (Reason(Code.HANDOFF_UNDONE, text, Grade.SOFT_LIMIT),))
            case Recovery.FORWARD:
                assert new is not None
                await self._finish(attempt, old, new, old_state, new_state)
            case Recovery.FAIL_BACK:
                await self._fail_back(group, intent, attempt.old_shard)
            case Recovery.START_OVER:
                last = attempt.new_shard if held is rules.Held.NEW else attempt.old_shard
                await self._start_over(group, last, why)
            case Recovery.WAIT:
                raise Transient(Code.HANDOFF_UNCLEAR, why)

    async def _look(
        self, view: ClusterView, shard: Shard, *, has_ended: bool
    ) -> tuple[ManagementSession | None, ServerSeen | None]:
        if has_ended:
            return None, None
        try:
            session = await self._handoffs.servers.manage(server_target(view, shard))
            return session, await session.info()
        except (Transient, OutcomeUnknown, Permanent) as e:
            _log.warning("a server of a pending handoff does not answer", shard=shard.uid, reason=e.text)
            return None, None

    async def _endpoints(self, attempt: Attempt) -> rules.Held:
        asked = [(uid, node) for uid, nodes in attempt.endpoints for node in nodes]
        found = await asyncio.gather(*(self._handoffs.process_of(node).status() for _, node in asked))
        seen = [process.endpoint(uid) for (uid, _), process in zip(asked, found, strict=True) if process.answers]
        return rules.endpoints_state(seen, generation=attempt.handoff.generation)

    async def _finish(
        self,
        attempt: Attempt,
        old: ManagementSession | None,
        new: ManagementSession,
        old_state: OldPrimary,
        new_state: Candidate,
    ) -> None:
        if old is not None and old_state is OldPrimary.WRITABLE:
            await old.fence()
        if new_state is Candidate.REPLICA:
            async with step(self._handoffs.probe, "recovery:promote"):
                await new.promote()
        await self._handoffs.forward(attempt, old, new, await new.info(), finished_by="recovery")

    async def _fail_back(self, group: SlotGroup, intent: Handoff, old: Shard) -> None:
        """The old one serves again, as a generation later than any that an endpoint may have been released to; promoting and
        opening it is the slot group's reconciliation."""
        generation = intent.generation + 1
        await self._commit_group(
            group,
            (
                Put(group.led_by(old.uid, generation, group.phase)),
                Put(replace(old, in_sync_generation=generation)),
            ),
            f"a handoff was taken back: shard {intent.to_shard} is gone, shard {old.uid} serves again",
        )

    async def _start_over(self, group: SlotGroup, last: Shard | None, why: str) -> None:
        assert group.handoff is not None
        primary = group.primary if last is None else last.uid
        changed = group.led_by(primary, group.handoff.generation, GroupPhase.STARTING)
        changed = replace(changed, starting_since=self._handoffs.clock.now())
        writes: tuple[Write, ...] = (Put(changed),)
        if last is not None:
            writes = (*writes, Put(replace(last, in_sync_generation=changed.generation)))
        await self._commit_group(group, writes, f"the copies of slot group {group.uid} are started and compared: {why}")

    async def _commit_group(self, group: SlotGroup, writes: tuple[Write, ...], text: str) -> None:
        event = Event(
            self._handoffs.clock.now(), EventKind.HANDOFF_RECOVERY, Severity.WARNING, text, database_uid=group.database_uid
        )

        def build(view: ClusterView) -> Sequence[Write]:
            now = view.groups.get(group.uid)
            return (*writes, Put(event)) if now is not None and now.handoff == group.handoff else ()

        await self._handoffs.commit(build)


def _has_ended(view: ClusterView, shard: Shard, incarnation: int) -> bool:
    """Whether the process that the intent named has ended: a new incarnation begins only then. 0: whichever runs."""
    if incarnation and shard.incarnation != incarnation:
        return True
    return has_ended_after_start(view.liveness(shard))
