"""A newcomer as an intent: what is written for it, and who runs a member of the store. Tokens: made, forgotten, limited."""

import json
import secrets
from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.api.attempts import ADDRESSES_MAX, ATTEMPTS_MAX, PERIOD_S, Attempts
from shardwright.api.errors import STATUS_OF, RefusedForReasons, answer_of
from shardwright.api.schemas.v1.bootstrap import JoinBody, body_of_request, join_json, request_of, response_of, token_json
from shardwright.api.schemas.v1.requests import read_body
from shardwright.api.services import joining
from shardwright.api.services.intent import Intent, Look
from shardwright.api.services.joining import REFUSALS, Admission, StorePart
from shardwright.clock import SystemClock
from shardwright.errors import Refusal, Rejected
from shardwright.model.cluster import Counters, DeclaredOff, Node
from shardwright.model.codes import Code
from shardwright.model.database import ServerKind
from shardwright.model.event import EventKind
from shardwright.model.ids import NodeUid
from shardwright.model.reason import Reason
from shardwright.model.seen import NodeSeen, ProcessIdentity
from shardwright.model.store_member import StoreMember
from shardwright.model.trust import CertificateRole, IssuedCertificate, JoinToken
from shardwright.model.view import ClusterView, Delete, Put, Record
from shardwright.trust.authority import make_authority
from shardwright.trust.certificates import make_request
from shardwright.trust.join import JoinRequest, JoinResponse, SealingKey, ServerVersion, StoreFiles
from shardwright.trust.keys import hash_of_key, new_key
from shardwright.trust.tokens import RANDOM_BYTES, make_token
from testkit.builders import NOW, cluster
from tests.unit.api.api_looks import events_of, look_at

KEY = new_key()
TOKEN, RECORD = make_token(secrets.token_bytes(RANDOM_BYTES), NOW)
ADMISSION = Admission(
    make_authority(new_key(), serial=1, now=NOW),
    {role: number for number, role in enumerate(CertificateRole, 100)},
    (SealingKey("k1", b"s" * 32),),
    ("https://10.0.0.1:2379",),
    None,
)
REQUEST = JoinRequest(
    token=TOKEN,
    request=make_request(KEY),
    machine_id="machine-4",
    addresses=("10.0.0.4", "172.16.0.4"),
    memory_bytes=4 << 30,
    rack="b",
    version="0.1.0",
    servers=(ServerVersion(ServerKind.VALKEY, "9.1.2"),),
    at=NOW,
    external_address="203.0.113.4",
    server_address="172.16.0.4",
    has_store_program=True,
    probe="p",
)


def seen(view: ClusterView | None = None) -> Look:
    found = cluster(nodes=3).view if view is None else view
    return look_at(replace(found, join_tokens={RECORD.uid: RECORD}, counters=Counters(next_node=7)))


def written(intent: Intent[JoinResponse]) -> dict[type, Record]:
    return {type(write.record): write.record for write in intent.writes}


def admit(look: Look, request: JoinRequest = REQUEST, *, is_admin: bool = False) -> Intent[JoinResponse]:
    return joining.admit(look, request, ADMISSION, is_admin=is_admin)


def refused(look: Look, request: JoinRequest) -> RefusedForReasons:
    with pytest.raises(RefusedForReasons) as caught:
        admit(look, request)
    return caught.value


def test_one_transaction_makes_a_node_and_burns_the_token() -> None:
    intent = admit(seen())
    found = written(intent)
    node, token = found[Node], found[JoinToken]
    assert isinstance(node, Node)
    assert (node.uid, node.address, node.server_address, node.rack) == (7, "10.0.0.4", "172.16.0.4", "b")
    assert (node.external_addresses, node.memory_bytes, node.machine_id) == (("203.0.113.4",), 4 << 30, "machine-4")
    assert (node.key_hash, node.is_signer) == (hash_of_key(KEY.public_key()), False)
    assert isinstance(token, JoinToken)
    assert token.used_by == 7
    assert found[Counters] == Counters(next_node=8)
    issued = [w.record for w in intent.writes if isinstance(w.record, IssuedCertificate)]
    assert {(one.role, one.serial, one.node_uid) for one in issued} == {
        (role, f"{number:x}", 7) for role, number in ADMISSION.serials.items()
    }
    assert [(e.kind, e.node_uid) for e in events_of(intent)] == [(EventKind.CLUSTER_NODE_JOINED, 7)]
    assert intent.answer.uid == 7
    assert set(intent.answer.certificates) == set(CertificateRole)
    assert intent.answer.sealing_keys == ADMISSION.sealing_keys


