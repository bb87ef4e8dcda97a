"""The shard processes of one node: adopts, starts, ends and deletes them. Called by the agent's loop, which decides.

Its state can be restored from ``process.json``, ``/proc`` and the last report. Must not touch a process other than the
recorded one, and must not start a process on its own. Belongs to one event loop.
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import structlog

from shardwright.agent import launch as launching
from shardwright.agent.damage import damage_in_log, with_extent, without_prefix
from shardwright.agent.launch import LOG_BYTES_MAX, LOG_NAME, OUTPUT_NAME, Launch, Stage, StartRecord
from shardwright.clock import Clock
from shardwright.errors import Permanent
from shardwright.machine.files import last_line, rotate, sync_directory
from shardwright.machine.processes import Watch, arguments_of, end, find_in_directory, identity_of, is_running
from shardwright.model.database import Damage
from shardwright.model.ids import ShardUid
from shardwright.model.seen import ProcessIdentity, ProcessSeen, ProcessState
from shardwright.reconcile.shard import LocalShard, LocalState, Verb
from shardwright.tasks import spawn

STOP_GRACE_S = 10.0
STOP_BUSY_GRACE_S = 300.0
"""Additional time for a server that still writes its snapshot: while it uses CPU, it is not killed."""
END_GRACE_S = 3.0
"""For a server whose data is no longer needed: it gets no time for a long save."""
LEFT_ALONE_NAME = "left-alone"
"""A file with this name in a shard's directory says that nothing of the shard is this agent's: after a restore, it is not
known to the records, and an operator decides about it."""
EARLY_S = 2.0
"""A server that ends with an error within this time did not start: its configuration or its files are wrong."""

_log = structlog.get_logger(__name__)


class ShardProcesses:
    """See the module's docstring. ``on_change`` is called in the loop after every change of ``local``."""

    def __init__(self, directory: Path, clock: Clock, on_change: Callable[[], None]) -> None:
        self._directory = Path(os.path.realpath(directory))
        self._clock = clock
        self._on_change = on_change
        self._local: dict[ShardUid, LocalShard] = {}
        self._watches: dict[ShardUid, Watch] = {}
        self._executables: dict[ShardUid, str] = {}
        self._started_at: dict[ShardUid, float] = {}

    def local(self) -> list[LocalShard]:
        """All shards of which this node has a process, files or a record of a start."""
        return list(self._local.values())

    def find(self, uid: ShardUid) -> LocalShard:
        """One shard; in state NOTHING if this node has nothing of it."""
        return self._local.get(uid, LocalShard(uid))

    def path_of(self, uid: ShardUid) -> Path:
        """The shard's directory."""
        return self._directory / str(uid)

    def close(self) -> None:
        """Stop watching. The processes keep running."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()

    # -- adopt -------------------------------------------------------------------------------------------------------

    async def load(self, reported: Iterable[ProcessSeen]) -> None:
        """Restore the state of an earlier agent. ``reported`` is its last report, for files that have vanished since."""
        for local, executable in await asyncio.to_thread(_find_shards, self._directory, tuple(reported)):
            self._executables[local.shard_uid] = executable
            self._set(local)
            if local.identity is not None and local.state is LocalState.RUNNING:
                self._watch(local.shard_uid, local.identity)
                _log.info("adopted a server", shard=local.shard_uid, incarnation=local.incarnation, pid=local.identity.pid)

    # -- commands ----------------------------------------------------------------------------------------------------

    async def start(self, launch: Launch) -> None:
        """Start an incarnation, once. The result is in ``local``."""
        uid = launch.shard_uid
        before = self.find(uid)
        self._set(replace(before, is_busy=True))
        record: StartRecord | None = None
        try:
            record = await self._start(launch)
        finally:
            if record is None:
                self._set(replace(self.find(uid), is_busy=False))
        self._executables[uid] = record.executable
        state = LocalState.RUNNING if record.stage is Stage.STARTED else LocalState.FAILED
        self._set(LocalShard(uid, state, record.incarnation, record.identity, record.text, record.damage))
        if record.identity is not None:
            self._started_at[uid] = self._clock.monotonic()
            self._watch(uid, record.identity)
            _log.info(
                "started a server", shard=uid, incarnation=record.incarnation, pid=record.identity.pid, port=launch.port
            )
        else:
            _log.warning("a server could not be started", shard=uid, incarnation=record.incarnation, reason=record.text)

    async def _start(self, launch: Launch) -> StartRecord:
        try:
            program = await asyncio.to_thread(launching.program_of, launch)
        except Permanent as e:
            return await asyncio.to_thread(launching.fail, launch, "", e.text)
        await self._end_leftovers(launch.shard_uid, await asyncio.to_thread(os.path.realpath, program))
        return await asyncio.to_thread(launching.start, launch, program)

    async def fail(self, uid: ShardUid, incarnation: int, text: str) -> None:
        """Note that a start of this incarnation cannot be attempted."""
        self._set(LocalShard(uid, LocalState.FAILED, incarnation, text=text))

    async def end(self, uid: ShardUid, verb: Verb) -> None:
        """End a shard's process: after it has saved its data (STOP), or soon (END)."""
        local = self.find(uid)
        if local.identity is None:
            return
        self._set(replace(local, is_busy=True))
        try:
            _log.info("ending a server", shard=uid, incarnation=local.incarnation, pid=local.identity.pid, how=verb)
            if verb is Verb.STOP:
                has_ended = await end(local.identity, STOP_GRACE_S, busy_grace_s=STOP_BUSY_GRACE_S)
            else:
                has_ended = await end(local.identity, END_GRACE_S)
            if has_ended:
                await self._end_leftovers(uid, local.identity.executable)
                self._ended(uid, local.identity, "ended as requested")
        finally:
            self._set(replace(self.find(uid), is_busy=False))

    async def delete(self, uid: ShardUid) -> None:
        """Delete a shard's directory. Its process must have ended."""
        local = self.find(uid)
        assert local.state is not LocalState.RUNNING, "the files of a running server must not be deleted"
        self._set(replace(local, is_busy=True))
        try:
            await self._end_leftovers(uid)
            await asyncio.to_thread(_delete_directory, self.path_of(uid))
            self._local.pop(uid)
            self._executables.pop(uid, None)
            self._on_change()
            _log.info("deleted the files of a shard", shard=uid)
        except OSError as e:
            _log.warning("the files of a shard cannot be deleted", shard=uid, reason=str(e))
            self._set(replace(local, is_busy=False))

    def rotate_logs(self) -> None:
        """Rotate logs that have grown too large. The servers open their log again for each line."""
        for uid in self._local:
            rotate(self.path_of(uid) / LOG_NAME, bytes_max=LOG_BYTES_MAX)

    # -- parts -------------------------------------------------------------------------------------------------------

    async def _end_leftovers(self, uid: ShardUid, *executables: str) -> None:
        """End the processes of earlier starts in the directory: a server whose record was lost, and a child that still
        writes an old snapshot."""
        known = {self._executables.get(uid, ""), *executables} - {""}
        for executable in sorted(known):
            for process in await asyncio.to_thread(find_in_directory, str(self.path_of(uid)), executable):
                _log.warning("ending a leftover process of a shard", shard=uid, pid=process.pid)
                await end(process, 0)

    def _watch(self, uid: ShardUid, identity: ProcessIdentity) -> None:
        if (old := self._watches.pop(uid, None)) is not None:
            old.close()
        self._watches[uid] = Watch(identity, lambda status: self._ended(uid, identity, _how(status), status))

    def _ended(self, uid: ShardUid, identity: ProcessIdentity, text: str, status: int | None = None) -> None:
        local = self.find(uid)
        if local.identity != identity or local.state is not LocalState.RUNNING:
            return
        if (watch := self._watches.pop(uid, None)) is not None:
            watch.close()
        damage = damage_in_log(self.path_of(uid) / LOG_NAME) if status is not None and status > 0 else None
        if damage is not None:
            # However long the server has been loading. Until the damage is measured, the process counts as running.
            ended = replace(local, ended_at=self._clock.now())
            spawn(f"agent: damage of shard {uid}", self._note_damage(ended, *damage))
            return
        state = LocalState.GONE
        if status is not None and status > 0 and self._clock.monotonic() - self._started_at.get(uid, -EARLY_S) < EARLY_S:
            state = LocalState.FAILED
            line = last_line(self.path_of(uid) / LOG_NAME) or last_line(self.path_of(uid) / OUTPUT_NAME)
            text = f"{text} right after its start: {without_prefix(line)}" if line else f"{text} right after its start"
        self._note_end(replace(local, state=state, text=text, ended_at=self._clock.now()))

    async def _note_damage(self, local: LocalShard, damage: Damage, text: str) -> None:
        """Note why a server could not load its files, and their unreadable part if that is quick to measure."""
        text = await asyncio.to_thread(with_extent, self.path_of(local.shard_uid), damage, text)
        now = self.find(local.shard_uid)
        if now.identity == local.identity and now.state is LocalState.RUNNING:
            ended = replace(now, state=LocalState.FAILED, text=text, damage=damage, ended_at=local.ended_at)
            self._note_end(ended)

    def _note_end(self, local: LocalShard) -> None:
        pid = None if local.identity is None else local.identity.pid
        _log.info("a server has ended", shard=local.shard_uid, incarnation=local.incarnation, pid=pid, how=local.text)
        self._set(local)

    def _set(self, local: LocalShard) -> None:
        self._local[local.shard_uid] = local
        self._on_change()


