"""``shardwright-node`` as its service manager sees it: exit statuses, what it says, one daemon per node. Without a store."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509

from shardwright.key_file import ensure_sealing
from shardwright.machine.notify import ADDRESS_VARIABLE, WATCHDOG_VARIABLE
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.node.daemon_settings import founding_file
from shardwright.node.exits import EXIT_SETTINGS, EXIT_TAKEN
from shardwright.node.places import daemon_log, trust_files
from shardwright.node.settings import Directories, NodeSettings, StorePlace
from shardwright.node.settings_file import write_settings
from shardwright.trust.authority import certificate_text
from shardwright.trust.certificates import Grant, certify
from shardwright.trust.files import own_key, write_credentials
from testkit.certificates import members
from testkit.deadlines import until

SOURCES = Path(__file__).parents[2]


def prepared(directory: Path, address: str) -> NodeSettings:
    """A node's files; its store does not answer."""
    place = Directories(directory / "etc", directory / "lib", directory / "r", directory / "log")
    files, authority = trust_files(place), members().signer
    for role in CertificateRole:
        key, grant = own_key(files).public_key(), Grant(role, NodeUid(1), (address,))
        leaf = certify(authority, key, grant, serial=x509.random_serial_number(), now=datetime.now(UTC))
        chain = certificate_text(leaf, authority.authority.certificate)
        write_credentials(files, authority.authority.text, {role: chain})
    store = StorePlace((f"https://{address}:2379",), files.authority, files.certificate(CertificateRole.STORE), files.key)
    settings = NodeSettings(NodeUid(1), (ip_address(address),), store, directories=place)
    write_settings(config(settings), settings)
    ensure_sealing(place.cluster_key)
    return settings


@pytest.fixture
def settings(short_path: Path, loopback_base: Callable[[], str]) -> NodeSettings:
    return prepared(short_path, loopback_base())


@pytest.fixture
def short_path() -> Iterator[Path]:
    """The paths of sockets are short."""
    with tempfile.TemporaryDirectory(prefix="node-") as path:
        yield Path(path)


def config(settings: NodeSettings) -> Path:
    return settings.directories.configuration / "node.toml"


def command(settings: NodeSettings, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "shardwright.node.main", "--config", str(config(settings)), *arguments]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{SOURCES / 'src'}:{SOURCES}", **more}


def run(settings: NodeSettings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(settings, *arguments), env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


@contextmanager
def daemon(settings: NodeSettings, **more: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(command(settings), env=environment(**more), text=True, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


def waits(settings: NodeSettings) -> bool:
    log = daemon_log(settings.directories)
    return log.exists() and "waits for the store" in log.read_text()


def break_toml(settings: NodeSettings) -> None:
    config(settings).write_text("node = 1\n")


def remove_toml(settings: NodeSettings) -> None:
    config(settings).unlink()


def expose_key(settings: NodeSettings) -> None:
    trust_files(settings.directories).key.chmod(0o644)


def remove_certificate(settings: NodeSettings) -> None:
    trust_files(settings.directories).certificate(CertificateRole.NODE).unlink()


def remove_cluster_key(settings: NodeSettings) -> None:
    settings.directories.cluster_key.unlink()


def remove_api_certificate(settings: NodeSettings) -> None:
    trust_files(settings.directories).certificate(CertificateRole.API).unlink()


def break_cluster_key(settings: NodeSettings) -> None:
    settings.directories.cluster_key.write_text("no key\n")
    settings.directories.cluster_key.chmod(0o600)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (break_toml, "node"),
        (remove_toml, "does not exist"),
        (expose_key, "chmod 600"),
        pytest.param(remove_certificate, "node.pem", marks=pytest.mark.proof),
        pytest.param(remove_api_certificate, "api.pem", marks=pytest.mark.proof),
        pytest.param(break_cluster_key, "cluster.key", marks=pytest.mark.proof),
        pytest.param(remove_cluster_key, "cluster.key", marks=pytest.mark.proof),
    ],
)
def test_settings_that_cannot_be_used_end_it_for_good_with_one_line(
    settings: NodeSettings, harm: Callable[[NodeSettings], None], said: str
) -> None:
    harm(settings)
    # The short command after a daemon's end reads the settings only: what it does not need must not delay the next leader.
    is_needed_by_all = harm in (break_toml, remove_toml, expose_key)
    if not is_needed_by_all:
        assert run(settings, "--ended").returncode == 0
    for arguments in ((), ("--drain",), *([("--ended",)] if is_needed_by_all else [])):
        ended = run(settings, *arguments)
        assert ended.returncode == EXIT_SETTINGS, ended
        assert said in ended.stderr
        assert len(ended.stderr.splitlines()) == 1, ended.stderr


def test_it_is_ready_without_the_store_and_shows_that_it_lives(settings: NodeSettings, short_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_path / "notify"))
        manager.settimeout(0.2)
        said: list[str] = []

        def has_said(text: str) -> bool:
            with suppress(TimeoutError):
                said.append(manager.recv(4096).decode())
            return any(text in message for message in said)

        notify = {ADDRESS_VARIABLE: str(short_path / "notify"), WATCHDOG_VARIABLE: "2000000"}
        with daemon(settings, **notify) as process:
            for text in ("READY=1", "WATCHDOG=1", "STATUS=waits for the store: "):
                until(text, lambda text=text: has_said(text), state=lambda: said)  # type: ignore[misc]
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            until("STOPPING", lambda: has_said("STOPPING=1"), state=lambda: said)


@pytest.mark.proof
def test_a_second_daemon_of_the_node_does_not_run(settings: NodeSettings) -> None:
    with daemon(settings) as process:
        until("it waits", lambda: waits(settings))
        second = run(settings)
        assert (second.returncode, len(second.stderr.splitlines())) == (EXIT_TAKEN, 1), second
        assert process.poll() is None
        # The daemon runs, so its lease is its own: nothing is asked of the store.
        assert run(settings, "--ended").returncode == 0
        process.kill()
        process.wait(20)
    ended = run(settings, "--ended")
    assert ended.returncode == 1, "the store does not answer"
    assert "expires" in ended.stderr


@pytest.mark.proof
def test_the_founding_file_stays_until_the_store_has_it(settings: NodeSettings) -> None:
    path = founding_file(settings.directories)
    path.write_text("{}")
    with daemon(settings):
        until("it waits", lambda: waits(settings))
        assert path.read_text() == "{}"
