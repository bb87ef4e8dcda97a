"""A join as values: every refusal with its code and its remedy, and what an accepted newcomer is given."""

import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from shardwright.errors import Rejected
from shardwright.model.codes import Code
from shardwright.model.database import ServerKind
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.trust.authority import covers, make_authority
from shardwright.trust.certificates import Member, issued_record, make_request
from shardwright.trust.contexts import read_credentials
from shardwright.trust.join import (
    ADDRESSES_MAX,
    PROTOCOL,
    TEXT_MAX,
    JoinRequest,
    JoinView,
    MemberNode,
    SealingKey,
    ServerVersion,
    answer_join,
    check_join,
    earlier_node,
    names_by_role,
)
from shardwright.trust.keys import hash_of_key, key_text, new_key
from shardwright.trust.tokens import RANDOM_BYTES, check_token, join_line, make_token, read_address, read_ca_hash, used

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TOKEN, RECORD = make_token(secrets.token_bytes(RANDOM_BYTES), NOW)
KEY = new_key()
SIGNER = make_authority(new_key(), serial=1, now=NOW)
VALKEY, REDIS = ServerVersion(ServerKind.VALKEY, "9.1.2"), ServerVersion(ServerKind.REDIS, "7.0.15")

VIEW = JoinView(
    tokens={RECORD.uid: RECORD},
    members=(
        MemberNode(NodeUid(1), "machine-1", ("10.0.0.1", "fd00::1"), is_replaceable=False),
        MemberNode(NodeUid(2), "machine-2", ("10.0.0.2",), is_replaceable=True),
        MemberNode(NodeUid(3), "", ("10.0.0.3",), is_replaceable=True),
    ),
    servers=(VALKEY,),
    version="1.2.0",
)
REQUEST = JoinRequest(
    token=TOKEN,
    request=make_request(KEY),
    machine_id="machine-4",
    addresses=("10.0.0.4", "four.example"),
    memory_bytes=4 << 30,
    rack="b",
    version="1.2.0",
    servers=(VALKEY, REDIS),
    at=NOW,
)


def codes(request: JoinRequest, view: JoinView = VIEW, now: datetime = NOW) -> list[Code]:
    found = check_join(request, view, now)
    assert all(reason.text and reason.remedy for reason in found)
    return [reason.code for reason in found]


def remedies(request: JoinRequest) -> list[str]:
    return [reason.remedy for reason in check_join(request, VIEW, NOW)]


def test_a_newcomer_with_everything_in_order_may_join() -> None:
    assert codes(REQUEST) == []
    assert codes(replace(REQUEST, at=NOW + timedelta(minutes=5), rack="", machine_id="x")) == []


def test_what_the_certificates_of_a_node_name() -> None:
    named = names_by_role(("10.0.0.4", "four.example"), "203.0.113.4")
    assert set(named) == set(CertificateRole)
    assert set(named.values()) == {("10.0.0.4", "four.example", "203.0.113.4")}
    local = names_by_role(("127.1.2.3",))
    assert local[CertificateRole.STORE] == ("127.1.2.3", "127.0.0.1"), "a member connects from there"
    assert local[CertificateRole.NODE] == ("127.1.2.3",)
    assert names_by_role(("four.example",))[CertificateRole.STORE] == ("four.example",)


def test_a_machine_that_joined_and_never_ran_is_recognized_by_its_key() -> None:
    own = MemberNode(NodeUid(4), "machine-4", ("10.0.0.4",), False, key_hash=hash_of_key(KEY.public_key()), has_run=False)
    assert earlier_node(REQUEST, (*VIEW.members, own)) is own
    for other in (replace(own, has_run=True), replace(own, machine_id="machine-5"), replace(own, key_hash="")):
        assert earlier_node(REQUEST, (other,)) is None
    assert earlier_node(replace(REQUEST, request=b"no request"), (own,)) is None
    with_own = replace(VIEW, members=(*VIEW.members, own), tokens={RECORD.uid: used(RECORD, own.uid)})
    assert codes(REQUEST, with_own) == []
    of_another = replace(with_own, tokens={RECORD.uid: used(RECORD, NodeUid(2))})
    assert codes(REQUEST, of_another) == [Code.JOIN_TOKEN_USED]


def test_the_address_of_the_servers_is_one_of_the_newcomers() -> None:
    assert codes(replace(REQUEST, server_address="10.0.0.4")) == []
    assert codes(replace(REQUEST, server_address="10.0.0.9")) == [Code.JOIN_REQUEST_INVALID]
    assert codes(replace(REQUEST, external_address="a b")) == [Code.JOIN_REQUEST_INVALID]


