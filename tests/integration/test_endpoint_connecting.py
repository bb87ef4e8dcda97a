"""Connections to a server while the endpoint process is frozen at the worst moment.

The endpoint runs in this process, so that the test can choose the pass of its loop in which it is stopped.
"""

import asyncio
import time
from pathlib import Path

import pytest
import uvloop

from shardwright.clock import SystemClock
from shardwright.endpoint.gate import ByteBudget, Counts
from shardwright.endpoint.lease import LeaseStanding
from shardwright.endpoint.pace import LoopPace
from shardwright.endpoint.protocol import HOLD_MAX_S, EndpointSpec, Target
from shardwright.endpoint.reach import CONNECT_TIMEOUT_S, ServerAccess
from shardwright.endpoint.served import ServedEndpoint
from shardwright.model.database import ServerKind
from shardwright.model.ids import DatabaseUid, EndpointUid, ShardUid
from tests.integration.server_harness import SECRETS, RunningServer, both_servers, free_port, loopback_address, start_server


async def _serve(server: RunningServer) -> ServedEndpoint:
    address = loopback_address()
    target = Target(ShardUid(1), 1, server.address, server.port, str(server.info()["run_id"]))
    spec = EndpointSpec(
        EndpointUid("1:1"),
        DatabaseUid(1),
        "test",
        address,
        free_port(address),
        target,
        application_secret=SECRETS.application,
    )
    loop = asyncio.get_running_loop()
    served = ServedEndpoint(
        spec,
        LeaseStanding(),
        budget=ByteBudget(),
        counts=Counts(),
        pace=LoopPace(loop),
        clock=SystemClock(),
        access=ServerAccess(),
    )
    await served.serve(spec)
    return served


@pytest.mark.server
@both_servers
def test_a_process_that_freezes_while_it_connects_continues(tmp_path: Path, kind: ServerKind) -> None:
    async def ask(served: ServedEndpoint, still_in_pass: int) -> None:
        """The first command of one client; the loop is stopped this many passes after the start of the connection."""
        reader, writer = await asyncio.open_connection(served.gate.spec.address, served.gate.spec.port)
        writer.write(b"INCR n\r\n")
        async with asyncio.timeout(5):
            while not any(c.is_connecting for c in served.connections):  # noqa: ASYNC110  pass by pass
                await asyncio.sleep(0)
        for _ in range(still_in_pass):
            await asyncio.sleep(0)
        time.sleep(CONNECT_TIMEOUT_S + 0.1)  # noqa: ASYNC251  the loop is stopped
        for _ in range(6):  # … and is slow afterwards: a server answers between two passes
            await asyncio.sleep(0)
            time.sleep(0.02)  # noqa: ASYNC251
        reply = await asyncio.wait_for(reader.readline(), HOLD_MAX_S - 1)
        assert reply.startswith(b":"), (still_in_pass, reply)
        writer.close()

    async def scenario(server: RunningServer) -> None:
        served = await _serve(server)
        try:
            for still_in_pass in range(6):
                await ask(served, still_in_pass)
        finally:
            await served.end()

    server = start_server(kind, tmp_path, shard_uid=1, is_open=True)
    try:
        uvloop.run(scenario(server))
    finally:
        server.stop()