def with_node(look: Look, intent: Intent[JoinResponse], **changes: object) -> Look:
    """The state after an intent."""
    return replace(look, view=replace(look.view.with_writes(intent.writes), **changes))  # type: ignore[arg-type]


def test_a_repeated_request_is_the_same_node() -> None:
    look = seen()
    after = with_node(look, admit(look))
    again = admit(after, replace(REQUEST, addresses=("10.0.0.5",), server_address=""))
    found = written(again)
    assert again.answer.uid == 7
    assert Counters not in found
    assert JoinToken not in found
    assert events_of(again) == []
    node = found[Node]
    assert isinstance(node, Node)
    assert node.address == "10.0.0.5", "what it says now is true"


# -- in place of another node ------------------------------------------------------------------------------------------

TWO = NodeUid(2)
IN_PLACE = replace(REQUEST, replaces=TWO, rack="")


def off(*, has_shards: bool = True, is_declared: bool = True) -> ClusterView:
    """Node 2, in rack ``r2``, is away."""
    builder = cluster(nodes=3)
    if has_shards:
        builder = builder.with_database(on=((2, 3),))
    builder = builder.without_daemon(2)
    seen_of_two = NodeSeen(TWO, NOW, daemon=ProcessIdentity(1, "boot-7", 1, "", ""))
    word = DeclaredOff(NOW, "admin@example.com", "boot-7") if is_declared else None
    view = builder.with_node_changed(2, rack="r2", declared_off=word).view
    return replace(view, node_seen={**view.node_seen, TWO: seen_of_two})


def test_a_newcomer_in_place_of_a_node_that_is_off_takes_its_rack() -> None:
    intent = admit(seen(off()), IN_PLACE)
    node = written(intent)[Node]
    assert isinstance(node, Node)
    assert (node.uid, node.replaces, node.rack) == (7, TWO, "r2"), "numbers are never used again"
    assert "in place of node 2" in events_of(intent)[0].text
    other = written(admit(seen(off()), replace(IN_PLACE, rack="b")))[Node]
    assert isinstance(other, Node)
    assert other.rack == "b"


def test_its_repeated_request_keeps_the_rack_when_the_old_node_has_left() -> None:
    look = seen(off())
    after = with_node(look, admit(look, IN_PLACE))
    gone = replace(after, view=after.view.with_writes([Delete(after.view.nodes[TWO])]))
    node = written(admit(gone, IN_PLACE))[Node]
    assert isinstance(node, Node)
    assert (node.rack, node.replaces) == ("r2", None)


@pytest.mark.parametrize(
    ("view", "code"),
    [
        (off(is_declared=False), Code.REPLACED_NODE_NEEDED),
        (cluster(nodes=3).with_database(on=((2, 3),)).view, Code.REPLACED_NODE_NEEDED),
        (cluster(nodes=3).view, Code.REPLACED_NODE_NEEDED),
        (cluster(nodes=1).view, Code.NODE_GONE),
    ],
    ids=["silent", "alive", "alive and empty", "unknown"],
)
def test_only_a_node_that_is_off_or_empty_and_away_is_replaced(view: ClusterView, code: Code) -> None:
    assert refused(seen(view), IN_PLACE).code == code
    assert written(admit(seen(off(has_shards=False, is_declared=False)), IN_PLACE))


def test_the_member_of_the_replaced_node_does_not_count() -> None:
    members = [StoreMember(n, f"node-{n}", (f"https://127.0.0.{n}:2380",), (), False) for n in (1, 2, 3)]
    assert [m.id for m in joining.staying_members(off(), members, IN_PLACE)] == [1, 3]
    assert joining.staying_members(off(), members, REQUEST) == members


def test_a_used_token_admits_neither_another_machine_nor_another_key() -> None:
    look = seen()
    after = with_node(look, admit(look))
    for other in (replace(REQUEST, machine_id="machine-5"), replace(REQUEST, request=make_request(new_key()))):
        assert refused(after, other).code == Code.JOIN_TOKEN_USED
    assert refused(replace(after, now=NOW + timedelta(days=1)), REQUEST).code == Code.JOIN_TOKEN_USED, "it has expired too"


def test_a_fresh_token_continues_a_join_whose_daemon_has_never_run() -> None:
    look = seen()
    after = with_node(look, admit(look))
    text, record = make_token(secrets.token_bytes(RANDOM_BYTES), NOW)
    fresh = replace(after, view=replace(after.view, join_tokens={record.uid: record}))
    intent = admit(fresh, replace(REQUEST, token=text))
    assert intent.answer.uid == 7
    token = written(intent)[JoinToken]
    assert isinstance(token, JoinToken)
    assert token.used_by == 7


