"""A cluster for a demonstration or a benchmark: used over the REST API. The local one is started by the command line, then
gone; ``machines.py`` has the one of several machines."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from shardwright.store.settings import EtcdSettings

POLL_S = 0.1
ADDRESS_BASE = "127.0.0.1"


class DemoFailed(Exception):
    """The demonstration cannot go on; the text says why."""


class DemoUnavailable(DemoFailed):
    """The cluster cannot be reached, or cannot reach its store: for a while, if a machine is lost."""


class Cluster:
    """What a demonstration does with a cluster that runs: requests, waits, and faults."""

    database_settings: Mapping[str, Any] = MappingProxyType({})
    """Added to those of new databases."""
    may_reconnect = False
    """Whether a client whose node is emptied goes to another node's address."""
    has_store_members = False
    """Whether the store runs on the nodes."""

    def __init__(self) -> None:
        self._http: httpx.Client | None = None
        self._urls: list[str] = []

    def kill_leader(self, leader: Mapping[str, Any]) -> None:
        """Kill the leader's daemon. ``leader``: as the API shows it."""
        raise NotImplementedError

    def kill_store_leader(self) -> float:
        """Kill the store's leading member; returns the seconds until another one led. Only with members."""
        raise NotImplementedError

    def ask_last(self, address: str) -> None:
        """Send requests to this node only when no other one answers: it may be out of reach."""
        self._urls.sort(key=lambda url: address in url)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request. Another node is asked when one does not answer and, for a GET, when one cannot reach its store.
        Raises DemoUnavailable, and DemoFailed on a refusal."""
        assert self._http is not None
        last = ""
        for url in [*self._urls, *self._urls]:
            try:
                answer = self._http.request(method, url + path, json=body)
            except httpx.TransportError as e:
                last = f"no node answers: {e}"
                time.sleep(POLL_S)
                continue
            if answer.status_code < 400:
                return answer.json()
            last = f"{method} {path}: {answer.status_code} {answer.text}"
            if "store_unavailable" not in answer.text:
                raise DemoFailed(last)
            if method != "GET":
                break
            time.sleep(POLL_S)
        raise DemoUnavailable(last)

    def wait(self, what: str, path: str, is_done: Any, *, timeout_s: float = 60.0) -> Any:
        """Poll until ``is_done(answer)``, also while the cluster is unavailable. Raises DemoFailed on a refusal, and with
        the last answer if that takes too long."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                answer = self.call("GET", path)
                if is_done(answer):
                    return answer
                last = json.dumps(answer)[:2000]
            except DemoUnavailable as e:
                last = str(e)
            if time.monotonic() > deadline:
                raise DemoFailed(f"{what}: not within {timeout_s:.0f} s; last: {last}")
            time.sleep(POLL_S)

    def create_database(self, **settings: Any) -> dict[str, Any]:
        """Create a database and wait until it serves."""
        created = self.call("POST", "/v1/bdbs", {**self.database_settings, **settings})
        path = f"/v1/bdbs/{created['uid']}"
        ended = self.wait(f"database {settings['name']}", path, lambda b: b["status"] in ("active", "creation-failed"))
        if ended["status"] != "active":
            raise DemoFailed(f"database {settings['name']} could not be created: {ended}")
        return dict(ended)

    def start(self, node: int, action: str, **parameters: Any) -> str:
        """Start an action on a node; its uid."""
        return str(self.call("POST", f"/v1/nodes/{node}/actions/{action}", parameters)["action_uid"])

    def finish(self, uid: str, *, timeout_s: float = 120.0) -> dict[str, Any]:
        """Wait for an action; the whole record. Raises DemoFailed when it did not complete."""
        ended = ("completed", "failed", "cancelled")
        node = int(self.call("GET", f"/v1/actions/{uid}")["node_uid"])
        path = f"/v1/nodes/{node}/actions"

        def mine(answer: Any) -> dict[str, Any]:
            return next((dict(a) for a in answer["actions"] if a["action_uid"] == uid), {"status": "forgotten"})

        record = mine(self.wait("an action", path, lambda a: mine(a)["status"] in ended, timeout_s=timeout_s))
        if record["status"] != "completed":
            raise DemoFailed(f"{record['name']} of node {node} ended {record['status']}: {record.get('error_message')}")
        return record


class DemoCluster(Cluster):
    """A local cluster. Use as a context manager: at its end nothing is left running and nothing is left behind."""

    def __init__(
        self,
        *,
        server: str = "auto",
        nodes: int = 3,
        node_memory: str = "4gb",
        address_base: str = ADDRESS_BASE,
        api_port: int = 9443,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="shardwright-demo-"))
        self._environment = {**os.environ, **(environment or {})}
        self._options = [
            f"--nodes={nodes}",
            f"--node-memory={node_memory}",
            f"--address-base={address_base}",
            f"--endpoint-address={address_base}",
            f"--api-port={api_port}",
            f"--server={server}",
        ]

    def __enter__(self) -> "DemoCluster":
        try:
            self._command("up", "--detach", *self._options)
        except BaseException:
            self.close()
            raise
        admin = json.loads((self.directory / "admin.json").read_text())
        self._urls = admin["urls"]
        self._http = httpx.Client(auth=(admin["username"], admin["password"]), verify=False, timeout=10)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything and delete everything, whatever state it is in."""
        if self._http is not None:
            self._http.close()
        subprocess.run(
            [sys.executable, "-m", "shardwright.cli.main", "down", "--dir", str(self.directory), "--purge"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=60,
        )
        shutil.rmtree(self.directory, ignore_errors=True)

    def up(self) -> None:
        """Start the cluster that was stopped."""
        self._command("up", "--detach")

    def down(self, *more: str) -> None:
        """Stop the cluster; its data stays. ``more``: further arguments of the command."""
        self._command("down", *more)

    def move(self, store: EtcdSettings) -> None:
        """Move the records of the stopped cluster into an etcd."""
        options = [f"--endpoint={url}" for url in store.endpoints]
        if store.ca is not None:
            options += [f"--ca={store.ca}", f"--cert={store.cert}", f"--key={store.key}"]
        self._command("cluster", "move-store", *options)

    def _command(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "shardwright.cli.main", *arguments, "--dir", str(self.directory)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=self._environment)
        if done.returncode != 0:
            raise DemoFailed(f"shardwright {arguments[0]} failed:\n{done.stdout}{done.stderr}")

    def kill_leader(self, leader: Mapping[str, Any]) -> None:
        """See ``Cluster``."""
        os.kill(int(leader["pid"]), signal.SIGKILL)
