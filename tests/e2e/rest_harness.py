"""A local cluster for tests of actions and of the REST API: started by the command line, and used only from outside.

Every wait polls with a deadline, and every failure shows the cluster's state.
"""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import send
from shardwright.model.seen import ProcessIdentity
from testkit.deadlines import until
from testkit.processes import ending_all, processes_of
from testkit.stored import stored

SOURCES = Path(__file__).parents[2] / "src"
TERMINAL = ("completed", "failed", "cancelled")
WISHES = (
    *("cluster", "policy", "nodes/", "removed_nodes/", "snapshots/", "databases/", "secrets/", "shards/", "endpoints/"),
    *("actions/", "moves/", "users/", "last_actions/", "locks/", "names/", "ports/", "emails/", "counters"),
)
"""Keys of the store that change only by an accepted request, or by the leader that carries it out."""

Json = dict[str, Any]


class CountedConnection(redis.Connection):
    """Counts its connects."""

    connects = 0

    def _connect(self) -> Any:
        self.connects += 1
        return super()._connect()  # type: ignore[no-untyped-call]


def connects_of(client: Any) -> int:
    """Number of connects of a ``RestCluster.client`` client so far. (CLIENT ID is the server's and changes with it.)"""
    connection = client.connection_pool.get_connection()
    client.connection_pool.release(connection)
    return int(connection.connects)


