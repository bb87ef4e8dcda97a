"""A test file's own local cluster, and its state behind the API.

Used by the tests of this directory. The states of servers and endpoint processes come from their own answers, not from the
leader under test.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from demo.cluster import DemoCluster, DemoFailed
from shardwright.clock import SystemClock
from shardwright.faults import VARIABLE, arm
from shardwright.local.layout import layout_of
from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import is_running, send
from shardwright.model.cluster import DaemonPresence, Leadership, Node
from shardwright.model.database import Endpoint, GroupPhase, Role, ServerSecrets, Shard, ShardWanted, SlotGroup
from shardwright.model.ids import DatabaseUid, NodeUid, ShardUid
from shardwright.model.seen import (
    EndpointProcessSeen,
    EndpointState,
    NodeSeen,
    ProcessIdentity,
    ProcessState,
    ServerSeen,
)
from shardwright.nodes.local import LocalNodes
from shardwright.server.adapter import ServerAdapter
from shardwright.server.connection import ServerConnection
from shardwright.server.protocol import MANAGEMENT_USER, ServerTarget
from shardwright.store import records
from testkit.deadlines import Stopwatch, until
from testkit.processes import ending_all
from testkit.stored import stored

SOURCES = Path(__file__).parents[2] / "src"
POLL_S = 0.02
LEASE_S = 3.0
BACK_S = LEASE_S + 5.0
"""Limit for the recovery after a daemon's death. The lease passes by the clock, also on a busy machine."""
ENDED = ("completed", "failed", "cancelled")


# -- facts -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """Records, and the answers of servers and endpoint processes at about the same time."""

    nodes: dict[NodeUid, Node]
    groups: list[SlotGroup]
    shards: dict[ShardUid, Shard]
    endpoints: list[Endpoint]
    servers: dict[ShardUid, ServerSeen]
    processes: dict[NodeUid, EndpointProcessSeen]
    identities: dict[ShardUid, ProcessIdentity]
    """The identities of server processes, as the agents report them."""
    daemons: dict[NodeUid, DaemonPresence]
    leader: Leadership | None

    def group_of(self, database: int) -> SlotGroup:
        return next(g for g in self.groups if g.database_uid == database)

    def copies(self, group: SlotGroup) -> list[Shard]:
        return [s for s in self.shards.values() if s.group_uid == group.uid and s.wanted is ShardWanted.RUNNING]

    def primary(self, database: int) -> Shard:
        uid = self.group_of(database).primary
        assert uid is not None
        return self.shards[uid]

    def replica(self, database: int) -> Shard:
        group = self.group_of(database)
        return next(s for s in self.copies(group) if s.uid != group.primary)

    def complaints(self) -> list[str]:
        """Deviations from the state at rest: one writable primary per group with replicas that follow it, nothing fenced,
        every endpoint served by one process that forwards to the present primary and holds nothing."""
        found = [text for group in self.groups for text in self._group_complaints(group)]
        return found + [text for endpoint in self.endpoints for text in self._endpoint_complaints(endpoint)]

    def _group_complaints(self, group: SlotGroup) -> Iterator[str]:
        if group.phase is not GroupPhase.SERVING or group.handoff is not None or group.primary not in self.shards:
            yield f"group {group.uid}: {group.phase}, handoff {group.handoff}"
            return
        primary = self.shards[group.primary]
        source = (self.nodes[primary.node_uid].address, primary.port)
        for shard in self.copies(group):
            seen = self.servers[shard.uid]
            if seen.health != "ok" or seen.is_fenced:
                yield f"shard {shard.uid}: {seen.health}, fenced {seen.is_fenced}"
            elif shard.uid == primary.uid and seen.role is not Role.PRIMARY:
                yield f"shard {shard.uid} is {seen.role} and should be primary"
            elif seen.replication_id != group.replication_id:
                yield f"shard {shard.uid} has {seen.replication_id}, but {group.replication_id} is recorded"
            elif shard.uid != primary.uid and (
                seen.role is not Role.REPLICA
                or (seen.primary_address, seen.primary_port) != source
                or not seen.is_link_up
                or seen.is_syncing
            ):
                follows = f"{seen.primary_address}:{seen.primary_port}, link up {seen.is_link_up}"
                yield f"shard {shard.uid} is {seen.role} of {follows} and should follow {source}"

    def _endpoint_complaints(self, endpoint: Endpoint) -> Iterator[str]:
        group = self.group_of(endpoint.database_uid)
        seen = {n: p.endpoint(endpoint.uid) for n, p in self.processes.items()}
        serving = [n for n, e in seen.items() if e.state is EndpointState.LISTENING]
        if serving != list(endpoint.nodes):
            yield f"endpoint {endpoint.uid} is served by {serving} and should be by {endpoint.nodes}"
        for node in serving:
            if seen[node].held_generation is not None or seen[node].generation != group.generation:
                yield f"endpoint {endpoint.uid} on node {node}: {seen[node]}, group generation {group.generation}"


