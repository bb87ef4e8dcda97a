"""An endpoint process of another version is replaced on its node: no client notices, whoever dies meanwhile."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import redis

from shardwright import __version__
from shardwright.agent.endpoint_process import EndpointProcessKeeper, endpoint_command
from shardwright.clock import SystemClock
from shardwright.endpoint.client import EndpointClient, UnixCaller
from shardwright.endpoint.protocol import REPLACES, PassResult, Target, VirtualPlace, replacement_path
from shardwright.errors import Transient
from shardwright.machine.identity_file import read_identity, write_identity
from shardwright.machine.processes import end, find_processes, identity_of, is_running
from shardwright.model.cluster import Cluster, Node
from shardwright.model.database import ServerKind
from shardwright.model.ids import NodeUid
from shardwright.model.seen import EndpointState, ProcessIdentity
from shardwright.model.view import ClusterView
from tests.integration.endpoint_harness import ENDPOINT, World, Writers, endpoint_world, wait_until
from tests.integration.server_harness import loopback_address
from tests.integration.test_endpoint import say
from tests.integration.test_endpoint_passing import Newcomers

pytestmark = pytest.mark.server

A = NodeUid(1)
NEWER = "9.9.9"
"""What the daemon says of its own version: the processes of these tests are all of another one."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)
VIEW = ClusterView(cluster=Cluster("c", NOW, "127.0.0.1", 9443), nodes={A: Node(A, "127.0.0.1", NOW)})


def client_at(path: str) -> EndpointClient:
    return EndpointClient(A, UnixCaller(A, path), call_timeout_s=3.0)


def first(world: World) -> ProcessIdentity:
    found = identity_of(world.processes[A].process.pid)
    assert found is not None
    return found


def keeper_of(world: World, *, version: str = NEWER) -> EndpointProcessKeeper:
    control = Path(world.processes[A].path)
    return EndpointProcessKeeper(
        A,
        world.directory,
        control=control,
        process=client_at(str(control)),
        clock=SystemClock(),
        on_change=lambda: None,
        command=endpoint_command(A, control, world.processes[A].log),
        version=version,
    )


def run(world: World, scenario: Callable[[EndpointProcessKeeper], Awaitable[None]], *, version: str = NEWER) -> None:
    """With an agent's keeper that has adopted the process of the endpoint."""

    async def whole() -> None:
        keeper = keeper_of(world, version=version)
        await keeper.load()
        try:
            async with asyncio.timeout(60):
                await scenario(keeper)
        finally:
            keeper.close()

    asyncio.run(whole())


async def replace(keeper: EndpointProcessKeeper) -> None:
    await keeper.replace_if_old(lambda: VIEW)


@contextmanager
def replaceable_world(directory: Path) -> Iterator[World]:
    with endpoint_world(ServerKind.VALKEY, directory) as world:
        write_identity(world.directory / "endpoint.json", first(world))
        try:
            yield world
        finally:
            for process in find_processes(lambda p: p.directory == str(world.directory)):
                asyncio.run(end(process, 1.0))


def start_next(world: World) -> ProcessIdentity:
    """The process that takes the place, as a daemon starts it that dies right afterwards."""
    path = world.processes[A].path
    command = [*endpoint_command(A, Path(path), world.processes[A].log), REPLACES]
    process = subprocess.Popen(command, cwd=world.directory, start_new_session=True)
    process.returncode = 0  # It is waited for by its pid.
    wait_until(lambda: asyncio.run(client_at(replacement_path(path)).status()).answers)
    found = identity_of(process.pid)
    assert found is not None
    return found


def pass_to_next(world: World) -> PassResult:
    path = world.processes[A].path
    return asyncio.run(client_at(path).pass_endpoint(ENDPOINT, replacement_path(path), is_replacement=True))


def pass_all_to_next(world: World) -> None:
    def is_done() -> bool:
        try:
            return pass_to_next(world).remaining == 0
        except Transient:
            return False

    wait_until(is_done, timeout_s=20, state=world.status)


def test_no_client_notices_that_the_process_is_another_one(tmp_path: Path) -> None:
    with replaceable_world(tmp_path) as world:
        old = first(world)
        with Writers(world, 6, protocol=3) as writers, Newcomers(world) as newcomers:
            wait_until(lambda: len(writers.acknowledged) == 6)

            async def scenario(keeper: EndpointProcessKeeper) -> None:
                assert keeper.identity == old
                await replace(keeper)
                assert keeper.identity not in (None, old)
                assert read_identity(world.directory / "endpoint.json") == keeper.identity
                assert keeper.needs_configuration, "what the old one did not know yet"

            run(world, scenario)
            assert not is_running(old)
            seen = world.status()
            assert (seen.pid, seen.version) != (old.pid, "")
            assert seen.endpoint(ENDPOINT).state is EndpointState.LISTENING
            assert not Path(replacement_path(world.processes[A].path)).exists()
            before = newcomers.count
            wait_until(partial(newcomers.are_beyond, before + 5))
            world.hand_off()
        assert newcomers.errors == []
        writers.check()


def test_a_process_of_the_same_version_stays(tmp_path: Path) -> None:
    with replaceable_world(tmp_path) as world:
        old = first(world)

        async def scenario(keeper: EndpointProcessKeeper) -> None:
            await replace(keeper)
            await replace(keeper)
            assert keeper.identity == old

        run(world, scenario, version=__version__)
        assert world.status().pid == old.pid


def test_a_handoff_in_the_midst_of_it_is_one_for_both_processes(tmp_path: Path) -> None:
    with replaceable_world(tmp_path) as world:
        handoff_in_the_midst(world)


