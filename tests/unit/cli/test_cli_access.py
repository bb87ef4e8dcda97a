import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from shardwright.cli.access import (
    CHECK_ADDRESS,
    START_LOCAL,
    START_NODE,
    Wanted,
    credentials_file,
    default_directory,
    load_access,
)
from shardwright.cli.failure import Exit, Failure
from shardwright.cli.own_node import access_of_own, urls_of
from shardwright.model.ids import NodeUid
from shardwright.node.founding import Place, members_store, settings_of
from shardwright.node.settings import Directories, NodeSettings, StorePlace
from shardwright.node.settings_file import load_settings, write_settings
from shardwright.store.endpoints import Learned, learned_text


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    admin = {
        "url": "https://127.0.0.1:9443",
        "urls": ["https://127.0.0.1:9443", "https://127.0.0.2:9443"],
        "username": "admin@shardwright.local",
        "password": "secret",
    }
    (tmp_path / "admin.json").write_text(json.dumps(admin))
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "cert.pem").write_text("x")
    return tmp_path


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("other\nnot this\n")
    return path


def refused(environment: dict[str, str] | None = None, **wanted: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        load_access(Wanted(**wanted), environment or {"HOME": "/nonexistent"})
    assert caught.value.exit_code is Exit.USAGE
    return caught.value


def test_a_local_cluster_needs_no_options(cluster: Path) -> None:
    access = load_access(Wanted(directory=cluster), {})
    assert access.urls == ("https://127.0.0.1:9443", "https://127.0.0.2:9443")
    assert (access.username, access.password) == ("admin@shardwright.local", "secret")
    assert access.certificate == cluster / "tls" / "cert.pem"


def test_a_node_of_the_cluster_can_be_named(cluster: Path) -> None:
    access = load_access(Wanted(directory=cluster, url="127.0.0.2:9443"), {})
    assert access.urls == ("https://127.0.0.2:9443",)
    assert access.password == "secret"


def test_the_password_of_a_local_cluster_is_sent_to_no_other_address(cluster: Path) -> None:
    assert "no user" in refused(directory=cluster, url="https://198.51.100.1:9443").text


def test_another_user_supplies_a_password(cluster: Path, password_file: Path) -> None:
    assert "no password" in refused(directory=cluster, user="else@example.com").text
    access = load_access(Wanted(directory=cluster, user="else@example.com", password_file=password_file), {})
    assert (access.username, access.password) == ("else@example.com", "other")


def test_a_remote_cluster(password_file: Path) -> None:
    access = load_access(Wanted(url="https://node", user="a@b.c", password_file=password_file), {"HOME": "/nonexistent"})
    assert access.urls == ("https://node:9443",)
    assert access.certificate is None


def test_the_password_is_not_shown(cluster: Path) -> None:
    assert "secret" not in repr(load_access(Wanted(directory=cluster), {}))


def test_clear_text_never_leaves_this_machine(password_file: Path) -> None:
    assert "clear text" in refused(url="http://198.51.100.1", user="a@b.c", password_file=password_file).text
    assert load_access(Wanted(url="http://127.0.0.9", user="a", password_file=password_file), {}).urls == (
        "http://127.0.0.9:8080",
    )


@pytest.mark.parametrize("url", [" ", "a b", "ftp://x", "https://", "https://x:port", "https://me:secret@x", "https://[::1"])
def test_invalid_addresses_are_refused(url: str, password_file: Path) -> None:
    refused(url=url, user="a", password_file=password_file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"url": 1}', "not json"])
def test_a_broken_admin_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "admin.json").write_text(text)
    assert "admin.json" in refused(directory=tmp_path).text


def test_a_missing_cluster_has_a_remedy(tmp_path: Path) -> None:
    assert "shardwright up" in refused(directory=tmp_path).remedy


def test_an_empty_or_missing_password_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert "empty" in refused(url="https://x", user="a", password_file=tmp_path / "empty").text
    assert "cannot be read" in refused(url="https://x", user="a", password_file=tmp_path / "none").text


