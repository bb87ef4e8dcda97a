"""Certificates on the wire. Pure. Keys are never shown."""

import re
from collections.abc import Iterable

from typing_extensions import TypedDict

from shardwright.api.schemas.v1.common import iso, iso_or_none
from shardwright.model.trust import IssuedCertificate

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?")


class IssuedCertificateAnswer(TypedDict):
    """Extension: a certificate that the cluster's authority has signed."""

    serial: str
    node_uid: int
    role: str
    issued: str
    expires: str
    revoked: str | None


class CertificatesAnswer(TypedDict):
    """``api_cert``: what the answering node's API shows, with the authorities that it shows; PEM. ``issued`` is an
    extension; empty in a local cluster."""

    api_cert: str
    issued: list[IssuedCertificateAnswer]


def certificates(shown: bytes, issued: Iterable[IssuedCertificate]) -> CertificatesAnswer:
    """The certificates. ``shown``: the file of the node's API; anything in it that is no certificate is left out."""
    ordered = sorted(issued, key=lambda one: (one.node_uid, one.role, one.issued_at, one.serial))
    return {"api_cert": "".join(_BLOCK.findall(shown.decode(errors="replace"))), "issued": [_issued(one) for one in ordered]}


def _issued(one: IssuedCertificate) -> IssuedCertificateAnswer:
    return {
        "serial": one.serial,
        "node_uid": one.node_uid,
        "role": one.role.value,
        "issued": iso(one.issued_at),
        "expires": iso(one.expires_at),
        "revoked": iso_or_none(one.revoked_at),
    }
