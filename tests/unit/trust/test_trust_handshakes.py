"""Real handshakes on loopback: who gets through, who fails in the handshake, and who is refused after it."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.trust.authority import Authority, Signer, certificate_text
from shardwright.trust.certificates import CLOCK_OFF_MAX, Grant, certify, issued_record, serial_text
from shardwright.trust.contexts import (
    Credentials,
    LiveContext,
    api_context,
    client_context,
    read_credentials,
    renew,
    server_context,
    trusting_context,
)
from shardwright.trust.files import TrustFiles, load_credentials, write_credentials
from shardwright.trust.keys import key_text, new_key
from shardwright.trust.peers import NOTHING_REVOKED, admit, revoke_node, revoked_serials
from testkit.certificates import LONG_AGO, Members, members
from testkit.handshakes import NODES_ONLY, Outcome, ask, call, certificate_of, exchange, listening, showing

NODE, STORE, API = CertificateRole.NODE, CertificateRole.STORE, CertificateRole.API
CLUSTER = members()
ONE = CLUSTER.member(1, "127.0.0.1")
TWO = CLUSTER.member(2, "127.0.0.2")
FOREIGN = {"unable to get local issuer certificate", "self-signed certificate in certificate chain"}
PURPOSE = {"unsuitable certificate purpose", "unsupported certificate purpose"}
"""Versions of OpenSSL word it differently."""


def test_two_nodes_recognize_each_other() -> None:
    assert exchange(ONE, TWO) == Outcome("node 2", "node 2")


def test_the_store_and_its_clients_have_a_role_of_their_own() -> None:
    store, other = CLUSTER.member(1, "127.0.0.1", role=STORE), CLUSTER.member(2, role=STORE)
    assert exchange(store, other, roles={STORE}) == Outcome("store 2", "store 2")
    assert exchange(ONE, other) == Outcome("closed", Code.PEER_ROLE_WRONG)
    assert exchange(store, TWO, roles={STORE}) == Outcome("closed", Code.PEER_ROLE_WRONG)


def test_the_certificate_of_an_api_is_not_good_for_a_client() -> None:
    assert exchange(ONE, CLUSTER.member(2, role=API)).server in PURPOSE
    assert exchange(CLUSTER.member(1, "127.0.0.1", role=API), TWO).server == "node 2"


def test_a_client_without_a_certificate_fails_in_the_handshake() -> None:
    without = trusting_context(CLUSTER.signer.authority)
    assert exchange(ONE, without) == Outcome("closed", "PEER_DID_NOT_RETURN_A_CERTIFICATE")


def test_an_expired_certificate_fails_in_the_handshake() -> None:
    old = members(LONG_AGO)
    server, client = old.member(1, "127.0.0.1"), old.member(2)
    assert exchange(server, client) == Outcome("node 2", "node 2")
    assert exchange(old.member(1, "127.0.0.1", at=LONG_AGO), client).client == "certificate has expired"
    assert exchange(server, old.member(2, at=LONG_AGO)) == Outcome("closed", "certificate has expired")


def test_a_certificate_of_the_future_fails_in_the_handshake() -> None:
    later = datetime.now(UTC) + CLOCK_OFF_MAX
    assert exchange(ONE, CLUSTER.member(2, at=later - timedelta(seconds=30))) == Outcome("node 2", "node 2")
    assert exchange(ONE, CLUSTER.member(2, at=later + timedelta(minutes=1))).server == "certificate is not yet valid"


def test_a_certificate_of_another_authority_fails_in_the_handshake() -> None:
    foreign = members().member(2, "127.0.0.1")
    assert exchange(foreign, TWO).client in FOREIGN
    assert exchange(ONE, showing(foreign, TWO)).server in FOREIGN
    assert exchange(ONE, showing(foreign, TWO)).client == "closed"


def test_a_member_cannot_certify_others() -> None:
    """The key of a certificate is not that of an authority, even if the chain up to the authority is complete."""
    key = new_key()
    three = CLUSTER.member(3, key=key_text(key))
    names_itself = Signer(Authority(three.certificate), key)
    grant = Grant(NODE, NodeUid(2), ("127.0.0.1",))
    own = new_key()
    forged = certify(names_itself, own.public_key(), grant, serial=7, now=datetime.now(UTC))
    shown = Credentials(TWO.member, forged, key_text(own), Authority(three.certificate))
    assert exchange(ONE, showing(shown, TWO)).server in FOREIGN | {"invalid CA certificate"}
    with pytest.raises(Permanent, match="not one of this authority"):
        read_credentials(certificate_text(forged, three.certificate), key_text(own), CLUSTER.signer.authority.text)


def test_a_server_must_be_at_the_address_in_its_certificate() -> None:
    assert "IP address mismatch" in exchange(TWO, ONE, address="127.0.0.1").client
    assert exchange(TWO, ONE, address="127.0.0.2") == Outcome("node 1", "node 1")


def test_a_revoked_certificate_is_refused_on_both_sides() -> None:
    revoked = revoked_serials(revoke_node([issued_record(TWO.certificate)], NodeUid(2), datetime.now(UTC)))
    assert revoked == {serial_text(TWO.certificate.serial_number)}
    assert exchange(ONE, TWO, revoked=revoked) == Outcome("closed", Code.CERTIFICATE_REVOKED)
    assert exchange(ONE, CLUSTER.member(2), revoked=revoked).server == "node 2", "another certificate of that node"

    async def scenario() -> None:
        async with listening(server_context(TWO), "127.0.0.2") as listener:
            reader, writer = await asyncio.open_connection(listener.address, listener.port, ssl=client_context(ONE))
            assert admit(certificate_of(writer), NODES_ONLY, revoked=NOTHING_REVOKED).node_uid == 2
            with pytest.raises(Permanent) as refused:
                admit(certificate_of(writer), NODES_ONLY, revoked=revoked)
            assert refused.value.code is Code.CERTIFICATE_REVOKED
            with pytest.raises(Permanent) as other:
                admit(certificate_of(writer), NODES_ONLY, revoked=NOTHING_REVOKED, node_uid=NodeUid(5))
            assert other.value.code is Code.PEER_IS_ANOTHER
            assert await ask(reader, writer) == "node 1"
            writer.close()

    asyncio.run(scenario())


def test_only_tls_1_3_is_spoken_between_members() -> None:
    old = client_context(TWO)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert exchange(ONE, old).server == "UNSUPPORTED_PROTOCOL"


def test_no_session_is_resumed_so_that_every_connection_shows_its_certificate() -> None:
    async def scenario() -> None:
        async with listening(server_context(ONE), "127.0.0.1") as listener:
            reader, writer = await asyncio.open_connection(listener.address, listener.port, ssl=client_context(TWO))
            assert await ask(reader, writer) == "node 2"
            secured: ssl.SSLObject = writer.get_extra_info("ssl_object")
            session = secured.session
            assert session is None or not session.has_ticket
            writer.close()

    asyncio.run(scenario())


def test_the_api_takes_clients_without_a_certificate() -> None:
    async def scenario() -> None:
        api = CLUSTER.member(1, "127.0.0.1", role=API)
        async with listening(api_context(api), "127.0.0.1") as listener:
            assert await call(listener, trusting_context(CLUSTER.signer.authority)) == "closed"
            assert listener.refused == [Code.PEER_UNKNOWN], "the handshake succeeded, and no certificate was shown"
            assert await call(listener, trusting_context(members().signer.authority)) in FOREIGN

    asyncio.run(scenario())


# -- renewal -------------------------------------------------------------------------------------------------------------


def stored(directory: Path, credentials: Credentials) -> TrustFiles:
    files = TrustFiles(directory)
    files.key.write_bytes(credentials.key)
    write_credentials(files, credentials.authority.text, {credentials.member.role: credentials.chain})
    return files


def test_a_listener_shows_a_renewed_certificate_and_open_connections_stay(tmp_path: Path) -> None:
    files = stored(tmp_path, ONE)
    renewed = CLUSTER.member(1, "127.0.0.1", key=ONE.key)

    async def scenario() -> None:
        live = LiveContext(server_context, lambda: load_credentials(files.member(NODE)))
        client = client_context(TWO)
        async with listening(live.context, "127.0.0.1") as listener:
            reader, writer = await asyncio.open_connection(listener.address, listener.port, ssl=client)
            assert not live.reload(), "nothing has changed"
            stored(tmp_path, renewed)
            assert live.reload()
            second_reader, second = await asyncio.open_connection(listener.address, listener.port, ssl=client)
            assert certificate_of(second) == der(renewed)
            assert certificate_of(writer) == der(ONE)
            assert await ask(reader, writer) == await ask(second_reader, second) == "node 2"
            writer.close()
            second.close()

    asyncio.run(scenario())


def test_a_client_shows_a_renewed_certificate_too() -> None:
    old = members(LONG_AGO)
    server = old.member(1, "127.0.0.1")
    client = client_context(old.member(2, at=LONG_AGO))
    assert exchange(server, client).server == "certificate has expired"
    renew(client, old.member(2))
    assert exchange(server, client).server == "node 2"


@pytest.mark.parametrize(
    "written",
    [
        CLUSTER.member(2, "127.0.0.1"),
        CLUSTER.member(1, "127.0.0.1", role=STORE),
        members().member(1, "127.0.0.1"),
    ],
    ids=["another node", "another role", "another authority"],
)
def test_a_listener_goes_on_with_its_certificate_if_the_new_one_is_unfit(tmp_path: Path, written: Credentials) -> None:
    files = stored(tmp_path, ONE)

    async def scenario() -> None:
        live = LiveContext(server_context, lambda: load_credentials(files.member(NODE)))
        async with listening(live.context, "127.0.0.1") as listener:
            files.key.write_bytes(written.key)
            files.certificate(NODE).write_bytes(written.chain)
            files.authority.write_bytes(written.authority.text)
            with pytest.raises(Permanent) as refused:
                live.reload()
            assert refused.value.code is Code.CREDENTIALS_UNUSABLE
            files.certificate(NODE).write_bytes(ONE.chain)
            with pytest.raises(Permanent):
                live.reload()
            files.certificate(NODE).unlink()
            with pytest.raises(Permanent):
                live.reload()
            assert await call(listener, client_context(TWO)) == "node 2"
            assert live.credentials == ONE

    asyncio.run(scenario())


@pytest.mark.parametrize("shown", [ONE, CLUSTER.member(1, "127.0.0.1")], ids=["another key", "another certificate"])
def test_a_pair_that_does_not_match_leaves_the_context_as_it_was(shown: Credentials) -> None:
    context = server_context(ONE)
    key = TWO.key if shown is ONE else ONE.key
    with pytest.raises(Permanent) as refused:
        renew(context, Credentials(ONE.member, shown.certificate, key, ONE.authority))
    assert refused.value.code is Code.CREDENTIALS_UNUSABLE
    assert exchange(context, TWO) == Outcome("node 2", "node 2")


def der(credentials: Credentials) -> bytes:
    return credentials.certificate.public_bytes(Encoding.DER)


def test_an_operators_authority_may_be_signed_by_another_one() -> None:
    """Only the one that was named is trusted, not the one above it."""
    above = members()
    between = intermediate(above)
    server, client = between.member(1, "127.0.0.1"), between.member(2)
    assert exchange(server, client).server == "node 2"
    assert exchange(server, showing(above.member(2), client)).server in FOREIGN
    assert exchange(above.member(1, "127.0.0.1"), client).client in FOREIGN


def intermediate(above: Members) -> Members:
    key, now = new_key(), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "An operator's own")]))
        .issuer_name(above.signer.authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=400))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(above.signer.key, hashes.SHA256())
    )
    return Members(Signer(Authority(certificate), key))
