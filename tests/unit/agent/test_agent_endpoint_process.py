"""How an endpoint process is started and recognized."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from shardwright.agent.endpoint_process import (
    BACKOFF,
    EndpointProcessKeeper,
    endpoint_command,
)
from shardwright.clock import SystemClock
from shardwright.endpoint import main as endpoint_main
from shardwright.endpoint.client import EndpointClient, UnixCaller
from shardwright.machine.identity_file import read_identity, write_identity
from shardwright.model.ids import NodeUid
from shardwright.model.seen import ProcessIdentity, Sighting
from shardwright.nodes.protocol import NOT_SEEN
from shardwright.tasks import spawn
from testkit.deadlines import until_async

IDENTITY = ProcessIdentity(77, "boot", 5, "/usr/bin/python3", "/data/node-1", "machine")


def test_the_command_has_this_python_one_node_and_paths_only() -> None:
    command = endpoint_command(NodeUid(3), Path("/run/e.sock"), Path("/data/e.log"))
    assert command[:3] == [sys.executable, "-m", endpoint_main.__name__]
    assert command[3:] == ["--node", "3", "--control", "/run/e.sock", "--log", "/data/e.log"]
    configured = endpoint_command(NodeUid(3), Path("/run/e.sock"), Path("/data/e.log"), Path("/etc/e.toml"))
    assert configured == [*command, "--config", "/etc/e.toml"]


def test_the_command_names_its_node_so_that_processes_are_not_confused() -> None:
    paths = Path("/run/e.sock"), Path("/data/e.log")
    assert endpoint_command(NodeUid(3), *paths)[1:] != endpoint_command(NodeUid(4), *paths)[1:]


@pytest.mark.parametrize("left_out", ["--node", "--control", "--log"])
def test_the_process_accepts_all_of_its_arguments(left_out: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = endpoint_command(NodeUid(3), Path("/run/e.sock"), Path("/data/e.log"))[3:]
    at = arguments.index(left_out)
    with pytest.raises(SystemExit):
        endpoint_main.main(arguments[:at] + arguments[at + 2 :])
    assert left_out in capsys.readouterr().err


def test_an_identity_is_read_as_written_and_invalid_ones_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.json"
    assert read_identity(path) is None
    write_identity(path, IDENTITY)
    found = read_identity(path)
    assert found == IDENTITY
    assert found is not None
    assert found.machine_id == "machine"
    assert path.stat().st_mode & 0o777 == 0o600
    for content in (b"", b"{}", b'{"pid": "x"}'):
        path.write_bytes(content)
        assert read_identity(path) is None
    assert read_identity(tmp_path) is None, "a directory"


def test_a_process_that_dies_repeatedly_is_restarted_within_a_second() -> None:
    delays = [BACKOFF.delay_s(deaths) for deaths in range(20)]
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert max(delays) < 1.0


def test_only_a_process_that_certainly_does_not_run_has_ended(tmp_path: Path) -> None:
    """What the agent says to leaders on other machines."""

    async def scenario() -> None:
        control = tmp_path / "e.sock"
        clock = SystemClock()
        keeper = EndpointProcessKeeper(
            NodeUid(3),
            tmp_path,
            control=control,
            process=EndpointClient(NodeUid(3), UnixCaller(NodeUid(3), str(control))),
            clock=clock,
            on_change=lambda: None,
            command=[sys.executable, "-c", f"import time; time.sleep(600)  # {tmp_path}"],
        )
        assert keeper.look() == NOT_SEEN, "it has not looked for the process of an earlier agent yet"
        await keeper.load()
        assert keeper.look().sighting is Sighting.ENDED
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(control))
            assert keeper.look().sighting is Sighting.ENDED, "the path of a process that has ended"
            listener.listen()
            assert keeper.look() == NOT_SEEN, "an unknown process listens"
        starting = spawn("test: start", ensure(keeper))
        await asyncio.sleep(0)
        assert keeper.look() == NOT_SEEN, "it may have begun to run"
        await starting
        assert keeper.identity is not None
        try:
            assert keeper.look().sighting is Sighting.RUNS
        finally:
            os.kill(keeper.identity.pid, signal.SIGKILL)
        await until_async("the end is noticed", lambda: keeper.identity is None, seconds=10)
        assert keeper.look().sighting is Sighting.ENDED

    asyncio.run(scenario())


async def ensure(keeper: EndpointProcessKeeper) -> None:
    await keeper.ensure()
