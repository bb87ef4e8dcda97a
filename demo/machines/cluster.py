"""The cluster of the demonstration on machines: three machines of namespaces, founded and joined by the command line.

A further machine is spare, and one has the clients: the load and all requests come from there.
"""

import json
import signal
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from demo.cluster import POLL_S, Cluster, DemoFailed
from testkit.machines.group import Machines
from testkit.machines.installation import installed
from testkit.machines.machine import Machine

NODES = ("m1", "m2", "m3")
SPARE = "m4"
"""It joins when another one is replaced."""
CLIENT = "client"
DISCOVERY_PORT = 8001
DAEMON, STORE = "shardwright-node.service", "shardwright-etcd.service"
PASSWORD_FILE = "/root/password"
START_S = 180.0
STORE_S = 30.0
"""For an election of the store, and for a new member until it votes."""
Say = Callable[[str], None]


class MachinesCluster(Cluster):
    """A cluster of three machines. A context manager: at its end nothing is left running and nothing is left behind.

    Within it, the sockets of this thread, and of threads and processes that it starts, are those of the clients' machine.
    """

    database_settings: Mapping[str, Any] = MappingProxyType({"proxy_policy": "all-nodes"})
    """A node that is emptied must not take the only address with it."""
    may_reconnect = True
    has_store_members = True

    def __init__(
        self,
        say: Say,
        *,
        server: str = "auto",
        node_memory: str = "4gb",
        drop_ins: Mapping[str, str] | None = None,
        venvs: Mapping[str, Path] | None = None,
    ) -> None:
        """``drop_ins``: what is added to units of the package, by name. ``venvs``: the environment of each machine, by name;
        None: all have the wheel of these sources."""
        super().__init__()
        self._venvs = venvs
        self._drop_ins = dict(drop_ins or {})
        self._say, self._server, self._memory = say, server, node_memory
        self._stack = ExitStack()
        self._credentials = ("", "")
        self.machines: Machines | None = None

    def __enter__(self) -> "MachinesCluster":
        with ExitStack() as stack:
            venvs = self._venvs
            if venvs is None:
                self._say("installing the wheel of these sources")
                venvs = dict.fromkeys((*NODES, SPARE), stack.enter_context(installed()))
            self._say("starting the machines")
            self.machines = stack.enter_context(Machines((*NODES, SPARE, CLIENT), venvs=venvs, drop_ins=self._drop_ins))
            stack.enter_context(self.machines[CLIENT].network())
            try:
                self._found(stack)
            except BaseException:
                self.machines.keep_logs()
                raise
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self.machines is not None:
            self.machines.keep_logs()
        self._stack.close()

    def _found(self, stack: ExitStack) -> None:
        assert self.machines is not None
        first = self.machines[NODES[0]]
        self._say(f"shardwright init on {first.name}")
        founded = self._json(first, "init", "--memory", self._memory, "--server", self._server)
        context = ssl.create_default_context(cafile=str(first.configuration / "ca.pem"))
        self._credentials = (founded["username"], founded["password"])
        self._http = stack.enter_context(httpx.Client(auth=self._credentials, verify=context, timeout=10, trust_env=False))
        self._urls = [f"https://{first.address}:9443"]
        for name in NODES[1:]:
            self._say(f"shardwright join on {name}")
            self.join(name)
        self._say("waiting until all three members of the store vote")
        self.wait_for_votes(NODES)

    def join(self, name: str, *options: str) -> None:
        """Let a machine join, with a token from the first one. Raises DemoFailed."""
        assert self.machines is not None
        machine = self.machines[name]
        token = self._json(self.machines[NODES[0]], "node", "token")
        words = ["--token", token["token"], "--ca-hash", token["ca_hash"], "--memory", self._memory, *options]
        self._json(machine, "join", token["address"], *words)
        if (url := f"https://{machine.address}:9443") not in self._urls:
            self._urls.append(url)

    def leave(self, name: str) -> None:
        """Make a machine whose node was removed ready to join again. Raises DemoFailed."""
        assert self.machines is not None
        self._json(self.machines[name], "node", "leave", "--yes", *self._as_admin(name))

    def told(self, name: str, *words: str) -> str:
        """What a command of the administrator says on a machine. Raises MachinesFailed."""
        assert self.machines is not None
        return self.machines[name].check("shardwright", *words, *self._as_admin(name))

    def _as_admin(self, name: str) -> list[str]:
        """The options of a command on a machine that the administrator runs. Puts the password there."""
        assert self.machines is not None
        user, password = self._credentials
        self.machines[name].check("sh", "-c", f"umask 077; cat > {PASSWORD_FILE}", given=password)
        return ["--user", user, "--password-file", PASSWORD_FILE]

    def wait_for_votes(self, names: Sequence[str]) -> None:
        """Wait until the members of the store on these machines vote. Raises DemoFailed."""
        deadline = time.monotonic() + STORE_S
        while not all((status := self.store_status(name)) and not status.get("isLearner") for name in names):
            if time.monotonic() > deadline:
                statuses = {name: self.store_status(name) for name in names}
                raise DemoFailed(f"not all members of the store vote after {STORE_S:.0f} s: {statuses}")
            time.sleep(POLL_S)

    def node_of(self, name: str) -> int:
        """The number of a machine's node. Raises StopIteration if it is no node."""
        assert self.machines is not None
        address = self.machines[name].address
        return next(int(node["uid"]) for node in self.call("GET", "/v1/nodes") if node["addr"] == address)

    def _json(self, machine: Machine, *words: str) -> dict[str, Any]:
        ran = machine.run("shardwright", *words, "--json", timeout_s=START_S)
        if ran.status != 0:
            raise DemoFailed(f"shardwright {words[0]} on {machine.name} ended with {ran.status}:\n{ran.output}{ran.errors}")
        return dict(json.loads(ran.output))

    # -- where things are ----------------------------------------------------------------------------------------------

    def shards(self) -> list[dict[str, Any]]:
        """All shards, as the API shows them."""
        return [dict(shard) for shard in self.call("GET", "/v1/shards")]

    def primary_node(self, database: int) -> int:
        """The node with the primary of a database of one slot group."""
        mine = (shard for shard in self.shards() if int(shard["bdb_uid"]) == int(database))
        return next(int(shard["node_uid"]) for shard in mine if shard["role"] == "master")

    def machine_of(self, node: int) -> Machine:
        """The machine of a node."""
        assert self.machines is not None
        address = self.call("GET", f"/v1/nodes/{node}")["addr"]
        return next(machine for machine in self.machines.all.values() if machine.address == address)

    # -- faults --------------------------------------------------------------------------------------------------------

    def kill_leader(self, leader: Mapping[str, Any]) -> None:
        """See ``Cluster``."""
        assert self.machines is not None
        machine = next(machine for machine in self.machines.all.values() if machine.address == leader["addr"])
        machine.signal_unit(DAEMON, signal.SIGKILL)

    def kill_store_leader(self) -> float:
        """See ``Cluster``."""
        assert self.machines is not None
        name, term = self._store_leader()
        killed_at = time.monotonic()
        self.machines[name].signal_unit(STORE, signal.SIGKILL)
        rest = [other for other in NODES if other != name]
        deadline = killed_at + STORE_S
        # The member that was killed is started again after a second, and may be elected again.
        while not any(_term_of(self.store_status(other)) > term for other in rest):
            if time.monotonic() > deadline:
                raise DemoFailed(f"no member of the store was elected within {STORE_S:.0f} s")
            time.sleep(POLL_S)
        return time.monotonic() - killed_at

    def _store_leader(self) -> tuple[str, int]:
        """The machine with the leading member, and its term."""
        deadline = time.monotonic() + STORE_S
        while time.monotonic() < deadline:
            for name in NODES:
                status = self.store_status(name)
                if status and status.get("leader") == status["header"]["member_id"]:
                    return name, _term_of(status)
            time.sleep(POLL_S)
        raise DemoFailed(f"no member of the store leads after {STORE_S:.0f} s")

    def store_status(self, name: str) -> dict[str, Any]:
        """What a machine's member of the store says of itself; empty: it does not answer."""
        assert self.machines is not None
        machine = self.machines[name]
        files = machine.configuration
        context = ssl.create_default_context(cafile=str(files / "ca.pem"))
        context.load_cert_chain(files / "store.pem", files / "node-key.pem")
        try:
            with httpx.Client(verify=context, timeout=1, trust_env=False) as client:
                answer = client.post(f"https://{machine.address}:2379/v3/maintenance/status", json={})
        except httpx.TransportError:
            return {}
        return dict(answer.json()) if answer.status_code == httpx.codes.OK else {}


def _term_of(status: Mapping[str, Any]) -> int:
    """The term of the leader that a member knows; 0: it knows none, or did not answer."""
    return int(status["raftTerm"]) if status.get("leader", "0") != "0" else 0
