"""What a check of the nodes makes of the facts: each finding, on each side of its limit."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.model.check import (
    CertificateEnd,
    CheckCode,
    Checked,
    CheckGrade,
    EtcdFacts,
    Finding,
    NodeFacts,
    PortLook,
    PortOffer,
    PortUse,
    Reach,
)
from shardwright.model.ids import NodeUid
from shardwright.plan.firewall import opening_lines
from shardwright.plan.node_check import concerns, judge, ports_to_try
from testkit.builders import NOW

VALKEY, REDIS = ("valkey", "9.1.2"), ("redis", "7.0.15")
FACTS = NodeFacts(
    at=NOW,
    took_s=1.0,
    version="0.1.0",
    servers=(VALKEY, REDIS),
    files_max=1_048_576,
    disk_total_bytes=100 << 30,
    disk_free_bytes=50 << 30,
    sync_p99_ms=2.0,
    local_ports=(32_768, 60_999),
    certificates=(CertificateEnd("node", NOW + timedelta(days=60)),),
)
AGENT = PortOffer(PortUse.AGENT, "10.0.0.2", 9444)
ONE, TWO, THREE = NodeUid(1), NodeUid(2), NodeUid(3)


def node(uid: int = 1, facts: NodeFacts | None = FACTS, **more: object) -> Checked:
    return Checked(NodeUid(uid), f"10.0.0.{uid}", facts, **more)  # type: ignore[arg-type]


def judged(*nodes: Checked, about: Sequence[int] = (), needed: Sequence[tuple[str, str]] = ()) -> tuple[Finding, ...]:
    wanted = [NodeUid(uid) for uid in about] or [n.uid for n in nodes]
    return judge(nodes, about=wanted, needed=needed, now=NOW)


def found(**facts: object) -> list[tuple[str, str]]:
    """Code and grade of the findings at one node with these facts."""
    return [(str(f.code), str(f.grade)) for f in judged(node(facts=replace(FACTS, **facts)))]  # type: ignore[arg-type]


def test_a_sound_node_has_no_finding() -> None:
    assert judged(node(1), node(2), needed=[VALKEY]) == ()
    assert judged() == ()


@pytest.mark.parametrize(
    ("facts", "findings"),
    [
        ({"sync_p99_ms": 10.0}, []),
        ({"sync_p99_ms": 10.1}, [("disk_slow", "warning")]),
        ({"sync_p99_ms": None}, []),
        ({"disk_free_bytes": 9 << 30}, []),  # much, although it is a small part
        ({"disk_free_bytes": 1 << 30}, [("disk_full", "warning")]),
        ({"disk_free_bytes": 100 << 20}, [("disk_full", "failed")]),
        ({"disk_free_bytes": 100 << 20, "disk_total_bytes": 200 << 20}, []),
        ({"disk_free_bytes": 0, "disk_total_bytes": 0}, []),  # unknown
        ({"files_max": 65_536}, []),
        ({"files_max": 65_535}, [("files_few", "warning")]),
        ({"files_max": 10_239}, [("files_few", "failed")]),
        ({"local_ports": None}, []),
        ({"local_ports": (1024, 60_999)}, [("ports_not_reserved", "warning")]),
        ({"local_ports": (30_000, 60_999)}, []),
        ({"local_ports": (1024, 9_999)}, []),
        ({"local_ports": (1024, 60_999), "reserved_ports": ((10_000, 29_999),)}, []),
        ({"local_ports": (1024, 60_999), "reserved_ports": ((1, 99), (20_000, 29_999), (9_000, 19_999))}, []),
        ({"local_ports": (1024, 60_999), "reserved_ports": ((10_000, 19_999),)}, [("ports_not_reserved", "warning")]),
        ({"local_ports": (1024, 60_999), "reserved_ports": ((20_000, 29_999),)}, [("ports_not_reserved", "warning")]),
        ({"local_ports": (29_000, 60_999), "reserved_ports": ((28_000, 40_000), (50_000, 60_000))}, []),
        ({"certificates": (CertificateEnd("node", NOW + timedelta(days=30)),)}, []),
        ({"certificates": (CertificateEnd("node", NOW + timedelta(days=29)),)}, [("certificate_ends", "warning")]),
        ({"certificates": (CertificateEnd("node", NOW),)}, [("certificate_ended", "failed")]),
        ({"etcd": EtcdFacts("3.4.23", is_suitable=True)}, []),
        ({"etcd": EtcdFacts("3.5.1", is_suitable=False)}, [("etcd_unsuitable", "failed")]),
        ({"unusable": ((AGENT, "no such address"),)}, [("address_unusable", "failed")]),
    ],
)
def test_each_fact_has_its_limit(facts: dict[str, object], findings: list[tuple[str, str]]) -> None:
    assert found(**facts) == findings


def test_the_part_that_is_not_reserved_is_named() -> None:
    facts = replace(FACTS, local_ports=(15_000, 60_999), reserved_ports=((10_000, 17_999), (20_000, 20_010)))
    (finding,) = judged(node(facts=facts))
    assert "18000-19999" in finding.text
    assert "ip_local_reserved_ports=10000-29999" in finding.remedy


def test_a_silent_agent_is_a_failure_with_its_reason() -> None:
    (finding,) = judged(node(1), node(2, None, silence="no route"), needed=[VALKEY])
    assert (finding.code, finding.grade, finding.node_uid) == (CheckCode.NODE_SILENT, CheckGrade.FAILED, TWO)
    assert "no route" in finding.text


def test_a_missing_server_is_named_with_what_is_there() -> None:
    (finding,) = judged(node(facts=replace(FACTS, servers=(REDIS,))), needed=[REDIS, VALKEY])
    assert (finding.code, finding.remedy) == (CheckCode.SERVER_MISSING, "install valkey 9.1.2")
    assert "redis 7.0.15" in finding.text


def test_nodes_with_a_version_that_most_nodes_do_not_have_are_named() -> None:
    newer = replace(FACTS, version="0.2.0")
    findings = judged(node(1), node(2, newer), node(3))
    assert [(f.code, f.node_uid) for f in findings] == [(CheckCode.VERSIONS_DIFFER, TWO)]
    findings = judged(node(1), node(2, newer), node(3, newer))
    assert [f.node_uid for f in findings] == [ONE]


@pytest.mark.parametrize(
    ("ahead", "wrong"),
    [
        ((0.0, 0.5, -0.5), []),
        ((0.0, 0.7, 0.0), [(2, "warning", "0.7 s ahead of")]),
        ((0.0, 20.0, 20.1), [(1, "warning", "20.0 s behind")]),  # the clock that asks is the wrong one
        ((0.0, -400.0, 0.0), [(2, "failed", "400.0 s behind")]),
        ((0.0, 300.0, 0.0), [(2, "warning", "300.0 s ahead of")]),
    ],
)
def test_the_clock_that_differs_from_the_middle_is_named(
    ahead: tuple[float, ...], wrong: list[tuple[int, str, str]]
) -> None:
    findings = judged(*(node(uid, clock_ahead_s=s) for uid, s in enumerate(ahead, 1)))
    assert [(f.node_uid, str(f.grade)) for f in findings] == [(uid, grade) for uid, grade, _ in wrong]
    for finding, (_, _, text) in zip(findings, wrong, strict=True):
        assert text in finding.text


def test_a_slow_answer_makes_no_clock_wrong() -> None:
    assert judged(node(1), node(2, clock_ahead_s=1.0, clock_uncertain_s=0.6)) == ()
    assert len(judged(node(1), node(2, clock_ahead_s=1.2, clock_uncertain_s=0.6))) == 1


@pytest.mark.parametrize(
    ("reach", "code", "words"),
    [
        (Reach.REFUSED, CheckCode.PORT_REFUSED, "start what listens there"),
        (Reach.NO_ANSWER, CheckCode.PORT_NO_ANSWER, "on node 2, one of: nft"),
        (Reach.NO_ROUTE, CheckCode.PORT_NO_ROUTE, "ip route get 10.0.0.2"),
    ],
)
def test_a_closed_port_is_named_with_its_direction_and_the_way_to_open_it(reach: Reach, code: CheckCode, words: str) -> None:
    tries = node(1, looks=(PortLook(TWO, AGENT, reach, "as the system says"),))
    (finding,) = judged(tries, node(2), node(3))
    assert (finding.code, finding.grade, finding.node_uid, finding.from_uid) == (code, CheckGrade.FAILED, TWO, ONE)
    assert "from node 1 to 10.0.0.2:9444 (agent)" in finding.text
    assert "as the system says" in finding.text
    assert words in finding.remedy
    assert "ufw allow proto tcp from 10.0.0.1 to any port 9444" in finding.remedy
    assert [concerns(finding, uid) for uid in (ONE, TWO, THREE)] == [True, True, False]
    assert judged(tries, node(2), node(3), about=[3]) == (), "it does not concern node 3"
    assert judged(tries, node(2), node(3), about=[1]) == (finding,)


def test_an_open_port_is_no_finding_and_one_for_clients_only_a_warning() -> None:
    offer = PortOffer(PortUse.DATABASES, "192.0.2.2", 19_999)
    assert judged(node(1, looks=(PortLook(TWO, AGENT, Reach.OPEN),)), node(2)) == ()
    (finding,) = judged(node(1, looks=(PortLook(TWO, offer, Reach.NO_ANSWER),)), node(2))
    assert finding.grade is CheckGrade.WARNING
    assert "10000-19999" in finding.remedy


def test_failures_come_before_warnings_of_the_same_node() -> None:
    facts = replace(FACTS, sync_p99_ms=50.0, files_max=100)
    assert [f.grade for f in judged(node(facts=facts))] == [CheckGrade.FAILED, CheckGrade.WARNING]


def test_the_lines_that_open_a_port() -> None:
    assert opening_lines(AGENT, "10.0.0.1") == (
        "nft add rule inet filter input ip saddr 10.0.0.1 tcp dport 9444 accept",
        "ufw allow proto tcp from 10.0.0.1 to any port 9444",
        'firewall-cmd --permanent --add-rich-rule=\'rule family="ipv4" source address="10.0.0.1" '
        'port port="9444" protocol="tcp" accept\' && firewall-cmd --reload',
    )
    servers = PortOffer(PortUse.SERVERS, "fd00::2", 29_999)
    assert opening_lines(servers, "fd00::1")[:2] == (
        "nft add rule inet filter input ip6 saddr fd00::1 tcp dport 20000-29999 accept",
        "ufw allow proto tcp from fd00::1 to any port 20000:29999",
    )
    anyone = (
        "nft add rule inet filter input tcp dport 10000-19999 accept",
        "ufw allow 10000:19999/tcp",
        "firewall-cmd --permanent --add-port=10000-19999/tcp && firewall-cmd --reload",
    )
    assert opening_lines(PortOffer(PortUse.DATABASES, "192.0.2.2", 19_999), "10.0.0.1") == anyone
    assert opening_lines(AGENT, "host-1")[1] == "ufw allow 9444/tcp"


def test_each_node_tries_the_ports_of_the_others_and_only_members_those_between_members() -> None:
    store, members = PortOffer(PortUse.STORE, "10.0.0.2", 2379), PortOffer(PortUse.STORE_MEMBERS, "10.0.0.2", 2380)
    own = PortOffer(PortUse.STORE_MEMBERS, "10.0.0.3", 2380)
    offers = {ONE: (), TWO: (AGENT, store, members), THREE: (own,)}
    everyone = list(offers)
    assert ports_to_try(ONE, offers, everyone) == ((TWO, AGENT), (TWO, store))
    assert ports_to_try(THREE, offers, everyone) == ((TWO, AGENT), (TWO, store), (TWO, members))
    assert ports_to_try(TWO, offers, everyone) == ((THREE, own),)
    assert ports_to_try(THREE, offers, [ONE]) == (), "neither end is checked"
    assert ports_to_try(NodeUid(9), offers, [TWO]) == ((TWO, AGENT), (TWO, store))


def test_a_node_that_cannot_have_a_virtual_address_is_named() -> None:
    able = replace(FACTS, interfaces=("eth0",))
    lame = replace(FACTS, interfaces=("eth0",), may_move_addresses=False)
    nodes = [node(1, able), node(2, lame), node(3, FACTS)]
    found = judge(nodes, about=[ONE, TWO, THREE], needed=(), interfaces=["eth0"], now=NOW)
    codes = [(f.node_uid, f.code, f.grade) for f in found]
    assert codes == [
        (TWO, CheckCode.CAPABILITY_MISSING, CheckGrade.WARNING),
        (THREE, CheckCode.INTERFACE_MISSING, CheckGrade.WARNING),
    ]
    assert judge(nodes, about=[ONE, TWO, THREE], needed=(), now=NOW) == ()
