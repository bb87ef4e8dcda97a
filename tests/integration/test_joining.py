"""Newcomers join a real cluster of machines: real files, a real etcd, a real API over TLS."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from shardwright.api.attempts import ATTEMPTS_MAX
from shardwright.api.machines import Machines
from shardwright.errors import Permanent, Rejected, Transient
from shardwright.model.codes import Code
from shardwright.model.event import EventKind
from shardwright.model.ids import NodeUid
from shardwright.model.seen import NodeSeen
from shardwright.model.trust import CertificateRole
from shardwright.node import join as joining
from shardwright.node.probe import answering
from shardwright.store import keys, records
from shardwright.store.protocol import DeleteKey, PutKey, Transaction
from shardwright.trust.authority import certificate_text
from shardwright.trust.certificates import Grant, certify, make_request
from shardwright.trust.contexts import read_credentials
from shardwright.trust.files import TrustFiles, load_credentials, load_signer, own_key
from shardwright.trust.join import StoreFiles
from shardwright.trust.keys import new_key
from testkit.deadlines import until
from tests.integration.founding_harness import (
    First,
    MembersByGateway,
    NodeApi,
    join_in,
    running_api,
    running_first,
)

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def first() -> Iterator[First]:
    with running_first() as running:
        yield running


@pytest.fixture
def api(first: First) -> Iterator[NodeApi]:
    with running_api(first) as running:
        yield running


def test_a_newcomer_joins_and_its_member_follows_the_store(first: First) -> None:
    with NodeApi(first.settings, MembersByGateway(first.settings)) as api:
        line = api.token()
        folder, address = first.folder / "two", first.address(2)
        joined = join_in(folder, address, line, rack="b")
        view = api.view()
        node = view.nodes[joined.settings.node_uid]
        assert (node.address, node.rack, node.machine_id, node.is_signer) == (address, "b", "two", False)
        assert [token.used_by for token in view.join_tokens.values()] == [node.uid]
        assert view.counters.next_node == node.uid + 1
        serials = {serial for serial, issued in view.issued_certificates.items() if issued.node_uid == node.uid}
        files = TrustFiles(joined.settings.directories.configuration)
        shown = {f"{load_credentials(files.member(role)).certificate.serial_number:x}" for role in CertificateRole}
        assert shown == serials
        assert joined.settings.directories.cluster_key.read_bytes() == first.settings.directories.cluster_key.read_bytes()
        assert not files.authority_key.exists()
        assert joined.has_member
        assert joined.settings.store.endpoints == (*first.settings.store.endpoints, f"https://{address}:2379")
        members = MembersByGateway(joined.settings)
        first.etcds.start(joined.settings)
        until(
            "the learner has started",
            lambda: any(m.name == f"node-{node.uid}" and m.is_learner for m in asyncio.run(members.members())),
            seconds=30,
            state=lambda: first.etcds.state(joined.settings),
        )
        with pytest.raises(Transient, match="catching up"):
            _join_without_patience(first.folder / "later", first.address(9), api.token())
        assert len(api.view().nodes) == 2, "nothing was committed"
        with api.client() as http:
            events = [line["type"] for line in http.get("/v1/logs").json()]
        assert {EventKind.JOIN_TOKEN_CREATED, EventKind.CLUSTER_NODE_JOINED} <= set(events)
        api.run(_remove(members, f"node-{node.uid}"))
        api.run(api.store.transact(Transaction((), (DeleteKey(keys.key_of(node)),))))


def _join_without_patience(folder: Path, address: str, line: str) -> None:
    before, joining.STORE_TIMEOUT_S = joining.STORE_TIMEOUT_S, 0.0  # type: ignore[misc]
    try:
        join_in(folder, address, line)
    finally:
        joining.STORE_TIMEOUT_S = before  # type: ignore[misc]


async def _remove(members: MembersByGateway, name: str) -> None:
    for member in await members.members():
        if member.name == name:
            await members._post("remove", {"ID": str(member.id)})


@pytest.mark.parametrize("step", ["request", "certificates", "key", "settings"])
def test_a_join_may_be_interrupted_at_every_step(
    first: First, api: NodeApi, step: str, monkeypatch: pytest.MonkeyPatch, loopback_base: Callable[[], str]
) -> None:
    """The same line continues, and the machine becomes one node."""
    line, folder, address = api.token(), first.folder / f"cut-{step}", loopback_base()

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    places = {
        "request": "_decoded",
        "certificates": "write_credentials",
        "key": "write_private",
        "settings": "write_settings",
    }
    with monkeypatch.context() as patched:
        patched.setattr(joining, places[step], fail)
        with pytest.raises(KeyboardInterrupt):
            join_in(folder, address, line)
    uids = set(api.view().nodes)
    assert len(uids) == 2, "it was committed before the interruption"
    joined = join_in(folder, address, line)
    assert set(api.view().nodes) == uids
    assert joined.settings.node_uid == max(uids)
    assert join_in(folder, address, line).was_member
    with pytest.raises(Rejected, match="used"):
        join_in(first.folder / f"other-{step}", loopback_base(), line, name="another machine")


def test_a_removed_machine_is_told_so_when_it_joins_again(
    first: First, api: NodeApi, loopback_base: Callable[[], str]
) -> None:
    line, folder, address = api.token(), first.folder / "removed", loopback_base()
    joined = join_in(folder, address, line)
    assert join_in(folder, address, api.token()).is_sure
    node = api.view().nodes[joined.settings.node_uid]
    api.run(api.store.transact(Transaction((), (DeleteKey(keys.key_of(node)),))))
    with pytest.raises(Rejected, match=f"has the files of node {node.uid}, which was removed"):
        join_in(folder, address, api.token())


def test_a_token_is_good_for_its_own_machine_only_until_the_daemon_has_run(
    first: First, api: NodeApi, loopback_base: Callable[[], str]
) -> None:
    line, folder, address = api.token(), first.folder / "ran", loopback_base()
    joined = join_in(folder, address, line)
    seen = NodeSeen(joined.settings.node_uid, datetime.now(UTC))
    put = PutKey(keys.key_of(seen), records.encode(seen))
    api.run(api.store.transact(Transaction((), (put,))))
    (folder / "etc" / "node.toml").unlink()
    with pytest.raises(Rejected) as refused:
        join_in(folder, address, line)
    assert refused.value.code == Code.JOIN_TOKEN_USED
    with pytest.raises(Rejected) as refused:
        join_in(folder, address, api.token())
    assert refused.value.code == Code.MACHINE_IS_MEMBER
    assert f"node remove {joined.settings.node_uid}" in refused.value.remedy
    api.run(api.store.transact(Transaction((), (DeleteKey(put.key),))))


def test_a_wrong_hash_leaves_nothing_behind_and_tells_the_cluster_nothing(first: First, api: NodeApi) -> None:
    line = api.token()
    wrong = f"{line.rpartition(':')[0]}:{'0' * 64}"
    with pytest.raises(Permanent) as refused:
        join_in(first.folder / "wrong", first.address(3), wrong)
    assert refused.value.code is Code.AUTHORITY_MISMATCH
    assert not (first.folder / "wrong").exists()


def test_wrong_tokens_are_limited(first: First, api: NodeApi) -> None:
    words = api.token().split()
    words[4] = "a" * 8 + "." + "b" * 32
    with pytest.raises(Rejected) as refused:
        join_in(first.folder / "guess", first.address(4), " ".join(words))
    assert refused.value.code == Code.JOIN_TOKEN_UNKNOWN
    with api.client(is_admin=False) as http:
        body = {"token": "x", "request": "", "machine_id": "m", "addresses": [], "memory": 1, "version": "0"}
        body["at"] = datetime.now(UTC).isoformat()
        statuses = [http.post("/v1/bootstrap/join", json=body).status_code for _ in range(ATTEMPTS_MAX)]
        assert statuses == [403] * (ATTEMPTS_MAX - 1) + [429]
        assert http.post("/v1/bootstrap/join", content=b"x" * 100_000).status_code == 413
        assert http.post("/v1/nodes/tokens").status_code == 401
        assert http.get("/v1/bootstrap").status_code == 401


def test_a_newcomer_without_a_way_back_is_refused_with_the_port(
    first: First, api: NodeApi, monkeypatch: pytest.MonkeyPatch, loopback_base: Callable[[], str]
) -> None:
    line = api.token()
    with monkeypatch.context() as patched:
        patched.setattr(joining, "answering", lambda address, ports, text: answering(address, [9443, 9444], text))
        with pytest.raises(Rejected) as refused:
            join_in(first.folder / "cut off", loopback_base(), line)
    assert refused.value.code == Code.NO_ROUTE_BACK
    assert "port 9445 (connection refused)" in refused.value.text.lower()
    assert "firewall" in refused.value.remedy
    with monkeypatch.context() as patched:
        patched.setattr(joining, "answering", lambda address, ports, text: answering(address, ports, "someone else"))
        with pytest.raises(Rejected, match="something else answers"):
            join_in(first.folder / "cut off", loopback_base(), line)
    assert len(api.view().nodes) == 1
    assert [token.used_by for token in api.view().join_tokens.values()] == [None]


def test_a_clock_that_is_off_and_a_second_identity_are_refused_together(
    first: First, api: NodeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = api.token()
    later = datetime.now(UTC) + timedelta(minutes=30)
    request = joining._request

    def wrong(*given: object) -> object:
        return replace(request(*given[:-1], later), machine_id="machine-1", version="99.0")  # type: ignore[arg-type, call-arg]

    monkeypatch.setattr(joining, "_request", wrong)
    with pytest.raises(Rejected) as refused:
        join_in(first.folder / "off", first.address(5), line)
    assert refused.value.code == Code.CLOCK_OFF
    said = refused.value.text + refused.value.remedy
    assert all(part in said for part in ("s ahead of the cluster's", "already", "version 99.0", "chrony", "node remove 1"))
    assert len(api.view().nodes) == 1


@pytest.mark.proof
def test_a_node_without_the_authoritys_key_names_the_one_that_has_it(
    first: First, api: NodeApi, loopback_base: Callable[[], str]
) -> None:
    """The newcomer asks there by itself."""
    second = join_in(first.folder / "keyless", loopback_base(), api.token())
    line = api.token()
    with NodeApi(second.settings) as other:
        with other.client() as http:
            shown = http.post("/v1/nodes/tokens").json()["join_line"]
            assert f" {first.settings.address}:9443 " in shown, "the line leads to the node that signs"
            assert http.post("/v1/nodes", json={}).status_code == 405
            bad = http.post("/v1/bootstrap/validate/join", json=_body(line.split()[4], first.address(6)))
            assert (bad.status_code, bad.json()["error_code"], bad.json()["node_uid"]) == (503, "authority_key_absent", 1)
        words = line.split()
        words[2] = f"{second.settings.address}:9443"
        third = join_in(first.folder / "third", loopback_base(), " ".join(words))
        assert third.settings.node_uid > second.settings.node_uid


def _body(token: str, address: str) -> dict[str, object]:
    return {
        "token": token,
        "request": make_request(new_key()).decode(),
        "machine_id": "asks only",
        "addresses": [address],
        "memory": 1 << 30,
        "version": "0.1.0",
        "servers": [{"server": "valkey", "version": "9.1.2"}],
        "at": datetime.now(UTC).isoformat(),
    }


def test_an_administrator_needs_no_token_and_a_check_changes_nothing(first: First, api: NodeApi) -> None:
    with api.client() as http:
        checked = http.post("/v1/bootstrap/validate/join", json=_body("", first.address(7)))
        assert checked.status_code == 406, checked.text
        assert checked.json()["error_code"] == "no_route_back", "all that is wrong: nothing listens there"
        assert http.post("/v1/bootstrap/validate/join_cluster", json={}).status_code == 406
        shown = http.post("/v1/bootstrap/validate/create_cluster", json={}).json()
        assert shown["bootstrap_status"]["state"] == "completed"
        assert http.get("/v1/bootstrap").json()["bootstrap_status"]["state"] == "completed"
    assert len(api.view().nodes) == 1


def test_an_expired_certificate_of_the_api_is_named(first: First) -> None:
    files = TrustFiles(first.settings.directories.configuration)
    path = files.certificate(CertificateRole.API)
    usual = path.read_bytes()
    signer, key = load_signer(files), own_key(files)
    grant = Grant(CertificateRole.API, NodeUid(1), (str(first.settings.address),))
    then = datetime.now(UTC) - timedelta(days=100)
    expired = certify(signer, key.public_key(), grant, serial=x509.random_serial_number(), now=then)
    with NodeApi(first.settings) as api:
        line = api.token()
    path.write_bytes(certificate_text(expired, signer.authority.certificate))
    try:
        with NodeApi(first.settings), pytest.raises(Permanent) as refused:
            join_in(first.folder / "expired", first.address(8), line)
    finally:
        path.write_bytes(usual)
    assert refused.value.code is Code.NODE_CERTIFICATE_REFUSED
    assert "certificate has expired; is this machine's clock right?" in refused.value.text


@pytest.mark.proof
def test_the_answer_brings_what_opens_an_operators_etcd(first: First, loopback_base: Callable[[], str]) -> None:
    place = first.settings.store
    assert place.authority is not None
    assert place.certificate is not None
    assert place.key is not None

    def operators(given: Machines) -> Machines:
        assert place.authority is not None
        assert place.certificate is not None
        assert place.key is not None
        files = StoreFiles(place.authority.read_bytes(), place.certificate.read_bytes(), place.key.read_bytes())
        return replace(given, store_files=files, members=None)

    with NodeApi(first.settings, change=operators) as api:
        joined = join_in(first.folder / "client", loopback_base(), api.token())
        assert not joined.has_member
        store = joined.settings.store
        assert store.endpoints == place.endpoints
        assert store.key is not None
        assert store.key.read_bytes() == place.key.read_bytes()
        assert store.key in joined.settings.secret_files
        with NodeApi(joined.settings) as other:
            assert set(other.view().nodes) == {1, joined.settings.node_uid}
        api.run(api.store.transact(Transaction((), (DeleteKey(f"nodes/{joined.settings.node_uid:08d}"),))))


def test_certificates_name_the_addresses_of_the_newcomer(
    first: First, api: NodeApi, loopback_base: Callable[[], str]
) -> None:
    address = loopback_base()
    joined = join_in(first.folder / "named", address, api.token(), external_address="192.0.2.9")
    files = TrustFiles(joined.settings.directories.configuration)
    shown = read_credentials(
        files.certificate(CertificateRole.API).read_bytes(), files.key.read_bytes(), files.authority.read_bytes()
    ).certificate
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == [address, "192.0.2.9"]
    assert api.view().nodes[joined.settings.node_uid].external_addresses == ("192.0.2.9",)
