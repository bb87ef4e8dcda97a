"""Addresses that move between machines of namespaces: the kernel's tables, our frames, and what neighbors make of them.

Needs root, iproute2 and util-linux, and is skipped by name without them.
"""

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from shardwright.machine import arp
from shardwright.machine import virtual_addresses as addresses
from shardwright.machine.virtual_addresses import MARK, PlacedAddress
from testkit.deadlines import until
from testkit.machines.commands import missing
from testkit.machines.group import NETWORK, Machines
from testkit.machines.machine import Machine
from testkit.machines.spec import INTERFACE, PREFIX_BITS, ROOT

pytestmark = [pytest.mark.proof, pytest.mark.skipif(bool(missing()), reason=missing() or "machines can be made")]

VIRTUAL = str(NETWORK[100])
PLACED = PlacedAddress(VIRTUAL, PREFIX_BITS, INTERFACE)
PORT = 7000


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with Machines(("m1", "m2", "client")) as made:
        yield made


@pytest.fixture(autouse=True)
def without_leftovers(machines: Machines) -> Iterator[None]:
    yield
    for machine in machines.all.values():
        with machine.network():
            for placed in addresses.ours():
                addresses.remove(placed)


def labels(machine: Machine) -> dict[str, str]:
    found = json.loads(machine.check("ip", "-json", "address", "show", "dev", INTERFACE))
    return {one["local"]: one.get("label", "") for one in found[0]["addr_info"]}


def hardware_of(machine: Machine) -> str:
    return str(json.loads(machine.check("ip", "-json", "link", "show", "dev", INTERFACE))[0]["address"])


def neighbor(machine: Machine) -> str:
    """The hardware address that the machine remembers for the virtual one; empty: none."""
    found = json.loads(machine.check("ip", "-json", "neighbor", "show", "to", VIRTUAL) or "[]")
    return str(found[0].get("lladdr", "")) if found else ""


@contextmanager
def answering(machine: Machine) -> Iterator[None]:
    """The machine accepts at the virtual address, as an endpoint process does: whether it has the address or not."""
    with machine.network(), socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IP, 15, 1)
        listener.bind((VIRTUAL, PORT))
        listener.listen()
        yield


def connects(machine: Machine) -> bool:
    try:
        with machine.network(), socket.create_connection((VIRTUAL, PORT), timeout=1):
            return True
    except OSError:
        return False


def reaches_after_announcement(client: Machine, holder: Machine) -> bool:
    """A kernel believes no second change within a second: the agent, too, announces again later."""
    with holder.network():
        arp.announce(VIRTUAL, INTERFACE)
    return connects(client)


def test_an_address_is_added_with_our_mark_listed_and_removed(machines: Machines) -> None:
    with machines["m1"].network():
        addresses.add(PLACED)
        addresses.add(PLACED)
        assert addresses.ours() == [PLACED]
    assert labels(machines["m1"]) == {machines["m1"].address: INTERFACE, VIRTUAL: f"{INTERFACE}{MARK}"}
    with machines["m1"].network():
        addresses.remove(PLACED)
        addresses.remove(PLACED)
        assert addresses.ours() == []
    assert labels(machines["m1"]) == {machines["m1"].address: INTERFACE}


def test_an_address_without_our_mark_is_neither_listed_nor_removed(machines: Machines) -> None:
    machine = machines["m1"]
    machine.check("ip", "address", "add", f"{VIRTUAL}/{PREFIX_BITS}", "dev", INTERFACE)
    try:
        with machine.network():
            assert addresses.ours() == []
            with pytest.raises(OSError, match="as one of its own"):
                addresses.add(PLACED)
            addresses.remove(PLACED)
        assert VIRTUAL in labels(machine)
    finally:
        machine.check("ip", "address", "del", f"{VIRTUAL}/{PREFIX_BITS}", "dev", INTERFACE)


def test_a_missing_interface_is_an_error_and_its_removal_is_none(machines: Machines) -> None:
    absent = PlacedAddress(VIRTUAL, PREFIX_BITS, "eth7")
    with machines["m1"].network():
        with pytest.raises(OSError, match="No such device"):
            addresses.add(absent)
        addresses.remove(absent)
        assert addresses.usable_interfaces() == (INTERFACE,)


@pytest.mark.parametrize("capability", ["net_admin", "net_raw"])
def test_a_process_without_a_capability_can_use_no_interface(machines: Machines, capability: str) -> None:
    machine = machines["m1"]
    script = "from shardwright.machine.virtual_addresses import usable_interfaces; print(usable_interfaces())"
    python = ["env", f"PYTHONPATH={ROOT / 'src'}", sys.executable, "-c", script]
    assert machine.check(*python).strip() == "('eth0',)"
    assert machine.check("setpriv", f"--bounding-set=-{capability}", "--", *python).strip() == "()"


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_neighbor_follows_an_address_that_is_announced(machines: Machines, is_announced: bool) -> None:
    """And without the announcement it asks the old machine, which is why we announce."""
    one, two, client = machines["m1"], machines["m2"], machines["client"]
    with answering(one), answering(two):
        with one.network():
            addresses.add(PLACED)
            arp.announce(VIRTUAL, INTERFACE)
        until("the client connects", lambda: connects(client), seconds=5, state=lambda: neighbor(client))
        assert neighbor(client) == hardware_of(one)
        with one.network():
            addresses.remove(PLACED)
        with two.network():
            addresses.add(PLACED)
            if is_announced:
                assert arp.announce(VIRTUAL, INTERFACE)
        if not is_announced:
            assert neighbor(client) == hardware_of(one)
            assert not connects(client)
            with two.network():
                arp.announce(VIRTUAL, INTERFACE)
        reaches = partial(reaches_after_announcement, client, two)
        until("the client reaches the other machine", reaches, seconds=5, state=lambda: neighbor(client))
        assert neighbor(client) == hardware_of(two)


def test_loopback_has_no_announcement(machines: Machines) -> None:
    with machines["m1"].network():
        assert not arp.announce(VIRTUAL, "lo")
