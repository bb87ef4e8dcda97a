"""A table: desired shards of one node × their processes on it → the agent's next command. Called by the agent each turn.

Owns two rules: an incarnation is started at most once, and a process or file without a record is left alone unless the
record has certainly been deleted. Does not know processes or files: the agent reports them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from shardwright.model.database import Damage, Shard, ShardWanted
from shardwright.model.ids import ShardUid
from shardwright.model.seen import ProcessIdentity, ProcessSeen, ProcessState


class LocalState(StrEnum):
    """The part of a shard that a node holds."""

    NOTHING = "nothing"
    """No files and no process."""
    FILES = "files"
    """A directory in which no start was ever recorded."""
    RUNNING = "running"
    GONE = "gone"
    """An incarnation was (perhaps) started and has certainly ended."""
    FAILED = "failed"
    """An incarnation could not be started."""


@dataclass(frozen=True, slots=True)
class LocalShard:
    """A shard as observed by its node's agent."""

    shard_uid: ShardUid
    state: LocalState = LocalState.NOTHING
    incarnation: int = 0
    """The last incarnation that was started, or whose start was tried; 0: none."""
    identity: ProcessIdentity | None = None
    text: str = ""
    damage: Damage | None = None
    """Why it could not load its files; None: it could, or it failed for another reason."""
    ended_at: datetime | None = None
    """When its process was observed to end; None: it runs, or its end was not observed."""
    is_busy: bool = False
    """A start, an end or a deletion is under way: no other command begins."""


class Expected(StrEnum):
    """The records' statement about a shard on this node."""

    RUNNING = "running"
    STOPPED = "stopped"
    GONE = "gone"
    NO_RECORD = "no_record"
    """The records certainly do not contain it."""
    NOT_SURE = "not_sure"
    """No record is visible, but the view may be outdated."""


class Age(StrEnum):
    """The local incarnation relative to the recorded one."""

    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"
    """The view of the records is outdated."""


class Verb(StrEnum):
    """The agent's command for a shard in this turn; several turns lead to the goal."""

    WAIT = "wait"
    START = "start"
    END = "end"
    """End the process; without a long save, because the shard is restarted or its data is deleted."""
    STOP = "stop"
    """End the process after a clean save."""
    DELETE = "delete"


_WAIT, _START, _END, _STOP, _DELETE = Verb.WAIT, Verb.START, Verb.END, Verb.STOP, Verb.DELETE

# For each pair, the command if the local incarnation is: older than the recorded one, the same, newer.
_ROWS: dict[tuple[Expected, LocalState], tuple[Verb, Verb, Verb]] = {
    (Expected.RUNNING, LocalState.NOTHING): (_START, _START, _START),
    (Expected.RUNNING, LocalState.FILES): (_START, _START, _START),
    # The old incarnation ends before the new one starts: two servers must never share a directory.
    (Expected.RUNNING, LocalState.RUNNING): (_STOP, _WAIT, _WAIT),
    # The same incarnation never starts twice: the leader first compares the copies and then raises it.
    (Expected.RUNNING, LocalState.GONE): (_START, _WAIT, _WAIT),
    (Expected.RUNNING, LocalState.FAILED): (_START, _WAIT, _WAIT),
    (Expected.STOPPED, LocalState.NOTHING): (_WAIT, _WAIT, _WAIT),
    (Expected.STOPPED, LocalState.FILES): (_WAIT, _WAIT, _WAIT),
    (Expected.STOPPED, LocalState.RUNNING): (_STOP, _STOP, _WAIT),
    (Expected.STOPPED, LocalState.GONE): (_WAIT, _WAIT, _WAIT),
    (Expected.STOPPED, LocalState.FAILED): (_WAIT, _WAIT, _WAIT),
    # A wanted state of gone is final: no later incarnation can follow it, so the age does not matter.
    (Expected.GONE, LocalState.NOTHING): (_WAIT, _WAIT, _WAIT),
    (Expected.GONE, LocalState.FILES): (_DELETE, _DELETE, _DELETE),
    (Expected.GONE, LocalState.RUNNING): (_END, _END, _END),
    (Expected.GONE, LocalState.GONE): (_DELETE, _DELETE, _DELETE),
    (Expected.GONE, LocalState.FAILED): (_DELETE, _DELETE, _DELETE),
    (Expected.NO_RECORD, LocalState.NOTHING): (_WAIT, _WAIT, _WAIT),
    (Expected.NO_RECORD, LocalState.FILES): (_DELETE, _DELETE, _DELETE),
    (Expected.NO_RECORD, LocalState.RUNNING): (_END, _END, _END),
    (Expected.NO_RECORD, LocalState.GONE): (_DELETE, _DELETE, _DELETE),
    (Expected.NO_RECORD, LocalState.FAILED): (_DELETE, _DELETE, _DELETE),
    (Expected.NOT_SURE, LocalState.NOTHING): (_WAIT, _WAIT, _WAIT),
    (Expected.NOT_SURE, LocalState.FILES): (_WAIT, _WAIT, _WAIT),
    (Expected.NOT_SURE, LocalState.RUNNING): (_WAIT, _WAIT, _WAIT),
    (Expected.NOT_SURE, LocalState.GONE): (_WAIT, _WAIT, _WAIT),
    (Expected.NOT_SURE, LocalState.FAILED): (_WAIT, _WAIT, _WAIT),
}

