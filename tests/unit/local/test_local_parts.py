"""Paths, locks, certificates, pings and logs of a local cluster."""

import asyncio
import logging
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from cryptography import x509

from shardwright import log
from shardwright.errors import Rejected
from shardwright.local.layout import SOCKET_PATH_MAX, Layout, layout_of, make_run_directory, purge
from shardwright.local.ping import PingResult, PingServer, ping
from shardwright.local.tls import ensure_certificate
from shardwright.machine.lock import try_lock
from shardwright.model.ids import NodeUid

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "c").mkdir(mode=0o700)
    return layout_of(tmp_path / "c")


# -- layout --------------------------------------------------------------------------------------------------------------


def test_sockets_are_in_the_directory_when_its_path_is_short(tmp_path: Path) -> None:
    short = Layout(Path(f"/tmp/sw-{os.getpid()}"))
    try:
        assert make_run_directory(short, {}) == short.directory / "run"
        assert len(os.fsencode(short.control(NodeUid(99_999_999)))) < SOCKET_PATH_MAX
    finally:
        purge(short)
    assert not short.directory.exists()


@pytest.mark.parametrize("has_runtime_directory", [True, False])
def test_sockets_are_elsewhere_when_it_is_long(tmp_path: Path, has_runtime_directory: bool) -> None:
    long = layout_of(tmp_path / ("x" * 120))
    long.directory.mkdir(mode=0o700)
    base = Path(f"/tmp/sw-base-{os.getpid()}")
    base.mkdir(mode=0o700)
    try:
        environment = {"XDG_RUNTIME_DIR": str(base)} if has_runtime_directory else {}
        run = make_run_directory(long, environment)
        assert run.parent == (base if has_runtime_directory else Path("/tmp"))
        assert long.run_directory() == run
        assert make_run_directory(long, {"XDG_RUNTIME_DIR": "/elsewhere"}) == run, "the choice is kept"
        assert len(os.fsencode(long.ping(NodeUid(99_999_999)))) < SOCKET_PATH_MAX
        run.chmod(0o755)
        with pytest.raises(Rejected, match="only you"):
            make_run_directory(long, {})
        purge(long)
        assert not run.exists()
    finally:
        base.rmdir()


def test_a_purge_follows_no_links_and_leaves_other_files(layout: Layout, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "dump.rdb").write_text("precious")
    shards = layout.shards(NodeUid(1))
    (shards / "1" / "appendonlydir").mkdir(parents=True)
    for name in ("process.json", "server.conf", "dump.rdb", "appendonlydir/appendonly.aof.1.incr.aof"):
        (shards / "1" / name).touch()
    (shards / "2").symlink_to(elsewhere)
    (shards / "3").mkdir()
    (shards / "3" / "letter.txt").touch()
    layout.store.touch()
    assert purge(layout) == [layout.nodes]
    left = sorted(str(p.relative_to(shards)) for p in shards.rglob("*"))
    assert left == ["2", "3", "3/letter.txt"]
    assert (elsewhere / "dump.rdb").read_text() == "precious"


# -- lock ----------------------------------------------------------------------------------------------------------------


def test_a_lock_has_one_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = try_lock(path)
    assert first is not None
    assert try_lock(path) is None
    os.close(first)
    second = try_lock(path)
    assert second is not None
    path.unlink()
    third = try_lock(path)
    assert third is not None, "a deleted file excludes no other process"
    os.close(second)
    os.close(third)


def test_a_child_does_not_hold_the_lock_unless_it_inherits_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = try_lock(path)
    assert lock is not None
    sleep = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(sleep, stdin=subprocess.PIPE, pass_fds=[lock]) as heir:
        os.close(lock)
        assert try_lock(path) is None
        heir.kill()
    again = try_lock(path)
    assert again is not None
    os.close(again)


# -- certificates --------------------------------------------------------------------------------------------------------


def leaf(layout: Layout) -> x509.Certificate:
    return x509.load_pem_x509_certificate(layout.certificate.read_bytes())