def _how(status: int | None) -> str:
    if status is None:
        return "ended"
    return f"ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _delete_directory(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        if path.exists():  # A file vanished during the deletion: repeat it.
            shutil.rmtree(path, ignore_errors=False)
    if path.parent.is_dir():
        sync_directory(path.parent)


# -- restoring the state -------------------------------------------------------------------------------------------------


def _find_shards(directory: Path, reported: tuple[ProcessSeen, ...]) -> list[tuple[LocalShard, str]]:
    """Every shard that has a directory, a process, or a reported start; each with its program."""
    shards: dict[ShardUid, tuple[LocalShard, str]] = {}
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            is_shard = path.name.isdigit() and path.is_dir() and not path.is_symlink()
            if is_shard and not (path / LEFT_ALONE_NAME).exists():
                shards[ShardUid(int(path.name))] = _find_shard(path)
    for seen in reported:
        local, executable = shards.get(seen.shard_uid, (LocalShard(seen.shard_uid), ""))
        if seen.files_are_deleted or local.incarnation >= seen.incarnation:
            continue
        if seen.state is ProcessState.RUNNING and seen.identity is not None and is_running(seen.identity):
            local = LocalShard(seen.shard_uid, LocalState.RUNNING, seen.incarnation, seen.identity)
            executable = seen.identity.executable
        elif seen.state in (ProcessState.RUNNING, ProcessState.GONE):
            # It was started; the loss of its record must not cause a second start.
            local = LocalShard(seen.shard_uid, LocalState.GONE, seen.incarnation, text="ended, and its files have vanished")
        else:
            continue
        shards[seen.shard_uid] = (local, executable)
    return [shards[uid] for uid in sorted(shards)]


