"""Every answer of every daemon is JSON, even of a daemon that ends because its node is removed, and about a removed node."""

import json
import threading
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.rest_harness import RestCluster

pytestmark = [pytest.mark.server, pytest.mark.e2e, pytest.mark.proof]
ROUNDS = 2
HAMMERS = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[RestCluster]:
    with RestCluster() as running:
        running.create("orders", replication=True)
        yield running


class Hammer(threading.Thread):
    """Calls every daemon about one node repeatedly, over kept and over new connections."""

    def __init__(self, cluster: RestCluster, daemons: list[str], node: int) -> None:
        super().__init__(name="hammer")
        self.cluster = cluster
        self.daemons = daemons
        self.node = node
        self.stop = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.strange: list[str] = []

    def requests(self) -> Iterator[tuple[str, str]]:
        for path in ("", "/status", "/actions", "/actions/remove", "/actions/maintenance_on", "/snapshots", "/nothing"):
            yield "GET", f"/v1/nodes/{self.node}{path}"
        yield from (("GET", path) for path in ("/v1/nodes", "/v1/nodes/status", "/v1/nodes/actions", "/v1/actions"))
        yield "GET", f"/v1/nodes/{self.node}/explain?action=remove"
        yield "POST", f"/v1/nodes/{self.node}/actions/remove?dry_run=true"
        yield "DELETE", f"/v1/nodes/{self.node}/actions/maintenance_off"
        yield "PATCH", f"/v1/nodes/{self.node}"

    def run(self) -> None:
        while not self.stop.is_set():
            with httpx.Client(auth=(self.cluster.username, self.cluster.password), verify=False, timeout=15) as http:
                for method, path in self.requests():
                    for daemon in self.daemons:
                        self.ask(http, method, daemon + path)

    def ask(self, http: httpx.Client, method: str, url: str) -> None:
        try:
            answer = http.request(method, url)
        except httpx.TransportError:
            return  # its daemon has ended, or does not listen yet
        self.statuses[answer.status_code] += 1
        try:
            json.loads(answer.content)
        except ValueError:
            self.strange.append(f"{method} {url}: {answer.status_code} {answer.headers} {answer.content[:200]!r}")


def test_a_removed_node_while_nodes_come_and_go(cluster: RestCluster) -> None:
    for _ in range(ROUNDS):
        node = cluster.add_node()
        daemons = [cluster.url(uid) for uid in range(1, node + 1)]
        hammers = [Hammer(cluster, daemons, node) for _ in range(HAMMERS)]
        for hammer in hammers:
            hammer.start()
        try:
            cluster.wait("answers of all", lambda: all(h.statuses[200] for h in hammers))  # noqa: B023
            cluster.done(node, "remove")
            cluster.wait("answers about a removed node", lambda: all(h.statuses[404] > 20 for h in hammers))  # noqa: B023
        finally:
            for hammer in hammers:
                hammer.stop.set()
            for hammer in hammers:
                hammer.join(60)
        assert [line for hammer in hammers for line in hammer.strange] == []
        statuses = sum((hammer.statuses for hammer in hammers), Counter())
        assert not {status for status in statuses if status >= 500} - {503}, statuses
