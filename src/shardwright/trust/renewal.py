"""When a node's certificates are renewed, what a request for renewal must satisfy, and what is granted. Pure.

A node asks ``due`` on every look at its certificates. The agent of a node that holds the authority's key asks
``check_renewal`` and ``names_to_grant`` before it signs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from cryptography import x509

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.trust import CertificateRole
from shardwright.trust.authority import Authority, covers, named_in
from shardwright.trust.certificates import CLOCK_OFF_MAX, Member, key_of_request, member_of

CURRENT_BYTES_MAX: Final = 64 * 1024
"""A certificate and its authority's have some 2 KiB. A longer text is not parsed."""


LOOK_AFTER_MIN: Final = timedelta(seconds=1)
"""Between two looks at the certificates, however little time is left."""


class Cause(StrEnum):
    """Why a certificate must be renewed now."""

    AGE = "age"
    """Two thirds of its lifetime have passed."""
    ADDRESSES = "addresses"
    """The node has an address that the certificate does not name."""
    AUTHORITY = "authority"
    """Another authority signed it."""
    EXPIRED = "expired"
    """It has ended. The node's certificate of role ``node``, which is still valid, vouches for the node."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """``cause`` None: not now. ``at``: the time at which it is, or has become, due by its age."""

    cause: Cause | None
    at: datetime


@dataclass(frozen=True, slots=True)
class RenewalRequest:
    """What a node sends to have one certificate renewed. The connection tells who it is."""

    role: CertificateRole
    request: bytes
    """A signing request, PEM."""
    at: datetime
    """The node's time."""
    current: bytes = b""
    """The certificate that is to be renewed, PEM, possibly expired: the names in it were granted before. Empty: there is
    none."""


def renewal_time(certificate: x509.Certificate) -> datetime:
    """After two thirds of the lifetime: 60 of 90 days. Earlier if the authority ends, because its certificates then end
    with it."""
    began = certificate.not_valid_before_utc + CLOCK_OFF_MAX
    return began + (certificate.not_valid_after_utc - began) * 2 / 3


def decide_renewal(certificate: x509.Certificate, authority: Authority, addresses: Sequence[str], now: datetime) -> Renewal:
    """Whether the certificate must be renewed now.

    Raises Permanent: ``clock_off`` if this machine's clock is before the certificate's beginning, ``certificate_expired`` if
    the certificate has ended and no peer accepts it any more."""
    if now < certificate.not_valid_before_utc:
        begins = certificate.not_valid_before_utc
        raise Permanent(
            Code.CLOCK_OFF,
            f"this machine's clock ({_time(now)}) is before the beginning of its certificate ({_time(begins)})",
        )
    if now > certificate.not_valid_after_utc:
        text = f"the certificate ended at {_time(certificate.not_valid_after_utc)}; it is {_time(now)}"
        raise Permanent(Code.CERTIFICATE_EXPIRED, text)
    at = renewal_time(certificate)
    if not authority.has_issued(certificate):
        return Renewal(Cause.AUTHORITY, at)
    if not covers(certificate, addresses):
        return Renewal(Cause.ADDRESSES, at)
    return Renewal(Cause.AGE if now >= at else None, at)


def due(
    held: Mapping[CertificateRole, x509.Certificate], authority: Authority, addresses: Sequence[str], now: datetime
) -> dict[CertificateRole, Cause]:
    """The certificates of a node that must be renewed now, each with its cause. The one of role ``node`` comes last: it
    vouches for the others.

    Raises Permanent as ``decide_renewal`` about the one of role ``node``: without it, no peer answers."""
    found: dict[CertificateRole, Cause] = {}
    for role in sorted(held, key=lambda r: (r is CertificateRole.NODE, r)):
        try:
            cause = decide_renewal(held[role], authority, addresses, now).cause
        except Permanent as e:
            if role is CertificateRole.NODE or e.code is not Code.CERTIFICATE_EXPIRED:
                raise
            cause = Cause.EXPIRED
        if cause is not None:
            found[role] = cause
    return found


def look_after(held: Iterable[x509.Certificate], now: datetime, *, usual: timedelta, has_failed: bool = False) -> timedelta:
    """How long after this look the certificates are looked at again: the usual time, or earlier, if one is due before that.
    ``has_failed``: one is due and was not renewed. Then a tenth of the time that is left to it may pass, so that a short
    life is long enough for several attempts."""
    waits = [usual]
    for certificate in held:
        left = certificate.not_valid_after_utc - now
        until_due = renewal_time(certificate) - now
        if until_due > timedelta(0):
            waits.append(until_due)
        elif has_failed and left > timedelta(0):
            waits.append(left / 10)
    return max(LOOK_AFTER_MIN, min(waits))


def names_to_grant(request: RenewalRequest, peer: Member, authority: Authority, recorded: Sequence[str]) -> tuple[str, ...]:
    """The addresses that the new certificate names: those on the node's record, and those that this authority has certified
    for this node in this role before, such as names that the record does not have."""
    return tuple(dict.fromkeys((*recorded, *_granted_before(request, peer, authority))))


def _granted_before(request: RenewalRequest, peer: Member, authority: Authority) -> tuple[str, ...]:
    if not request.current or len(request.current) > CURRENT_BYTES_MAX:
        return ()
    try:
        current = x509.load_pem_x509_certificate(request.current)
        is_theirs = authority.has_issued(current) and member_of(current) == Member(request.role, peer.node_uid)
    except (ValueError, Permanent):
        return ()
    return named_in(current) if is_theirs else ()


def check_renewal(request: RenewalRequest, peer: Member, members: frozenset[NodeUid], now: datetime) -> tuple[Reason, ...]:
    """Everything that forbids the renewal; empty: sign it for ``peer.node_uid`` and for the addresses on that node's record.
    ``peer``: from the connection's certificate, which ``peers.admit`` has accepted."""
    found = [check_clock(request.at, now)]
    if peer.role is not CertificateRole.NODE:
        found.append(_reason(Code.PEER_ROLE_WRONG, f"a certificate of role {peer.role} may not renew certificates"))
    if peer.node_uid not in members:
        text = f"node {peer.node_uid} is not a member of the cluster"
        found.append(Reason(Code.NODE_GONE, text, Grade.CONFIGURATION, remedy="join as a new node (`node token`)"))
    found.append(check_request(request.request))
    return tuple(reason for reason in found if reason is not None)


def check_clock(theirs: datetime, ours: datetime) -> Reason | None:
    """A machine whose clock is more than five minutes off can neither judge certificates nor be given one. None: close
    enough."""
    off = theirs - ours
    if abs(off) <= CLOCK_OFF_MAX:
        return None
    direction = "ahead of" if off > CLOCK_OFF_MAX else "behind"
    text = f"the machine's clock is {abs(off).total_seconds():.0f} s {direction} the cluster's; at most "
    return _reason(Code.CLOCK_OFF, f"{text}{CLOCK_OFF_MAX.total_seconds():.0f} s are accepted")


def check_request(request: bytes) -> Reason | None:
    """None: the signing request is valid."""
    try:
        key_of_request(request)
    except Permanent as e:
        return _reason(e.code, e.text)
    return None


def _reason(code: Code, text: str) -> Reason:
    return Reason(code, text, Grade.CONFIGURATION, remedy=code.remedy)


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