def _find_shard(path: Path) -> tuple[LocalShard, str]:
    uid = ShardUid(int(path.name))
    record = launching.read_record(path)
    if record is None:
        return LocalShard(uid, LocalState.FILES), ""
    identity = record.identity
    if record.stage is Stage.FAILED:
        failed = LocalShard(uid, LocalState.FAILED, record.incarnation, text=record.text, damage=record.damage)
        return failed, record.executable
    if record.stage is Stage.INTENDED:
        identity = _find_intended(path, record)
    if identity is not None and is_running(identity):
        return LocalShard(uid, LocalState.RUNNING, record.incarnation, identity, record.text), record.executable
    text = "ended while no daemon ran" if identity is not None else "its daemon died during its start, and it does not run"
    return LocalShard(uid, LocalState.GONE, record.incarnation, text=text), record.executable


def _find_intended(path: Path, record: StartRecord) -> ProcessIdentity | None:
    """The server of an intended start; None: it does not run. It runs the recorded program in its own directory, and its
    command line still names the configuration file or, once the server has set its title, the incarnation. (Its children,
    which save or sync, show another title.)"""
    marks = (str(path / launching.CONFIG_NAME), f"shard={path.name} incarnation={record.incarnation}")
    for process in find_in_directory(str(path), record.executable):
        line = " ".join(arguments_of(process.pid))
        if any(mark in line for mark in marks) and identity_of(process.pid) == process:
            return process
    return None