def test_a_bad_token_is_all_that_a_stranger_learns() -> None:
    wrong = replace(REQUEST, machine_id="machine-1", addresses=("10.0.0.1",), at=NOW + timedelta(days=2), servers=())
    assert codes(replace(wrong, token="x")) == [Code.JOIN_TOKEN_UNKNOWN]
    assert codes(replace(wrong, token="\ud800")) == [Code.JOIN_TOKEN_UNKNOWN]
    assert codes(wrong, replace(VIEW, tokens={RECORD.uid: used(RECORD, NodeUid(2))})) == [Code.JOIN_TOKEN_USED]
    assert codes(wrong, now=NOW + timedelta(days=1)) == [Code.JOIN_TOKEN_EXPIRED]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    wrong = replace(
        REQUEST,
        machine_id="machine-1",
        addresses=("10.0.0.2",),
        at=NOW + timedelta(minutes=6),
        servers=(),
        request=b"",
        version="2",
    )
    assert codes(wrong) == [
        Code.CLOCK_OFF,
        Code.CERTIFICATE_REQUEST_INVALID,
        Code.NEWCOMER_TOO_NEW,
        Code.SERVER_BINARY_MISSING,
        Code.MACHINE_IS_MEMBER,
        Code.ADDRESS_IN_USE,
    ]


@pytest.mark.parametrize("off", [timedelta(minutes=5, seconds=1), -timedelta(minutes=5, seconds=1)])
def test_a_clock_that_is_off_is_refused(off: timedelta) -> None:
    assert codes(replace(REQUEST, at=NOW + off)) == [Code.CLOCK_OFF]


def test_a_machine_joins_once_and_is_told_how_to_take_its_place() -> None:
    again = replace(REQUEST, machine_id="machine-2")
    assert codes(again) == [Code.MACHINE_IS_MEMBER]
    assert "node remove 2" in remedies(again)[0]
    assert codes(replace(again, replaces=NodeUid(2))) == [Code.MACHINE_IS_MEMBER], "that node is still to be removed"


def test_an_address_belongs_to_one_node_in_any_spelling() -> None:
    taken = replace(REQUEST, addresses=("10.0.0.4", "10.0.0.2", "FD00:0:0::1"))
    assert codes(taken) == [Code.ADDRESS_IN_USE, Code.ADDRESS_IN_USE]
    assert [reason.node_uid for reason in check_join(taken, VIEW, NOW)] == [1, 2]
    assert "node remove 2" in remedies(taken)[1]
    at_its_place = replace(REQUEST, addresses=("10.0.0.2",), replaces=NodeUid(2))
    assert codes(at_its_place) == [Code.ADDRESS_IN_USE], "until its removal has ended, that address means the old node"


def test_a_virtual_address_is_not_the_address_of_a_node() -> None:
    view = replace(VIEW, virtual_addresses=("10.0.0.9", "10.0.0.8"))
    assert codes(REQUEST, view) == []
    for wrong in ({"addresses": ("10.0.0.4", "10.0.0.9")}, {"external_address": "10.0.0.8"}):
        assert codes(replace(REQUEST, **wrong), view) == [Code.ADDRESS_IN_USE]


def test_a_node_is_replaced_only_if_it_is_gone() -> None:
    assert codes(replace(REQUEST, replaces=NodeUid(2))) == []
    assert codes(replace(REQUEST, replaces=NodeUid(3))) == [], "a node whose machine is not known"
    assert codes(replace(REQUEST, replaces=NodeUid(1))) == [Code.REPLACED_NODE_NEEDED]
    assert codes(replace(REQUEST, replaces=NodeUid(9))) == [Code.NODE_GONE]


def test_a_repeated_replacement_is_not_judged_again() -> None:
    own = MemberNode(NodeUid(4), "machine-4", ("10.0.0.4",), False, key_hash=hash_of_key(KEY.public_key()), has_run=False)
    left = replace(VIEW, members=(VIEW.members[0], own), tokens={RECORD.uid: used(RECORD, own.uid)})
    assert codes(replace(REQUEST, replaces=NodeUid(2)), left) == [], "the node that it replaces has left meanwhile"


def test_the_servers_of_the_cluster_must_be_there_in_their_version() -> None:
    missing = replace(REQUEST, servers=(ServerVersion(ServerKind.VALKEY, "9.1.1"), REDIS))
    assert codes(missing) == [Code.SERVER_BINARY_MISSING]
    assert remedies(missing) == ["install valkey 9.1.2 on the new machine"]
    assert "valkey 9.1.1, redis 7.0.15" in check_join(missing, VIEW, NOW)[0].text


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        ("1.2.0", "1.2.0", []),
        ("1.2", "1.2.0", []),
        ("1.1.9", "1.2.0", []),
        ("1.2.0", "1.10", []),
        ("0.0.0", "1.0", []),
        ("1.2.1", "1.2.0", [Code.NEWCOMER_TOO_NEW]),
        ("1.10", "1.2", [Code.NEWCOMER_TOO_NEW]),
        ("2.0.0.dev1", "1.2.0", [Code.NEWCOMER_TOO_NEW]),
        ("", "1.2.0", [Code.JOIN_REQUEST_INVALID]),
        ("new", "1.2.0", [Code.JOIN_REQUEST_INVALID]),
        ("1" + ".0" * TEXT_MAX, "1.2.0", [Code.JOIN_REQUEST_INVALID]),
    ],
)
def test_a_newcomer_is_not_ahead_of_the_cluster(theirs: str, ours: str, expected: list[Code]) -> None:
    assert codes(replace(REQUEST, version=theirs), replace(VIEW, version=ours)) == expected


