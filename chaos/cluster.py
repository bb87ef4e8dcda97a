"""The cluster of a chaos run: a local cluster of real processes at its own addresses; any of its daemons may be down."""

import json
import os
import time
from typing import Any

import httpx

from chaos.facts import Records, read_records
from demo.cluster import DemoCluster
from shardwright.local.layout import layout_of
from testkit.processes import ending_all

REQUEST_TIMEOUT_S = 3.0
NO_ANSWER = 0


def own_base() -> str:
    """Addresses that are unlikely to be used by another run."""
    return f"127.{160 + os.getpid() % 40}.{1 + os.getpid() // 40 % 250}.1"


class ChaosCluster(DemoCluster):
    """A context manager: at its end no process runs and no file remains."""

    def __init__(self, *, nodes: int, server: str = "auto", base: str | None = None) -> None:
        super().__init__(server=server, nodes=nodes, node_memory="1gb", address_base=base or own_base())
        self.layout = layout_of(self.directory)

    def __enter__(self) -> "ChaosCluster":
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        with ending_all(self.layout.directory):
            self.close()

    def up(self) -> None:
        """Start the cluster again. Raises DemoFailed."""
        self._command("up", "--detach")

    def records(self) -> Records:
        """The store's present records. Raises sqlite3.Error."""
        return read_records(self.layout)

    def ask(self, method: str, path: str, body: Any = None, *, seconds: float = 10.0) -> tuple[int, Any]:
        """Send one request to the first node that answers. A request that may have been accepted is not repeated. The status
        is NO_ANSWER if no node answered."""
        until = time.monotonic() + seconds
        admin = json.loads((self.directory / "admin.json").read_text())
        auth = (admin["username"], admin["password"])
        while time.monotonic() < until:
            for url in admin["urls"]:
                try:
                    with httpx.Client(auth=auth, verify=False, timeout=REQUEST_TIMEOUT_S) as client:
                        answer = client.request(method, url + path, json=body)
                except httpx.ConnectError:
                    continue
                except httpx.TransportError as e:
                    return NO_ANSWER, f"{type(e).__name__}"
                return answer.status_code, _json(answer)
            time.sleep(0.1)
        return NO_ANSWER, "no node is reachable"


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return {}
