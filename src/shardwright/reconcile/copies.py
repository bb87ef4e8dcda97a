"""The copies of a slot group as input for decisions: the record, the process, the server's last answer.

Called by the modules of this package that decide about a slot group. Decides nothing.
"""

from dataclasses import dataclass
from datetime import datetime

from shardwright.model.codes import Code
from shardwright.model.database import Damage, Role, Shard, ShardWanted, SlotGroup, reason_about
from shardwright.model.liveness import Liveness, has_ended_after_start
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import Health, ProcessState, ServerSeen
from shardwright.model.view import ClusterView


@dataclass(frozen=True, slots=True)
class Copy:
    """A shard of the group that is wanted running, with its observed state."""

    shard: Shard
    process: ProcessState
    """The report of its agent; ``liveness`` is the judgment."""
    liveness: Liveness
    seen: ServerSeen | None
    has_agent: bool = True
    """Its node has a daemon that can start it, as far as is known: the node is not away."""
    text: str = ""
    """How its process ended, why it could not be started, or how its files were changed before its start."""
    reported_at: datetime | None = None
    """Time of its agent's last report, by the clock of the agent's machine."""
    damage: Damage | None = None
    """Why it cannot load its files; None: it can, or the cause is unknown."""

    @property
    def has_ended(self) -> bool:
        """Its process has certainly ended or could not be started."""
        return has_ended_after_start(self.liveness)

    @property
    def answers(self) -> bool:
        """It has loaded its data and answers."""
        return not self.has_ended and self.seen is not None and self.seen.health is Health.OK

    @property
    def is_empty(self) -> bool:
        """It holds no keys."""
        return self.seen is None or self.seen.keys == 0

    def has_role(self, role: Role) -> bool:
        """It answers, and has this role."""
        return self.answers and self.seen is not None and self.seen.role is role


def copies_of(group: SlotGroup, view: ClusterView) -> list[Copy]:
    """The copies of a group that are wanted running, by uid."""
    return [_copy(s, view) for s in view.shards_of_group(group.uid) if s.wanted is ShardWanted.RUNNING]


def _copy(shard: Shard, view: ClusterView) -> Copy:
    process, node = view.processes.get(shard.uid), view.node_seen.get(shard.node_uid)
    return Copy(
        shard,
        view.process_state(shard.uid),
        view.liveness(shard),
        view.servers.get(shard.uid),
        has_agent=not view.is_away(shard.node_uid),
        text="" if process is None else process.text,
        reported_at=None if node is None else node.at,
        damage=shard.damage if process is None else process.damage or shard.damage,
    )


def merit(copy: Copy) -> tuple[int, int, int]:
    """Sort key for the choice of a primary: the latest in-sync mark, then the highest offset."""
    offset = 0 if copy.seen is None else copy.seen.offset
    return copy.shard.in_sync_generation, offset, -copy.shard.uid


def not_yet(copy: Copy) -> Reason:
    """Why the copy does not answer."""
    shard = copy.shard
    if copy.seen is not None and copy.seen.health is Health.LOADING:
        return Reason(Code.SHARD_LOADING, f"shard {shard.uid} is loading its data", Grade.SOFT_LIMIT, shard_uid=shard.uid)
    if not copy.has_agent and (copy.has_ended or copy.process is not ProcessState.RUNNING):
        text = f"shard {shard.uid} is not running, and its node {shard.node_uid} has no running daemon that could start it"
        return _about(copy, Code.COPY_OUT_OF_REACH, text, Grade.HARD_LIMIT, f"start the daemon of node {shard.node_uid}")
    if copy.damage is not None and not copy.answers:
        return _damaged(copy)
    if copy.process is ProcessState.FAILED or shard.failure:
        why = (copy.text if copy.process is ProcessState.FAILED else "") or shard.failure or "check the log of its node"
        return _about(copy, Code.SHARD_START_FAILED, f"shard {shard.uid} cannot be started: {why}", Grade.HARD_LIMIT)
    text = f"shard {shard.uid} on node {shard.node_uid} does not answer yet"
    return _about(copy, Code.SHARD_NOT_STARTED, text, Grade.SOFT_LIMIT)


def repair_or_declare_off(copy: Copy) -> str:
    """The remedy while it is unknown whether the machine of a copy out of reach still runs."""
    uid = copy.shard.node_uid
    return f"repair node {uid} or its network, or if its machine is off: shardwright node declare-off {uid}"


def report_awaited(copy: Copy) -> Reason:
    """Why a copy that answers cannot be the primary yet: its agent has not reported its start."""
    text = f"the agent of node {copy.shard.node_uid} has not reported the start of shard {copy.shard.uid} yet"
    return _about(copy, Code.START_NOT_REPORTED, text, Grade.SOFT_LIMIT)


def _damaged(copy: Copy) -> Reason:
    shard = copy.shard
    assert copy.damage is not None
    said = (copy.text if copy.process is ProcessState.FAILED else "") or shard.failure
    text = f"shard {shard.uid} on node {shard.node_uid} cannot load its files because {DAMAGES[copy.damage]}"
    return _about(copy, DAMAGED_CODE, f"{text}: {said}" if said else text, Grade.HARD_LIMIT)


DAMAGED_CODE = Code.SHARD_FILES_DAMAGED
DAMAGES = {
    Damage.APPEND_ONLY_FILE: "its append-only file is damaged",
    Damage.SNAPSHOT: "its snapshot is damaged",
    Damage.INCOMPLETE: "parts of its append-only file are missing",
}


def _about(copy: Copy, code: Code, text: str, grade: Grade, remedy: str = "") -> Reason:
    shard = copy.shard
    return reason_about(shard, code, text, grade, remedy=remedy)
