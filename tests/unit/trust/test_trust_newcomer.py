"""The newcomer's first contact, over loopback: it recognizes the authority, or it sends nothing and goes away."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shardwright.errors import Permanent, Transient
from shardwright.model.codes import Code
from shardwright.model.trust import CertificateRole
from shardwright.trust.authority import certificate_text
from shardwright.trust.contexts import api_context, trusting_context
from shardwright.trust.keys import hash_of_key
from shardwright.trust.newcomer import CHAIN_MAX, fetch_authority, recognize
from testkit.certificates import members
from testkit.handshakes import READ_TIMEOUT_S

CLUSTER, STRANGER = members(), members()
API = CLUSTER.member(1, "127.0.0.1", role=CertificateRole.API)
HASH = CLUSTER.signer.authority.key_hash


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[tuple[int, list[bytes]]]:
    """The port of an API, and what each of its clients sent after the handshake until it closed."""
    received: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            with raw:
                raw.settimeout(READ_TIMEOUT_S)
                try:
                    with context.wrap_socket(raw, server_side=True, suppress_ragged_eofs=True) as secured:
                        received.append(b"".join(iter(lambda: secured.recv(1000), b"")))
                except OSError as e:
                    received.append(str(e).encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, name="api")
        thread.start()
        try:
            yield listener.getsockname()[1], received
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def mismatch(act: Callable[[], object]) -> str:
    with pytest.raises(Permanent) as refused:
        act()
    assert refused.value.code is Code.AUTHORITY_MISMATCH
    assert refused.value.code.remedy
    return refused.value.text


def test_a_newcomer_recognizes_the_authority_and_then_trusts_no_other() -> None:
    with serving(api_context(API)) as (port, received):
        found = fetch_authority("127.0.0.1", port, HASH)
        assert found == CLUSTER.signer.authority
        with (
            socket.create_connection(("127.0.0.1", port), READ_TIMEOUT_S) as raw,
            trusting_context(found).wrap_socket(raw, server_hostname="127.0.0.1") as secured,
        ):
            secured.sendall(b"POST /v1/bootstrap/join")
    assert received == [b"", b"POST /v1/bootstrap/join"]
    with (
        serving(api_context(STRANGER.member(1, "127.0.0.1", role=CertificateRole.API))) as (port, _),
        socket.create_connection(("127.0.0.1", port), READ_TIMEOUT_S) as raw,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        trusting_context(found).wrap_socket(raw, server_hostname="127.0.0.1")


def test_nothing_is_sent_to_a_stranger() -> None:
    with serving(api_context(STRANGER.member(1, "127.0.0.1", role=CertificateRole.API))) as (port, received):
        text = mismatch(lambda: fetch_authority("127.0.0.1", port, HASH))
    assert STRANGER.signer.authority.key_hash in text, "the operator sees what answers instead"
    assert HASH in text
    assert received == [b""]


def test_an_api_that_shows_no_authority_is_refused(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "cert.pem").write_bytes(certificate_text(API.certificate) + API.key)
    context.load_cert_chain(tmp_path / "cert.pem")
    with serving(context) as (port, received):
        assert "shows no authority" in mismatch(lambda: fetch_authority("127.0.0.1", port, HASH))
    assert received == [b""]


def test_a_certificate_of_another_kind_is_refused(tmp_path: Path) -> None:
    """The API may have been given a certificate of the operator's own, with an RSA key."""
    key, now = rsa.generate_private_key(65537, 2048), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "operator")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 5, now - timedelta(days=1), now + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    own = certificate_text(builder.sign(key, hashes.SHA256()))
    (tmp_path / "cert.pem").write_bytes(own + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem")
    with serving(context) as (port, _):
        mismatch(lambda: fetch_authority("127.0.0.1", port, HASH))


def test_an_api_that_does_not_answer_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(Transient) as refused:
            fetch_authority("127.0.0.1", port, HASH, timeout_s=0.2)
        assert refused.value.code is Code.API_UNREACHABLE
    with pytest.raises(Transient, match=f"127.0.0.1:{port}"):
        fetch_authority("127.0.0.1", port, HASH)


# -- the chain -----------------------------------------------------------------------------------------------------------


def der(*chain: x509.Certificate) -> list[bytes]:
    return [one.public_bytes(Encoding.DER) for one in chain]


def test_the_authority_must_have_signed_what_the_server_shows() -> None:
    """Anybody can append the cluster's authority, which is public, to a chain."""
    stranger = STRANGER.member(1, role=CertificateRole.API)
    ours, theirs = CLUSTER.signer.authority.certificate, STRANGER.signer.authority.certificate
    assert "another's" in mismatch(lambda: recognize(der(stranger.certificate, theirs, ours), HASH))
    assert recognize(der(API.certificate, theirs, ours), HASH) == CLUSTER.signer.authority


def test_the_hash_of_a_certificate_that_is_no_authoritys_does_not_count() -> None:
    hash_of_leaf = hash_of_key(API.certificate.public_key())  # type: ignore[arg-type]
    mismatch(lambda: recognize(der(API.certificate, CLUSTER.signer.authority.certificate), hash_of_leaf))


@pytest.mark.parametrize(
    "chain",
    [[], [b""], [b"\x30\x00"], der(*([CLUSTER.signer.authority.certificate] * (CHAIN_MAX + 1)))],
    ids=["empty", "nothing", "no certificate", "long"],
)
def test_a_chain_that_is_none_is_refused(chain: list[bytes]) -> None:
    mismatch(lambda: recognize(chain, HASH))
