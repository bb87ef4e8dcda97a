"""What ``up`` refuses before any change; a failure in the middle is reversed."""

import asyncio
import json
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shardwright.errors import Rejected
from shardwright.local import up
from shardwright.local.access import sealing_of, store_settings
from shardwright.local.config import read_all, read_cluster, read_nodes
from shardwright.local.creation import PASSWORD_VARIABLE, CheckedOptions, UpOptions, check, create
from shardwright.local.layout import layout_of, purge
from shardwright.local.up import prepare
from shardwright.model.account import ManagementRole, User
from shardwright.model.cluster import Cluster, Counters, Node
from shardwright.model.version import CLUSTER_VERSION
from shardwright.passwords import verify_password
from shardwright.store import keys, records
from shardwright.store.open import open_store
from shardwright.store.seal import is_sealed, keys_of

pytestmark = pytest.mark.server  # A cluster needs a server program, so this machine must have one.


@pytest.fixture
def options(tmp_path: Path, loopback_base: Callable[[], str]) -> UpOptions:
    base = loopback_base()
    return UpOptions(tmp_path / "c", nodes=2, endpoint_address=base, address_base=base)


def test_a_node_of_a_cluster_of_machines_gets_no_local_cluster(options: UpOptions, tmp_path: Path) -> None:
    settings = tmp_path / "node.toml"
    assert check(replace(options, node_settings=settings), layout_of(options.directory), {}).addresses
    settings.touch()
    with pytest.raises(Rejected) as caught:
        prepare(replace(options, node_settings=settings), {})
    assert caught.value.code == "machine_is_node"
    assert "systemctl start shardwright.target" in caught.value.remedy
    assert not options.directory.exists()


def test_a_local_cluster_that_exists_starts_on_such_a_machine_too(options: UpOptions, tmp_path: Path) -> None:
    settings = tmp_path / "node.toml"
    settings.touch()
    started, lock = prepare(options, {})
    assert lock is not None
    os.close(lock)
    again, lock = prepare(replace(options, node_settings=settings), {})
    assert lock is not None
    os.close(lock)
    assert (started.is_new, again.is_new) == (True, False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nodes": 0}, "--nodes"),
        ({"nodes": 33}, "--nodes"),
        ({"node_memory_bytes": 1024}, "--node-memory"),
        ({"racks": ("a", "b", "c")}, "--rack"),
        ({"racks": ("a", "")}, "--rack"),
        ({"api_port": 0}, "--api-port"),
        ({"api_port": 70_000}, "--api-port"),
        ({"address_base": "10.1.2.3"}, "127.0.0.0/8"),
        ({"address_base": "127.255.255.254"}, "127.0.0.0/8"),
        ({"address_base": "here"}, "--address-base"),
        ({"endpoint_address": "192.0.2.1"}, "does not have this address"),
        ({"endpoint_address": "0.0.0.0"}, "--endpoint-address"),
        ({"endpoint_address": "localhost"}, "--endpoint-address"),
        ({"server": "/bin/true"}, "/bin/true"),
        ({"server": "postgres"}, "--server"),
        ({"admin_email": "nobody"}, "--admin-email"),
        ({"admin_email": "a:b@c"}, "--admin-email"),
        ({"directory": Path("/proc/cluster")}, "--dir"),
        ({"directory": Path("/etc/passwd/cluster")}, "--dir"),
    ],
)
def test_a_refusal_has_a_cause_and_leaves_nothing_behind(options: UpOptions, changes: dict[str, object], said: str) -> None:
    with pytest.raises(Rejected) as refused:
        prepare(replace(options, **changes), {})  # type: ignore[arg-type]
    assert said in refused.value.text
    assert not options.directory.exists()


@pytest.mark.parametrize("password", ["", "two\nlines"])
def test_an_unprintable_password_is_refused(options: UpOptions, password: str) -> None:
    with pytest.raises(Rejected, match=PASSWORD_VARIABLE):
        prepare(options, {PASSWORD_VARIABLE: password})
    assert not options.directory.exists()


def test_a_port_in_use_is_refused(options: UpOptions) -> None:
    second = options.address_base.rpartition(".")[0] + ".2"
    with socket.socket() as taken:
        taken.bind((second, options.api_port))
        taken.listen()
        with pytest.raises(Rejected, match=second):
            prepare(options, {})
    assert not options.directory.exists()


def test_a_failure_in_the_middle_is_reversed(options: UpOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    async def create_and_fail(checked: CheckedOptions, *rest: Any) -> None:
        await create(checked, *rest)
        raise OSError("the disk is full")

    monkeypatch.setattr(up, "create", create_and_fail)
    deep = replace(options, directory=options.directory / "deep" / "deeper")
    with pytest.raises(OSError, match="disk is full"):
        prepare(deep, {})
    assert not options.directory.exists()
    options.directory.mkdir(mode=0o700)
    (options.directory / "notes.txt").write_text("not ours")
    with pytest.raises(OSError, match="disk is full"):
        prepare(options, {})
    assert [p.name for p in options.directory.iterdir()] == ["notes.txt"]


def test_the_records_of_a_new_cluster(options: UpOptions) -> None:
    started, lock = prepare(replace(options, racks=("a", "b")), {PASSWORD_VARIABLE: "given"})
    assert lock is not None
    os.close(lock)
    assert started.is_new
    assert started.password == "", "a given password is not shown"
    layout = layout_of(options.directory)

    async def read() -> tuple[Cluster | None, list[Node], list[object], Counters]:
        store = await open_store(store_settings(layout))
        try:
            counters = await store.get(keys.COUNTERS)
            email = await store.get(keys.email_key(options.admin_email))
            assert counters is not None
            assert email is not None
            assert email.value == b"1"
            decoded = records.decode(counters.key, counters.value)
            assert isinstance(decoded, Counters)
            user = await store.get("users/00000001")
            assert user is not None
            assert is_sealed(user.value)
            users = await read_all(store, "users/", sealing_of(layout))
            return await read_cluster(store), await read_nodes(store), list(users), decoded
        finally:
            await store.close()

    cluster, nodes, users, counters = asyncio.run(read())
    assert cluster is not None
    assert cluster.cluster_version == CLUSTER_VERSION
    assert stat.S_IMODE(layout.cluster_key.stat().st_mode) == 0o600
    assert len(keys_of(layout.cluster_key.read_text())) == 1
    assert cluster.options["server_kind"] in ("valkey", "redis")
    assert cluster.options["server_version"]
    assert [(n.uid, n.rack) for n in nodes] == [(1, "a"), (2, "b")]
    assert (counters.next_node, counters.next_user) == (3, 2)
    (user,) = users
    assert isinstance(user, User)
    assert user.role is ManagementRole.ADMIN
    assert verify_password(user.password_hash, "given")
    assert not verify_password(user.password_hash, "other")
    assert json.loads(layout.admin.read_text())["password"] == "given"

    again, lock = prepare(replace(options, nodes=9), {PASSWORD_VARIABLE: "other"})
    assert lock is not None
    assert not again.is_new
    with pytest.raises(Rejected, match="is running on"):
        prepare(options, {})
    os.close(lock)
    assert purge(layout) == []
    assert not options.directory.exists()


def test_a_generated_password_is_strong(options: UpOptions) -> None:
    checked = check(options, layout_of(options.directory), {})
    assert checked.is_generated
    assert len(checked.password) >= 20
    assert checked.password not in repr(checked)


def test_an_unusable_hash_verifies_nothing() -> None:
    assert not verify_password("no hash", "x")