def test_a_missing_certificate_is_named(password_file: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    assert "no certificate" in refused(url="https://x", user="a", password_file=password_file, certificate=missing).text


def test_a_certificate_in_another_users_directory_is_named(password_file: Path, tmp_path: Path) -> None:
    """As it is with ``/etc/shardwright/ca.pem`` for a user who is not root."""
    private = tmp_path / "private"
    private.mkdir()
    (private / "ca.pem").write_text("x")
    private.chmod(0)
    password = password_file.read_text()
    (public := Path(tempfile.mkdtemp(prefix="certificate-"))).chmod(0o755)
    (public / "password").write_text(password)
    try:
        with as_a_user():
            failure = refused(
                url="127.0.0.1", user="a@b.c", password_file=public / "password", certificate=private / "ca.pem"
            )
    finally:
        private.chmod(0o700)
        shutil.rmtree(public)
    assert f"may not read the certificate {private / 'ca.pem'}" in failure.text
    assert "--certificate" in failure.remedy


@contextmanager
def as_a_user() -> Iterator[None]:
    """Not as root, for whom every file is readable."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_the_default_directory() -> None:
    assert default_directory({"XDG_DATA_HOME": "/x"}) == Path("/x/shardwright")
    assert default_directory({"HOME": "/h"}) == Path("/h/.local/share/shardwright")


@pytest.fixture
def node() -> Iterator[Path]:
    """The settings of a node on this machine. Its directories are short enough for the paths of sockets."""
    with tempfile.TemporaryDirectory(prefix="node-") as made:
        yield _node_in(Path(made))


def _node_in(directory: Path) -> Path:
    directories = Directories(*(directory / name for name in ("etc", "state", "run", "log")))
    directories.configuration.mkdir()
    (directories.configuration / "ca.pem").write_text("x")
    files = (directory / name for name in ("ca.pem", "store.pem", "key.pem"))
    store = StorePlace(("https://10.0.0.1:2379", "https://[fd00::3]:2379", "https://10.0.0.2:2379"), *files)
    settings = NodeSettings(NodeUid(2), (ip_address("10.0.0.2"),), store, directories=directories)
    path = directories.configuration / "node.toml"
    write_settings(path, settings)
    return path


def test_a_machine_that_joined_says_whose_credentials_are_missing(node: Path) -> None:
    with pytest.raises(Failure) as caught:
        load_access(Wanted(), {"HOME": "/nonexistent"}, node_settings=node)
    assert "https://10.0.0.2:9443" in caught.value.text
    for word in ("--user", "--password-file", "SHARDWRIGHT_USER", "SHARDWRIGHT_PASSWORD_FILE", "shardwright init"):
        assert word in caught.value.remedy


def test_a_user_on_a_machine_that_joined_reaches_its_node(node: Path, password_file: Path) -> None:
    wanted = Wanted(user="a@b.c", password_file=password_file)
    access = load_access(wanted, {"HOME": "/nonexistent"}, node_settings=node)
    assert (access.username, access.password) == ("a@b.c", "other")
    assert access.urls == ("https://10.0.0.2:9443", "https://10.0.0.1:9443", "https://[fd00::3]:9443")
    assert access.certificate == node.with_name("ca.pem")


def test_the_founding_machine_knows_the_other_nodes_from_what_its_daemon_learned(node: Path) -> None:
    """A removed node's own API ends: to repeat a command, another node must be asked."""
    directory = node.parent
    place = members_store(Place((ip_address("10.0.0.1"),), directories=Directories(directory)), ("https://10.0.0.1:2379",))
    directories = Directories(directory, node.parents[1] / "state")
    directories.state.mkdir()
    founder = NodeSettings(NodeUid(1), (ip_address("10.0.0.1"),), place, directories=directories)
    assert urls_of(founder) == ("https://10.0.0.1:9443",)
    learned = Learned("7", ("https://10.0.0.1:2379", "https://10.0.0.3:2379", "https://[fd00::2]:2379"))
    directories.store_endpoints.write_bytes(learned_text(learned))
    assert urls_of(founder) == ("https://10.0.0.1:9443", "https://10.0.0.3:9443", "https://[fd00::2]:9443")
    directories.store_endpoints.write_text("{")
    assert urls_of(founder) == ("https://10.0.0.1:9443",)


def test_where_an_authority_issues_certificates_their_addresses_count(
    node: Path, cluster: Path, password_file: Path, tmp_path: Path
) -> None:
    nowhere = {"HOME": "/nonexistent"}
    given = Wanted(user="a@b.c", password_file=password_file)
    assert load_access(given, nowhere, node_settings=node).is_named
    assert access_of_own(given, nowhere, load_settings(node)).is_named
    home = tmp_path / "home"
    kept = {"url": "https://10.0.0.1:9443", "username": "a@b.c", "password": "p", "certificate": str(home / "ca.pem")}
    path = credentials_file({"HOME": str(home)})
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(kept))
    (home / "ca.pem").write_text("x")
    of_init = load_access(Wanted(), {"HOME": str(home)}, node_settings=node)
    assert (of_init.certificate, of_init.is_named) == (home / "ca.pem", True)
    assert not load_access(Wanted(directory=cluster), {}).is_named, "a local cluster has one certificate"
    assert not load_access(replace(given, certificate=home / "ca.pem"), nowhere, node_settings=node).is_named


