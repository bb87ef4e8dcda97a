"""A cluster of machines comes into being: real files, a real etcd, a real API over TLS, and the commands that reach it."""

import asyncio
import base64
import json
import shutil
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from shardwright.cli.access import credentials_file
from shardwright.cli.failure import Exit
from shardwright.cli.main import build
from shardwright.errors import Permanent, Rejected
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.node import services
from shardwright.node.etcd_config import metrics_url
from shardwright.node.settings_file import load_settings
from shardwright.trust.files import TrustFiles, load_credentials
from testkit.etcd import EtcdCluster, require_etcd
from tests.integration.founding_harness import (
    ADMIN,
    First,
    NodeApi,
    found_in,
    place_in,
    running_api,
    running_first,
    store_of,
)

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def first() -> Iterator[First]:
    with running_first() as running:
        yield running


@pytest.fixture
def api(first: First) -> Iterator[NodeApi]:
    with running_api(first) as running:
        yield running


def test_init_writes_what_the_daemon_and_the_store_need(first: First) -> None:
    configuration = first.settings.directories.configuration
    assert load_settings(configuration / "node.toml") == first.settings
    assert not (configuration / "founding.json").exists(), "it was committed"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in configuration.iterdir()}
    assert modes.pop("node.toml") == 0o640
    assert set(modes.values()) == {0o600}
    files = TrustFiles(configuration)
    for role in CertificateRole:
        assert load_credentials(files.member(role)).member.role is role


def test_the_first_records_are_complete_and_their_secrets_are_sealed(first: First, api: NodeApi) -> None:
    view = api.view()
    assert view.cluster is not None
    assert view.cluster.is_of_machines
    node = view.nodes[NodeUid(1)]
    assert (node.address, node.memory_bytes, node.machine_id, node.is_signer) == (
        str(first.settings.address),
        1 << 30,
        "machine-1",
        True,
    )
    assert [user.email for user in view.users.values()] == [ADMIN]
    roles = {issued.role for issued in view.issued_certificates.values() if issued.node_uid == 1}
    assert roles == set(CertificateRole)
    item = api.run(api.store.get("users/00000001"))
    assert item is not None
    assert b"argon2" not in item.value


def test_the_store_takes_nobody_without_a_certificate_and_listens_nowhere_else(first: First) -> None:
    settings = first.settings
    url = settings.store.endpoints[0]
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/version", verify=False, trust_env=False)
    assert "etcd_server_has_leader 1" in httpx.get(f"{metrics_url(settings)}/metrics", trust_env=False).text
    for port in (settings.ports.store_clients, settings.ports.store_members):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((first.address(77), port), 3).close()


def test_an_init_on_a_member_changes_nothing(first: First) -> None:
    again = found_in(first.folder / "one", str(first.settings.address))
    assert again.was_member
    assert not again.is_pending
    assert again.settings == first.settings


def test_the_store_of_a_cluster_takes_no_second_one(first: First, loopback_base: Callable[[], str]) -> None:
    place = store_of(first.settings)
    with pytest.raises(Rejected) as refused:
        found_in(
            first.folder / "second cluster",
            loopback_base(),
            store=place.endpoints,
            store_files=(place.ca, place.cert, place.key),
        )
    assert refused.value.code == Code.STORE_HOLDS_ANOTHER_CLUSTER
    assert not (first.folder / "second cluster").exists()


def test_an_etcd_that_another_program_uses_is_refused(tmp_path: Path, loopback_base: Callable[[], str]) -> None:
    async def scenario() -> None:
        async with EtcdCluster(tmp_path / "etcd", tls=True) as etcd:
            assert etcd.client is not None
            context = ssl.create_default_context(cafile=str(etcd.client.authority))
            context.load_cert_chain(etcd.client.certificate, etcd.client.key)
            url = etcd.members[0].client_url
            async with httpx.AsyncClient(verify=context, trust_env=False) as http:
                key = base64.b64encode(b"patroni/leader").decode()
                answer = await http.post(f"{url}/v3/kv/put", json={"key": key, "value": key})
            assert answer.is_success
            files = (etcd.client.authority, etcd.client.certificate, etcd.client.key)
            with pytest.raises(Permanent) as refused:
                await asyncio.to_thread(
                    found_in, tmp_path / "one", loopback_base(), store=(url,), store_files=files, place=place
                )
            assert refused.value.code is Code.STORE_SHARED
            assert "patroni/leader" in refused.value.text

    require_etcd()
    place = place_in(tmp_path / "one", loopback_base())
    place = replace(place, directories=replace(place.directories, run=Path("/tmp/never made")))
    asyncio.run(scenario())
    assert not (tmp_path / "one").exists()


def test_the_commands_reach_the_cluster_by_the_file_of_init(first: First, api: NodeApi) -> None:
    home = {
        "HOME": "/nowhere",
        "XDG_CONFIG_HOME": str(first.folder / "home"),
        "XDG_DATA_HOME": "/nowhere",
        "SHARDWRIGHT_DIR": "",
    }
    path = credentials_file(home)
    shutil.copytree(first.folder / "one" / "home", path.parent, dirs_exist_ok=True)
    shown = CliRunner().invoke(build(), ["node", "token"], env=home)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith(f"shardwright join {first.settings.address}:9443 --token ")
    assert first.founded.authority.key_hash in shown.stdout
    as_json = CliRunner().invoke(build(), ["node", "token", "--json"], env=home)
    assert set(json.loads(as_json.stdout)) == {"token", "expires_at", "ca_hash", "address", "join_line"}
    added = CliRunner().invoke(build(), ["node", "add"], env=home)
    assert added.exit_code == Exit.FAILED
    assert "shardwright node token" in added.stderr


def test_the_wait_for_a_node_ends_when_its_api_knows_the_cluster(first: First, api: NodeApi) -> None:
    said: list[str] = []
    services.wait_serving(first.settings, first.founded.authority, said.append)
    assert said == []
    assert services.is_listening(first.settings)
    elsewhere = replace(first.settings, ports=replace(first.settings.ports, api=9449))
    with pytest.raises(Permanent, match="does not answer after 0 s"):
        services.wait_serving(elsewhere, first.founded.authority, said.append, timeout_s=0)
    assert not services.is_listening(elsewhere)