def test_a_later_protocol_is_refused_before_anything_in_it_is_judged() -> None:
    assert codes(replace(REQUEST, protocol=PROTOCOL + 1, token="x")) == [Code.NEWCOMER_TOO_NEW]


@pytest.mark.parametrize(
    "change",
    [
        {"addresses": ()},
        {"addresses": tuple(f"10.0.1.{n}" for n in range(ADDRESSES_MAX + 1))},
        {"addresses": ("10.0.0.4", "10.0.0.4")},
        {"addresses": ("fd00::4", "FD00:0::4")},
        {"addresses": ("10.0.0.4:9443",)},
        {"addresses": ("0.0.0.0",)},
        {"addresses": ("224.0.0.1",)},
        {"machine_id": " "},
        {"machine_id": "x" * (TEXT_MAX + 1)},
        {"rack": "x" * (TEXT_MAX + 1)},
        {"memory_bytes": 0},
    ],
    ids=str,
)
def test_a_request_that_no_record_could_hold_is_refused(change: dict[str, object]) -> None:
    assert codes(replace(REQUEST, **change)) == [Code.JOIN_REQUEST_INVALID]  # type: ignore[arg-type]


def test_a_newcomer_is_given_all_that_its_daemon_needs() -> None:
    roles = {
        CertificateRole.NODE: REQUEST.addresses,
        CertificateRole.STORE: (*REQUEST.addresses, "127.0.0.1"),
        CertificateRole.API: (*REQUEST.addresses, "localhost"),
    }
    response, certificates = answer_join(
        SIGNER,
        REQUEST,
        NodeUid(4),
        addresses=roles,
        serials={role: number for number, role in enumerate(roles, 100)},
        store_endpoints=("https://10.0.0.1:2379",),
        sealing_keys=(SealingKey("k1", b"secret"),),
        now=NOW,
    )
    assert (response.uid, response.store_endpoints) == (4, ("https://10.0.0.1:2379",))
    assert response.sealing_keys[0].key == b"secret"
    for role, addresses in roles.items():
        found = read_credentials(response.certificates[role], key_text(KEY), response.authority)
        assert found.member == Member(role, NodeUid(4))
        assert covers(found.certificate, addresses)
        assert x509.load_pem_x509_certificates(response.certificates[role])[1] == SIGNER.authority.certificate
    assert [issued_record(one).serial for one in certificates] == ["64", "65", "66"]


def test_neither_request_nor_response_shows_a_secret() -> None:
    assert TOKEN not in repr(REQUEST)
    assert "secret" not in repr(SealingKey("k1", b"secret"))


# -- the line ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("address", "shown"), [("10.0.0.1", "10.0.0.1:9443"), ("fd00::1", "[fd00::1]:9443")])
def test_the_line_to_run_on_the_new_machine(address: str, shown: str) -> None:
    key_hash = SIGNER.authority.key_hash
    line = join_line(address, 9443, TOKEN, key_hash)
    assert line == f"shardwright join {shown} --token {TOKEN} --ca-hash {key_hash}"
    words = line.split(" ")
    assert read_address(words[2]) == (address, 9443)
    assert check_token(VIEW.tokens, words[4], NOW) == RECORD
    assert read_ca_hash(words[6]) == key_hash


@pytest.mark.parametrize(
    ("text", "found"), [("h", ("h", 9443)), (" h.example:1 ", ("h.example", 1)), ("[::1]", ("::1", 9443))]
)
def test_an_address_may_leave_out_its_port(text: str, found: tuple[str, int]) -> None:
    assert read_address(text) == found


@pytest.mark.parametrize("text", ["", ":9443", "a:b", "h:0", "h:65536", "::1", "[::1", "https://h:9443", "h:1:2"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Rejected) as refused:
        read_address(text)
    assert refused.value.remedy


def test_a_cut_hash_is_refused_with_a_remedy() -> None:
    with pytest.raises(Rejected) as refused:
        read_ca_hash("sha256:12")
    assert refused.value.remedy == "copy the whole join line"
