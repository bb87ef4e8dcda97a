"""What a start takes from the records, and what is on disk before a start, after it, and if it fails."""

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shardwright.agent import launch as launching
from shardwright.agent.launch import (
    CONFIG_NAME,
    LOG_BYTES_MAX,
    LOG_NAME,
    OUTPUT_NAME,
    RECORD_NAME,
    Launch,
    Stage,
    StartRecord,
    launch_of,
    program_of,
    read_record,
    write_record,
)
from shardwright.errors import Permanent
from shardwright.machine.processes import end, is_running
from shardwright.model.cluster import ClusterKind
from shardwright.model.database import Damage, Persistence, ServerSecrets, StartWith
from shardwright.model.ids import DatabaseUid, NodeUid, ShardUid
from shardwright.model.seen import ProcessIdentity
from shardwright.server.network import LINK_ON_ONE_MACHINE, LINK_OVER_NETWORK, TlsFiles
from testkit.builders import cluster
from testkit.deadlines import until

SECRETS = ServerSecrets(DatabaseUid(1), "app-secret", "rep-secret", "obs-secret", "man-secret", "0123456789abcdef")
ONE = cluster(3).with_database(on=((2,),), persistence=Persistence.AOF).with_records(SECRETS)
SHARD = replace(ONE.view.shards[ShardUid(1)], incarnation=4)
IDENTITY = ProcessIdentity(77, "boot", 5, "/usr/bin/valkey-server", "/data/1", "machine")


def launched(directory: Path = Path("/data/1"), **changes: object) -> Launch:
    return replace(launch_of(ONE.view, SHARD, directory, memory_free_bytes=7), **changes)  # type: ignore[arg-type]


# -- from the records --------------------------------------------------------------------------------------------------


def test_a_start_follows_the_records() -> None:
    launch = launched()
    assert (launch.shard_uid, launch.incarnation, launch.address, launch.port) == (1, 4, "127.0.0.2", 20_001)
    assert (launch.kind, launch.version, launch.configured) == ("valkey", "9.1.2", None)
    assert (launch.starts_with, launch.kept) == (StartWith.FILES, Persistence.AOF)
    file = launch.file
    assert (file.incarnation, file.port, file.directory, file.log_file) == (4, 20_001, "/data/1", f"/data/1/{LOG_NAME}")
    assert (file.secrets, file.memory_free_bytes, file.settings.persistence) == (SECRETS, 7, Persistence.AOF)
    assert "app-secret" not in repr(launch)


def test_a_start_knows_the_persistence_of_its_files_beside_the_configured_one() -> None:
    before = replace(ONE.view.databases[DatabaseUid(1)], persistence=Persistence.DISABLED)
    shard = replace(SHARD, settings=before.settings_fingerprint, starts_with=StartWith.NOTHING)
    launch = launch_of(ONE.view, shard, Path("/data/1"), memory_free_bytes=0)
    assert (launch.kept, launch.file.settings.persistence) == (Persistence.DISABLED, Persistence.AOF)
    assert launch.starts_with is StartWith.NOTHING


def test_the_cluster_may_configure_the_program() -> None:
    assert ONE.view.cluster is not None
    for path, configured in (("/opt/valkey-server", "/opt/valkey-server"), ("", None)):
        builder = ONE.with_records(replace(ONE.view.cluster, options={"server_path": path}))
        assert launch_of(builder.view, SHARD, Path("/data/1"), memory_free_bytes=0).configured == configured


def test_servers_of_several_machines_use_their_own_network_and_notice_its_cuts_soon() -> None:
    assert ONE.view.cluster is not None
    file = launched().file
    assert (file.address, file.link) == ("127.0.0.2", LINK_ON_ONE_MACHINE)
    machines = ONE.with_records(replace(ONE.view.cluster, kind=ClusterKind.MACHINES))
    view = machines.with_node_changed(2, address="192.0.2.2", server_address="10.0.0.2").view
    launch = launch_of(view, SHARD, Path("/data/1"), memory_free_bytes=7)
    assert (launch.address, launch.file.address, launch.file.link) == ("10.0.0.2", "10.0.0.2", LINK_OVER_NETWORK)