def _read(directory: Path, *prefixes: str) -> list[Any]:
    """The records with these prefixes. Read-only, so that a frozen daemon's lock does not matter."""
    return [records.decode(key, value) for key, value in stored(directory, prefixes).items()]


async def _read_facts(directory: Path) -> Facts:
    layout = layout_of(directory)
    clock = SystemClock()

    async def nothing() -> None:
        pass

    servers = ServerAdapter(check_term=nothing, is_leader=lambda: True, clock=clock)
    local = LocalNodes.of(layout.run_directory())
    try:
        found = _read(directory, *_PREFIXES)
        nodes = {r.uid: r for r in found if isinstance(r, Node)}
        shards = {r.uid: r for r in found if isinstance(r, Shard)}
        secrets = {r.database_uid: r for r in found if isinstance(r, ServerSecrets)}
        seen = [r for r in found if isinstance(r, NodeSeen)]
        asked = [s for s in shards.values() if s.wanted is ShardWanted.RUNNING and s.node_uid in nodes]
        answers = await asyncio.gather(*(servers.observe(_target(s, nodes, secrets)) for s in asked))
        processes = await asyncio.gather(*(local.link(n).endpoint_process.status() for n in nodes))
        return Facts(
            nodes=nodes,
            groups=[r for r in found if isinstance(r, SlotGroup)],
            shards=shards,
            endpoints=[r for r in found if isinstance(r, Endpoint)],
            servers={a.shard_uid: a for a in answers},
            processes=dict(zip(nodes, processes, strict=True)),
            identities={
                p.shard_uid: p.identity
                for n in seen
                for p in n.processes
                if p.identity is not None and p.state is ProcessState.RUNNING
            },
            daemons={r.node_uid: r for r in found if isinstance(r, DaemonPresence)},
            leader=next((r for r in found if isinstance(r, Leadership)), None),
        )
    finally:
        await servers.close()


async def _pause(directory: Path, database: int, seconds: float) -> None:
    found = _read(directory, *_PREFIXES)
    group = next(r for r in found if isinstance(r, SlotGroup) and r.database_uid == database)
    shard = next(r for r in found if isinstance(r, Shard) and r.uid == group.primary)
    address = next(r.address for r in found if isinstance(r, Node) and r.uid == shard.node_uid)
    secrets = next(r for r in found if isinstance(r, ServerSecrets) and r.database_uid == database)
    connection = await ServerConnection.connect(address, shard.port, timeout_s=2)
    try:
        await connection.call("AUTH", MANAGEMENT_USER, secrets.management, timeout_s=2)
        assert await connection.call("CLIENT", "PAUSE", str(round(seconds * 1000)), "WRITE", timeout_s=2) == "OK"
    finally:
        connection.close()
        await asyncio.sleep(0)


_PREFIXES = ("nodes/", "shards/", "secrets/", "groups/", "endpoints/", "seen/nodes/", "daemons/", "leader")


