"""The agent and its endpoint process: started again after its end, and ended when it is frozen."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from shardwright.machine.processes import is_running
from shardwright.model.database import GroupPhase
from shardwright.server.binaries import all_servers
from testkit.deadlines import Stopwatch
from tests.integration.agent_harness import NODE, SECRETS, World, endpoint, group, run, started

pytestmark = pytest.mark.server


def test_the_endpoint_process_is_restarted_and_configured_at_once(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        # The agent sends a new process the present records; later changes come from the leader.
        kept, wanted = await started(made, all_servers()[0], password="hush")
        serving = group(phase=GroupPhase.SERVING, primary=wanted.uid, generation=4)
        await made.put(serving, endpoint(made.address, kept.port))
        async with made.agent():
            await made.until(lambda: made.endpoints.served != [])
            await made.until(lambda: (seen := made.seen()) is not None and seen.endpoint_process is not None)
            first = made.mirror.view().node_seen[NODE].endpoint_process
            assert first is not None
            made.endpoints.served.clear()
            killed = Stopwatch()
            os.kill(first.pid, signal.SIGKILL)
            await made.until(lambda: made.endpoints.served != [])
            assert killed.is_within(1.0), killed
            spec = made.endpoints.served[0]
            assert spec.target is not None
            assert (spec.target.generation, spec.target.port, spec.password) == (4, wanted.port, "hush")
            assert spec.application_secret == SECRETS.application
            await made.until(lambda: made.mirror.view().node_seen[NODE].endpoint_process not in (None, first))
            second = made.mirror.view().node_seen[NODE].endpoint_process
        assert second is not None
        assert is_running(second), "endpoints outlive the agent"
        async with made.agent() as agent:
            await made.until(lambda: made.endpoints.served != [])
            await made.idle_turns(agent)
            assert made.mirror.view().node_seen[NODE].endpoint_process == second

    run(tmp_path, scenario)


@pytest.mark.proof
def test_a_frozen_endpoint_process_is_ended_and_another_one_started(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        await made.put(replace(made.mirror.view().policy, stuck_server_timeout_s=1))
        async with made.agent():
            await made.until(lambda: (seen := made.seen()) is not None and seen.endpoint_process is not None)
            first = made.mirror.view().node_seen[NODE].endpoint_process
            made.endpoints.answers = False
            await made.until(lambda: made.mirror.view().node_seen[NODE].endpoint_process not in (None, first))
        assert first is not None
        assert not is_running(first)

    run(tmp_path, scenario)
