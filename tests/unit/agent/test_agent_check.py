"""The facts of a machine for a check of the nodes, and attempts to reach ports, on real sockets, disks and files."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shardwright import __version__
from shardwright.agent import check as checking
from shardwright.agent.check import (
    CheckedHere,
    NodeChecks,
    certificate_ends,
    etcd_facts,
    listener_in,
    ranges_of,
    sync_p99_ms,
    try_port,
)
from shardwright.clock import SystemClock
from shardwright.model.check import CertificateEnd, PortLook, PortOffer, PortUse, Reach
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView
from testkit.builders import cluster
from testkit.certificates import members

ONE = NodeUid(1)
HERE = "127.83.1.1"
AGENT = PortOffer(PortUse.AGENT, HERE, 9444)


@contextmanager
def listening(address: str = HERE) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen(1)
        yield int(listener.getsockname()[1])


def view_at(address: str, **node: object) -> ClusterView:
    return cluster(1).with_node_changed(1, address=address, **node).with_database(on=((1,),)).view


def run(
    directory: Path, view: ClusterView, scenario: Callable[[NodeChecks], Awaitable[None]], here: CheckedHere | None = None
) -> None:
    async def whole() -> None:
        checks = NodeChecks(ONE, directory, here or CheckedHere(), view=lambda: view, clock=SystemClock())
        try:
            await scenario(checks)
        finally:
            checks.close()

    asyncio.run(whole())


def test_a_port_is_open_refused_silent_or_without_a_route(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        with listening() as port:
            assert await try_port(HERE, port) == (Reach.OPEN, "")
        assert await try_port(HERE, port) == (Reach.REFUSED, "")
        reach, text = await try_port("255.255.255.255", 9444)
        assert (reach, bool(text)) == (Reach.NO_ROUTE, True)
        monkeypatch.setattr(checking, "CONNECT_TIMEOUT_S", 0.1)
        with socket.socket() as deaf:
            deaf.bind((HERE, 0))
            deaf.listen(0)
            # The kernel drops what the full queue of a listener cannot take, like a firewall.
            full = [await asyncio.open_connection(*deaf.getsockname())]
            assert (await try_port(*deaf.getsockname()))[0] is Reach.NO_ANSWER
            for _, writer in full:
                writer.transport.abort()

    asyncio.run(scenario())


def test_a_port_for_the_check_is_one_that_nothing_uses() -> None:
    with listening() as used:
        free = [used - 1, used, used + 1]
        with listener_in(free, HERE, {used - 1}) as found:
            assert found.getsockname() == (HERE, used + 1)
        with pytest.raises(OSError, match="other programs use the ports"):
            listener_in([used], HERE, ())
    with pytest.raises(OSError, match="assign"):
        listener_in([20_000], "192.0.2.1", ())


@pytest.mark.parametrize(
    ("text", "of_pairs", "found"),
    [
        ("32768\t60999", True, [(32_768, 60_999)]),
        ("", True, []),
        ("", False, []),
        ("80,8080-8090, 10000-29999", False, [(80, 80), (8080, 8090), (10_000, 29_999)]),
        ("x,1-y,-", False, []),
    ],
)
def test_ranges_of_ports_as_the_kernel_writes_them(text: str, of_pairs: bool, found: list[tuple[int, int]]) -> None:
    assert ranges_of(text, of_pairs=of_pairs) == found


def test_synchronous_writes_are_timed_and_leave_nothing(tmp_path: Path) -> None:
    found = sync_p99_ms(tmp_path)
    assert found is not None
    assert found > 0
    assert list(tmp_path.iterdir()) == []
    assert sync_p99_ms(tmp_path / "absent") is None


def test_the_ends_of_certificates_are_read_and_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    own = members().member(1, HERE)
    (tmp_path / "node.pem").write_bytes(own.chain)
    (tmp_path / "broken.pem").write_text("no certificate")
    files = {name: tmp_path / f"{name}.pem" for name in ("node", "broken", "absent")}
    assert list(certificate_ends(files)) == [CertificateEnd("node", own.certificate.not_valid_after_utc)]


def test_the_version_of_etcd_is_that_of_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "etcd"
    for version, is_suitable in (("3.4.23", True), ("3.5.1", False)):
        program.write_text(f"#!/bin/sh\necho 'etcd Version: {version}'\necho 'Git SHA: 1'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        found = etcd_facts()
        assert (found.version, found.is_suitable) == (version, is_suitable)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert etcd_facts().version == ""


def test_a_node_of_a_local_cluster_tells_of_its_machine_and_opens_nothing(tmp_path: Path) -> None:
    async def scenario(checks: NodeChecks) -> None:
        began = datetime.now(UTC)
        facts = await checks.facts()
        assert facts.version == __version__
        assert began <= facts.at <= datetime.now(UTC)
        assert 0 < facts.took_s < 60
        assert facts.files_max > 0
        assert 0 < facts.disk_free_bytes <= facts.disk_total_bytes
        assert facts.local_ports is not None
        assert (facts.offers, facts.unusable, facts.etcd, facts.certificates) == ((), (), None, ())

    run(tmp_path, view_at(HERE), scenario)


def test_a_node_of_its_own_machine_opens_a_port_of_each_range_for_the_others(tmp_path: Path) -> None:
    view = view_at(HERE, server_address="127.83.1.2", external_addresses=("127.83.1.3",))
    (tmp_path / "node.pem").write_bytes(members().member(1, HERE).chain)
    here = CheckedHere(offers=lambda: (AGENT,), certificates={"node": tmp_path / "node.pem"})

    async def scenario(checks: NodeChecks) -> None:
        facts = await checks.facts()
        agent, databases, servers = facts.offers
        assert (agent, databases.address, servers.address) == (AGENT, "127.83.1.3", "127.83.1.2")
        assert (databases.use, servers.use) == (PortUse.DATABASES, PortUse.SERVERS)
        assert databases.port in range(10_000, 20_000)
        assert servers.port in range(20_000, 30_000)
        assert [c.name for c in facts.certificates] == ["node"]
        tries = tuple((NodeUid(2), offer) for offer in (servers, databases))
        assert await checks.try_ports(tries) == tuple(PortLook(NodeUid(2), offer, Reach.OPEN) for _, offer in tries)
        again = await checks.facts()
        assert again.offers[2].port == servers.port, "the ports of the last check are free again"
        checks.close()
        assert [look.reach for look in await checks.try_ports(tries)] == [Reach.REFUSED, Reach.REFUSED]

    run(tmp_path, view, scenario, here)


def test_the_ports_close_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "LISTEN_S", 0.0)

    async def scenario(checks: NodeChecks) -> None:
        _, databases, _ = (await checks.facts()).offers
        await asyncio.sleep(0)
        looks = await checks.try_ports(((NodeUid(2), databases),))
        assert [look.reach for look in looks] == [Reach.REFUSED]

    run(tmp_path, view_at(HERE), scenario, CheckedHere(offers=lambda: (AGENT,)))


def test_an_address_that_the_machine_does_not_have_is_a_fact(tmp_path: Path) -> None:
    async def scenario(checks: NodeChecks) -> None:
        facts = await checks.facts()
        assert [offer.use for offer in facts.offers] == [PortUse.AGENT, PortUse.DATABASES]
        ((offer, why),) = facts.unusable
        assert (offer.use, offer.address) == (PortUse.SERVERS, "192.0.2.1")
        assert "assign" in why

    here = CheckedHere(offers=lambda: (AGENT,))
    run(tmp_path, view_at(HERE, server_address="192.0.2.1"), scenario, here)


def test_a_node_without_a_record_opens_nothing(tmp_path: Path) -> None:
    async def scenario(checks: NodeChecks) -> None:
        assert (await checks.facts()).offers == (AGENT,)

    run(tmp_path, replace(view_at(HERE), nodes={}), scenario, CheckedHere(offers=lambda: (AGENT,)))