class RestCluster:
    """A context manager: at its end no process of the cluster runs and no file remains."""

    def __init__(self, *, nodes: int = 3, node_memory: str = "4gb", racks: str = "") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="shardwright-e2e-"))
        self.base = f"127.{200 + secrets.randbelow(50)}.{1 + secrets.randbelow(250)}.1"
        self._options = [f"--nodes={nodes}", f"--node-memory={node_memory}"]
        self._options += [f"--address-base={self.base}", f"--endpoint-address={self.base}"]
        if racks:
            self._options.append(f"--rack={racks}")
        self._http: httpx.Client | None = None
        self.username = ""
        self.password = ""

    def __enter__(self) -> "RestCluster":
        try:
            done = self.command("up", "--detach", *self._options)
            assert done.returncode == 0, f"up failed:\n{done.stdout}{done.stderr}"
            admin = json.loads((self.directory / "admin.json").read_text())
            self.username, self.password = admin["username"], admin["password"]
            self.reconnect()
            self.wait("a leader", lambda: bool(self.leader()))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop and delete everything, whatever state it is in."""
        if self._http is not None:
            self._http.close()
        with ending_all(self.directory):
            self.command("down", "--purge")
        shutil.rmtree(self.directory, ignore_errors=True)

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run the command line on this cluster."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SHARDWRIGHT_")}
        return subprocess.run(
            [sys.executable, "-m", "shardwright.cli.main", *arguments, "--dir", str(self.directory)],
            env={**kept, "PYTHONPATH": str(SOURCES)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def reconnect(self) -> None:
        """Forget kept connections: a killed daemon does not answer on them."""
        if self._http is not None:
            self._http.close()
        self._http = httpx.Client(auth=(self.username, self.password), verify=False, timeout=15)

    # -- requests ------------------------------------------------------------------------------------------------------

    def url(self, node: int = 1) -> str:
        """The URL of a node's API."""
        first, last = self.base.rsplit(".", 1)
        return f"https://{first}.{int(last) + node - 1}:9443"

    def call(self, method: str, path: str, body: Any = None, *, node: int = 0, **options: Any) -> httpx.Response:
        """Send one request, to any node that answers unless one is given."""
        assert self._http is not None
        if body is not None:
            options["json"] = body
        last: httpx.TransportError | None = None
        for one in [node] if node else range(1, 16):
            try:
                return self._http.request(method, self.url(one) + path, **options)
            except httpx.ConnectError as e:
                last = e
            except httpx.RemoteProtocolError as e:
                # A daemon that has just ended: the request was sent over a kept connection. Repeating a read is harmless.
                if method != "GET" or node:
                    raise
                last = e
        raise AssertionError(f"no node answers {method} {path}: {last!r}\n{self.logs()}")

    def get(self, path: str) -> Any:
        return self.ok("GET", path)

    def ok(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The JSON of a request that must be accepted."""
        answer = self.call(method, path, body, **options)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def refused(self, method: str, path: str, status: int, code: str, body: Any = None, **options: Any) -> str:
        """The description of a request that must be refused with this status and code."""
        answer = self.call(method, path, body, **options)
        assert answer.status_code == status, f"{method} {path} {body!r}: {answer.status_code} {answer.text}"
        said = answer.json()
        assert said["error_code"] == code, said
        assert said["message"] == said["description"] != ""
        return str(said["description"])

    def wait(self, what: str, is_so: Callable[[], Any], *, seconds: float = 30) -> Any:
        """Poll until the answer is true; fail with the cluster's state."""
        return until(what, is_so, seconds=seconds, state=self.picture)

    # -- databases -----------------------------------------------------------------------------------------------------

    def create(self, name: str, **settings: Any) -> Json:
        """A new serving database, with its copies in sync."""
        made = self.ok("POST", "/v1/bdbs", {"name": name, "memory_size": 50_000_000, **settings})
        return self.settled(made["uid"])

    def settled(self, uid: int) -> Json:
        """Wait until a database is active and all its copies are in sync."""

        def is_so() -> Json | None:
            found: Json = self.get(f"/v1/bdbs/{uid}")
            assert found["status"] != "creation-failed", found
            copies = 2 if found["replication"] else 1
            shards = self.shards(uid)
            is_whole = len(shards) == copies and all(s["detailed_status"] == "ok" for s in shards)
            in_step = all(s["sync"]["status"] == "idle" for s in shards)
            return found if found["status"] == "active" and is_whole and in_step else None

        return dict(self.wait(f"database {uid} settled", is_so))

    def update(self, uid: int, **settings: Any) -> Json:
        """Change a database, and wait until the change is completed."""
        self.ok("PUT", f"/v1/bdbs/{uid}", settings)
        return self.settled(uid)

    def delete(self, uid: int) -> None:
        self.ok("DELETE", f"/v1/bdbs/{uid}")
        self.wait(f"database {uid} gone", lambda: self.call("GET", f"/v1/bdbs/{uid}").status_code == 404)

    def shards(self, uid: int) -> list[Json]:
        return [shard for shard in self.get("/v1/shards") if shard["bdb_uid"] == uid]

    def primary(self, uid: int) -> int:
        """The node of a database's primary."""
        found = [int(shard["node_uid"]) for shard in self.shards(uid) if shard["role"] == "master"]
        assert len(found) == 1, self.shards(uid)
        return found[0]

    def replica(self, uid: int) -> int:
        """The node of a database's replica."""
        found = [int(shard["node_uid"]) for shard in self.shards(uid) if shard["role"] == "slave"]
        assert len(found) == 1, self.shards(uid)
        return found[0]

    def endpoint(self, uid: int) -> int:
        """The node that serves a database's endpoint."""
        found = [int(node) for endpoint in self.get(f"/v1/bdbs/{uid}")["endpoints"] for node in endpoint["node_uids"]]
        assert len(found) == 1, found
        return found[0]

    def layout(self, *uids: int) -> dict[int, tuple[list[tuple[str, str]], int]]:
        """The nodes and roles of the copies of databases at rest, and the nodes that serve their endpoints."""
        for uid in uids:
            self.settled(uid)
        return {
            uid: (sorted((shard["node_uid"], shard["role"]) for shard in self.shards(uid)), self.endpoint(uid))
            for uid in uids
        }

    def client(self, database: Json, **options: Any) -> Any:
        """An ordinary client with one connection that repeats nothing."""
        options = {"protocol": 2, "decode_responses": True, "socket_timeout": 5, **options}
        pool = redis.ConnectionPool(
            connection_class=CountedConnection,
            host=database["endpoints"][0]["addr"][0],
            port=database["endpoints"][0]["port"],
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            max_connections=1,
            **options,
        )
        return redis.Redis.from_pool(pool)

    # -- nodes and actions ---------------------------------------------------------------------------------------------

    def leader(self) -> int:
        """The node of the leader; 0: no leader."""
        statuses: dict[str, Json] = self.get("/v1/nodes/status")
        return next((int(uid) for uid, status in statuses.items() if uid.isdigit() and status["role"] == "master"), 0)

    def node(self, uid: int) -> Json:
        return dict(self.get(f"/v1/nodes/{uid}"))

    def nodes(self) -> list[int]:
        return sorted(node["uid"] for node in self.get("/v1/nodes"))

    def snapshots(self, node: int) -> list[str]:
        return [snapshot["name"] for snapshot in self.get(f"/v1/nodes/{node}/snapshots")]

    def start(self, node: int, action: str, **parameters: Any) -> str:
        """Start an action. Returns its uid."""
        return str(self.ok("POST", f"/v1/nodes/{node}/actions/{action}", parameters)["action_uid"])

    def ended(self, uid: str, *, seconds: float = 45) -> Json:
        """The record of an action that ends in any way."""

        def is_so() -> Json | None:
            found: Json = self.get(f"/v1/actions/{uid}")
            return found if found["status"] in TERMINAL else None

        return dict(self.wait(f"the end of action {uid}", is_so, seconds=seconds))

    def done(self, node: int, action: str, **parameters: Any) -> Json:
        """Start an action that must complete. Returns its record."""
        record = self.ended(self.start(node, action, **parameters))
        assert record["status"] == "completed", f"{record}\n{self.picture()}"
        return record

    def failed(self, node: int, action: str, code: str, **parameters: Any) -> Json:
        """Start an action that must fail with this code. Returns its record."""
        record = self.ended(self.start(node, action, **parameters))
        assert (record["status"], record.get("error_code")) == ("failed", code), f"{record}\n{self.picture()}"
        return record

    def is_empty(self, node: int) -> bool:
        status = self.get(f"/v1/nodes/{node}/status")
        return not (status["master_shards"] or status["slave_shards"] or status["endpoints"])

    def in_maintenance(self, node: int) -> bool:
        return "maintenance_snapshot" in self.get(f"/v1/nodes/{node}/status") and not self.node(node)["accept_servers"]

    @contextmanager
    def maintenance(self, node: int) -> Iterator[None]:
        """A node is in maintenance for a while, and then restored."""
        self.done(node, "maintenance_on")
        try:
            yield
        finally:
            self.done(node, "maintenance_off")

    def add_node(self) -> int:
        """Add a usable node."""
        added = self.command("node", "add", "--json")
        assert added.returncode == 0, added.stdout + added.stderr
        uid = int(json.loads(added.stdout)["uid"])
        self.wait(f"node {uid} usable", lambda: self.node(uid)["status"] == "active")
        return uid

    def reopen(self) -> None:
        """Let every node take shards again, whatever state a test left."""
        for node in self.nodes():
            if self.snapshots(node):
                self.done(node, "maintenance_off")
            elif not self.node(node)["accept_servers"]:
                self.ok("PUT", f"/v1/nodes/{node}", {"accept_servers": True})

    # -- processes -----------------------------------------------------------------------------------------------------

    def server_of(self, shard: Json) -> ProcessIdentity:
        """The process of a shard's server."""
        place = self.directory / "nodes" / shard["node_uid"] / "shards" / shard["uid"]
        found = [process for process in processes_of(self.directory) if process.directory == str(place)]
        assert found, (shard, self.picture())
        return min(found, key=lambda process: process.start_ticks)  # a child that saves is younger

    def servers_on(self, node: int) -> list[ProcessIdentity]:
        """The server processes on a node."""
        place = str(self.directory / "nodes" / str(node) / "shards") + "/"
        return [process for process in processes_of(self.directory) if process.directory.startswith(place)]

    def identity_in(self, path: str) -> ProcessIdentity:
        """The process that a file in the cluster's directory names."""
        found = read_identity(self.directory / path)
        assert found is not None, path
        return found

    @contextmanager
    def frozen(self, *processes: ProcessIdentity) -> Iterator[None]:
        """Processes that are frozen for a while; an action that needs them waits."""
        for process in processes:
            send(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                send(process, signal.SIGCONT)

    # -- files and processes -------------------------------------------------------------------------------------------

    def wishes(self) -> dict[str, bytes]:
        """Everything in the store that requests change, read from its file, to show that nothing was changed."""
        return stored(self.directory, WISHES)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Internal activity changes nothing that a request changes. Begins when earlier changes have been recorded."""
        before = self.wishes()

        def is_quiet(after_s: float) -> bool:
            nonlocal before
            time.sleep(after_s)
            earlier, before = before, self.wishes()
            return earlier == before

        self.wait("a quiet moment", lambda: is_quiet(0.1) and is_quiet(0.0))
        yield
        after = self.wishes()
        changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        assert not changed, {key: (before.get(key), after.get(key)) for key in changed}

    def picture(self) -> str:
        """The cluster's state, for a failure."""
        parts = []
        for path in ("/v1/nodes/status", "/v1/bdbs", "/v1/shards", "/v1/nodes/actions"):
            try:
                found = self.call("GET", path).json()
                if "actions" in found:
                    found["actions"].reverse()  # the youngest explains the failure
                parts.append(f"{path}: {json.dumps(_brief(found))[:9000]}")
            except (AssertionError, httpx.HTTPError, ValueError) as e:
                parts.append(f"{path}: {e!r}")
        return "\n".join([*parts, self.logs()])

    def logs(self) -> str:
        """The last lines of its processes' logs."""
        found = []
        for path in logs_below(self.directory):
            with suppress(FileNotFoundError):  # It was rotated, or its node was removed.
                found += [f"--- {path.relative_to(self.directory)}", *path.read_text(errors="replace").splitlines()[-12:]]
        return "\n".join(found)


def logs_below(directory: Path) -> list[Path]:
    """Its log files. Directories may disappear meanwhile."""
    return sorted(Path(at) / name for at, _, names in os.walk(directory) for name in names if name.endswith(".log"))


_DULL = re.compile("capabilities|version|os_|storage|redis_info|backup|loading|cores|hostname|snapshot_policy")


def _brief(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _brief(item) for key, item in value.items() if not _DULL.search(key)}
    return [_brief(item) for item in value] if isinstance(value, list) else value