TABLE: dict[tuple[Expected, LocalState, Age], Verb] = {
    (expected, state, age): verb
    for (expected, state), verbs in _ROWS.items()
    for age, verb in zip((Age.OLDER, Age.CURRENT, Age.NEWER), verbs, strict=True)
}


@dataclass(frozen=True, slots=True)
class AgentCommand:
    """One command for the agent. ``incarnation``: the incarnation to start, to end or to delete."""

    verb: Verb
    shard_uid: ShardUid
    incarnation: int


def decide_shards(shards: Iterable[Shard], local: Iterable[LocalShard], *, is_certain: bool) -> tuple[AgentCommand, ...]:
    """Commands for now, in the order of the shards' uids. ``shards``: the records of this node. ``is_certain``: the records
    were read after ``local`` was observed, so a missing record means a deleted shard."""
    wanted = {s.uid: s for s in shards}
    found = {s.shard_uid: s for s in local}
    commands = []
    for uid in sorted(wanted.keys() | found.keys()):
        command = decide_shard(wanted.get(uid), found.get(uid, LocalShard(uid)), is_certain=is_certain)
        if command is not None:
            commands.append(command)
    return tuple(commands)


def decide_shard(shard: Shard | None, local: LocalShard, *, is_certain: bool) -> AgentCommand | None:
    """The command for one shard; None: nothing to do now."""
    if local.is_busy:
        return None
    verb = TABLE[_expected(shard, is_certain), local.state, _age(shard, local)]
    if verb is Verb.WAIT:
        return None
    if verb is Verb.START:
        assert shard is not None
        return AgentCommand(verb, shard.uid, shard.incarnation)
    return AgentCommand(verb, local.shard_uid, local.incarnation)


def reports_of(
    shards: Iterable[Shard], local: Iterable[LocalShard], begun: Iterable[AgentCommand]
) -> tuple[ProcessSeen, ...]:
    """The agent's reports at the end of a turn. ``begun``: the turn's commands. Their work is under way, although ``local``
    may not show it yet: the report of an absent process is a proof that none runs, and stays until the next report."""
    found = {s.shard_uid: s for s in local}
    busy = {command.shard_uid for command in begun}
    reports = []
    for shard in shards:
        own = found.get(shard.uid, LocalShard(shard.uid))
        reports.append(report_of(shard, replace(own, is_busy=True) if shard.uid in busy else own))
    return tuple(reports)


def report_of(shard: Shard, local: LocalShard) -> ProcessSeen:
    """The agent's report on a recorded shard. An older incarnation proves only that the current one was certainly not
    started; while the agent works on it, not even that: its start may be under way."""
    if local.is_busy and (local.incarnation < shard.incarnation or local.state in (LocalState.NOTHING, LocalState.FILES)):
        return ProcessSeen(shard.uid, shard.incarnation, ProcessState.UNKNOWN)
    match local.state:
        case LocalState.NOTHING:
            if shard.wanted is ShardWanted.GONE:
                return ProcessSeen(shard.uid, shard.incarnation, ProcessState.GONE, files_are_deleted=True)
            return ProcessSeen(shard.uid, shard.incarnation, ProcessState.ABSENT)
        case LocalState.FILES:
            return ProcessSeen(shard.uid, shard.incarnation, ProcessState.ABSENT)
        case LocalState.RUNNING:
            state = ProcessState.RUNNING
        case LocalState.GONE:
            state = ProcessState.GONE
        case LocalState.FAILED:
            state = ProcessState.FAILED
    if local.incarnation < shard.incarnation:
        return ProcessSeen(shard.uid, shard.incarnation, ProcessState.ABSENT)
    identity = local.identity if state is ProcessState.RUNNING else None
    return ProcessSeen(
        shard.uid, local.incarnation, state, identity=identity, text=local.text, damage=local.damage, ended_at=local.ended_at
    )


def _expected(shard: Shard | None, is_certain: bool) -> Expected:
    if shard is None:
        return Expected.NO_RECORD if is_certain else Expected.NOT_SURE
    match shard.wanted:
        case ShardWanted.RUNNING:
            return Expected.RUNNING
        case ShardWanted.STOPPED:
            return Expected.STOPPED
        case ShardWanted.GONE:
            return Expected.GONE


def _age(shard: Shard | None, local: LocalShard) -> Age:
    if shard is None or local.incarnation == shard.incarnation:
        return Age.CURRENT
    return Age.OLDER if local.incarnation < shard.incarnation else Age.NEWER
