"""How servers speak to each other: the times of a replication link, and the files of encrypted connections. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkTimes:
    """How soon a server notices that the other end of a replication link is silent."""

    ping_s: int
    """Interval of a primary's pings to its replicas."""
    timeout_s: int
    """Silence after which either end gives the link up."""


LINK_ON_ONE_MACHINE = LinkTimes(ping_s=10, timeout_s=60)
"""A dead process closes its connections at once; only a frozen one is silent."""
LINK_OVER_NETWORK = LinkTimes(ping_s=1, timeout_s=10)
"""Across a cut nothing closes, and a replica shows its link as up until the timeout."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of what a server shows to its peers and of whom it trusts, in PEM. Its peers must have certificates of the same
    authority."""

    certificate: str
    key: str
    authority: str


def tls_lines(files: TlsFiles) -> tuple[tuple[str, str], ...]:
    """The settings that name the files. Setting them again makes a running server read the files again."""
    return (
        ("tls-cert-file", files.certificate),
        ("tls-key-file", files.key),
        ("tls-ca-cert-file", files.authority),
    )
