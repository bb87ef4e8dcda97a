"""Waiting until a local cluster serves: every node's API answers, every daemon is present, somebody leads."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

from shardwright.agent.endpoint_process import read_identity
from shardwright.agent.files import last_line
from shardwright.agent.processes import is_running
from shardwright.clock import Clock
from shardwright.errors import Permanent
from shardwright.local.config import read_cluster, read_nodes
from shardwright.local.layout import Layout
from shardwright.model.cluster import Node
from shardwright.model.ids import NodeUid
from shardwright.store import keys
from shardwright.store.protocol import Store, StoreUnavailable

READY_TIMEOUT_S = 90.0
ASK_TIMEOUT_S = 5.0
LOOK_EVERY_S = 0.1


async def wait_ready(layout: Layout, store: Store, *, clock: Clock, on_node: Callable[[Node], None]) -> None:
    """Wait. ``on_node`` hears of each node that answers, in the order in which they do. Raises Permanent that says what is
    missing when it takes too long, or when nobody supervises the daemons any more."""
    cluster, nodes = await read_cluster(store), await read_nodes(store)
    assert cluster is not None
    deadline = clock.monotonic() + READY_TIMEOUT_S
    waiting = {n.uid: n for n in nodes}
    while True:
        for node in list(waiting.values()):
            if await api_answers(node.address, cluster.api_port, layout.certificate):
                del waiting[node.uid]
                on_node(node)
        supervisor = read_identity(layout.supervisor)
        # Daemons that outlived an earlier supervisor answer before the new one has even begun.
        if not waiting and supervisor is not None and is_running(supervisor) and await _is_led(store, nodes):
            return
        if clock.monotonic() > deadline:
            raise Permanent(
                "not_ready", f"{_missing(layout, waiting)} after {READY_TIMEOUT_S:.0f} s; see {layout.directory}"
            )
        if supervisor is not None and not is_running(supervisor):
            said = last_line(layout.supervisor_output)
            raise Permanent(
                "supervisor_ended", f"the supervisor has ended; see {layout.logs}" + (f": {said}" if said else "")
            )
        await clock.sleep(LOOK_EVERY_S)


async def api_answers(address: str, port: int, certificate: Path) -> bool:
    """Whether an HTTPS server with the cluster's certificate answers there; any status will do but a server's trouble."""
    try:
        context = ssl.create_default_context(cafile=str(certificate))
        async with asyncio.timeout(ASK_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(address, port, ssl=context, server_hostname=address)
            try:
                host = f"{address}:{port}"
                writer.write(f"GET /v1/bootstrap HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
                status = await reader.readline()
            finally:
                writer.close()
        return status.startswith(b"HTTP/1.1 ") and not status.startswith(b"HTTP/1.1 5")
    except (OSError, TimeoutError, ValueError):
        return False


async def _is_led(store: Store, nodes: list[Node]) -> bool:
    try:
        if await store.get(keys.LEADER) is None:
            return False
        present = {item.key for item in (await store.range(keys.DAEMONS)).items}
    except StoreUnavailable:
        return False
    return present >= {f"{keys.DAEMONS}{n.uid:08d}" for n in nodes}


def _missing(layout: Layout, waiting: dict[NodeUid, Node]) -> str:
    if not waiting:
        return "every API answers, but no daemon leads"
    said = []
    for uid, node in sorted(waiting.items()):
        last = last_line(layout.daemon_output(node.uid))
        said.append(f"node {uid} at {node.address} does not answer" + (f" ({last})" if last else ""))
    return "; ".join(said)