def test_one_certificate_covers_all_nodes_and_its_file_is_enough_to_trust_it(layout: Layout) -> None:
    ensure_certificate(layout.tls, ["127.0.0.1", "127.0.0.2"], NOW)
    before = leaf(layout)
    ensure_certificate(layout.tls, ["127.0.0.2"], NOW)
    assert leaf(layout) == before, "a certificate that covers the addresses stays"
    key = layout.key.read_bytes()
    ensure_certificate(layout.tls, ["127.0.0.1", "127.0.0.2", "127.0.0.3"], NOW)
    assert leaf(layout) != before
    assert layout.key.read_bytes() == key
    for served in (before, leaf(layout)):
        assert shakes_hands(layout, served, "127.0.0.2")
    assert shakes_hands(layout, leaf(layout), "127.0.0.3")
    assert shakes_hands(layout, leaf(layout), "localhost")
    assert not shakes_hands(layout, before, "127.0.0.3")


def test_the_operators_own_certificate_is_not_changed(layout: Layout) -> None:
    ensure_certificate(layout.tls, ["127.0.0.1"], NOW)
    own = layout.directory / "own"
    ensure_certificate(own, ["127.0.0.9"], NOW)
    (own / "cert.pem").replace(layout.certificate)
    before = layout.certificate.read_bytes()
    ensure_certificate(layout.tls, ["127.0.0.1", "127.0.0.2"], NOW)
    assert layout.certificate.read_bytes() == before
    (layout.tls / "ca.pem").unlink()
    ensure_certificate(layout.tls, ["127.0.0.1", "127.0.0.2"], NOW)
    assert layout.certificate.read_bytes() == before


def shakes_hands(layout: Layout, served: x509.Certificate, name: str) -> bool:
    """Whether a client that trusts ``cert.pem`` accepts a server with that certificate under that name."""
    from cryptography.hazmat.primitives.serialization import Encoding

    chain = layout.directory / "served.pem"
    chain.write_bytes(served.public_bytes(Encoding.PEM))
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(chain, layout.key)
    client_context = ssl.create_default_context(cafile=str(layout.certificate))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    open_sides = {client, server}
    for _ in range(10):
        for side in tuple(open_sides):
            try:
                side.do_handshake()
                open_sides.discard(side)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError:
                return False
    return not open_sides


# -- ping ----------------------------------------------------------------------------------------------------------------


def test_pings_distinguish_silence_from_absence(tmp_path: Path) -> None:
    path = tmp_path / "ping.sock"

    async def scenario() -> None:
        assert await ping(path, 0.5) is PingResult.NO_LISTENER
        path.write_text("left by a crashed process")
        server = await PingServer.start(path)
        assert oct(path.stat().st_mode)[-3:] == "600"
        assert [await ping(path, 2) for _ in range(3)] == [PingResult.ANSWERED] * 3
        await server.close()
        assert await ping(path, 0.5) is PingResult.NO_LISTENER

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        frozen = await asyncio.start_unix_server(silent, path)
        assert await ping(path, 0.1) is PingResult.SILENT
        frozen.close()
        await frozen.wait_closed()
        await asyncio.sleep(0.01)

    asyncio.run(scenario())


# -- log -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
        if handler not in handlers:
            handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("_logging_as_before")
def test_logs_are_private_lines_of_json_that_rotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "FILE_BYTES_MAX", 2000)
    path = tmp_path / "logs" / "x.log"
    log.configure_logging(path)
    for number in range(40):
        structlog.get_logger("test").info("something happened", number=number)
    logging.getLogger("foreign").warning("also %s", "this")
    found = sorted(path.parent.iterdir())
    assert len(found) > 1
    assert len(found) <= log.FILES_KEPT + 1
    assert all(oct(p.stat().st_mode)[-3:] == "600" for p in found)
    last = path.read_text().splitlines()[-1]
    assert '"event": "also this"' in last
    assert '"level": "warning"' in last
