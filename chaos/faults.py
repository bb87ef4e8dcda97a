"""Applies the faults of a schedule to the real processes: by identity, each to a target that the rules allow now.

A server is killed in two steps: it is stopped, checked again, and killed only if the rules still allow it; otherwise it is
resumed. A separate thread resumes frozen processes on time, however late the schedule is.
"""

import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from chaos import rules
from chaos.cluster import ChaosCluster
from chaos.facts import Records, endpoint_identity
from chaos.load import Place
from chaos.rules import Promise
from chaos.schedule import Item, ItemKind
from demo.cluster import DemoFailed
from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import is_frozen, is_running, send
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.seen import ProcessIdentity

NOTHING = "no allowed target now"
UP_ATTEMPTS = 3
THAW_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class _Frozen:
    until: float
    process: ProcessIdentity
    kind: ItemKind


def _runs(process: ProcessIdentity) -> bool:
    return is_running(process) and not is_frozen(process)


class Faults:
    """See the module's docstring. One thread calls ``do`` and ``heal``."""

    def __init__(self, cluster: ChaosCluster, place: Place, promises: Mapping[str, Promise]) -> None:
        self._cluster = cluster
        self._place = place
        self._promises = promises
        self._frozen: list[_Frozen] = []
        self._lock = threading.Lock()
        """Guards the frozen processes: whether a process is resumed or killed."""
        self._thaws = threading.Event()
        self._thaw = threading.Thread(target=self._thaw_in_time, name="thaw", daemon=True)
        self._thaw.start()
        self._up: threading.Thread | None = None
        self.failures: list[str] = []
        """Errors of steps that should have succeeded: starting the cluster again."""

    def do(self, item: Item) -> str:
        """Apply a fault. Returns its target, or that there was none."""
        try:
            return self._do(item, self._cluster.records())
        except sqlite3.Error as e:
            return f"{NOTHING} ({e})"

    def _do(self, item: Item, now: Records) -> str:
        match item.kind:
            case ItemKind.KILL_REPLICA:
                spare: Callable[[Records, ShardUid], bool] = lambda n, uid: rules.is_spare(n, uid, is_running)  # noqa: E731
                return self._kill_server(item, now, rules.replicas(now, is_running), spare)
            case ItemKind.KILL_ONLY_COPY:
                return self._kill_server(item, now, rules.only_copies(now, self._promises, _runs), rules.is_only_copy)
            case ItemKind.KILL_PRIMARY:
                return self._kill_primary(item, now)
            case ItemKind.FREEZE_SERVER:
                candidates = rules.servers(now, _runs)
                uid = candidates[item.pick % len(candidates)] if candidates else None
                return NOTHING if uid is None else self._freeze(item, now.identities[uid], self._name(now, uid))
            case ItemKind.KILL_SUPERVISOR:
                return self._kill_supervisor(item)
            case ItemKind.KILL_ENDPOINT | ItemKind.FREEZE_ENDPOINT:
                bound = sorted({n for e in now.endpoints for n in e.nodes})
                return self._node_process(
                    item, bound, lambda n: endpoint_identity(self._cluster.layout, n), "endpoint process"
                )
            case ItemKind.KILL_LEADER | ItemKind.FREEZE_LEADER:
                nodes = [] if now.leader is None else [now.leader.node_uid]
                return self._node_process(item, nodes, self._daemon, "daemon (the leader's)")
            case _:
                return self._node_process(item, sorted(now.nodes), self._daemon, "daemon")

    def _daemon(self, node: NodeUid) -> ProcessIdentity | None:
        return read_identity(self._cluster.layout.daemon(node))

    def _node_process(
        self, item: Item, nodes: list[NodeUid], find: Callable[[NodeUid], ProcessIdentity | None], what: str
    ) -> str:
        if not nodes:
            return NOTHING
        node = nodes[item.pick % len(nodes)]
        process = find(node)
        if process is None or not _runs(process):
            return NOTHING
        name = f"{what} of node {node}, pid {process.pid}"
        if item.lasts_s:
            # At most one daemon is frozen at a time: the other ones must be able to continue.
            if any(f.kind is item.kind for f in self._frozen):
                return NOTHING
            return self._freeze(item, process, name)
        return name if send(process, signal.SIGKILL) else NOTHING

    def _kill_server(
        self, item: Item, now: Records, candidates: list[ShardUid], is_allowed: Callable[[Records, ShardUid], bool]
    ) -> str:
        if not candidates:
            return NOTHING
        uid = candidates[item.pick % len(candidates)]
        process = now.identities[uid]
        with self._lock:
            # A server that is resumed during the check could take the role.
            if any(f.process == process for f in self._frozen) or not send(process, signal.SIGSTOP):
                return NOTHING
        try:
            now = self._cluster.records()
            is_so = is_allowed(now, uid)
        except sqlite3.Error:
            is_so = False
        if is_so and send(process, signal.SIGKILL):
            return self._name(now, uid)
        send(process, signal.SIGCONT)
        return NOTHING

    def _kill_primary(self, item: Item, now: Records) -> str:
        candidates = rules.primaries(now, self._promises, _runs)
        if not candidates:
            return NOTHING
        uid = candidates[item.pick % len(candidates)]
        database = now.databases[now.shards[uid].database_uid].name
        with self._place.kills.open("a") as kills:
            kills.write(f"{database} {time.time():.6f}\n")
        return self._name(now, uid) if send(now.identities[uid], signal.SIGKILL) else NOTHING

    def _freeze(self, item: Item, process: ProcessIdentity, name: str) -> str:
        with self._lock:
            if not send(process, signal.SIGSTOP):
                return NOTHING
            self._frozen.append(_Frozen(time.monotonic() + item.lasts_s, process, item.kind))
        return f"{name} for {item.lasts_s:.2f} s"

    def _kill_supervisor(self, item: Item) -> str:
        process = read_identity(self._cluster.layout.supervisor)
        if process is None or self._is_coming_up() or not send(process, signal.SIGKILL):
            return NOTHING
        self._up = threading.Thread(target=self._bring_up, args=(item.lasts_s,), name="up", daemon=True)
        self._up.start()
        return f"pid {process.pid}; up again after {item.lasts_s:.2f} s"

    def _is_coming_up(self) -> bool:
        return self._up is not None and self._up.is_alive()

    def _bring_up(self, after_s: float) -> None:
        time.sleep(after_s)
        for attempt in range(UP_ATTEMPTS):
            try:
                self._cluster.up()
            except (DemoFailed, subprocess.TimeoutExpired) as e:
                self.failures.append(f"up failed, attempt {attempt + 1}: {e}")
                continue
            return

    def _name(self, now: Records, uid: ShardUid) -> str:
        shard = now.shards[uid]
        database = now.databases.get(shard.database_uid)
        group = next((g for g in now.groups if g.uid == shard.group_uid), None)
        role = "primary" if group is not None and group.primary == uid else "replica"
        return f"shard {uid}, {role} of {database.name if database else '?'}, on node {shard.node_uid}"

    def _thaw_in_time(self) -> None:
        while not self._thaws.wait(THAW_EVERY_S):
            self._thaw_until(time.monotonic())

    def _thaw_until(self, now: float) -> None:
        with self._lock:
            for frozen in [f for f in self._frozen if f.until <= now]:
                send(frozen.process, signal.SIGCONT)
                self._frozen.remove(frozen)

    def heal(self) -> None:
        """Resume all processes and ensure that a supervisor runs. Nothing may be done after it."""
        self._thaws.set()
        self._thaw.join()
        self._thaw_until(float("inf"))
        if self._up is not None:
            self._up.join(timeout=180)
        supervisor = read_identity(self._cluster.layout.supervisor)
        if supervisor is None or not is_running(supervisor):
            self._bring_up(0.0)
