"""``python -m demo.machines``: the demonstration on three machines of namespaces, founded and joined by the command line.

The load and all requests come from a fourth machine. Besides the leader's daemon, the store's leading member is killed. Exit
status as of ``demo``; 77: machines cannot be made here, and the last line says why.
"""

import argparse
import json
import signal
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

import httpx
from rich.console import Console

from demo import report
from demo.__main__ import interrupted
from demo.cluster import POLL_S, Cluster, DemoFailed
from demo.scenario import run
from testkit import guard
from testkit.machines.calls import CallRefused
from testkit.machines.commands import MachinesFailed, missing
from testkit.machines.group import Machines
from testkit.machines.installation import installed
from testkit.machines.machine import Machine

NODES = ("m1", "m2", "m3")
CLIENT = "client"
DAEMON, STORE = "shardwright-node.service", "shardwright-etcd.service"
EXIT_IMPOSSIBLE = 77
START_S = 180.0
STORE_S = 30.0
"""For an election of the store, and for a new member until it votes."""
Say = Callable[[str], None]


class MachinesCluster(Cluster):
    """A cluster of three machines. A context manager: at its end nothing is left running and nothing is left behind.

    Within it, the sockets of this thread, and of processes that it starts, are those of the fourth machine.
    """

    database_settings: Mapping[str, Any] = MappingProxyType({"proxy_policy": "all-nodes"})
    """A node that is emptied must not take the only address with it."""
    may_reconnect = True
    has_store_members = True

    def __init__(self, say: Say, *, server: str = "auto", node_memory: str = "4gb") -> None:
        super().__init__()
        self._say, self._server, self._memory = say, server, node_memory
        self._stack = ExitStack()
        self.machines: Machines | None = None

    def __enter__(self) -> "MachinesCluster":
        with ExitStack() as stack:
            self._say("installing the wheel of these sources")
            venv = stack.enter_context(installed())
            self._say("starting four machines")
            self.machines = stack.enter_context(Machines((*NODES, CLIENT), venvs=dict.fromkeys(NODES, venv)))
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
        credentials = (founded["username"], founded["password"])
        self._http = stack.enter_context(httpx.Client(auth=credentials, verify=context, timeout=10, trust_env=False))
        self._urls = [f"https://{self.machines[name].address}:9443" for name in NODES]
        for name in NODES[1:]:
            self._say(f"shardwright join on {name}")
            token = self._json(first, "node", "token")
            words = ["--token", token["token"], "--ca-hash", token["ca_hash"], "--memory", self._memory]
            self._json(self.machines[name], "join", token["address"], *words)
        self._say("waiting until all three members of the store vote")
        deadline = time.monotonic() + STORE_S
        while not all((status := self.store_status(name)) and not status.get("isLearner") for name in NODES):
            if time.monotonic() > deadline:
                statuses = {name: self.store_status(name) for name in NODES}
                raise DemoFailed(f"not all members of the store vote after {STORE_S:.0f} s: {statuses}")
            time.sleep(POLL_S)

    def _json(self, machine: Machine, *words: str) -> dict[str, Any]:
        ran = machine.run("shardwright", *words, "--json", timeout_s=START_S)
        if ran.status != 0:
            raise DemoFailed(f"shardwright {words[0]} on {machine.name} ended with {ran.status}:\n{ran.output}{ran.errors}")
        return dict(json.loads(ran.output))

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


def main() -> int:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(prog="demo.machines", description="Every node action on three machines of namespaces.")
    parser.add_argument("--server", default="auto", help="valkey, redis, auto, or the path of a server binary")
    options = parser.parse_args()
    if why := missing():
        print(f"The demonstration on machines is not possible here: {why}.", file=sys.stderr)
        return EXIT_IMPOSSIBLE
    signal.signal(signal.SIGTERM, interrupted)
    guard.begin()
    console = Console(width=140 if not sys.stdout.isatty() else None)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {text}", highlight=False)

    try:
        with MachinesCluster(say, server=options.server) as cluster:
            result = run(cluster, say)
            say("turning the machines off")
    except (DemoFailed, MachinesFailed, CallRefused, EOFError) as e:
        console.print(f"The demonstration failed: {e}", markup=False)
        print(json.dumps({"demo": "failed", "reason": str(e)[:500]}))
        return 1
    except KeyboardInterrupt:
        print(json.dumps({"demo": "interrupted"}))
        return 130
    report.show(result, console)
    say("done")
    print(report.summary(result))
    return 0 if report.is_good(result) else 1


if __name__ == "__main__":
    sys.exit(main())
