"""The settings of a node: what is accepted, and that every refusal names the line, the setting and a remedy."""

import os
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from shardwright.errors import Rejected
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.node.settings import Directories, NodeSettings, Ports, StorePlace, problems
from shardwright.node.settings_file import check_secrets, load_settings, write_settings
from shardwright.node.settings_text import line_of, parse, render

SHORT = """\
[node]
uid = 3
addresses = ["10.0.0.3"]

[store]
endpoints = ["https://10.0.0.1:2379", "https://10.0.0.2:2379"]
"""
FULL = """\
[node]
uid = 3
addresses = ["192.0.2.3", "10.0.0.3"]
external_address = "203.0.113.3"
[network]
cluster = "10.0.0.0/24"
accept_public = true
[store]
endpoints = ["https://store-1.example:2379"]
authority = "/keys/ca.pem"
certificate = "/keys/store.pem"
key = "/keys/key.pem"
[ports]
api = 443
agent = 8444
control = 8445
discovery = 8002
store_clients = 12379
store_members = 12380
[directories]
configuration = "/srv/sw/etc"
state = "/srv/sw/state"
run = "/srv/sw/run"
log = "/srv/sw/log"
""".replace("12379", "4379").replace("12380", "4380")
ETC = Path("/etc/shardwright")


def refusal(text: str) -> Rejected:
    with pytest.raises(Rejected) as caught:
        parse(text, name="node.toml")
    assert caught.value.code == Code.NODE_SETTINGS_INVALID
    assert caught.value.remedy
    return caught.value


def changed(line: str, to: str) -> str:
    assert line in FULL
    return FULL.replace(line, to)


# -- what is accepted -------------------------------------------------------------------------------------------------------


def test_three_settings_are_enough() -> None:
    settings = parse(SHORT, name="node.toml")
    assert settings == NodeSettings(
        node_uid=NodeUid(3),
        addresses=(ip_address("10.0.0.3"),),
        store=StorePlace(
            ("https://10.0.0.1:2379", "https://10.0.0.2:2379"), ETC / "ca.pem", ETC / "store.pem", ETC / "node-key.pem"
        ),
    )
    assert settings.address == settings.server_address == ip_address("10.0.0.3")
    assert settings.secret_files == (ETC / "node-key.pem", ETC / "ca-key.pem", ETC / "cluster.key")


def test_every_setting_is_read() -> None:
    settings = parse(FULL, name="node.toml")
    directories = Directories(Path("/srv/sw/etc"), Path("/srv/sw/state"), Path("/srv/sw/run"), Path("/srv/sw/log"))
    assert settings == NodeSettings(
        node_uid=NodeUid(3),
        addresses=(ip_address("192.0.2.3"), ip_address("10.0.0.3")),
        store=StorePlace(
            ("https://store-1.example:2379",), Path("/keys/ca.pem"), Path("/keys/store.pem"), Path("/keys/key.pem")
        ),
        external_address=ip_address("203.0.113.3"),
        cluster_network=ip_network("10.0.0.0/24"),
        is_public_network_accepted=True,
        ports=Ports(443, 8444, 8445, 8002, 4379, 4380),
        directories=directories,
    )
    assert settings.server_address == ip_address("10.0.0.3")
    assert settings.secret_files[-1] == Path("/keys/key.pem")
    assert [str(d) for d in (directories.shards, directories.etcd, directories.endpoint, directories.backups)] == [
        *("/srv/sw/state/shards", "/srv/sw/state/etcd", "/srv/sw/state/endpoint", "/srv/sw/state/backups")
    ]


def test_the_usual_files_follow_the_directory_of_the_configuration() -> None:
    settings = parse(f'{SHORT}[directories]\nconfiguration = "/srv/keys"\n', name="node.toml")
    assert settings.store.key == Path("/srv/keys/node-key.pem")
    assert settings.directories.cluster_key == Path("/srv/keys/cluster.key")


def test_a_store_on_loopback_needs_no_certificates() -> None:
    settings = parse(
        SHORT.replace("https://10.0.0.1", "http://127.0.0.1").replace("https://10.0.0.2", "http://[::1]"), name=""
    )
    assert settings.store == StorePlace(("http://127.0.0.1:2379", "http://[::1]:2379"))


@pytest.mark.parametrize("text", [SHORT, FULL])
def test_what_is_rendered_is_read_back(text: str) -> None:
    settings = parse(text, name="node.toml")
    assert parse(render(settings), name="node.toml") == settings


def test_the_rendered_file_is_readable() -> None:
    assert render(parse(SHORT, name="")).splitlines()[2:9] == [
        *("[node]", "uid = 3", 'addresses = ["10.0.0.3"]', "", "[store]"),
        'endpoints = ["https://10.0.0.1:2379", "https://10.0.0.2:2379"]',
        'authority = "/etc/shardwright/ca.pem"',
    ]


