"""What a machine must have before it becomes a node: every refusal names the option and a remedy."""

import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from shardwright.errors import Rejected
from shardwright.machine.addresses import _ipv4, _ipv6, is_own_address, own_addresses
from shardwright.model.codes import Code
from shardwright.node import preflight
from shardwright.node.join import without_member
from shardwright.node.preflight import Machine, PlaceOptions
from shardwright.node.settings import Directories

OWN = (ip_address("10.0.0.1"), ip_address("192.168.1.1"))


def refused(options: PlaceOptions, own: tuple[object, ...] = OWN) -> Rejected:
    with pytest.raises(Rejected) as caught:
        preflight.place_of(options, own)  # type: ignore[arg-type]
    assert caught.value.remedy
    return caught.value


def test_the_only_address_of_a_machine_is_its_nodes() -> None:
    place = preflight.place_of(PlaceOptions(), OWN[:1])
    assert place.addresses == OWN[:1]
    assert "10.0.0.1, 192.168.1.1" in refused(PlaceOptions()).remedy
    assert "no address" in refused(PlaceOptions(), ()).text


def test_a_network_of_its_own_brings_the_machines_address_in_it() -> None:
    place = preflight.place_of(PlaceOptions(address="192.0.2.1", cluster_network="10.0.0.0/24"), OWN)
    assert [str(address) for address in place.addresses] == ["192.0.2.1", "10.0.0.1"]
    place = preflight.place_of(PlaceOptions(address="10.0.0.1", cluster_network="10.0.0.0/24"), OWN)
    assert place.addresses == OWN[:1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"address": "here"}, "--address 'here'"),
        ({"address": "0.0.0.0"}, "--address has 0.0.0.0"),
        ({"address": "10.0.0.1", "external_address": "x"}, "--external-address 'x'"),
        ({"address": "10.0.0.1", "cluster_network": "10.0.0.1/24"}, "--cluster-network '10.0.0.1/24'"),
        ({"address": "10.0.0.1", "cluster_network": "172.16.0.0/16"}, "no address in it"),
        ({"address": "8.8.8.8"}, "public address 8.8.8.8"),
        ({"address": "10.0.0.1", "directories": Directories(Path("a"))}, "--config-dir is 'a'"),
    ],
)
def test_what_cannot_be_a_place(changes: dict[str, object], said: str) -> None:
    assert said in refused(replace(PlaceOptions(), **changes)).text  # type: ignore[arg-type]


def test_a_public_network_must_be_accepted() -> None:
    options = PlaceOptions(address="8.8.8.8")
    assert "--insecure-network" in refused(options).remedy
    assert preflight.place_of(replace(options, is_public_network_accepted=True), OWN).is_public_network_accepted


def test_memory() -> None:
    total = 8 << 30
    assert preflight.memory_of(PlaceOptions(memory_bytes=1 << 30), total) == 1 << 30
    assert 0 < preflight.memory_of(PlaceOptions(), total) < total
    for wrong in (1024, total + 1):
        with pytest.raises(Rejected, match="--memory"):
            preflight.memory_of(PlaceOptions(memory_bytes=wrong), total)


def test_an_address_of_another_machine_is_refused() -> None:
    place = preflight.place_of(PlaceOptions(address="192.0.2.77"), OWN)
    with pytest.raises(Rejected, match=r"192\.0\.2\.77 is not an address of this machine"):
        preflight.check_place(place)
    preflight.check_place(preflight.place_of(PlaceOptions(address="127.0.0.5"), OWN))


@pytest.mark.parametrize(("port", "what"), [(9443, "the API"), (9445, "the endpoint"), (2380, "members"), (2381, "figures")])
def test_a_taken_port_is_named_with_what_needs_it(port: int, what: str, loopback_base: Callable[[], str]) -> None:
    address = loopback_base()
    place = preflight.place_of(PlaceOptions(address=address), OWN)
    preflight.check_ports(place, with_store=True)
    with socket.create_server((address, port)):
        with pytest.raises(Rejected) as caught:
            preflight.check_ports(place, with_store=True)
        if port < 9000:
            preflight.check_ports(place, with_store=False)
    assert caught.value.code == Code.PORT_IN_USE
    assert what in caught.value.text
    assert str(port) in caught.value.text


@pytest.mark.parametrize("port", [2379, 2380, 2381])
def test_a_machine_with_another_etcd_joins_without_a_member(port: int, loopback_base: Callable[[], str]) -> None:
    address = loopback_base()
    place = preflight.place_of(PlaceOptions(address=address), OWN)
    machine = Machine("m", OWN, 1, (), "3.4.30")
    said: list[str] = []
    assert without_member(place, machine, said.append) == machine
    with socket.create_server((address, port)):
        told = without_member(place, machine, said.append)
        assert without_member(place, told, said.append) == told
    assert (told.has_store_program, len(said)) == (False, 1)
    assert str(port) in said[0]


def test_directories(tmp_path: Path) -> None:
    usable = Directories(tmp_path / "etc", tmp_path / "state", tmp_path / "run", tmp_path / "log")
    preflight.check_directories(usable)
    assert list(tmp_path.iterdir()) == [], "nothing is made"
    (tmp_path / "file").touch()
    with pytest.raises(Rejected, match="is not a directory"):
        preflight.check_directories(replace(usable, run=tmp_path / "file" / "run"))
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(Rejected, match="other users can write"):
        preflight.check_directories(replace(usable, configuration=tmp_path / "open"))
    (usable.shards / "7").mkdir(parents=True)
    with pytest.raises(Rejected) as caught:
        preflight.check_directories(usable)
    assert caught.value.code == Code.NODE_EXISTS


@pytest.mark.parametrize(
    ("version", "code"),
    [("", Code.STORE_UNFIT), ("3.4.22", Code.STORE_VERSION_UNSUITABLE), ("3.5.1", Code.STORE_VERSION_UNSUITABLE)],
)
def test_an_etcd_that_cannot_be_the_store(version: str, code: Code) -> None:
    with pytest.raises(Rejected) as caught:
        preflight.check_store_program(version)
    assert caught.value.code == code
    assert caught.value.remedy
    assert not Machine("m", OWN, 1, (), version).has_store_program


def test_an_etcd_that_can(tmp_path: Path) -> None:
    preflight.check_store_program("3.4.23")
    program = tmp_path / "etcd"
    program.write_text("#!/bin/sh\necho 'etcd Version: 3.5.12'\necho 'Git SHA: x'\n")
    assert preflight.store_version(program) == "", "it is not executable"
    program.chmod(0o700)
    assert preflight.store_version(program) == "3.5.12"
    assert preflight.store_version(tmp_path / "none") == ""


def test_the_addresses_of_a_machine() -> None:
    trie = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.1.0.0
        /16 link UNICAST
     |-- 10.1.0.7
        /32 host LOCAL
     |-- 10.1.255.255
        /32 link BROADCAST
        |-- 127.0.0.1
           /32 host LOCAL
"""
    assert _ipv4(trie) == [ip_address("10.1.0.7"), ip_address("127.0.0.1")]
    assert _ipv6("fd000000000000000000000000000002 02 40 00 80 eth0\n") == [ip_address("fd00::2")]
    assert all(not address.is_loopback for address in own_addresses())
    assert is_own_address(ip_address("127.4.5.6"))
    assert not is_own_address(ip_address("198.51.100.1"))
