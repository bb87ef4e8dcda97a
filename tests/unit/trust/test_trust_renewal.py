"""When a certificate is renewed, and who may have one renewed: tables of times."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole, IssuedCertificate
from shardwright.trust.authority import certificate_text, make_authority
from shardwright.trust.certificates import CLOCK_OFF_MAX, LIFETIME, Grant, Member, certify, issued_record, make_request
from shardwright.trust.keys import new_key
from shardwright.trust.peers import admit, forgettable, revoke_node, revoked_serials
from shardwright.trust.renewal import (
    Cause,
    Renewal,
    RenewalRequest,
    check_clock,
    check_renewal,
    decide_renewal,
    due,
    look_after,
    names_to_grant,
    renewal_time,
)
from shardwright.trust.tokens import RANDOM_BYTES, make_token, used

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NODE, API, STORE = CertificateRole.NODE, CertificateRole.API, CertificateRole.STORE
KEY = new_key()
SIGNER = make_authority(new_key(), serial=1, now=NOW)
OTHER = make_authority(new_key(), serial=1, now=NOW)
ADDRESSES = ("10.0.0.3",)
LEAF = certify(SIGNER, KEY.public_key(), Grant(NODE, NodeUid(3), ADDRESSES), serial=9, now=NOW)
DUE = NOW + timedelta(days=60)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("now", "cause"),
    [
        (NOW - CLOCK_OFF_MAX, None),
        (NOW, None),
        (DUE - SECOND, None),
        (DUE, Cause.AGE),
        (NOW + LIFETIME, Cause.AGE),
    ],
)
def test_it_is_due_after_sixty_of_ninety_days(now: datetime, cause: Cause | None) -> None:
    assert decide_renewal(LEAF, SIGNER.authority, ADDRESSES, now) == Renewal(cause, DUE)


def leaf(role: CertificateRole, at: datetime, *names: str) -> x509.Certificate:
    return certify(SIGNER, KEY.public_key(), Grant(role, NodeUid(3), names or ADDRESSES), serial=9, now=at)


def test_the_certificate_that_vouches_for_the_others_is_renewed_last() -> None:
    held = {NODE: LEAF, API: leaf(API, NOW), STORE: leaf(STORE, NOW + 4 * MINUTE)}
    assert due(held, SIGNER.authority, ADDRESSES, NOW) == {}
    found = due(held, SIGNER.authority, ADDRESSES, DUE)
    assert list(found.items()) == [(API, Cause.AGE), (NODE, Cause.AGE)]
    found = due(held, SIGNER.authority, (*ADDRESSES, "10.0.1.3"), NOW)
    assert list(found) == [API, STORE, NODE]
    assert set(found.values()) == {Cause.ADDRESSES}


def test_only_the_nodes_own_certificate_must_not_have_ended() -> None:
    later = NOW + LIFETIME + SECOND
    fresh, ended = leaf(NODE, later), leaf(API, NOW)
    assert due({NODE: fresh, API: ended}, SIGNER.authority, ADDRESSES, later) == {API: Cause.EXPIRED}
    with pytest.raises(Permanent) as refused:
        due({NODE: LEAF, API: leaf(API, later)}, SIGNER.authority, ADDRESSES, later)
    assert refused.value.code is Code.CERTIFICATE_EXPIRED
    with pytest.raises(Permanent) as refused:
        due({NODE: LEAF, API: leaf(API, NOW + timedelta(days=1))}, SIGNER.authority, ADDRESSES, NOW)
    assert refused.value.code is Code.CLOCK_OFF, "a certificate from the future says that the clock is wrong"


@pytest.mark.parametrize(
    ("current", "granted"),
    [
        (b"", ADDRESSES),
        (b"no certificate", ADDRESSES),
        (certificate_text(leaf(API, NOW)) * 200, ADDRESSES),
        (certificate_text(leaf(API, NOW, "api.example.com", "10.0.0.3")), (*ADDRESSES, "api.example.com")),
        (certificate_text(leaf(API, NOW - 2 * LIFETIME, "api.example.com")), (*ADDRESSES, "api.example.com")),
        (certificate_text(leaf(NODE, NOW, "another.role")), ADDRESSES),
        (certificate_text(certify(OTHER, KEY.public_key(), Grant(API, NodeUid(3), ("x.y",)), serial=1, now=NOW)), ADDRESSES),
        (
            certificate_text(certify(SIGNER, KEY.public_key(), Grant(API, NodeUid(4), ("x.y",)), serial=1, now=NOW)),
            ADDRESSES,
        ),
    ],
)
def test_names_are_granted_that_the_record_has_or_that_were_granted_before(current: bytes, granted: tuple[str, ...]) -> None:
    request = RenewalRequest(API, make_request(KEY), NOW, current)
    assert names_to_grant(request, Member(NODE, NodeUid(3)), SIGNER.authority, ADDRESSES) == granted


@pytest.mark.parametrize(
    ("now", "has_failed", "after"),
    [
        (NOW, False, HOUR),
        (NOW, True, HOUR),
        (DUE - MINUTE, False, MINUTE),
        (DUE - timedelta(milliseconds=1), False, SECOND),
        (DUE + SECOND, False, HOUR),
        (DUE + SECOND, True, HOUR),
        (NOW + LIFETIME - 10 * MINUTE, True, MINUTE),
        (NOW + LIFETIME - SECOND, True, SECOND),
        (NOW + LIFETIME + SECOND, True, HOUR),
    ],
)
def test_certificates_are_looked_at_when_one_is_due(now: datetime, has_failed: bool, after: timedelta) -> None:
    long = leaf(API, NOW + LIFETIME)
    assert look_after([LEAF, long], now, usual=HOUR, has_failed=has_failed) == after


@given(st.integers(10, 86_400), st.integers(0, 86_400))
def test_a_short_life_leaves_time_for_several_attempts(lifetime_s: int, passed_s: int) -> None:
    short = certify(
        SIGNER,
        KEY.public_key(),
        Grant(NODE, NodeUid(3), ADDRESSES),
        serial=9,
        now=NOW,
        lifetime=timedelta(seconds=lifetime_s),
    )
    now, looks = NOW + timedelta(seconds=min(passed_s, lifetime_s - 1)), 0
    while (left := short.not_valid_after_utc - now) > 4 * SECOND:
        wait = look_after([short], now, usual=HOUR, has_failed=now >= renewal_time(short))
        assert SECOND <= wait < left
        now += wait
        looks += 1
        assert looks < 500


def test_new_addresses_and_a_new_authority_do_not_wait() -> None:
    assert decide_renewal(LEAF, SIGNER.authority, (*ADDRESSES, "10.0.1.3"), NOW) == Renewal(Cause.ADDRESSES, DUE)
    assert decide_renewal(LEAF, OTHER.authority, ADDRESSES, NOW) == Renewal(Cause.AUTHORITY, DUE)
    assert decide_renewal(LEAF, SIGNER.authority, (), NOW).cause is None


@given(st.integers(1, 3650))
def test_it_is_due_while_a_third_of_its_life_remains_however_long_its_authority_lasts(days: int) -> None:
    signer = make_authority(KEY, serial=1, now=NOW - timedelta(days=3650 - days))
    leaf = certify(signer, new_key().public_key(), Grant(NODE, NodeUid(3), ADDRESSES), serial=9, now=NOW)
    assert leaf.not_valid_after_utc - NOW == min(LIFETIME, timedelta(days=days))
    assert NOW < renewal_time(leaf) < leaf.not_valid_after_utc
    assert (leaf.not_valid_after_utc - renewal_time(leaf)) * 3 == leaf.not_valid_after_utc - NOW


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (NOW - CLOCK_OFF_MAX - SECOND, Code.CLOCK_OFF),
        (NOW - timedelta(days=400), Code.CLOCK_OFF),
        (NOW + LIFETIME + SECOND, Code.CERTIFICATE_EXPIRED),
    ],
)
def test_a_certificate_that_the_clock_does_not_accept_is_named(now: datetime, code: Code) -> None:
    with pytest.raises(Permanent) as refused:
        decide_renewal(LEAF, SIGNER.authority, ADDRESSES, now)
    assert refused.value.code is code
    assert f"{now:%Y-%m-%d %H:%M:%S}" in refused.value.text
    assert code.remedy


@pytest.mark.parametrize(
    ("off_s", "said"),
    [(0, ""), (300, ""), (-300, ""), (301, "301 s ahead of"), (-301, "301 s behind"), (86_400, "86400 s ahead of")],
)
def test_a_clock_may_be_five_minutes_off(off_s: int, said: str) -> None:
    found = check_clock(NOW + timedelta(seconds=off_s), NOW)
    assert (found is None) == (said == "")
    if found is not None:
        assert found.code is Code.CLOCK_OFF
        assert said in found.text
        assert "chrony" in found.remedy


def test_a_certificate_signed_by_a_clock_at_the_limit_is_accepted_at_once() -> None:
    """The two limits are one: a clock that may join or renew accepts what it is given."""
    for off in (-CLOCK_OFF_MAX, CLOCK_OFF_MAX):
        assert check_clock(NOW + off, NOW) is None
        assert decide_renewal(LEAF, SIGNER.authority, ADDRESSES, NOW + off).cause is None


def test_who_may_have_a_certificate_renewed() -> None:
    members = frozenset({NodeUid(1), NodeUid(3)})
    request = RenewalRequest(API, make_request(KEY), NOW)
    assert check_renewal(request, Member(NODE, NodeUid(3)), members, NOW) == ()
    wrong = RenewalRequest(API, b"", NOW + timedelta(minutes=6))
    found = check_renewal(wrong, Member(API, NodeUid(4)), members, NOW)
    assert [reason.code for reason in found] == [
        Code.CLOCK_OFF,
        Code.PEER_ROLE_WRONG,
        Code.NODE_GONE,
        Code.CERTIFICATE_REQUEST_INVALID,
    ]
    assert all(reason.text and reason.remedy for reason in found)


def test_what_the_store_keeps_is_read_as_it_was_written() -> None:
    token = used(make_token(bytes(range(RANDOM_BYTES)), NOW)[1], NodeUid(3))
    for record in (token, replace(token, used_by=None), *revoke_node([issued(3, (1 << 159) - 1)], NodeUid(3), NOW)):
        adapter = TypeAdapter(type(record))
        assert adapter.validate_json(adapter.dump_json(record)) == record


# -- revocation ----------------------------------------------------------------------------------------------------------


def issued(node: int, serial: int, at: datetime = NOW) -> IssuedCertificate:
    return issued_record(certify(SIGNER, KEY.public_key(), Grant(NODE, NodeUid(node), ADDRESSES), serial=serial, now=at))


def test_all_certificates_of_a_node_are_revoked_together() -> None:
    before = [
        issued(3, 0xA),
        issued(3, 0xB, NOW - timedelta(days=80)),
        issued(3, 0xC, NOW - timedelta(days=91)),
        issued(4, 0xD),
    ]
    assert revoked_serials(before) == frozenset()
    written = revoke_node(before, NodeUid(3), NOW)
    assert [one.serial for one in written] == ["a", "b"], "the third has ended by itself"
    assert {one.revoked_at for one in written} == {NOW}
    assert revoked_serials(written) == {"a", "b"}
    assert revoke_node(written, NodeUid(3), NOW + SECOND) == (), "the first time stays"


def test_a_certificate_of_no_member_counts_as_revoked() -> None:
    """A renewal that was under way during the removal of node 3 is recorded after it, and nothing would revoke it."""
    late = [issued(3, 0xA), issued(4, 0xD)]
    assert revoked_serials(late, {NodeUid(4)}) == {"a"}
    assert revoked_serials(late, {NodeUid(3), NodeUid(4)}) == frozenset()


def test_a_revoked_certificate_is_on_the_list_for_as_long_as_any_clock_accepts_it() -> None:
    one = issued(3, 0xA)
    end = one.expires_at + CLOCK_OFF_MAX
    assert forgettable([one], end) == ()
    assert len(revoke_node([one], NodeUid(3), end)) == 1
    assert forgettable([one], end + SECOND) == (one,)
    assert revoke_node([one], NodeUid(3), end + SECOND) == ()


@pytest.mark.parametrize("shown", [None, b"", b"\x30\x00"])
def test_a_peer_without_a_readable_certificate_is_not_admitted(shown: bytes | None) -> None:
    with pytest.raises(Permanent) as refused:
        admit(shown, {NODE}, revoked=frozenset())
    assert refused.value.code is Code.PEER_UNKNOWN
