"""A real endpoint process, as leaders on other machines reach it: over TLS, beside its Unix socket."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from shardwright.endpoint import main as endpoint_main
from shardwright.endpoint import wire
from shardwright.endpoint.channel import Channel, Message
from shardwright.endpoint.protocol import EndpointProcessEnded, EndpointSpec, Target
from shardwright.endpoint.tls import PeerRefused, Revoked, connect_tls, nothing_revoked
from shardwright.errors import Transient
from shardwright.machine.files import write_private
from shardwright.model.codes import Code
from shardwright.model.ids import DatabaseUid, EndpointUid, NodeUid, ShardUid
from shardwright.model.seen import EndpointProcessSeen, EndpointState
from shardwright.model.trust import CertificateRole
from shardwright.nodes.local import LocalNodes
from shardwright.nodes.protocol import NodeLink
from shardwright.nodes.remote import NodeAddress, RemoteNodes
from shardwright.trust.certificates import serial_text
from shardwright.trust.contexts import Credentials, client_context
from shardwright.trust.files import MemberFiles, load_credentials
from testkit.certificates import Members, members
from testkit.deadlines import Stopwatch, until
from testkit.handshakes import showing
from tests.integration.endpoint_harness import SOURCE
from tests.integration.server_harness import free_port, loopback_address

NODE = NodeUid(3)
ENDPOINT = EndpointUid("1:1")
OLD, NEW = Target(ShardUid(1), 1, "127.0.0.1", 1, "a"), Target(ShardUid(2), 2, "127.0.0.1", 2, "b")

LOOPS = (
    pytest.param(asyncio.new_event_loop, id="asyncio", marks=pytest.mark.proof),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
)
both_loops = pytest.mark.parametrize("loop", LOOPS)
Loop = Callable[[], asyncio.AbstractEventLoop]


@dataclass
class World:
    """One endpoint process with a certificate of its node, and a leader on "another machine"."""

    directory: Path
    authority: Members
    address: str
    port: int
    files: MemberFiles
    nodes: RemoteNodes
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def path(self) -> str:
        return str(self.directory / "e.sock")

    @property
    def link(self) -> NodeLink:
        return self.nodes.link(NODE)

    @property
    def log(self) -> str:
        path = self.directory / "e.log"
        return path.read_text() if path.exists() else "no log"

    def command(self, *more: str) -> list[str]:
        words = ["--node", str(NODE), "--control", self.path, "--log", str(self.directory / "e.log")]
        return [sys.executable, "-m", endpoint_main.__name__, *words, *more]

    def configure(self, text: str | None = None) -> Path:
        path = self.directory / "endpoint.toml"
        path.write_text(
            f'[control]\naddress = "{self.address}"\nport = {self.port}\nfrom_the_future = true\n'
            f'certificate = "{self.files.certificate}"\nkey = "{self.files.key}"\nauthority = "{self.files.authority}"\n'
            if text is None
            else text
        )
        return path

    async def start(self, *more: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(SOURCE)}
        self.process = await asyncio.to_thread(
            lambda: subprocess.Popen(self.command(*more), env=environment, start_new_session=True)
        )
        local = LocalNodes(lambda uid: self.path, call_timeout_s=3.0).link(NODE).endpoint_process
        await repeated(lambda: status_of(local.status()), self)

    async def reached(self) -> EndpointProcessSeen:
        """Ask until the process answers over TLS."""
        return await repeated(lambda: status_of(self.link.endpoint_process.status()), self)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.process = None

    def issue(self, node: NodeUid = NODE) -> None:
        """Write the certificate that the process shows, over an earlier one."""
        self.authority.files(self.directory, node, self.address, name="own")

    async def connect(self, shown: Credentials | ssl.SSLContext, revoked: Revoked = nothing_revoked) -> Channel:
        context = client_context(shown) if isinstance(shown, Credentials) else shown
        return await connect_tls(self.address, self.port, context=lambda: context, node=NODE, revoked=revoked)


async def status_of(asked: Awaitable[EndpointProcessSeen]) -> EndpointProcessSeen | None:
    seen = await asked
    return seen if seen.answers else None


Asks = Callable[[], Awaitable[EndpointProcessSeen | None]]


async def repeated(ask: Asks, world: World) -> EndpointProcessSeen:
    """Ask until there is an answer."""
    watch = Stopwatch()
    while True:
        if (found := await ask()) is not None:
            return found
        assert watch.is_within(20), f"{watch}\n{world.log}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def world_in() -> AsyncIterator[World]:
    authority = members()
    leaders = client_context(authority.member(1))
    address = loopback_address()
    port = free_port(address)
    nodes = RemoteNodes(
        lambda uid: NodeAddress(address, control_port=port) if uid == NODE else None,
        context=lambda: leaders,
    )
    with tempfile.TemporaryDirectory(prefix="sw-") as short:  # socket paths are short
        files = authority.files(Path(short), NODE, address, name="own")
        world = World(Path(short), authority, address, port, files, nodes)
        try:
            async with asyncio.timeout(120):
                yield world
        finally:
            nodes.close()
            world.kill()


def run(loop: Loop, scenario: Callable[[World], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with world_in() as world:
            await scenario(world)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(whole())


def spec(world: World) -> EndpointSpec:
    return EndpointSpec(ENDPOINT, DatabaseUid(1), "test", world.address, free_port(world.address), OLD)


async def failure(call: Awaitable[object]) -> Transient:
    with pytest.raises(Transient) as found:
        await call
    assert not isinstance(found.value, EndpointProcessEnded)
    return found.value


@both_loops
def test_a_leader_on_another_machine_holds_and_releases(loop: Loop) -> None:
    async def scenario(world: World) -> None:
        await world.start("--config", str(world.configure()))
        await world.reached()
        process = world.link.endpoint_process
        await process.serve(spec(world))
        held = await process.hold(ENDPOINT, OLD, NEW)
        assert (held.was_held, held.is_drained) == (True, True)
        assert (await process.status()).endpoint(ENDPOINT).held_generation == 2
        released = await process.release(ENDPOINT, OLD)
        assert released.pause_ms > 0
        local = LocalNodes(lambda uid: world.path, call_timeout_s=3.0).link(NODE).endpoint_process
        for seen in (await local.status(), await process.status()):
            assert seen.endpoint(ENDPOINT).state is EndpointState.LISTENING
            assert seen.endpoint(ENDPOINT).held_generation is None
        await process.drop(ENDPOINT)
        assert (await process.status()).endpoints == ()

    run(loop, scenario)


@both_loops
def test_a_frozen_process_costs_a_bounded_time_and_ignores_the_late_hold(loop: Loop) -> None:
    async def scenario(world: World) -> None:
        await world.start("--config", str(world.configure()))
        await world.reached()
        process = world.link.endpoint_process
        await process.serve(spec(world))
        world.signal(signal.SIGSTOP)
        try:
            watch = Stopwatch()
            assert not (await process.status()).answers
            assert watch.is_within(0.6, clock_s=0.3)
            watch = Stopwatch()
            error = await failure(process.hold(ENDPOINT, OLD, NEW))
            assert error.code == Code.ENDPOINT_PROCESS_SILENT
            assert watch.is_within(1.3, clock_s=1.0)
            watch = Stopwatch()
            error = await failure(process.hold(ENDPOINT, OLD, NEW))
            assert error.code == Code.ENDPOINT_PROCESS_NOT_CONNECTED, "the late hold was withdrawn with its connection"
            assert watch.is_within(0.1)
        finally:
            world.signal(signal.SIGCONT)
        await world.reached()
        # The kernel may discard the hold with its connection before the process reads it.
        ends = ("ignored a late request", "a caller has disconnected")
        until("the late hold was ignored", lambda: any(end in world.log for end in ends), state=lambda: world.log)
        seen = (await world.reached()).endpoint(ENDPOINT)
        assert (seen.state, seen.held_generation) == (EndpointState.LISTENING, None)
        assert (await process.hold(ENDPOINT, OLD, NEW)).was_held

    run(loop, scenario)


@both_loops
def test_after_a_restart_the_process_is_reached_again(loop: Loop) -> None:
    async def scenario(world: World) -> None:
        config = str(world.configure())
        await world.start("--config", config)
        pid = (await world.reached()).pid
        process = world.link.endpoint_process
        world.kill()
        seen = await process.status()
        assert (seen.answers, seen.has_ended) == (False, False), "a refused connection is silence"
        watch = Stopwatch()
        assert (await failure(process.hold(ENDPOINT, OLD, NEW))).code == Code.ENDPOINT_PROCESS_NOT_CONNECTED
        assert watch.is_within(0.1)
        await world.start("--config", config)
        assert (await world.reached()).pid != pid
        await process.serve(spec(world))
        assert (await process.hold(ENDPOINT, OLD, NEW)).was_held

    run(loop, scenario)


@both_loops
def test_who_is_not_a_node_of_the_cluster_gets_no_answer(loop: Loop) -> None:
    async def scenario(world: World) -> None:
        await world.start("--config", str(world.configure()))
        await world.reached()
        other, node = members().member(1), world.authority.member(1)
        strangers: dict[str, Credentials | ssl.SSLContext] = {
            "role": world.authority.member(1, role=CertificateRole.STORE),
            "authority": showing(other, node),
        }
        for what, shown in strangers.items():
            try:
                async with await world.connect(shown) as channel:
                    await channel.send({"op": "status", "id": 1})
                    received = await channel.receive()
                assert received is None or set(received[0]) == {"refused", "code"}, what
            except OSError:
                assert what == "authority"
        with socket.create_connection((world.address, world.port), timeout=10) as plain:
            plain.sendall(b'{"op":"status"}\n')
            assert b"pid" not in plain.recv(1000)
        with pytest.raises(PeerRefused):
            await world.connect(other)
        assert (await world.reached()).answers, "the process serves on"

    run(loop, scenario)


@both_loops
def test_what_passes_files_or_names_paths_is_refused_over_tls(loop: Loop) -> None:
    async def scenario(world: World) -> None:
        await world.start("--config", str(world.configure()))
        await world.reached()
        await world.link.endpoint_process.serve(spec(world))
        requests: list[Message] = [
            {"op": "pass_along", "endpoint": ENDPOINT, "to_path": world.path},
            {"op": "adopt_listener", "spec": wire.spec_to(spec(world)), "target": None, "hold": None},
            {"op": "adopt_connections", "endpoint": ENDPOINT, "connections": []},
            {"op": "begin"},
            {"op": ["hold"]},
            {},
        ]
        async with await world.connect(world.authority.member(2)) as channel:
            for number, request in enumerate(requests):
                answer = await channel.ask(request | {"id": number})
                assert (answer["id"], "error" in answer) == (number, True), answer
            await channel.send({"op": "adopt_listener", "files": 1})
            assert await channel.receive() is None
        assert (await world.reached()).endpoint(ENDPOINT).state is EndpointState.LISTENING

    run(loop, scenario)


def test_a_renewed_certificate_is_shown_without_a_restart() -> None:
    async def scenario(world: World) -> None:
        await world.start("--config", str(world.configure()))
        await world.reached()
        first = serial_text(load_credentials(world.files).certificate.serial_number)
        with pytest.raises(PeerRefused, match="revoked"):
            await world.connect(world.authority.member(2), lambda: {first})
        world.issue()
        async with await world.connect(world.authority.member(2), lambda: {first}) as channel:
            assert "ok" in await channel.ask({"op": "status"})
        world.issue(NodeUid(4))
        async with await world.connect(world.authority.member(2), lambda: {first}) as channel:
            assert "ok" in await channel.ask({"op": "status"}), "the process of a node does not become another one"
        assert (await world.reached()).answers, "the open connection stays"

    run(asyncio.new_event_loop, scenario)


def test_a_node_whose_certificate_was_revoked_gets_no_answer() -> None:
    async def scenario(world: World) -> None:
        listed = world.directory / "revoked"
        config = world.configure()
        write_private(config, config.read_bytes() + f'revoked = "{listed}"\n'.encode())
        await world.start("--config", str(config))
        await world.reached()
        removed, member = world.authority.member(8), world.authority.member(9)
        async with await world.connect(removed) as channel:
            assert "error" not in await channel.ask({"op": "status"})
        write_private(listed, f"abc\n{serial_text(removed.certificate.serial_number)}\n".encode())
        async with await world.connect(removed) as channel:
            said = await channel.ask({"op": "status"})
            assert said["code"] == Code.CERTIFICATE_REVOKED
        async with await world.connect(member) as channel:
            assert "error" not in await channel.ask({"op": "status"})

    run(uvloop.new_event_loop, scenario)


def test_a_process_without_its_port_serves_clients_and_takes_the_port_later() -> None:
    async def scenario(world: World) -> None:
        with socket.socket() as taken:
            taken.bind((world.address, world.port))
            taken.listen()
            await world.start("--config", str(world.configure()))
            until("it says so", lambda: "cannot listen for other machines" in world.log, state=lambda: world.log)
        await world.reached()

    run(asyncio.new_event_loop, scenario)


def test_without_a_section_it_serves_its_own_machine_only() -> None:
    async def scenario(world: World) -> None:
        await world.start("--config", str(world.configure("# nothing yet\n")))
        with socket.socket() as probe:
            assert probe.connect_ex((world.address, world.port)) != 0

    run(asyncio.new_event_loop, scenario)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[control", "Expected"),
        ("control = 3", "not a section"),
        ('[control]\naddress = "127.0.0.1"\nport = 70000', "control.port"),
        ('[control]\naddress = "127.0.0.1"\nkey = "k"\nauthority = "a"', "control.certificate is missing"),
        (None, "cannot be read"),
    ],
)
def test_an_unusable_configuration_is_named_and_nothing_starts(tmp_path: Path, text: str | None, named: str) -> None:
    config = tmp_path / "endpoint.toml"
    if text is not None:
        config.write_text(text)
    words = ["--node", "1", "--control", str(tmp_path / "e.sock"), "--log", str(tmp_path / "e.log"), "--config", str(config)]
    done = subprocess.run(
        [sys.executable, "-m", endpoint_main.__name__, *words],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, named in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "e.sock").exists()
