"""The authority and what it certifies: exactly what it has decided to grant, whatever a request asks for."""

import ipaddress
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shardwright.errors import Permanent, Rejected, ShardwrightError
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.trust import files as trust_files
from shardwright.trust.authority import (
    Authority,
    Signer,
    certificate_text,
    check_lifetime,
    covers,
    make_authority,
    names_of,
    read_authority,
    read_signer,
)
from shardwright.trust.certificates import (
    CLOCK_OFF_MAX,
    LIFETIME,
    REQUEST_BYTES_MAX,
    Grant,
    Member,
    issued_record,
    key_of_request,
    make_request,
    member_of,
    sign_request,
)
from shardwright.trust.files import TrustFiles
from shardwright.trust.keys import hash_of_key, key_text, new_key, read_hash, read_key

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NODE, STORE, API = CertificateRole.NODE, CertificateRole.STORE, CertificateRole.API
AUTHORITY_KEY, NODE_KEY = new_key(), new_key()
SIGNER = make_authority(AUTHORITY_KEY, serial=1, now=NOW)
GRANT = Grant(NODE, NodeUid(3), ("10.0.0.3", "fd00::3", "three.example"))


def signed(grant: Grant = GRANT, request: bytes | None = None, signer: Signer = SIGNER) -> x509.Certificate:
    return sign_request(signer, request or make_request(NODE_KEY), grant, serial=99, now=NOW)


def refusal(act: Callable[[], object]) -> ShardwrightError:
    with pytest.raises((Permanent, Rejected)) as refused:
        act()
    assert isinstance(refused.value, ShardwrightError)
    return refused.value


# -- the authority -------------------------------------------------------------------------------------------------------


def test_an_authority_is_read_as_it_was_made() -> None:
    assert isinstance(AUTHORITY_KEY.curve, ec.SECP256R1)
    text = SIGNER.authority.text
    assert read_authority(text) == SIGNER.authority
    found = read_signer(text, key_text(AUTHORITY_KEY))
    assert found.authority == SIGNER.authority
    assert found.key.private_numbers() == AUTHORITY_KEY.private_numbers()


def test_the_hash_is_that_of_the_public_key_and_stays_when_the_certificate_is_renewed() -> None:
    renewed = make_authority(AUTHORITY_KEY, serial=2, now=NOW + timedelta(days=3000))
    assert renewed.authority != SIGNER.authority
    assert renewed.authority.key_hash == SIGNER.authority.key_hash == hash_of_key(AUTHORITY_KEY.public_key())
    assert read_hash(f" {SIGNER.authority.key_hash.upper()} ") == SIGNER.authority.key_hash
    assert make_authority(new_key(), serial=1, now=NOW).authority.key_hash != SIGNER.authority.key_hash


def test_the_hash_agrees_with_openssl() -> None:
    """``openssl x509 -pubkey | openssl pkey -pubin -outform der | sha256sum`` gives the same."""
    digest = hashes.Hash(hashes.SHA256())
    public = SIGNER.authority.certificate.public_key()
    digest.update(public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    assert SIGNER.authority.key_hash == f"sha256:{digest.finalize().hex()}"


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "0" * 63, "sha256:" + "g" * 64, "md5:" + "0" * 64, "0" * 64])
def test_a_text_that_is_no_hash_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        read_hash(text)