def handoff_in_the_midst(world: World) -> None:
    with Writers(world, 4) as writers, world.raw() as busy:
        wait_until(lambda: len(writers.acknowledged) == 4)
        say(busy, b"AUTH client-password\r\nSUBSCRIBE c\r\n", b":1\r\n")
        start_next(world)
        wait_until(lambda: pass_to_next(world).remaining <= 1)
        seen = world.status().endpoint(ENDPOINT)
        assert (seen.state, seen.held_generation) == (EndpointState.LISTENING, None)
        assert seen.connections >= 4
        world.hand_off()
        seen = world.status().endpoint(ENDPOINT)
        assert (seen.state, seen.generation, seen.held_generation) == (EndpointState.LISTENING, world.generation, None)
        world.serve(password="another")
        pass_all_to_next(world)
        with world.connect(password="another") as client:
            assert client.ping()
        world.serve(password="client-password")
        other = world.start_process(2).path
        world.serve(2)
        with pytest.raises(Transient, match="being replaced"):
            asyncio.run(client_at(other).pass_endpoint(ENDPOINT, world.processes[A].path))
    writers.check()


def test_a_new_process_that_dies_costs_its_connections_only(tmp_path: Path) -> None:
    with replaceable_world(tmp_path) as world:
        new = start_next(world)
        pass_all_to_next(world)
        asyncio.run(end(new, 0))
        hold = partial(asyncio.run, client_at(world.processes[A].path).hold(ENDPOINT, *targets(world)))
        with pytest.raises(Transient, match="takes the place"):
            hold()
        asyncio.run(client_at(world.processes[A].path).keep())
        wait_until(lambda: world.state() is EndpointState.LISTENING)
        with world.connect() as client:
            assert client.ping()
        world.hand_off()


def targets(world: World) -> tuple[Target, Target]:
    return world.target(world.primary, world.generation), world.target(world.replica, world.generation + 1)


@pytest.mark.parametrize("has_taken_over", [False, True])
def test_the_next_daemon_goes_on_where_one_has_died(tmp_path: Path, has_taken_over: bool) -> None:
    with replaceable_world(tmp_path) as world:
        go_on(world, has_taken_over=has_taken_over)


def go_on(world: World, *, has_taken_over: bool) -> None:
    with Writers(world, 4) as writers:
        wait_until(lambda: len(writers.acknowledged) == 4)
        old, new = first(world), start_next(world)
        if has_taken_over:
            pass_all_to_next(world)
            asyncio.run(client_at(replacement_path(world.processes[A].path)).take_over())
        else:
            pass_to_next(world)

        async def scenario(keeper: EndpointProcessKeeper) -> None:
            assert keeper.identity == old, "as it is noted"
            await replace(keeper)
            assert keeper.identity == new

        run(world, scenario)
        assert not is_running(old)
    writers.check()


def let_take_over(world: World, new: ProcessIdentity) -> None:
    """The agent finds that the old process has ended."""

    async def scenario(keeper: EndpointProcessKeeper) -> None:
        if keeper.identity is None:
            await keeper.ensure()
        assert keeper.identity == new, "and no third one is started"

    run(world, scenario)


def test_when_the_old_process_dies_the_new_one_takes_over_what_it_has(tmp_path: Path) -> None:
    with replaceable_world(tmp_path) as world:
        take_over(world)


def take_over(world: World) -> None:
    with Writers(world, 4) as writers:
        wait_until(lambda: len(writers.acknowledged) == 4)
        old, new = first(world), start_next(world)
        pass_all_to_next(world)
        asyncio.run(end(old, 0))

        let_take_over(world, new)
        assert world.status().pid == new.pid
    writers.check()


def test_a_handoff_outlives_the_old_process(tmp_path: Path) -> None:
    """It dies between the hold and the release, when all its clients are at the new one, which held them as well."""
    with replaceable_world(tmp_path) as world:
        die_in_a_handoff(world)


def die_in_a_handoff(world: World) -> None:
    with Writers(world, 4) as writers:
        wait_until(lambda: len(writers.acknowledged) == 4)
        old, new = first(world), start_next(world)
        pass_all_to_next(world)
        held = world.hold()
        assert (held.was_held, held.is_drained) == (True, True), held
        asyncio.run(end(old, 0))
        world.swap_roles()
        world.generation += 1

        let_take_over(world, new)
        world.release(world.target(world.primary, world.generation))
        seen = world.status().endpoint(ENDPOINT)
        assert (seen.state, seen.generation, seen.held_generation) == (EndpointState.LISTENING, world.generation, None)
        before = dict(writers.acknowledged)
        wait_until(lambda: all(turn > before[name] for name, turn in writers.acknowledged.items()))
    writers.check()


def test_clients_at_a_virtual_address_stay_and_can_still_be_sent_away(tmp_path: Path) -> None:
    with replaceable_world(tmp_path) as world:
        virtual = loopback_address()
        world.serve(virtual=(VirtualPlace(virtual),))
        options = {"password": world.password, "single_connection_client": True}
        with redis.Redis(virtual, world.port, **options) as client:  # type: ignore[arg-type]
            assert client.set("k", 1)
            run(world, replace)
            assert client.get("k") == b"1"
            with redis.Redis(virtual, world.port, password=world.password) as another:
                assert another.get("k") == b"1"
            world.serve(virtual=(VirtualPlace(virtual, is_closing=True),))
            wait_until(lambda: world.status().endpoint(ENDPOINT).virtual[0].state.value == "left", state=world.status)
