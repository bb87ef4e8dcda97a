"""The agent with real servers of both kinds: it starts each incarnation once, adopts by identity, ends as requested, and
reports at once."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from shardwright.agent.launch import RECORD_NAME, Stage, read_record, write_record
from shardwright.machine.processes import arguments_of, identity_of, is_running
from shardwright.model.database import (
    AofPolicy,
    Damage,
    Persistence,
    ServerKind,
    Shard,
    ShardWanted,
    SnapshotRule,
    StartWith,
)
from shardwright.model.ids import ShardUid
from shardwright.model.seen import ProcessIdentity, ProcessState
from shardwright.server.binaries import ServerBinary, all_servers
from testkit.deadlines import Stopwatch
from tests.integration.agent_harness import (
    NODE,
    SECRETS,
    WatchedAgent,
    World,
    database,
    free_port,
    group,
    run,
    shard,
    started,
)

pytestmark = pytest.mark.server


@pytest.fixture(params=list(ServerKind))
def binary(request: pytest.FixtureRequest) -> ServerBinary:
    found = next((b for b in all_servers() if b.kind is request.param), None)
    if found is None:
        pytest.skip(f"{request.param}-server was not found")
    return found


@pytest.fixture
def any_binary() -> ServerBinary:
    return all_servers()[0]


def ask(made: World, wanted: Shard, *command: str) -> bytes:
    """Execute one command as the management user, in plain RESP."""
    with socket.create_connection((made.address, wanted.port), timeout=5) as connection:
        for words in (("AUTH", "management", SECRETS.management), command):
            connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
            answer = connection.recv(65536)
        return answer


def until_answers(made: World, wanted: Shard) -> Callable[[], bool]:
    def answers() -> bool:
        try:
            return b"PONG" in ask(made, wanted, "PING")
        except OSError:
            return False

    return answers


def identity_in(made: World, uid: int = 1) -> ProcessIdentity:
    record = read_record(made.shard_directory(uid))
    assert record is not None
    assert record.identity is not None
    return record.identity


def test_a_shard_starts_dies_is_reported_and_starts_as_a_new_incarnation(tmp_path: Path, binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        async with made.agent() as agent:
            _, wanted = await started(made, binary)
            seen = await made.until_state(1, ProcessState.RUNNING)
            assert seen.identity == identity_in(made)
            assert {"agent: shard 1"} in agent.turns
            await made.until(until_answers(made, wanted))
            assert oct(made.shard_directory(1).stat().st_mode)[-3:] == "700"
            assert oct((made.shard_directory(1) / "server.conf").stat().st_mode)[-3:] == "600"
            for secret in (SECRETS.application, SECRETS.management):
                assert secret not in " ".join(arguments_of(seen.identity.pid))

            killed = Stopwatch()
            os.kill(seen.identity.pid, signal.SIGKILL)
            gone = await made.until_state(1, ProcessState.GONE)
            assert killed.is_within(0.1), f"a death is reported at once: {killed}"
            assert "signal 9" in gone.text
            assert gone.ended_at is not None
            await made.idle_turns(agent)  # The agent itself does not start it again.
            assert made.process(1) == gone

            again = replace(wanted, incarnation=2, port=free_port(made.address))
            await made.put(again)
            await made.until_state(1, ProcessState.RUNNING, incarnation=2)
            await made.until(until_answers(made, again))

    run(tmp_path, scenario)


def test_a_new_agent_adopts_running_processes_and_starts_nothing_twice(tmp_path: Path, binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        async with made.agent():
            await started(made, binary)
            before = await made.until_state(1, ProcessState.RUNNING)
        assert before.identity is not None
        assert is_running(before.identity), "servers outlive their agent"
        async with made.agent() as agent:
            await made.until(lambda: agent.is_shard_running(ShardUid(1)))
            os.kill(before.identity.pid, signal.SIGKILL)
            killed = Stopwatch()
            await made.until_state(1, ProcessState.GONE)
            assert killed.is_within(0.1), killed

    run(tmp_path, scenario)


def test_a_death_without_a_running_agent_is_found(tmp_path: Path, any_binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        async with made.agent():
            await started(made, any_binary)
            before = await made.until_state(1, ProcessState.RUNNING)
        assert before.identity is not None
        os.kill(before.identity.pid, signal.SIGKILL)
        await made.until(lambda: not is_running(before.identity))  # type: ignore[arg-type]
        async with made.agent():
            seen = await made.until_state(1, ProcessState.GONE)
            assert "no daemon" in seen.text

    run(tmp_path, scenario)


def test_an_agent_that_died_between_start_and_record_finds_the_server(tmp_path: Path, binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        async with made.agent():
            _, wanted = await started(made, binary)
            before = await made.until_state(1, ProcessState.RUNNING)
            await made.until(until_answers(made, wanted))
        record = read_record(made.shard_directory(1))
        assert record is not None
        write_record(made.shard_directory(1), replace(record, stage=Stage.INTENDED, identity=None))
        async with made.agent() as agent:
            await made.until(lambda: agent.is_shard_running(ShardUid(1)))
            assert made.process(1) == before

    run(tmp_path, scenario)


def test_an_agent_that_died_between_intent_and_start_does_not_start_it_twice(
    tmp_path: Path, any_binary: ServerBinary
) -> None:
    async def scenario(made: World) -> None:
        async with made.agent():
            await started(made, any_binary)
            before = await made.until_state(1, ProcessState.RUNNING)
            assert before.identity is not None
            os.kill(before.identity.pid, signal.SIGKILL)
            await made.until_state(1, ProcessState.GONE)
        record = read_record(made.shard_directory(1))
        assert record is not None
        write_record(made.shard_directory(1), replace(record, stage=Stage.INTENDED, identity=None))
        async with made.agent():
            await made.until(lambda: "died during its start" in (made.process(1) or before).text)
            seen = made.process(1)
            assert seen is not None
            assert seen.state is ProcessState.GONE

    run(tmp_path, scenario)


def test_lost_files_do_not_start_an_incarnation_twice(tmp_path: Path, any_binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        async with made.agent():
            await started(made, any_binary)
            before = await made.until_state(1, ProcessState.RUNNING)
        (made.shard_directory(1) / RECORD_NAME).unlink()
        async with made.agent() as agent:
            await made.until(lambda: agent.is_shard_running(ShardUid(1)))
            assert made.process(1) == before

    run(tmp_path, scenario)


def test_a_process_with_a_reused_pid_is_neither_adopted_nor_ended(tmp_path: Path, any_binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        async with made.agent():
            _, wanted = await started(made, any_binary)
            before = await made.until_state(1, ProcessState.RUNNING)
            assert before.identity is not None
            os.kill(before.identity.pid, signal.SIGKILL)
            await made.until_state(1, ProcessState.GONE)
        me = identity_of(os.getpid())
        record = read_record(made.shard_directory(1))
        assert record is not None
        assert me is not None
        assert record.identity is not None
        reused = replace(record.identity, pid=me.pid)
        write_record(made.shard_directory(1), replace(record, identity=reused))
        await made.put(replace(wanted, wanted=ShardWanted.GONE))
        async with made.agent():
            await made.until(lambda: not made.shard_directory(1).exists())
        # The proof is that this test still runs.

    run(tmp_path, scenario)


def test_stopped_keeps_the_files_and_gone_deletes_them(tmp_path: Path, binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        async with made.agent():
            rules = (SnapshotRule(3600, 1),)
            _, wanted = await started(made, binary, persistence=Persistence.SNAPSHOT, snapshot_rules=rules)
            await made.until_state(1, ProcessState.RUNNING)
            await made.until(until_answers(made, wanted))
            identity = identity_in(made)
            await made.put(replace(wanted, wanted=ShardWanted.STOPPED))
            stopped = await made.until_state(1, ProcessState.GONE)
            assert not is_running(identity)
            assert not stopped.files_are_deleted
            assert (made.shard_directory(1) / "server.conf").exists()
            await made.put(replace(wanted, wanted=ShardWanted.GONE))
            await made.until(lambda: (made.process(1) or stopped).files_are_deleted)
            assert not made.shard_directory(1).exists()

    run(tmp_path, scenario)


def test_gone_before_its_first_start_is_reported(tmp_path: Path, any_binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        wanted = shard(free_port(made.address), wanted=ShardWanted.GONE)
        await made.put(database(any_binary), SECRETS, group(), wanted)
        async with made.agent():
            seen = await made.until_state(1, ProcessState.GONE)
            assert seen.files_are_deleted

    run(tmp_path, scenario)


def test_an_orphan_is_ended_and_deleted_only_if_its_record_is_certainly_deleted(
    tmp_path: Path, any_binary: ServerBinary
) -> None:
    async def scenario(made: World) -> None:
        async with made.agent():
            _, wanted = await started(made, any_binary)
            await made.until_state(1, ProcessState.RUNNING)
            identity = identity_in(made)
        await made.delete(wanted)
        node = made.mirror.view().nodes[NODE]
        await made.delete(node)
        async with made.agent() as agent:
            # Without the node's own record, the store does not know its shards.
            await made.until(lambda: agent.is_shard_running(ShardUid(1)))
            await made.idle_turns(agent)
            assert is_running(identity)
            await made.put(node)
            await made.until(lambda: not made.shard_directory(1).exists())
            assert not is_running(identity)

    run(tmp_path, scenario)


def test_a_port_in_use_is_a_failure_with_a_reason(tmp_path: Path, any_binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        with socket.socket() as taken:
            taken.bind((made.address, 0))
            taken.listen()
            port = taken.getsockname()[1]
            await made.put(database(any_binary), SECRETS, group(), shard(port))
            async with made.agent():
                seen = await made.until_state(1, ProcessState.FAILED)
                assert f"port {port}" in seen.text
                assert "in use" in seen.text

    run(tmp_path, scenario)


def test_a_missing_version_is_a_failure_that_names_the_available_ones(tmp_path: Path, any_binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        old = replace(database(any_binary), server_version="1.2.3")
        await made.put(old, SECRETS, group(), shard(free_port(made.address)))
        async with made.agent():
            seen = await made.until_state(1, ProcessState.FAILED)
            assert "1.2.3 is not on this machine" in seen.text
            assert any_binary.version in seen.text

    run(tmp_path, scenario)


def test_a_server_that_ends_right_after_its_start_has_failed(tmp_path: Path, any_binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        kept = database(any_binary, persistence=Persistence.AOF)
        made.shard_directory(1).mkdir(parents=True)
        (made.shard_directory(1) / "appendonlydir").write_bytes(b"this is no directory")
        await made.put(kept, SECRETS, group(), shard(free_port(made.address)))
        async with made.agent():
            seen = await made.until_state(1, ProcessState.FAILED)
            assert "right after its start" in seen.text
            assert seen.damage is None

    run(tmp_path, scenario)


def test_a_server_with_an_invalid_snapshot_has_failed_with_a_reason(tmp_path: Path, binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        kept = database(binary, persistence=Persistence.SNAPSHOT, snapshot_rules=(SnapshotRule(3600, 1),))
        made.shard_directory(1).mkdir(parents=True)
        (made.shard_directory(1) / "dump.rdb").write_bytes(b"this is no snapshot at all")
        await made.put(kept, SECRETS, group(), shard(free_port(made.address)))
        async with made.agent():
            seen = await made.until_state(1, ProcessState.FAILED)
            assert seen.damage is Damage.SNAPSHOT
            assert seen.text.startswith("Wrong signature")

    run(tmp_path, scenario)


def test_a_database_without_persistence_loads_no_outdated_file(tmp_path: Path, binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        made.shard_directory(1).mkdir(parents=True)
        (made.shard_directory(1) / "dump.rdb").write_bytes(b"this is no snapshot at all")
        (made.shard_directory(1) / "appendonlydir").mkdir()
        async with made.agent():
            _, wanted = await started(made, binary)
            await made.until_state(1, ProcessState.RUNNING)
            await made.until(until_answers(made, wanted))
            assert not (made.shard_directory(1) / "dump.rdb").exists()
            assert not (made.shard_directory(1) / "appendonlydir").exists()

    run(tmp_path, scenario)


def test_a_server_without_a_record_is_ended_before_the_next_one_starts(tmp_path: Path, any_binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        async with made.agent():
            _, wanted = await started(made, any_binary)
            await made.until_state(1, ProcessState.RUNNING)
            await made.until(until_answers(made, wanted))
            identity = identity_in(made)
        (made.shard_directory(1) / RECORD_NAME).unlink()
        seen = made.mirror.view().node_seen[NODE]
        await made.delete(seen)
        await made.put(replace(wanted, incarnation=2, port=free_port(made.address)))
        async with made.agent():
            await made.until_state(1, ProcessState.RUNNING, incarnation=2)
            assert not is_running(identity)

    run(tmp_path, scenario)


def has_turned(agent: WatchedAgent, turns: int) -> bool:
    return agent.turns_begun >= turns


def test_an_idle_agent_rests(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        async with made.agent() as agent:
            await made.until(lambda: (seen := made.seen()) is not None and seen.endpoint_process is not None)
            lasted: list[float] = []
            # What the start has reported may still come back and call for a turn.
            while not lasted or lasted[-1] <= 1.0:
                assert len(lasted) < 10, f"three turns each: {lasted} s"
                began = time.monotonic()
                await made.until(partial(has_turned, agent, agent.turns_begun + 3))
                lasted.append(time.monotonic() - began)

    run(tmp_path, scenario)


def test_a_removed_node_reports_nothing(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        async with made.agent() as agent:
            await made.until(lambda: made.seen() is not None)
            seen = made.seen()
            assert seen is not None
            assert seen.cores > 0
            assert seen.memory_total_bytes > 0
            assert seen.servers
            await made.delete(made.mirror.view().nodes[NODE])
            await made.delete(seen)
            await made.put(shard(free_port(made.address), wanted=ShardWanted.GONE))  # There is a change to report.
            await made.idle_turns(agent)
            assert made.seen() is None

    run(tmp_path, scenario)


def fill(made: World, wanted: Shard) -> None:
    for number in range(20):
        assert b"OK" in ask_as_application(made, wanted, "SET", f"key:{number}", "x" * 100)


def ask_as_application(made: World, wanted: Shard, *command: str) -> bytes:
    """Execute one command as the application user, with the fence lifted."""
    with socket.create_connection((made.address, wanted.port), timeout=5) as connection:
        answer = b""
        for words in (("AUTH", "management", SECRETS.management), ("CONFIG", "SET", "min-replicas-to-write", "0"),
                      ("AUTH", "application", SECRETS.application), command):  # fmt: skip
            connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
            answer = connection.recv(65536)
        return answer


async def ended_with(made: World, wanted: Shard, spoil: Callable[[Path], None]) -> None:
    """Kill the server and change its files."""
    await made.until(until_answers(made, wanted))
    await asyncio.to_thread(fill, made, wanted)
    os.kill(identity_in(made).pid, signal.SIGKILL)
    await made.until_state(1, ProcessState.GONE)
    spoil(made.shard_directory(1))


def append_zeros(directory: Path) -> None:
    (part,) = directory.glob("appendonlydir/*.incr.aof")
    with part.open("ab") as file:
        file.write(bytes(4096))


def spoil_base(directory: Path) -> None:
    (part,) = directory.glob("appendonlydir/*.base.rdb")
    part.write_bytes(bytes(40))


def lose_base(directory: Path) -> None:
    (part,) = directory.glob("appendonlydir/*.base.rdb")
    part.unlink()


@pytest.mark.parametrize(
    ("spoil", "damage"),
    [(append_zeros, Damage.APPEND_ONLY_FILE), (spoil_base, Damage.SNAPSHOT), (lose_base, Damage.INCOMPLETE)],
)
def test_a_server_that_cannot_load_its_files_is_reported_with_the_cause_and_starts_without_them(
    tmp_path: Path, binary: ServerBinary, spoil: Callable[[Path], None], damage: Damage
) -> None:
    async def scenario(made: World) -> None:
        async with made.agent():
            _, wanted = await started(made, binary, persistence=Persistence.AOF, aof_policy=AofPolicy.ALWAYS)
            await ended_with(made, wanted, spoil)
            await made.put(replace(wanted, incarnation=2, port=free_port(made.address)))
            failed = await made.until_state(1, ProcessState.FAILED, incarnation=2)
            assert failed.damage is damage
            assert "check-aof" not in failed.text
            assert ("4096 of its" in failed.text) is (spoil is append_zeros)

            empty = replace(wanted, incarnation=3, port=free_port(made.address), starts_with=StartWith.NOTHING)
            await made.put(empty)
            await made.until(until_answers(made, empty))
            assert b":0" in ask_as_application(made, empty, "DBSIZE")
            assert list(made.shard_directory(1).glob("damaged-3/appendonlydir/*.incr.aof"))

    run(tmp_path, scenario)


def test_the_damaged_end_of_a_file_is_cut_before_a_start_and_the_file_kept(tmp_path: Path, binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        async with made.agent():
            _, wanted = await started(made, binary, persistence=Persistence.AOF, aof_policy=AofPolicy.ALWAYS)
            await ended_with(made, wanted, append_zeros)
            cut = replace(wanted, incarnation=2, port=free_port(made.address), starts_with=StartWith.CUT_FILES)
            await made.put(cut)
            seen = await made.until_state(1, ProcessState.RUNNING, incarnation=2)
            assert "4096 bytes" in seen.text
            await made.until(until_answers(made, cut))
            assert b":20" in ask_as_application(made, cut, "DBSIZE")
            (kept,) = made.shard_directory(1).glob("damaged-2/*.incr.aof")
            assert kept.read_bytes().endswith(bytes(4096))

    run(tmp_path, scenario)


def test_damage_that_cannot_be_cut_is_reported_and_left_unchanged(tmp_path: Path, binary: ServerBinary) -> None:
    async def scenario(made: World) -> None:
        async with made.agent():
            _, wanted = await started(made, binary, persistence=Persistence.AOF, aof_policy=AofPolicy.ALWAYS)
            await ended_with(made, wanted, spoil_base)
            await made.put(replace(wanted, incarnation=2, port=free_port(made.address), starts_with=StartWith.CUT_FILES))
            failed = await made.until_state(1, ProcessState.FAILED, incarnation=2)
            assert "can be read to its end" in failed.text
            assert not list(made.shard_directory(1).glob("damaged-*"))

    run(tmp_path, scenario)
