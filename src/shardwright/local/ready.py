"""Waits until a local cluster serves: every node's API answers, every daemon is present, one daemon leads."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path

from shardwright.clock import Clock
from shardwright.errors import Permanent
from shardwright.local.config import read_cluster, read_nodes
from shardwright.local.layout import Layout
from shardwright.machine.files import last_line
from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import is_running
from shardwright.model.cluster import Node
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.store import keys
from shardwright.store.protocol import Store, StoreUnavailable

READY_TIMEOUT_S = 90.0
ASK_TIMEOUT_S = 5.0
CHECK_EVERY_S = 0.1


async def wait_ready(layout: Layout, store: Store, *, clock: Clock, on_node: Callable[[Node], None]) -> None:
    """Wait until the cluster serves. ``on_node`` is called once for each node that has answered. Raises Permanent,
    which names the missing parts, after a timeout or if the supervisor has ended."""
    cluster, nodes = await read_cluster(store), await read_nodes(store)
    assert cluster is not None
    deadline = clock.monotonic() + READY_TIMEOUT_S
    answered: set[NodeUid] = set()
    present: set[str] = set()
    while True:
        # Read again each time: a removal in progress may end during the wait.
        with contextlib.suppress(StoreUnavailable):
            nodes = await read_nodes(store)
        # All at once: on a busy machine, each of them may need all of its time.
        asked = [n for n in nodes if n.uid not in answered]
        answers = await asyncio.gather(*(api_answers(n.address, cluster.api_port, layout.certificate) for n in asked))
        for node in (n for n, is_there in zip(asked, answers, strict=True) if is_there):
            answered.add(node.uid)
            on_node(node)
        waiting = {n.uid: n for n in nodes if n.uid not in answered}
        supervisor = read_identity(layout.supervisor)
        # Daemons that outlived an earlier supervisor answer before the new supervisor has even started.
        absent = "" if waiting else await _absent(store, nodes, present)
        if not waiting and not absent and supervisor is not None and is_running(supervisor):
            return
        if clock.monotonic() > deadline:
            missing = _silent_nodes(layout, waiting) if waiting else absent or "the daemons have no supervisor"
            raise Permanent(Code.NOT_READY, f"{missing} after {READY_TIMEOUT_S:.0f} s; check {layout.directory}")
        if supervisor is not None and not is_running(supervisor):
            output = last_line(layout.supervisor_output)
            raise Permanent(
                Code.SUPERVISOR_ENDED, f"the supervisor has ended; check {layout.logs}" + (f": {output}" if output else "")
            )
        await clock.sleep(CHECK_EVERY_S)


async def api_answers(address: str, port: int, certificate: Path) -> bool:
    """Whether an HTTPS server with the cluster's certificate answers there; every status below 500 counts."""
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


async def _absent(store: Store, nodes: list[Node], present: set[str]) -> str:
    """The missing parts once every API answers: a leader, or daemons that hold their lease; empty if nothing is missing.
    ``present`` collects the daemons observed so far: if daemons die occasionally, they may never all be present at once."""
    try:
        present |= {item.key for item in (await store.range(keys.DAEMONS)).items}
        if await store.get(keys.LEADER) is None:
            return "every API answers, but the cluster has no leader"
    except StoreUnavailable as e:
        return f"every API answers, but the store cannot be read: {e.text}"
    missing = [str(n.uid) for n in nodes if f"{keys.DAEMONS}{n.uid:08d}" not in present]
    return f"the daemons of nodes {', '.join(missing)} do not hold their lease" if missing else ""


def _silent_nodes(layout: Layout, waiting: dict[NodeUid, Node]) -> str:
    texts = []
    for uid, node in sorted(waiting.items()):
        output = last_line(layout.daemon_output(node.uid))
        texts.append(f"node {uid} at {node.address} does not answer" + (f" ({output})" if output else ""))
    return "; ".join(texts)
