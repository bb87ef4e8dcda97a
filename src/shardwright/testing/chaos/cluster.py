"""The cluster under chaos: a local one of real processes, at addresses of its own, of which any daemon may be away."""

import json
import os
import time
from typing import Any

import httpx

from shardwright.demo.cluster import DemoCluster
from shardwright.local.layout import layout_of
from shardwright.testing.chaos.facts import Records, read_records
from shardwright.testing.processes import ending_all

REQUEST_TIMEOUT_S = 3.0
NO_ANSWER = 0


def own_base() -> str:
    """Addresses that hardly anybody else uses: one run's own."""
    return f"127.{160 + os.getpid() % 40}.{1 + os.getpid() // 40 % 250}.1"


class ChaosCluster(DemoCluster):
    """Use as a context manager: at its end nothing is left running and nothing is left behind."""

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
        """Bring it up again. Raises DemoFailed."""
        self._command("up", "--detach")

    def records(self) -> Records:
        """What the store says now. Raises sqlite3.Error."""
        return read_records(self.layout)

    def ask(self, method: str, path: str, body: Any = None, *, seconds: float = 10.0) -> tuple[int, Any]:
        """One request, of whichever node answers first; a request that may have been accepted is not repeated. The status
        is NO_ANSWER when nobody answered."""
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
        return NO_ANSWER, "no node can be reached"


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return {}