def test_an_administrator_needs_no_token() -> None:
    request = replace(REQUEST, token="")
    assert refused(seen(), request).code == Code.JOIN_TOKEN_UNKNOWN
    intent = admit(seen(), request, is_admin=True)
    assert JoinToken not in written(intent)
    unburned = admit(seen(), REQUEST, is_admin=True)
    assert JoinToken not in written(unburned), "a token that was not needed stays good"


def test_every_reason_has_a_status_and_is_listed() -> None:
    wrong = replace(REQUEST, addresses=("10.0.0.4", "x y"), version="99.0", at=NOW + timedelta(minutes=6), request=b"")
    error = refused(seen(), wrong)
    assert error.code == Code.CLOCK_OFF
    assert {reason.code for reason in error.reasons} >= {Code.CLOCK_OFF, Code.CERTIFICATE_REQUEST_INVALID}
    answer = answer_of(error)
    assert answer.status_code == 406
    assert b'"reasons"' in bytes(answer.body)
    codes = (Code.NO_ROUTE_BACK, Code.JOIN_TOKEN_EXPIRED, Code.SERVER_BINARY_MISSING, Code.ADDRESS_IN_USE)
    for code in codes:
        assert joining.refused([Reason(code, "it is so")]).text == "It is so."
    assert set(REFUSALS.values()) <= set(STATUS_OF)


def test_the_newcomer_needs_what_databases_run_on() -> None:
    view = cluster(nodes=3).with_database("orders", on=((1, 2),)).view
    needed = joining.join_view(view).servers
    assert needed
    assert refused(seen(view), replace(REQUEST, servers=())).code == Code.SERVER_BINARY_MISSING


# -- the store ---------------------------------------------------------------------------------------------------------


def member(number: int, *, is_learner: bool = False, has_started: bool = True) -> StoreMember:
    host = f"https://10.0.0.{number}"
    name, clients = (f"node-{number}", (f"{host}:2379",)) if has_started else ("", ())
    return StoreMember(number, name, (f"{host}:2380",), clients, is_learner)


NEW = "https://10.0.0.4:2380"


@pytest.mark.parametrize(
    ("members", "has_program", "expected"),
    [
        ([member(1)], True, StorePart.MEMBER),
        ([member(1)], False, StorePart.CLIENT),
        ([member(1), member(2)], True, StorePart.MEMBER),
        ([member(1), member(2, is_learner=True)], True, StorePart.LATER),
        ([member(1), member(2, is_learner=True)], False, StorePart.CLIENT),
        ([member(1), member(2), member(3)], True, StorePart.CLIENT),
        ([member(1), member(2), member(3, is_learner=True)], True, StorePart.CLIENT),
        ([member(1), member(4, is_learner=True, has_started=False)], True, StorePart.MEMBER),
        ([member(1), member(2), member(4, is_learner=True)], True, StorePart.MEMBER),
    ],
)
def test_who_runs_a_member(members: list[StoreMember], has_program: bool, expected: StorePart) -> None:
    assert joining.store_part(members, NEW, has_program=has_program) is expected


def test_a_newcomer_that_waits_for_another_is_told_what_helps() -> None:
    view = cluster(nodes=2).view
    view = replace(view, nodes={uid: replace(node, address=f"10.0.0.{uid}") for uid, node in view.nodes.items()})
    dead = [member(1), member(2, is_learner=True, has_started=False)]
    said = joining.why_later(view, dead)
    assert "node 2 has not started" in said
    assert "node remove 2" in said
    assert Code.STORE_LEARNER_PENDING.remedy in said, "it is not told twice"
    assert "belongs to no node" in joining.why_later(view, [member(1), member(7, is_learner=True, has_started=False)])
    assert "catching up" in joining.why_later(view, [member(1), member(2, is_learner=True)])


def test_a_newcomer_learns_the_members_that_run() -> None:
    response = admit(seen()).answer
    members = [member(1), member(2), member(4, is_learner=True, has_started=False)]
    told = joining.with_store(response, StorePart.MEMBER, members, NEW)
    assert told.store_endpoints == ("https://10.0.0.1:2379", "https://10.0.0.2:2379")
    assert told.initial_cluster == {"node-1": "https://10.0.0.1:2380", "node-2": "https://10.0.0.2:2380"}
    client = joining.with_store(response, StorePart.CLIENT, members, NEW)
    assert client.initial_cluster == {}
    assert joining.peer_url_of("fd00::4", 2380) == "https://[fd00::4]:2380"
    assert joining.peer_url_of("four.example", 2380) == "https://four.example:2380"


# -- the wire ----------------------------------------------------------------------------------------------------------