def test_what_is_given_or_kept_counts_before_the_machines_node(node: Path, cluster: Path) -> None:
    assert load_access(Wanted(directory=cluster), {}, node_settings=node).urls[0] == "https://127.0.0.1:9443"
    with pytest.raises(Failure, match="no cluster found in"):
        load_access(Wanted(directory=cluster / "other"), {}, node_settings=node)
    with pytest.raises(Failure, match=r"no user given for https://127\.0\.0\.5:9443"):
        load_access(Wanted(url="127.0.0.5"), {"HOME": "/nonexistent"}, node_settings=node)


def test_settings_of_the_machines_node_that_cannot_be_used_are_named(node: Path) -> None:
    node.write_text("[node]\n")
    with pytest.raises(Failure, match="its settings cannot be used") as caught:
        load_access(Wanted(), {"HOME": "/nonexistent"}, node_settings=node)
    assert "SHARDWRIGHT_URL" in caught.value.remedy


# -- the machine of init -----------------------------------------------------------------------------------------------


@pytest.fixture
def founder() -> Iterator[Path]:
    """The settings of the first node, which has learned of the second's member of the store."""
    with tempfile.TemporaryDirectory(prefix="node-") as made:
        directory = Path(made)
        place = Place(
            (ip_address("10.0.0.1"),), directories=Directories(*(directory / n for n in ("etc", "state", "run", "log")))
        )
        settings = settings_of(NodeUid(1), place, members_store(place, ("https://10.0.0.1:2379",)))
        for path in (settings.directories.configuration, settings.directories.state):
            path.mkdir()
        (settings.directories.configuration / "ca.pem").write_text("authority")
        learned = {"cluster_id": "7", "endpoints": ["https://10.0.0.1:2379", "https://10.0.0.2:2379"]}
        settings.directories.store_endpoints.write_text(json.dumps(learned))
        path = settings.directories.configuration / "node.toml"
        write_settings(path, settings)
        yield path


def of_init(home: Path, authority: str) -> dict[str, str]:
    """The environment of the user who ran ``init``."""
    environment = {"HOME": str(home)}
    path = credentials_file(environment)
    path.parent.mkdir(parents=True)
    certificate = path.with_name("ca.pem")
    certificate.write_text(authority)
    url = "https://10.0.0.1:9443"
    content = {"url": url, "urls": [url], "username": "a@b.c", "password": "far", "certificate": str(certificate)}
    path.write_text(json.dumps(content))
    return environment


def test_the_user_of_init_also_reaches_the_nodes_that_joined(founder: Path, tmp_path: Path) -> None:
    environment = of_init(tmp_path, "authority")
    access = load_access(Wanted(), environment, node_settings=founder)
    assert access.urls == ("https://10.0.0.1:9443", "https://10.0.0.2:9443")
    assert access.password == "far"
    named = load_access(Wanted(url="https://10.0.0.2:9443"), environment, node_settings=founder)
    assert (named.urls, named.password) == (("https://10.0.0.2:9443",), "far")
    with pytest.raises(Failure, match="no user given"):
        load_access(Wanted(url="https://10.0.0.3:9443"), environment, node_settings=founder)


def test_a_node_of_another_cluster_adds_no_address(founder: Path, tmp_path: Path) -> None:
    environment = of_init(tmp_path, "another authority")
    assert load_access(Wanted(), environment, node_settings=founder).urls == ("https://10.0.0.1:9443",)
    founder.unlink()
    assert load_access(Wanted(), environment, node_settings=founder).urls == ("https://10.0.0.1:9443",)


def test_the_members_of_an_operators_store_are_no_nodes(node: Path, tmp_path: Path) -> None:
    node.with_name("ca.pem").write_text("authority")
    environment = of_init(tmp_path, "authority")
    assert load_access(Wanted(), environment, node_settings=node).urls == ("https://10.0.0.1:9443",)


def test_what_was_learned_counts_only_if_it_can_be_read(
    founder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (founder.parents[1] / "state" / "store-endpoints.json").write_text("damaged")
    assert load_access(Wanted(), of_init(tmp_path, "authority"), node_settings=founder).urls == ("https://10.0.0.1:9443",)
    assert capsys.readouterr().out == ""


def test_what_helps_if_no_node_answers(
    cluster: Path, node: Path, founder: Path, password_file: Path, tmp_path: Path
) -> None:
    given = Wanted(user="a@b.c", password_file=password_file)
    assert load_access(Wanted(directory=cluster), {}).remedy == START_LOCAL
    assert load_access(replace(given, url="https://node"), {"HOME": "/nonexistent"}).remedy == CHECK_ADDRESS
    assert load_access(given, {"HOME": "/nonexistent"}, node_settings=node).remedy == START_NODE
    environment = of_init(tmp_path, "authority")
    assert load_access(Wanted(), environment, node_settings=founder).remedy == START_NODE
    assert load_access(Wanted(url="https://10.0.0.1:9443"), environment, node_settings=founder).remedy == START_NODE
    assert "shardwright up" not in START_NODE
