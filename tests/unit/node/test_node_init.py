"""``init`` on a machine: what it refuses before any change, and that an interruption at any step is continued."""

import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shardwright.errors import Rejected
from shardwright.machine.lock import try_lock
from shardwright.model.codes import Code
from shardwright.model.trust import CertificateRole
from shardwright.node import init
from shardwright.node.founding_file import read_founding
from shardwright.node.init import Founded, InitOptions, existing_node, found
from shardwright.node.preflight import Machine, PlaceOptions
from shardwright.node.settings import Directories
from shardwright.node.settings_file import load_settings
from shardwright.server.binaries import all_servers
from shardwright.trust.authority import make_authority
from shardwright.trust.files import TrustFiles, load_credentials, write_signer
from shardwright.trust.keys import new_key

pytestmark = pytest.mark.server  # Databases need a server program, so this machine must have one.

NOW = datetime.now(UTC)
MACHINE = Machine("machine-1", (), 8 << 30, all_servers(), "3.4.23")


class Place:
    """A directory and an address for one node."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.etc = folder / "etc"
        self.directories = Directories(self.etc, folder / "state", folder / "run", folder / "log")
        self.options = InitOptions(PlaceOptions(address=address, directories=self.directories))
        self.credentials = folder / "home" / "cluster.json"

    def found(self, machine: Machine = MACHINE, environment: dict[str, str] | None = None, **changes: object) -> Founded:
        options = replace(self.options, **changes)  # type: ignore[arg-type]
        return found(options, machine, environment or {}, credentials=self.credentials, now=NOW)

    def refused(self, machine: Machine = MACHINE, environment: dict[str, str] | None = None, **changes: object) -> Rejected:
        with pytest.raises(Rejected) as caught:
            self.found(machine, environment, **changes)
        assert not self.etc.exists(), "a refusal comes before the first change"
        assert not self.credentials.exists()
        return caught.value


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for the paths of sockets."""
    with tempfile.TemporaryDirectory(prefix="node-") as made:
        yield Path(made)


@pytest.fixture
def place(folder: Path, loopback_base: Callable[[], str]) -> Place:
    return Place(folder, loopback_base())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "not a name"}, "--name"),
        ({"name": "a" * 65}, "--name"),
        ({"admin_email": "admin"}, "--admin-email"),
        ({"server": "mysql"}, "--server"),
        ({"authority": Path("/nowhere")}, "--ca-key"),
        ({"authority": Path("/nowhere"), "authority_key": Path("/nowhere")}, "--ca /nowhere"),
        ({"store": ("http://127.0.0.1:1",)}, "https"),
        ({"store": ("x",)}, "--store"),
        ({"store_files": (Path("/x"), None, None)}, "without --store"),
        ({"store": ("https://h:1",), "store_files": (Path("/x"), None, None)}, "--store"),
        ({"place": PlaceOptions(address="192.0.2.77")}, "not an address of this machine"),
    ],
)
def test_options_that_cannot_be_used(place: Place, changes: dict[str, object], said: str) -> None:
    assert said in place.refused(**changes).text  # type: ignore[arg-type]


def test_a_password_that_cannot_be_used(place: Place) -> None:
    assert "SHARDWRIGHT_ADMIN_PASSWORD" in place.refused(environment={"SHARDWRIGHT_ADMIN_PASSWORD": ""}).text


def test_a_machine_without_an_etcd(place: Place) -> None:
    assert place.refused(replace(MACHINE, store_version="")).code == Code.STORE_UNFIT


def test_a_taken_port(place: Place) -> None:
    assert place.options.place.address is not None
    with socket.create_server((place.options.place.address, 9444)):
        assert place.refused().code == Code.PORT_IN_USE


def test_the_password_is_kept_for_the_user_and_the_files_for_the_daemon(place: Place) -> None:
    founded = place.found()
    assert founded.password
    kept = json.loads(place.credentials.read_text())
    assert kept["password"] == founded.password
    assert kept["url"] == f"https://{place.options.place.address}:9443"
    assert Path(kept["certificate"]).read_bytes() == (place.etc / "ca.pem").read_bytes()
    assert founded.password not in repr(founded)
    (place.etc / "node.toml").unlink()
    again = place.found(environment={"SHARDWRIGHT_ADMIN_PASSWORD": "a good one"})
    assert json.loads(place.credentials.read_text())["password"] == "a good one"
    assert again.password == "", "a password that the user chose is not shown"


def test_a_second_init_says_that_there_is_a_node(place: Place) -> None:
    first = place.found()
    files = {path.name: path.read_bytes() for path in place.etc.iterdir()}
    again = place.found()
    assert (again.was_member, again.is_pending, again.settings) == (True, True, first.settings)
    assert {path.name: path.read_bytes() for path in place.etc.iterdir()} == files


STEPS = (
    "own_key",
    "_signer",
    "_certify",
    "write_credentials",
    "ensure_sealing",
    "_write_member",
    "_write_access",
    "write_founding",
    "write_settings",
)


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_init_continues_with_the_same_keys(place: Place, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(init, step, fail)
        with pytest.raises(KeyboardInterrupt):
            place.found()
    assert existing_node(place.etc) is None, "nothing starts before the last file is written"
    secrets = ("ca-key.pem", "node-key.pem", "cluster.key")
    before = {name: (place.etc / name).read_bytes() for name in secrets if (place.etc / name).exists()}
    founded = place.found()
    assert not founded.was_member
    assert {name: (place.etc / name).read_bytes() for name in before} == before
    settings = load_settings(place.etc / "node.toml")
    assert settings == founded.settings
    assert load_credentials(TrustFiles(place.etc).member(CertificateRole.STORE)).member.node_uid == 1
    assert read_founding(place.etc / "founding.json") is not None
    assert json.loads(place.credentials.read_text())["password"] == founded.password


def test_two_inits_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.etc.mkdir(mode=0o700)
    lock = try_lock(place.etc / "lock")
    assert lock is not None
    try:
        with pytest.raises(Rejected) as caught:
            place.found()
        assert caught.value.code == "busy"
    finally:
        os.close(lock)
    # The other one has finished between the first look and the lock.
    other = place.found()
    looks = iter([None, other])
    monkeypatch.setattr(init, "existing_node", lambda _: next(looks))
    monkeypatch.setattr(init, "check", lambda *_: None)
    assert place.found() is other


def test_the_operators_authority_signs(place: Place, tmp_path: Path) -> None:
    signer = make_authority(new_key(), serial=7, now=NOW)
    own = TrustFiles(tmp_path / "own")
    write_signer(own, signer)
    founded = place.found(authority=own.authority, authority_key=own.authority_key)
    assert founded.authority.key_hash == signer.authority.key_hash
    assert load_credentials(TrustFiles(place.etc).member(CertificateRole.NODE)).authority == signer.authority


def test_files_of_an_earlier_store_are_not_overwritten(place: Place) -> None:
    (place.directories.etcd / "member").mkdir(parents=True)
    (place.directories.etcd / "member" / "wal").touch()
    with pytest.raises(Rejected) as caught:
        place.found()
    assert caught.value.code == Code.NODE_EXISTS