def test_request_and_answer_survive_the_wire() -> None:
    body = json.dumps(body_of_request(REQUEST)).encode()
    assert request_of(read_body(JoinBody, body)) == REQUEST
    response = replace(admit(seen()).answer, initial_cluster={"node-1": NEW}, store_files=StoreFiles(b"a", b"c", b"k"))
    assert response_of(json.loads(json.dumps(join_json(response)))) == response
    damaged = {**join_json(response), "sealing_keys": [{"key_id": "x", "key": "§"}]}
    unusable: tuple[object, ...] = (None, [], {}, damaged)
    for wrong in unusable:
        with pytest.raises(ValueError, match="not the answer to a join"):
            response_of(wrong)


@pytest.mark.parametrize(
    "changes",
    [
        {"at": "2026-01-02T00:00:00"},
        {"addresses": ["a"] * 17},
        {"memory": -1},
        {"token": "x" * 300},
        {"protocol": 0},
    ],
)
def test_malformed_requests(changes: dict[str, object]) -> None:
    with pytest.raises(Rejected) as caught:
        read_body(JoinBody, json.dumps(body_of_request(REQUEST) | changes).encode())
    assert caught.value.refusal is Refusal.INVALID
    assert TOKEN not in caught.value.text


def test_a_newcomer_of_a_future_version_is_refused_by_the_version_it_names() -> None:
    body = json.dumps(body_of_request(replace(REQUEST, protocol=2)) | {"something": "new"}).encode()
    assert refused(seen(), request_of(read_body(JoinBody, body))).code == Code.NEWCOMER_TOO_NEW


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_is_made_and_expired_ones_are_forgotten() -> None:
    _, old = make_token(secrets.token_bytes(RANDOM_BYTES), NOW - timedelta(days=2))
    look = replace(seen(), view=replace(seen().view, join_tokens={old.uid: old, RECORD.uid: RECORD}))
    intent = joining.new_token(look, secrets.token_bytes(RANDOM_BYTES))
    text, record = intent.answer
    assert Put(record) in intent.writes
    assert [write.record for write in intent.writes if isinstance(write, Delete)] == [old]
    (event,) = events_of(intent)
    assert event.kind is EventKind.JOIN_TOKEN_CREATED
    assert record.uid in event.text
    assert text.partition(".")[2] not in event.text
    line = token_json(text, record, ca_hash="sha256:x", address="fd00::1", port=9443)["join_line"]
    assert line == f"shardwright join [fd00::1]:9443 --token {text} --ca-hash sha256:x"


def test_the_number_of_tokens_is_limited() -> None:
    many = [make_token(secrets.token_bytes(RANDOM_BYTES), NOW)[1] for _ in range(joining.TOKENS_MAX)]
    look = replace(seen(), view=replace(seen().view, join_tokens={one.uid: one for one in many}))
    with pytest.raises(RefusedForReasons) as caught:
        joining.new_token(look, secrets.token_bytes(RANDOM_BYTES))
    assert caught.value.code == "too_many_tokens"


def test_the_line_leads_to_a_live_node_that_signs() -> None:
    view = cluster(nodes=3).view
    assert joining.signing_node(view, NodeUid(1)) is None
    signers = {uid: replace(node, is_signer=uid != 1) for uid, node in view.nodes.items()}
    view = replace(view, nodes=signers)
    assert joining.signing_node(view, NodeUid(3)) == signers[NodeUid(3)]
    assert joining.signing_node(view, NodeUid(1)) == signers[NodeUid(2)]
    dead = replace(view, daemons={uid: daemon for uid, daemon in view.daemons.items() if uid != 2})
    assert joining.signing_node(dead, NodeUid(2)) == signers[NodeUid(3)]


# -- guesses -----------------------------------------------------------------------------------------------------------


class _Clock(SystemClock):
    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


def test_wrong_attempts_are_limited_by_address_and_forgotten() -> None:
    clock = _Clock()
    attempts = Attempts(clock)
    for _ in range(ATTEMPTS_MAX):
        assert attempts.is_allowed("10.0.0.9")
        attempts.note_wrong("10.0.0.9")
    assert not attempts.is_allowed("10.0.0.9")
    assert attempts.is_allowed("10.0.0.8")
    clock.now_s += PERIOD_S
    assert attempts.is_allowed("10.0.0.9")


def test_the_memory_of_attempts_is_limited() -> None:
    attempts = Attempts(_Clock())
    for number in range(ADDRESSES_MAX + 1):
        for _ in range(ATTEMPTS_MAX):
            attempts.note_wrong(str(number))
    assert attempts.is_allowed("0"), "the oldest is forgotten"
    assert not attempts.is_allowed("1")