def _target(shard: Shard, nodes: dict[NodeUid, Node], secrets: dict[DatabaseUid, ServerSecrets]) -> ServerTarget:
    address = nodes[shard.node_uid].address
    return ServerTarget(shard.uid, shard.incarnation, address, shard.port, secrets[shard.database_uid])


# -- the cluster -----------------------------------------------------------------------------------------------------------


class TestCluster(DemoCluster):
    """A cluster whose daemons can be killed and frozen at named points. Not a test class."""

    __test__ = False

    def __init__(self, base: str, faults: Path, *, nodes: int = 3, server: str = "auto") -> None:
        environment = {VARIABLE: str(faults), "PYTHONPATH": str(SOURCES)}
        super().__init__(server=server, nodes=nodes, address_base=base, environment=environment)
        self.faults = faults
        self.layout = layout_of(self.directory)
        self.avoided: set[int] = set()
        """Nodes whose API is not called, because their daemon is about to die."""

    def __enter__(self) -> "TestCluster":
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        with ending_all(self.layout.directory):
            self.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def command(self, *arguments: str) -> str:
        """Run the command line on this cluster. Returns its output."""
        line = [sys.executable, "-m", "shardwright.cli.main", *arguments, "--dir", str(self.directory)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, env=self._environment)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}\n{self.state()}"
        return done.stdout

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request to a node that is not about to die. Raises DemoFailed on a refusal."""
        assert self._http is not None
        last: Exception | None = None
        avoided = {node.address for uid, node in self.facts_nodes().items() if uid in self.avoided}
        admin = json.loads((self.directory / "admin.json").read_text())
        urls = [u for u in admin["urls"] if urllib.parse.urlsplit(u).hostname not in avoided]
        for url in urls * 5:
            try:
                answer = self._http.request(method, url + path, json=body, timeout=5)
            except httpx.TransportError as e:
                last = e
                time.sleep(POLL_S)
                continue
            if answer.status_code >= 400:
                raise DemoFailed(f"{method} {path}: {answer.status_code} {answer.text}")
            return answer.json()
        raise AssertionError(f"no node answers: {last!r}\n{self.state()}")

    def facts_nodes(self) -> dict[NodeUid, Node]:
        return self.facts().nodes if self.avoided else {}

    def facts(self) -> Facts:
        """The present facts."""
        return asyncio.run(_read_facts(self.directory))

    def settled(self, *, seconds: float = BACK_S) -> Facts:
        """Wait until nothing is fenced, held, or being moved."""
        last: list[str] = []

        def current() -> Facts | None:
            facts = self.facts()
            last[:] = facts.complaints()
            return None if last else facts

        def state() -> str:
            return f"{last}\n{self.state()}"

        found = until("the cluster to settle", current, seconds=seconds, clock_s=LEASE_S, state=state)
        assert found is not None
        return found

    def until(self, what: str, is_so: Callable[[], Any], *, seconds: float = 30.0, clock_s: float = 0.0) -> Any:
        return until(what, is_so, seconds=seconds, clock_s=clock_s, state=self.state)

    def action(self, uid: str) -> dict[str, Any]:
        """An action with its moves."""
        node = self.call("GET", f"/v1/actions/{uid}")["node_uid"]
        return next(dict(a) for a in self.call("GET", f"/v1/nodes/{node}/actions")["actions"] if a["action_uid"] == uid)

    def ended(self, uid: str, *, seconds: float = 40.0) -> dict[str, Any]:
        """Wait until the action has ended in any way."""
        found: dict[str, Any] = {}

        def is_over() -> bool:
            found.update(self.action(uid))
            return found["status"] in ENDED

        self.until(f"action {uid}", is_over, seconds=seconds)
        return found

    def completed(self, uid: str, *, seconds: float = 40.0) -> dict[str, Any]:
        """Wait until the action has ended, and assert that it completed."""
        found = self.ended(uid, seconds=seconds)
        assert found["status"] == "completed", f"{found}\n{self.state()}"
        return found

    # -- daemons -----------------------------------------------------------------------------------------------------

    def present(self) -> dict[NodeUid, DaemonPresence]:
        """Daemons that run and hold their lease."""
        return {n: p for n, p in self.facts().daemons.items() if _runs(p)}

    def successor_of(self, leader: DaemonPresence) -> DaemonPresence | None:
        """The daemon that leads instead of that one; None: no daemon leads yet."""
        facts = self.facts()
        presence = None if facts.leader is None else facts.daemons.get(facts.leader.node_uid)
        return presence if presence is not None and presence.pid != leader.pid and _runs(presence) else None

    def leader(self) -> DaemonPresence:
        """The leader, as soon as there is one."""

        def current() -> DaemonPresence | None:
            facts = self.facts()
            presence = None if facts.leader is None else facts.daemons.get(facts.leader.node_uid)
            return presence if presence is not None and _runs(presence) else None

        found: DaemonPresence = self.until("a leader", current)
        return found

    def supervisor(self) -> ProcessIdentity:
        found = read_identity(self.layout.supervisor)
        assert found is not None
        return found

    def ready_to_die(self, *, others_min: int = 2) -> DaemonPresence:
        """The leader, with enough other daemons to take over. A supervisor delays the restart of daemons that died often; a
        new supervisor, which adopts the running ones, does not know those deaths."""
        if len(self.present()) < others_min:
            self.replace_supervisor()
        return self.leader()

    def replace_supervisor(self) -> float:
        """Kill the supervisor and start the cluster again. Returns the duration in seconds."""
        watch = Stopwatch()
        supervisor = self.supervisor()
        send(supervisor, signal.SIGKILL)
        self.until("the supervisor to end", lambda: not is_running(supervisor))
        self.command("up", "--detach")
        return watch.seconds

    @contextmanager
    def unsupervised(self) -> Iterator[None]:
        """No frozen daemon is ended meanwhile."""
        supervisor = self.supervisor()
        send(supervisor, signal.SIGSTOP)
        try:
            yield
        finally:
            send(supervisor, signal.SIGCONT)

    def arm(self, point: str, order: str = "kill") -> Path:
        """Let the next daemon that reaches the point die or freeze there. Returns the file that appears then."""
        for old in self.faults.glob("*"):
            old.unlink()
        return arm(self.faults, point, order)

    def pause_writes(self, database: int, seconds: float) -> None:
        """Let no write on the primary end for this long, as if each took that time: a handoff's drain fails."""
        asyncio.run(_pause(self.directory, database, seconds))

    def database(self, name: str, **settings: Any) -> dict[str, Any]:
        """A new serving database, with its copies in sync."""
        created = self.create_database(name=name, memory_size=64 << 20, **settings)
        self.settled()
        return created

    # -- for the failure of a test -----------------------------------------------------------------------------------

    def state(self) -> str:
        """The state that explains a failure."""
        facts = self.facts()
        lines = [f"complaints: {facts.complaints()}", f"leader: {facts.leader}", f"daemons: {sorted(facts.daemons)}"]
        lines += [str(x) for x in (*facts.groups, *facts.shards.values(), *facts.servers.values(), *facts.endpoints)]
        lines += [str(x) for x in facts.processes.values()]
        lines += [str(r) for r in _read(self.directory, "actions/", "moves/")[-6:]]
        lines += [str(r) for r in _read(self.directory, "events/")[-10:]]
        lines += [_tail(self.layout.daemon_log(n)) for n in facts.nodes]
        lines += [_tail(self.layout.supervisor_log)]
        return "\n".join(lines)


def _runs(presence: DaemonPresence) -> bool:
    """Neither dead nor stopped."""
    try:
        return Path(f"/proc/{presence.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZXT"
    except OSError:
        return False


def _tail(path: Path, lines: int = 25) -> str:
    try:
        text = path.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return ""
    return "\n".join([f"--- {path.parent.name}/{path.name}", *text])


def own_base(number: int) -> str:
    """An address of this run and this file; no other test uses it or its neighbors."""
    return f"127.{200 + os.getpid() % 50}.{1 + (os.getpid() // 50 + number * 83) % 250}.1"