def operators(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *, is_authority: bool = True, may_sign: bool | None = True
) -> bytes:
    """A certificate as an operator may bring it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Operator")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 5, NOW, NOW + timedelta(days=120))
    builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    if may_sign is not None:
        flags = [True, False, False, False, False, may_sign, False, False, False]
        builder = builder.add_extension(x509.KeyUsage(*flags), critical=True)
    return certificate_text(builder.sign(key, hashes.SHA256()))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
@pytest.mark.parametrize("may_sign", [True, None])
def test_an_operator_may_bring_an_authority(curve: ec.EllipticCurve, may_sign: bool | None) -> None:
    key = ec.generate_private_key(curve)
    signer = read_signer(operators(key, may_sign=may_sign), key_text(key))
    check_lifetime(signer.authority, NOW, LIFETIME)
    assert signer.authority.has_issued(signed(signer=signer))


def test_what_cannot_be_an_authority_is_refused() -> None:
    key, large = new_key(), rsa.generate_private_key(65537, 2048)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    unfit = {
        "cannot be read": (b"", key_text(key)),
        "not on the curve": (operators(large), key_text(key)),
        "may not sign": (operators(key, is_authority=False), key_text(key)),
        "may not sign certificates": (operators(key, may_sign=False), key_text(key)),
        "does not belong": (operators(key), key_text(new_key())),
        "key cannot be used": (operators(key), b"no key"),
        "encrypted": (operators(key), encrypted),
        "P-256 or P-384": (operators(key), key_text(ec.generate_private_key(ec.SECP521R1()))),
    }
    for cause, (certificate, key_of_it) in unfit.items():
        error = refusal(lambda pair=(certificate, key_of_it): read_signer(*pair))  # type: ignore[misc]
        assert error.code == Code.AUTHORITY_UNFIT
        assert cause in error.text


def test_an_operators_authority_must_last() -> None:
    key = new_key()
    authority = read_authority(operators(key))
    for now, cause in ((NOW - timedelta(days=1), "not valid before"), (NOW + timedelta(days=31), "until 2026-05-02")):
        error = refusal(lambda at=now: check_lifetime(authority, at, LIFETIME))  # type: ignore[misc]
        assert cause in error.text
    last = read_signer(operators(key), key_text(key))
    leaf = sign_request(last, make_request(NODE_KEY), GRANT, serial=1, now=NOW + timedelta(days=100))
    assert leaf.not_valid_after_utc == authority.certificate.not_valid_after_utc, "it never outlives its authority"


def test_no_representation_shows_a_key() -> None:
    assert "key=" not in repr(SIGNER)


# -- certificates --------------------------------------------------------------------------------------------------------


def test_a_certificate_says_what_was_granted() -> None:
    found = signed()
    assert member_of(found) == Member(NODE, NodeUid(3))
    assert SIGNER.authority.has_issued(found)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(a) for a in ("10.0.0.3", "fd00::3")]
    assert names.get_values_for_type(x509.DNSName) == ["three.example"]
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert found.not_valid_after_utc == NOW + LIFETIME == NOW + timedelta(days=90)
    assert found.not_valid_before_utc == NOW - CLOCK_OFF_MAX
    assert found.serial_number == 99
    record = issued_record(found)
    assert (record.serial, record.node_uid, record.role) == ("63", 3, NODE)
    assert (record.issued_at, record.expires_at, record.revoked_at) == (NOW, NOW + LIFETIME, None)


@pytest.mark.parametrize(("role", "is_client"), [(NODE, True), (STORE, True), (API, False)])
def test_each_role_has_its_usages(role: CertificateRole, is_client: bool) -> None:
    usages = set(
        signed(Grant(role, NodeUid(1), ("10.0.0.1",))).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    )
    assert usages == {ExtendedKeyUsageOID.SERVER_AUTH} | ({ExtendedKeyUsageOID.CLIENT_AUTH} if is_client else set())


def test_nothing_that_a_request_asks_for_is_granted() -> None:
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(
            x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "store"),
                    x509.NameAttribute(NameOID.COMMON_NAME, "node:1"),
                ]
            )
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=5), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bank.example")]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x"), critical=True)
        .sign(NODE_KEY, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    found, plain = signed(request=greedy), signed()
    assert found.tbs_certificate_bytes == plain.tbs_certificate_bytes


def test_a_request_says_nothing_but_its_key() -> None:
    request = x509.load_pem_x509_csr(make_request(NODE_KEY))
    assert list(request.subject) == []
    assert list(request.extensions) == []
    assert key_of_request(make_request(NODE_KEY)).public_numbers() == NODE_KEY.public_key().public_numbers()


def forged_request() -> bytes:
    """A request for another's key: its signature is not by that key."""
    honest = x509.load_pem_x509_csr(make_request(NODE_KEY)).public_bytes(serialization.Encoding.DER)
    own, other = (
        key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        for key in (NODE_KEY, new_key())
    )
    swapped = x509.load_der_x509_csr(honest.replace(own, other))
    return swapped.public_bytes(serialization.Encoding.PEM)