def test_a_server_that_encrypts_needs_the_files_of_its_node_and_a_program_that_can() -> None:
    files = TlsFiles("/etc/s/node.pem", "/etc/s/node-key.pem", "/etc/s/ca.pem")
    clear = launch_of(ONE.view, SHARD, Path("/data/1"), memory_free_bytes=0, tls=files)
    assert (clear.uses_tls, clear.file.tls) == (False, None), "the copies of a database agree"
    view = ONE.with_database_changed(1, uses_tls=True).view
    launch = launch_of(view, SHARD, Path("/data/1"), memory_free_bytes=0, tls=files)
    assert (launch.uses_tls, launch.file.tls) == (True, files)
    with pytest.raises(Permanent, match="needs a certificate, and this node has none"):
        launch_of(view, SHARD, Path("/data/1"), memory_free_bytes=0)
    with pytest.raises(Permanent, match="with TLS is not on this machine"):
        program_of(replace(launch, version="9.1.2"))


@pytest.mark.parametrize("missing", ["databases", "secrets", "nodes"])
def test_nothing_starts_without_its_records(missing: str) -> None:
    view = replace(ONE.view, **{missing: {}})  # type: ignore[arg-type]
    with pytest.raises(Permanent, match="the records of database 1 are incomplete"):
        launch_of(view, SHARD, Path("/data/1"), memory_free_bytes=0)


def test_an_unsafe_configuration_starts_nothing() -> None:
    with pytest.raises(Permanent, match="the server's configuration cannot be written"):
        launch_of(ONE.view, SHARD, Path("/data/1\nmaxmemory 0"), memory_free_bytes=0)
    unsafe = ONE.with_node_changed(2, address="127.0.0.2\nsave 1 1")
    with pytest.raises(Permanent):
        launch_of(unsafe.view, SHARD, Path("/data/1"), memory_free_bytes=0)


def test_a_missing_version_is_named_with_its_remedy() -> None:
    with pytest.raises(Permanent, match=r"1\.2\.3 is not on this machine") as failed:
        program_of(launched(version="1.2.3"))
    assert "; remedy: " in failed.value.text


# -- the record on disk ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        StartRecord(1, Stage.INTENDED, "/usr/bin/valkey-server"),
        StartRecord(2, Stage.STARTED, "/usr/bin/valkey-server", IDENTITY, "cut 5 bytes"),
        StartRecord(3, Stage.FAILED, "", text="port 1 is in use", damage=Damage.SNAPSHOT),
    ],
)
def test_a_record_is_read_as_written(tmp_path: Path, record: StartRecord) -> None:
    write_record(tmp_path, record)
    found = read_record(tmp_path)
    assert found == record
    assert found is not None
    if record.identity is not None:
        assert found.identity is not None
        assert found.identity.machine_id == "machine", "the comparison ignores it, but it is kept"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"incarnation": 1}', b'{"incarnation": 1, "stage": "x", "executable": ""}']
)
def test_an_unreadable_record_is_ignored(tmp_path: Path, content: bytes) -> None:
    assert read_record(tmp_path) is None
    (tmp_path / RECORD_NAME).write_bytes(content)
    assert read_record(tmp_path) is None


def test_a_failure_is_recorded_with_its_cause_even_without_a_directory(tmp_path: Path) -> None:
    launch = launched(tmp_path / "shards" / "1")
    failed = launching.fail(launch, "/usr/bin/valkey-server", "it did not", damage=Damage.INCOMPLETE)
    assert (failed.stage, failed.incarnation, failed.text, failed.damage) == (
        Stage.FAILED,
        4,
        "it did not",
        Damage.INCOMPLETE,
    )
    assert read_record(launch.directory) == failed
    assert launch.directory.stat().st_mode & 0o777 == 0o700