# -- what is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[node]\nuid = = 3\n", "node.toml: not TOML: Invalid value (at line 2, column 7)"),
        ("[" * 100_000, "node.toml: not TOML"),
        (changed("uid = 3", 'uid = "3"'), "node.toml, line 2: node.uid is '3', which is not a whole number"),
        (changed("uid = 3", "uid = true"), "node.toml, line 2: node.uid is True, which is not a whole number"),
        (changed("uid = 3", "uid = 0"), "node.toml, line 2: node.uid is 0, but nodes are numbered from 1"),
        (changed("uid = 3", ""), "node.toml, line 1: node.uid is missing"),
        (changed('["192.0.2.3", "10.0.0.3"]', '"10.0.0.3"'), "line 3: node.addresses is '10.0.0.3', which is not a list"),
        (
            changed('["192.0.2.3", "10.0.0.3"]', '["host-3"]'),
            "line 3: node.addresses is ['host-3'], which is not an IP address",
        ),
        (changed('["192.0.2.3", "10.0.0.3"]', "[]"), "line 3: node.addresses names no address"),
        (changed('"192.0.2.3", ', '"10.0.0.3", '), "line 3: node.addresses names 10.0.0.3 twice"),
        (changed('"192.0.2.3", ', '"0.0.0.0", '), "line 3: node.addresses has 0.0.0.0, at which no other node"),
        (changed("203.0.113.3", "::"), "line 4: node.external_address has ::, at which no other node"),
        (changed("10.0.0.0/24", "10.0.0.3/24"), "line 6: network.cluster is '10.0.0.3/24', which is not a network"),
        (changed("10.0.0.0/24", "10.1.0.0/24"), "line 6: network.cluster is 10.1.0.0/24, but none of the node's addresses"),
        (changed("= true", "= 1"), "line 7: network.accept_public is 1, which is not true or false"),
        (changed('["https://store-1.example:2379"]', "[]"), "line 9: store.endpoints names no member"),
        (
            changed("https://store", "ftp://store"),
            "line 9: store.endpoints has 'ftp://store-1.example:2379', which is not of the",
        ),
        (changed(":2379", ""), "store.endpoints has 'https://store-1.example', which is not of the form"),
        (changed(":2379", ":port"), "which is not an address"),
        (changed("//store", "//user@store"), "which names a user"),
        (changed("//store", "//st ore"), "which has characters that no address has"),
        (changed("https://store-1", "http://store-1"), "which would carry the cluster's records in clear"),
        (changed(':2379"]', ':2379", "https://store-1.example:2379"]'), "names https://store-1.example:2379 twice"),
        (changed(':2379"]', ':2379", "http://localhost:2379"]'), "mixes http and https"),
        (changed("/keys/key.pem", "key.pem"), "line 12: store.key is 'key.pem', whose meaning depends"),
        (changed("/keys/key.pem", "/keys/../key.pem"), "line 12: store.key is '/keys/../key.pem', whose meaning depends"),
        (changed('"/keys/key.pem"', '""'), "line 12: store.key is '', which is not a path"),
        (changed("= 443", "= 0"), "line 14: ports.api is 0, which is not a TCP port"),
        (changed("= 443", "= 65536"), "line 14: ports.api is 65536, which is not a TCP port"),
        (changed("= 443", "= 10000"), "line 14: ports.api is 10000, in the range of databases and servers"),
        (changed("= 443", "= 29999"), "line 14: ports.api is 29999, in the range of databases and servers"),
        (changed("= 443", "= 8444"), "line 15: ports.agent is 8444, like ports.api"),
        (changed("= 443", "= 443.0"), "line 14: ports.api is 443.0, which is not a whole number"),
        (changed("/srv/sw/log", "/srv/sw/run"), "line 24: directories.log is /srv/sw/run, like directories.run"),
        (changed("/srv/sw/run", "/" + "r" * 66), "line 23: directories.run is too long"),
        (changed("/srv/sw/log", "/srv/\\u0007"), "line 24: directories.log is '/srv/\\x07', which has characters"),
        (changed("api = 443", "apo = 443"), "line 14: ports.apo is not a setting"),
        ("rack = 'a'\n" + FULL, "line 1: rack is not a setting"),
        ("ports = 5\n" + SHORT, "line 1: ports is not a setting"),
        (SHORT.replace("https://10.0.0.2", "http://[::1]"), "mixes http and https"),
        ("", "node.toml: node.uid is missing; node.toml: node.addresses is missing; node.toml: store.endpoints is missing"),
    ],
)
def test_a_refusal_names_line_setting_and_remedy(text: str, said: str) -> None:
    assert said in refusal(text).text