def request_by(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def test_a_request_that_proves_nothing_is_refused() -> None:
    unfit = {
        "cannot be read": b"no request",
        "cannot be read: ": SIGNER.authority.text,
        "signature": forged_request(),
        "not on the curve": request_by(rsa.generate_private_key(65537, 2048)),
        "the curve P-256": request_by(ed25519.Ed25519PrivateKey.generate()),
        "or P-384": request_by(ec.generate_private_key(ec.SECP521R1())),
        "bytes": b"x" * (REQUEST_BYTES_MAX + 1),
        "the authority's own": make_request(AUTHORITY_KEY),
    }
    for cause, request in unfit.items():
        error = refusal(lambda text=request: signed(request=text))  # type: ignore[misc]
        assert error.code == Code.CERTIFICATE_REQUEST_INVALID
        assert cause in error.text


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {NameOID.COMMON_NAME: "node:1"},
        {NameOID.ORGANIZATIONAL_UNIT_NAME: "node"},
        {NameOID.ORGANIZATIONAL_UNIT_NAME: "node", NameOID.COMMON_NAME: "node:0"},
        {NameOID.ORGANIZATIONAL_UNIT_NAME: "node", NameOID.COMMON_NAME: "node:1x"},
        {NameOID.ORGANIZATIONAL_UNIT_NAME: "node", NameOID.COMMON_NAME: "node:-1"},
        {NameOID.ORGANIZATIONAL_UNIT_NAME: "node", NameOID.COMMON_NAME: "node:٣"},
        {NameOID.ORGANIZATIONAL_UNIT_NAME: "admin", NameOID.COMMON_NAME: "node:1"},
        {NameOID.ORGANIZATIONAL_UNIT_NAME: "node", NameOID.COMMON_NAME: "node:1", NameOID.ORGANIZATION_NAME: "x"},
    ],
    ids=str,
)
def test_a_subject_of_another_form_names_no_member(attributes: dict[x509.ObjectIdentifier, str]) -> None:
    """An operator's authority may have signed certificates of its own, for other purposes."""
    name = x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes.items()])
    key, end = NODE_KEY.public_key(), NOW + LIFETIME
    foreign = x509.CertificateBuilder(SIGNER.authority.certificate.subject, name, key, 5, NOW, end)
    error = refusal(lambda: member_of(foreign.sign(AUTHORITY_KEY, hashes.SHA256())))
    assert error.code == Code.PEER_UNKNOWN


@pytest.mark.parametrize(
    "address", ["", "10.0.0", "10.0.0.256", "a b", "-a.example", "a..b", "x" * 64, "*.example", "ä.example"]
)
def test_what_is_neither_an_address_nor_a_host_name_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="neither an IP address nor a host name"):
        names_of([address])


def test_a_certificate_covers_the_addresses_that_it_names_in_any_spelling() -> None:
    found = signed()
    assert covers(found, [])
    assert covers(found, ["fd00:0::3", "THREE.example", "10.0.0.3"])
    assert not covers(found, ["10.0.0.3", "10.0.0.4"])
    assert not covers(SIGNER.authority.certificate, ["10.0.0.3"])


# -- files ---------------------------------------------------------------------------------------------------------------


def test_a_nodes_files_are_private_and_are_read_as_they_were_written(tmp_path: Path) -> None:
    files = TrustFiles(tmp_path / "trust")
    key = trust_files.own_key(files)
    assert trust_files.own_key(files).private_numbers() == key.private_numbers(), "made once"
    chain = certificate_text(signed(request=make_request(key)), SIGNER.authority.certificate)
    trust_files.write_credentials(files, SIGNER.authority.text, {NODE: chain})
    found = trust_files.load_credentials(files.member(NODE))
    assert (found.member, found.chain, found.authority) == (Member(NODE, NodeUid(3)), chain, SIGNER.authority)
    assert {path.name: oct(path.stat().st_mode)[-3:] for path in files.directory.iterdir()} == {
        "ca.pem": "600",
        "node.pem": "600",
        "node-key.pem": "600",
    }
    assert refusal(lambda: trust_files.load_signer(files)).code == Code.AUTHORITY_KEY_ABSENT
    trust_files.write_signer(files, SIGNER)
    assert trust_files.load_signer(files).authority == SIGNER.authority


def test_files_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    files = TrustFiles(tmp_path)
    error = refusal(lambda: trust_files.load_credentials(files.member(NODE)))
    assert (error.code, "node.pem" in error.text) == (Code.CREDENTIALS_UNUSABLE, True)
    files.key.write_bytes(b"no key")
    assert refusal(lambda: trust_files.own_key(files)).code == Code.CREDENTIALS_UNUSABLE
    chain = certificate_text(signed(), SIGNER.authority.certificate)
    trust_files.write_credentials(files, SIGNER.authority.text, {NODE: chain})
    for key, cause in ((b"no key", "cannot be read"), (key_text(new_key()), "does not belong")):
        files.key.write_bytes(key)
        error = refusal(lambda: trust_files.load_credentials(files.member(NODE)))
        assert (error.code, cause in error.text) == (Code.CREDENTIALS_UNUSABLE, True)
    files.key.write_bytes(key_text(NODE_KEY))
    files.authority.write_bytes(b"none")
    error = refusal(lambda: trust_files.load_credentials(files.member(NODE)))
    assert (error.code, "ca.pem" in error.text) == (Code.CREDENTIALS_UNUSABLE, True)
    other: Authority = make_authority(new_key(), serial=1, now=NOW).authority
    files.authority.write_bytes(other.text)
    assert "not one of this authority" in refusal(lambda: trust_files.load_credentials(files.member(NODE))).text
    assert read_key(files.key.read_bytes()).private_numbers() == NODE_KEY.private_numbers()
