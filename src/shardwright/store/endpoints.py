"""Which members of the etcd the clients of one daemon ask, in which order, and which etcd they believe.

The decisions are pure: which addresses follow from the members, and what a daemon keeps of them for its next start.
``EndpointBook`` holds their result, and all clients of a daemon share it. Does no I/O: ``agent/store_endpoints.py`` asks the
members and keeps the file.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.store_member import StoreMember
from shardwright.store.etcd_identity import EtcdIdentity
from shardwright.store.settings import EtcdEndpoint, EtcdSettings, parsed_endpoint

LEARNED_MAX: Final = 16
"""Addresses kept. A cluster runs three members, a few more while some are replaced."""
HOST_CHARACTERS_MAX: Final = 253
"""As in DNS."""
CLUSTER_ID_MAX: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Learned:
    """What a daemon has learned of the store's members."""

    cluster_id: str
    """Of the etcd that has these members. Decimal."""
    endpoints: tuple[str, ...]
    """``https://host:port``, in the order in which they are asked."""


class EndpointBook:
    """What all clients of one etcd in this process know together: where it is, and which one it is.

    A client that opens a connection looks here, so a change takes effect without opening the client again. Safe for use by
    several threads: the addresses are replaced as a whole."""

    def __init__(self, settings: EtcdSettings) -> None:
        """Raises Permanent ``store_settings_invalid``."""
        self.identity = EtcdIdentity(settings.cluster_id)
        try:
            self._endpoints = settings.parsed()
        except ValueError as e:
            raise Permanent(Code.STORE_SETTINGS_INVALID, f"the settings of the store are invalid: {e}") from e

    @property
    def endpoints(self) -> tuple[EtcdEndpoint, ...]:
        """In the order in which they are asked; at least one."""
        return self._endpoints

    def replace(self, urls: Iterable[str]) -> bool:
        """Ask these from now on. False: they were known already. Raises ValueError if they cannot be used; the earlier ones
        stay."""
        found = tuple(map(parsed_endpoint, urls))
        if not found or {e.is_encrypted for e in found} != {e.is_encrypted for e in self._endpoints}:
            raise ValueError("there is no endpoint, or not all are encrypted as the first ones are")
        if found == self._endpoints:
            return False
        self._endpoints = found
        return True


def next_endpoint(endpoints: Sequence[EtcdEndpoint], left: EtcdEndpoint | None) -> EtcdEndpoint:
    """Which one is asked after the one that was left: the next in the order; the first if that one is unknown or None."""
    if left is None or left not in endpoints:
        return endpoints[0]
    return endpoints[(endpoints.index(left) + 1) % len(endpoints)]


# -- what follows from the members -------------------------------------------------------------------------------------


def member_urls(members: Iterable[StoreMember], own: Collection[str]) -> tuple[str, ...]:
    """The addresses of the members in the order in which they are asked: this node's own (``own``: its addresses for the
    store's clients), the other voters, then the learners, which serve no client yet. Empty: nothing can be learned, because
    no voter says a usable address. A member that has not started says none."""
    mine = {url for text in own if (url := usable(text)) is not None}
    found = [
        (member.is_learner, url not in mine, url)
        for member in members
        for url in map(usable, member.client_urls)
        if url is not None
    ]
    if all(is_learner for is_learner, _, _ in found):
        return ()
    # Sorted by address, because the order must not change from one answer to the next.
    return tuple(dict.fromkeys(url for _, _, url in sorted(found)))[:LEARNED_MAX]


def asked(learned: Iterable[str], configured: Iterable[str]) -> tuple[str, ...]:
    """All addresses in the order in which they are asked. The configured ones are never dropped, and come last."""
    found: dict[str, str] = {}
    for text in (*learned, *configured):
        found.setdefault(usable(text) or text, text)
    return tuple(found.values())


def usable(text: str) -> str | None:
    """The address of a member, as it is compared and kept; None: it cannot be one. Only ``https``."""
    try:
        parts, endpoint = urlsplit(text), parsed_endpoint(text)
    except ValueError:
        return None
    if not endpoint.is_encrypted or parts.fragment or not parts.port or len(endpoint.host) > HOST_CHARACTERS_MAX:
        return None
    if not text.isascii() or not text.isprintable() or " " in text or not _is_host(endpoint.host):
        return None
    return str(endpoint)


def _is_host(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return all(
            part and part.strip("-_") and part.replace("-", "").replace("_", "").isalnum() for part in host.split(".")
        )
    return not (address.is_unspecified or address.is_multicast)


# -- what is kept for the next start -----------------------------------------------------------------------------------


def with_learned(settings: EtcdSettings, learned: Learned | None) -> EtcdSettings:
    """The settings of a client that asks what was learned first, and believes the etcd of that time only."""
    if learned is None:
        return settings
    return replace(settings, endpoints=asked(learned.endpoints, settings.endpoints), cluster_id=learned.cluster_id)


def learned_text(learned: Learned) -> bytes:
    """The content of the file."""
    return json.dumps({"cluster_id": learned.cluster_id, "endpoints": list(learned.endpoints)}, indent=1).encode() + b"\n"


def read_learned(content: bytes) -> Learned:
    """What a file with this content says. Raises ValueError: it cannot be believed."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("it is not an object")
    cluster_id, endpoints = found.get("cluster_id"), found.get("endpoints")
    if not isinstance(cluster_id, str) or not _is_cluster_id(cluster_id):
        raise ValueError("cluster_id is not a decimal number")
    if not isinstance(endpoints, list) or not 1 <= len(endpoints) <= LEARNED_MAX:
        raise ValueError(f"endpoints is not a list of 1 to {LEARNED_MAX} addresses")
    for text in endpoints:
        if not isinstance(text, str) or usable(text) != text:
            raise ValueError(f"{text!r} is not https://host:port")
    return Learned(cluster_id, tuple(dict.fromkeys(endpoints)))


def _is_cluster_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 20 and 0 < int(text) <= CLUSTER_ID_MAX