def test_a_failure_that_cannot_be_recorded_is_still_reported(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("a file where the directory should be")
    assert launching.fail(launched(tmp_path / "shards" / "1"), "", "no room").text == "no room"


# -- the start ---------------------------------------------------------------------------------------------------------


@contextmanager
def started(launch: Launch, program: Path) -> Iterator[StartRecord]:
    record = launching.start(launch, str(program))
    try:
        yield record
    finally:
        if record.identity is not None:
            asyncio.run(end(record.identity, 0))


def stand_in(directory: Path, *lines: str) -> Path:
    """A program that executes this and then waits, in place of a server."""
    program = directory / "valkey-server"
    program.write_text("\n".join((f"#!{sys.executable}", "import os, sys, time", *lines, "time.sleep(60)", "")))
    program.chmod(0o700)
    return program


@pytest.fixture
def launch(tmp_path: Path, loopback_base: Callable[[], str]) -> Launch:
    """A launch at an address of its own."""
    address = loopback_base()
    builder = ONE.with_node_changed(2, address=address)
    return launch_of(builder.view, SHARD, tmp_path / "shards" / "1", memory_free_bytes=0)


def test_the_record_exists_while_the_program_runs_and_finally_has_its_identity(tmp_path: Path, launch: Launch) -> None:
    program = stand_in(tmp_path, f"seen = open({RECORD_NAME!r}).read() + sys.argv[1]", "open('new', 'w').write(seen)",
                       "os.rename('new', 'seen')")  # fmt: skip
    with started(launch, program) as record:
        until("the program has read the record", (launch.directory / "seen").exists, seconds=20)
        seen = (launch.directory / "seen").read_text()
        assert '"incarnation": 4' in seen
        assert seen.endswith(f"}}{launch.directory / CONFIG_NAME}")
        assert (record.stage, record.executable) == (Stage.STARTED, str(program))
        assert read_record(launch.directory) == record
        assert record.identity is not None
        assert is_running(record.identity)


def test_files_with_secrets_are_private(tmp_path: Path, launch: Launch) -> None:
    with started(launch, stand_in(tmp_path)):
        assert launch.directory.stat().st_mode & 0o777 == 0o700
        for name in (CONFIG_NAME, RECORD_NAME, OUTPUT_NAME):
            assert (launch.directory / name).stat().st_mode & 0o777 == 0o600, name
        assert "app-secret" not in (launch.directory / RECORD_NAME).read_text()


def test_a_port_in_use_fails_before_the_program_runs(tmp_path: Path, launch: Launch) -> None:
    with socket.create_server((launch.address, launch.port)):
        record = launching.start(launch, str(stand_in(tmp_path, "open('ran', 'w')")))
    assert (record.stage, record.identity) == (Stage.FAILED, None)
    assert record.text == f"port {launch.port} of {launch.address} is in use by another process"
    assert not (launch.directory / "ran").exists()
    assert read_record(launch.directory) == record


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(Permanent, match=r"192\.0\.2\.1:20001 cannot be used: "):
        launching.check_port("192.0.2.1", 20_001)


def test_a_missing_program_is_reported_as_a_failure(tmp_path: Path, launch: Launch) -> None:
    record = launching.start(launch, str(tmp_path / "none"))
    assert record.stage is Stage.FAILED
    assert "none" in record.text


def test_old_files_are_put_aside_for_a_start_without_data(tmp_path: Path, launch: Launch) -> None:
    launch.directory.mkdir(parents=True)
    (launch.directory / "dump.rdb").write_bytes(b"kept")
    with started(replace(launch, starts_with=StartWith.NOTHING), stand_in(tmp_path)) as record:
        assert record.text == ""
    assert (launch.directory / "damaged-4" / "dump.rdb").read_bytes() == b"kept"
    assert not (launch.directory / "dump.rdb").exists()


def test_a_log_that_has_grown_too_large_is_rotated(tmp_path: Path, launch: Launch) -> None:
    launch.directory.mkdir(parents=True)
    log = launch.directory / LOG_NAME
    with log.open("wb") as file:
        file.truncate(LOG_BYTES_MAX + 1)
    with started(launch, stand_in(tmp_path)):
        assert not log.exists()
        assert log.with_name(f"{LOG_NAME}.1").exists()


def test_a_start_uses_the_shards_own_node() -> None:
    moved = replace(SHARD, node_uid=NodeUid(3))
    assert launch_of(ONE.view, moved, Path("/data/1"), memory_free_bytes=0).address == "127.0.0.3"
