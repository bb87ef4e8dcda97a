"""A small real daemon for tests of the local cluster: answers pings and HTTPS, holds its lease, runs an agent.

``python -m local_daemon --dir DIR --node N``, instead of the product's daemon. The first node's daemon plays the leader.
"""

import argparse
import asyncio
import contextlib
import os
import ssl
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shardwright.agent.loop import Agent
from shardwright.clock import SystemClock
from shardwright.daemon_config import DaemonConfig
from shardwright.local import daemon
from shardwright.local.layout import layout_of
from shardwright.machine.processes import identity_of
from shardwright.model.cluster import DaemonPresence, Leadership
from shardwright.model.ids import LeaseId, NodeUid
from shardwright.nodes.paths import control_path
from shardwright.store import keys, records
from shardwright.store.mirror import Mirror
from shardwright.store.open import open_store
from shardwright.store.protocol import PutKey, Store, Transaction
from shardwright.tasks import spawn
from tests.integration.agent_harness import STAND_IN, RecordingEndpointProcess

LEASE_TTL = timedelta(seconds=20)
"""Long, so that a test notices whether the supervisor has revoked it."""


async def body(config: DaemonConfig) -> None:
    store = await open_store(config.store)
    mirror = Mirror(store, sealing=config.sealing)
    control = control_path(config.run_directory, config.node_uid)
    agent = Agent(
        config.node_uid,
        store,
        mirror=mirror,
        directory=config.directory,
        control=control,
        clock=SystemClock(),
        endpoint_command=[*STAND_IN, "shardwright.endpoint.main", "--control", str(control)],
        endpoint_process=RecordingEndpointProcess(),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(config.api_certificate, config.api_key)
    server = await asyncio.start_server(answer, config.addresses[0], config.api_port, ssl=context)
    tasks = [spawn("mirror", mirror.run()), spawn("agent", agent.run())]
    try:
        lease = await store.grant(LEASE_TTL)
        await be_present(store, config, lease)
        while True:
            await asyncio.sleep(1)
            await store.renew(lease)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await store.revoke(lease)
        await store.close()


async def be_present(store: Store, config: DaemonConfig, lease: LeaseId) -> None:
    me = identity_of(os.getpid())
    assert me is not None
    presence = DaemonPresence(
        config.node_uid, me.pid, me.start_ticks, me.boot_id, lease, "0", config.api_url, datetime.now(UTC)
    )
    operations = [PutKey(keys.key_of(presence), records.encode(presence), lease)]
    if config.node_uid == 1:
        operations.append(PutKey(keys.LEADER, records.encode(Leadership(config.node_uid, 1)), lease))
    await store.transact(Transaction((), tuple(operations)))


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
    writer.close()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--node", type=int, required=True)
    given = parser.parse_args()
    return daemon.run(layout_of(given.dir), NodeUid(given.node), body)


if __name__ == "__main__":
    sys.exit(main())
