"""The judgment of a check, for any facts: it is total, and says each thing at the right node."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from shardwright.model.check import (
    CertificateEnd,
    CheckCode,
    Checked,
    CheckGrade,
    EtcdFacts,
    NodeFacts,
    PortLook,
    PortOffer,
    PortUse,
    Reach,
)
from shardwright.model.ids import NodeUid
from shardwright.plan.node_check import PORTS, concerns, judge, ports_to_try

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SIZES = st.integers(0, 1 << 50)
PORT = st.integers(0, 65_535)
RANGE = st.tuples(PORT, PORT)
SERVERS = st.sampled_from((("valkey", "9.1.2"), ("redis", "7.0.15"), ("redis", "7.2.4")))
OFFERS = st.builds(PortOffer, st.sampled_from(PortUse), st.sampled_from(("10.0.0.1", "fd00::1", "host", "")), PORT)
SECONDS = st.floats(-1e9, 1e9)
UIDS = st.integers(1, 5).map(NodeUid)
FACTS = st.builds(
    NodeFacts,
    at=st.just(NOW),
    took_s=st.floats(0, 10),
    version=st.sampled_from(("0.1.0", "0.2.0", "")),
    servers=st.lists(SERVERS, max_size=3).map(tuple),
    files_max=st.integers(-1, 1 << 30),
    disk_total_bytes=SIZES,
    disk_free_bytes=SIZES,
    sync_p99_ms=st.none() | st.floats(0, 1e6),
    local_ports=st.none() | RANGE,
    reserved_ports=st.lists(RANGE, max_size=4).map(tuple),
    certificates=st.lists(
        st.builds(CertificateEnd, st.just("node"), st.integers(-100, 100).map(lambda d: NOW + timedelta(days=d))), max_size=2
    ).map(tuple),
    etcd=st.none() | st.builds(EtcdFacts, st.sampled_from(("3.4.23", "")), st.booleans()),
    offers=st.lists(OFFERS, max_size=4).map(tuple),
    unusable=st.lists(st.tuples(OFFERS, st.text(max_size=5)), max_size=2).map(tuple),
)
LOOKS = st.lists(st.builds(PortLook, UIDS, OFFERS, st.sampled_from(Reach), st.text(max_size=5)), max_size=4).map(tuple)
NODES = st.lists(
    st.builds(
        Checked,
        uid=UIDS,
        address=st.sampled_from(("10.0.0.1", "host")),
        facts=st.none() | FACTS,
        silence=st.text(max_size=5),
        clock_ahead_s=SECONDS,
        clock_uncertain_s=st.floats(0, 10),
        looks=LOOKS,
    ),
    max_size=5,
    unique_by=lambda node: node.uid,
)


@given(NODES, st.sets(UIDS), st.sets(SERVERS))
def test_any_facts_are_judged(nodes: list[Checked], about: set[NodeUid], needed: set[tuple[str, str]]) -> None:
    found = judge(nodes, about=about, needed=needed, now=NOW)
    assert found == judge(nodes, about=about, needed=needed, now=NOW)
    assert [f.node_uid for f in found] == sorted(f.node_uid for f in found)
    for finding in found:
        assert any(concerns(finding, uid) for uid in about)
        assert finding.text
        assert finding.remedy
        assert finding.code in set(CheckCode)
    silent = {node.uid for node in nodes if node.facts is None} & about
    assert silent == {f.node_uid for f in found if f.code is CheckCode.NODE_SILENT and f.node_uid in about}
    closed = {
        (look.node_uid, node.uid)
        for node in nodes
        for look in node.looks
        if look.reach is not Reach.OPEN and {look.node_uid, node.uid} & about
    }
    assert closed == {(f.node_uid, f.from_uid) for f in found if f.from_uid is not None}


@given(NODES)
def test_at_least_one_clock_is_right(nodes: list[Checked]) -> None:
    everyone = {node.uid for node in nodes}
    known = {node.uid for node in nodes if node.facts is not None}
    wrong = {f.node_uid for f in judge(nodes, about=everyone, needed=(), now=NOW) if f.code is CheckCode.CLOCK_DIFFERS}
    assert wrong <= known
    assert not known or wrong < known


@given(RANGE, st.lists(RANGE, max_size=5))
def test_ports_are_safe_exactly_if_each_is_outside_or_reserved(
    local: tuple[int, int], reserved: list[tuple[int, int]]
) -> None:
    facts = NodeFacts(NOW, 0, "1", (), 1 << 20, 0, 0, local_ports=local, reserved_ports=tuple(reserved))
    found = judge([Checked(NodeUid(1), "", facts)], about=[NodeUid(1)], needed=(), now=NOW)
    is_open = any(
        not any(first <= port <= last for first, last in reserved)
        for port in range(max(PORTS[0], local[0]), min(PORTS[1], local[1]) + 1)
    )
    assert [f.code for f in found] == ([CheckCode.PORTS_NOT_RESERVED] if is_open else [])
    assert all(f.grade is CheckGrade.WARNING for f in found)


@given(st.dictionaries(UIDS, st.lists(OFFERS, max_size=4), max_size=5), st.sets(UIDS), UIDS)
def test_no_node_tries_itself_or_what_is_not_asked_about(
    offers: dict[NodeUid, list[PortOffer]], about: set[NodeUid], uid: NodeUid
) -> None:
    for other, offer in ports_to_try(uid, offers, about):
        assert other != uid
        assert offer in offers[other]
        assert {uid, other} & about