def test_all_problems_are_named_at_once_with_their_remedies() -> None:
    refused = refusal(changed("= 443", "= 0").replace("uid = 3", "uid = 0"))
    assert refused.text.count("node.toml, line") == 2
    assert refused.remedy == "take the number of the node's record; take a port from 1 to 65535"


def test_a_misspelled_setting_is_recognized() -> None:
    assert refusal(changed("agent = 8444", "agnet = 8444")).remedy == "write ports.agent"
    assert refusal("nonsense = 1\n" + SHORT).remedy == "remove it"


def test_servers_do_not_use_a_public_network_unless_the_operator_accepts_it() -> None:
    public = SHORT.replace("10.0.0.3", "8.8.8.8")
    assert "over the public address 8.8.8.8" in refusal(public).text
    accepted = parse(f"{public}[network]\naccept_public = true\n", name="")
    assert accepted.is_public_network_accepted
    # With a declared network, the address in it counts.
    both = SHORT.replace('"10.0.0.3"', '"8.8.8.8", "10.0.0.3"')
    assert parse(f'{both}[network]\ncluster = "10.0.0.0/8"\n', name="").server_address == ip_address("10.0.0.3")


def test_unusable_settings_are_not_rendered() -> None:
    settings = replace(parse(SHORT, name=""), ports=Ports(api=0))
    assert [p.key for p in problems(settings)] == ["ports.api"]
    with pytest.raises(Rejected, match=r"^ports\.api is 0"):
        render(settings)


def test_lines_are_found_however_the_file_is_written() -> None:
    text = 'ports.api = 1\n[ node ] # comment\n"uid" = 3\n  rack= 1\n'
    assert [line_of(text, key) for key in ("ports.api", "node.uid", "node.rack", "node.addresses", "store.key")] == [
        *(1, 3, 4, 2),
        None,
    ]


# -- the file ---------------------------------------------------------------------------------------------------------------


def settings_in(directory: Path) -> NodeSettings:
    return parse(f'{SHORT}[directories]\nconfiguration = "{directory}"\n', name="")


def test_the_file_is_written_and_read_back(tmp_path: Path) -> None:
    path, settings = tmp_path / "node.toml", settings_in(tmp_path)
    path.write_text("an older one")
    (tmp_path / "node.toml.new").write_text("left by a crash")
    write_settings(path, settings, group=os.getgid())
    assert oct(path.stat().st_mode)[-3:] == "640"
    assert load_settings(path) == settings
    assert os.listdir(tmp_path) == ["node.toml"]


def refused_file(path: Path, *, user: int | None = None) -> Rejected:
    with pytest.raises(Rejected) as caught:
        load_settings(path, user=user)
    return caught.value


def test_a_missing_file_is_not_a_wrong_one(tmp_path: Path) -> None:
    refused = refused_file(tmp_path / "node.toml")
    assert refused.code == Code.NODE_SETTINGS_ABSENT
    assert str(tmp_path) in refused.text


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    assert "Is a directory" in refused_file(tmp_path).text
    path = tmp_path / "node.toml"
    path.touch(mode=0o600)
    path.write_bytes(b"# one\n# \xff\n")
    assert refused_file(path).text == f"{path}, line 2: not UTF-8"
    path.write_bytes(b"#" * 100_000)
    assert "is larger than" in refused_file(path).text


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o777])
def test_settings_that_others_may_change_are_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.toml"
    write_settings(path, settings_in(tmp_path))
    path.chmod(mode)
    refused = refused_file(path)
    assert refused.code == Code.SECRET_EXPOSED
    assert f"can be changed by other users (its mode is {mode:04o})" in refused.text
    assert refused.remedy == f"chmod 640 {path}"


@pytest.mark.parametrize("name", ["node-key.pem", "ca-key.pem", "cluster.key"])
@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o601])
def test_secrets_that_others_may_read_are_refused(tmp_path: Path, name: str, mode: int) -> None:
    path, secret = tmp_path / "node.toml", tmp_path / name
    write_settings(path, settings_in(tmp_path))
    secret.touch(mode=0o600)
    load_settings(path)
    secret.chmod(mode)
    refused = refused_file(path)
    assert refused.code == Code.SECRET_EXPOSED
    assert refused.text == f"{secret} can be read by other users (its mode is {mode:04o})"
    assert refused.remedy == f"chmod 600 {secret}"


def test_files_of_another_user_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    write_settings(path, settings_in(tmp_path))
    other = os.geteuid() + 1
    if os.geteuid() == 0:
        # Root's files are everyone's: the daemon's user trusts them.
        assert load_settings(path, user=other)
        os.chown(path, other, -1)
        assert load_settings(path, user=other)
        other += 1
    refused = refused_file(path, user=other)
    assert refused.code == Code.SECRET_EXPOSED
    assert refused.remedy == f"chown {other} {path}"


def test_absent_secrets_are_their_users_matter(tmp_path: Path) -> None:
    check_secrets(settings_in(tmp_path))
