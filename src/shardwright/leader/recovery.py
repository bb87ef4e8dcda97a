"""Finishes or undoes a handoff whose intent is committed but which no task of this leader is performing.

Opens this term's sessions first, which ends all older sessions. *Then* it queries the servers, and *then* it does what the
table in ``moves/handoff_rules.py`` says. It can be called any number of times.
"""

import asyncio

import structlog

from shardwright.errors import OutcomeUnknown, Permanent, Transient
from shardwright.leader.attempt import Attempt, attempt_of
from shardwright.leader.handoff import Handoffs
from shardwright.leader.probe import step
from shardwright.model.codes import Code
from shardwright.model.database import Shard
from shardwright.model.ids import GroupUid
from shardwright.model.seen import ServerSeen
from shardwright.model.view import ClusterView
from shardwright.moves import handoff_recovery as records
from shardwright.moves import handoff_rules as rules
from shardwright.moves.handoff_rules import CandidateState, OldPrimary, Recovery
from shardwright.server.protocol import ManagementSession
from shardwright.server.targets import server_target

_log = structlog.get_logger(__name__)


class Recoveries:
    """See the module's text. ``handoffs`` provides the steps."""

    def __init__(self, handoffs: Handoffs) -> None:
        self._handoffs = handoffs

    async def recover(self, group_uid: GroupUid) -> None:
        """Query both servers and the endpoints, and do what the table says. Raises LostLeadership, and Transient if the
        state must be queried again."""
        view = self._handoffs.current()
        group = view.groups.get(group_uid)
        if group is None or group.handoff is None:
            return
        intent = group.handoff
        now = self._handoffs.clock.now
        if not records.are_recorded(view, intent):
            await self._handoffs.commit(
                lambda view: records.started_over(view, group_uid, intent, None, records.NOT_RECORDED, now())
            )
            return
        attempt = attempt_of(view, group, intent)
        has_old_ended = records.has_ended(view, attempt.old_shard, intent.from_incarnation)
        has_new_ended = records.has_ended(view, attempt.new_shard, intent.to_incarnation)
        (old, old_seen), (new, new_seen) = await asyncio.gather(
            self._look(view, attempt.old_shard, has_ended=has_old_ended),
            self._look(view, attempt.new_shard, has_ended=has_new_ended),
        )
        old_state = rules.old_primary_state(old_seen, has_ended=has_old_ended)
        new_state = rules.candidate_state(new_seen, has_ended=has_new_ended)
        await self._handoffs.tell_lease(attempt)
        held = await self._endpoints(attempt)
        what, why = rules.recovery(old_state, new_state, held)
        _log.info("recovering a handoff", group=group_uid, old=old_state, new=new_state, endpoints=held, does=what, why=why)
        attempt.before = old_seen if old_state in (OldPrimary.WRITABLE, OldPrimary.FENCED) else None
        match what:
            case Recovery.UNDO:
                assert old is not None
                await self._handoffs.undo(attempt, old, (records.undo_reason(why),))
            case Recovery.FORWARD:
                assert new is not None
                await self._finish(attempt, old, new, old_state, new_state)
            case Recovery.FAIL_BACK:
                await self._handoffs.commit(lambda view: records.failed_back(view, group_uid, intent, now()))
            case Recovery.START_OVER:
                last = records.last_to_serve(intent, held)
                await self._handoffs.commit(lambda view: records.started_over(view, group_uid, intent, last, why, now()))
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

    async def _endpoints(self, attempt: Attempt) -> rules.EndpointsState:
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
        new_state: CandidateState,
    ) -> None:
        if old is not None and old_state is OldPrimary.WRITABLE:
            await old.fence()
        if new_state is CandidateState.REPLICA:
            async with step(self._handoffs.probe, "recovery:promote"):
                await new.promote()
        await self._handoffs.forward(attempt, old, new, await new.info(), finished_by="recovery")
