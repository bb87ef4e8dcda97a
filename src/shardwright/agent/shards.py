"""The shard processes of one node: adopt, start, end, delete. Called by the agent's loop, which decides.

Everything known here can be found again from ``process.json``, ``/proc`` and the last report. Must not touch a process
that is not the recorded one, and never starts anything by itself. Belongs to one event loop.
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
"""A server that still writes its snapshot when the grace is over is not killed as long as it works."""
END_GRACE_S = 3.0
"""What ends here is not needed any more: no long save."""
EARLY_S = 2.0
"""A server that ends with an error this soon did not start: its configuration or its files are wrong."""

_log = structlog.get_logger(__name__)


class ShardProcesses:
    """See the module's text. ``on_change`` is called in the loop whenever ``local`` would say something else."""

    def __init__(self, directory: Path, clock: Clock, on_change: Callable[[], None]) -> None:
        self._directory = Path(os.path.realpath(directory))
        self._clock = clock
        self._on_change = on_change
        self._local: dict[ShardUid, LocalShard] = {}
        self._watches: dict[ShardUid, Watch] = {}
        self._executables: dict[ShardUid, str] = {}
        self._started_at: dict[ShardUid, float] = {}

    def local(self) -> list[LocalShard]:
        """All shards of which something is here."""
        return list(self._local.values())

    def find(self, uid: ShardUid) -> LocalShard:
        """One shard; in state NOTHING when nothing of it is here."""
        return self._local.get(uid, LocalShard(uid))

    def path_of(self, uid: ShardUid) -> Path:
        """The shard's directory."""
        return self._directory / str(uid)

    def close(self) -> None:
        """Stop watching. The processes go on."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()

    # -- adopt -------------------------------------------------------------------------------------------------------

    async def load(self, reported: Iterable[ProcessSeen]) -> None:
        """Find again what an earlier agent left; ``reported`` is what it last said, for files that have vanished since."""
        for found, executable in await asyncio.to_thread(_find_shards, self._directory, tuple(reported)):
            self._executables[found.shard_uid] = executable
            self._set(found)
            if found.identity is not None and found.state is LocalState.RUNNING:
                self._watch(found.shard_uid, found.identity)
                _log.info("adopted a server", shard=found.shard_uid, incarnation=found.incarnation, pid=found.identity.pid)

    # -- do ----------------------------------------------------------------------------------------------------------

    async def start(self, launch: Launch) -> None:
        """Start an incarnation, once. How it ended is in ``local``."""
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
        """Note that an incarnation cannot even be tried."""
        self._set(LocalShard(uid, LocalState.FAILED, incarnation, text=text))

    async def end(self, uid: ShardUid, verb: Verb) -> None:
        """End a shard's process: after a clean save (STOP), or soon (END)."""
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
                self._ended(uid, local.identity, "ended as wanted")
        finally:
            self._set(replace(self.find(uid), is_busy=False))

    async def delete(self, uid: ShardUid) -> None:
        """Delete a shard's directory. Its process must have ended."""
        local = self.find(uid)
        assert local.state is not LocalState.RUNNING, "files of a running server are not deleted"
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
        """Put logs aside that have grown too large: the servers open theirs anew for each line."""
        for uid in self._local:
            rotate(self.path_of(uid) / LOG_NAME, bytes_max=LOG_BYTES_MAX)

    # -- parts -------------------------------------------------------------------------------------------------------

    async def _end_leftovers(self, uid: ShardUid, *executables: str) -> None:
        """Nothing of an earlier start may run in the directory: neither a server whose record was lost, nor a child that
        still writes an old snapshot."""
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
        damaged = damage_in_log(self.path_of(uid) / LOG_NAME) if status is not None and status > 0 else None
        if damaged is not None:
            # However long it has loaded. Until this is known the process counts as running.
            ended = replace(local, ended_at=self._clock.now())
            spawn(f"agent: damage of shard {uid}", self._note_damage(ended, *damaged))
            return
        state = LocalState.GONE
        if status is not None and status > 0 and self._clock.monotonic() - self._started_at.get(uid, -EARLY_S) < EARLY_S:
            state = LocalState.FAILED
            said = last_line(self.path_of(uid) / LOG_NAME) or last_line(self.path_of(uid) / OUTPUT_NAME)
            text = f"{text} right after its start: {without_prefix(said)}" if said else f"{text} right after its start"
        self._note_end(replace(local, state=state, text=text, ended_at=self._clock.now()))

    async def _note_damage(self, local: LocalShard, damage: Damage, text: str) -> None:
        """Note why a server could not load its files, and how much of them, as far as that is soon found out."""
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
        if path.exists():  # A file vanished while we deleted: look again.
            shutil.rmtree(path, ignore_errors=False)
    if path.parent.is_dir():
        sync_directory(path.parent)


# -- finding again -------------------------------------------------------------------------------------------------------


def _find_shards(directory: Path, reported: tuple[ProcessSeen, ...]) -> list[tuple[LocalShard, str]]:
    """Every shard of which a directory, or a process, or a report of a start exists; each with its program."""
    found: dict[ShardUid, tuple[LocalShard, str]] = {}
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            if path.name.isdigit() and path.is_dir() and not path.is_symlink():
                found[ShardUid(int(path.name))] = _find_shard(path)
    for seen in reported:
        local, executable = found.get(seen.shard_uid, (LocalShard(seen.shard_uid), ""))
        if seen.files_are_deleted or local.incarnation >= seen.incarnation:
            continue
        if seen.state is ProcessState.RUNNING and seen.identity is not None and is_running(seen.identity):
            local = LocalShard(seen.shard_uid, LocalState.RUNNING, seen.incarnation, seen.identity)
            executable = seen.identity.executable
        elif seen.state in (ProcessState.RUNNING, ProcessState.GONE):
            # It was started; that its record is lost must not start it twice.
            local = LocalShard(seen.shard_uid, LocalState.GONE, seen.incarnation, text="ended, and its files have vanished")
        else:
            continue
        found[seen.shard_uid] = (local, executable)
    return [found[uid] for uid in sorted(found)]


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
    text = (
        "ended while no daemon ran" if identity is not None else "the daemon died while it started it, and it does not run"
    )
    return LocalShard(uid, LocalState.GONE, record.incarnation, text=text), record.executable


def _find_intended(path: Path, record: StartRecord) -> ProcessIdentity | None:
    """The server whose start was intended, if it came to that: it runs our program in its own directory, and its command
    line still names the configuration file or, once it has set its title, the incarnation. (Its children, which save or
    sync, show another title.)"""
    marks = (str(path / launching.CONFIG_NAME), f"shard={path.name} incarnation={record.incarnation}")
    for process in find_in_directory(str(path), record.executable):
        line = " ".join(arguments_of(process.pid))
        if any(mark in line for mark in marks) and identity_of(process.pid) == process:
            return process
    return None
