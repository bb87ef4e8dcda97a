"""The exchange of a join as values: what a newcomer sends, what forbids it, and what it is given. Pure.

Called by the API of a node that holds the authority's key. The API commits the node's record and the used token in one
transaction. Whether the new machine can be reached is not judged here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from cryptography import x509

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.database import ServerKind
from shardwright.model.ids import JoinTokenUid, NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.trust import CertificateRole, JoinToken
from shardwright.trust import keys
from shardwright.trust.authority import Signer, certificate_text, names_of
from shardwright.trust.certificates import Grant, key_of_request, sign_request
from shardwright.trust.renewal import check_clock, check_request
from shardwright.trust.tokens import check_token, uid_of_token

PROTOCOL: Final = 1
"""The version of this exchange. A daemon refuses a later one, which it cannot understand."""
ADDRESSES_MAX: Final = 16
"""More than a machine has networks for a cluster; each one lengthens every handshake."""
TEXT_MAX: Final = 256
"""Characters of a rack or a machine id: both are stored and shown."""
_VERSION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})*)")


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """A kind of server in exactly one version."""

    kind: ServerKind
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.version}"


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What a newcomer sends, after it has recognized the authority."""

    token: str = field(repr=False)
    request: bytes
    """A signing request, PEM."""
    machine_id: str
    addresses: tuple[str, ...]
    """The first one becomes the node's address."""
    memory_bytes: int
    rack: str
    """Empty: no rack."""
    version: str
    """Of the newcomer's Shardwright."""
    servers: tuple[ServerVersion, ...]
    """The server programs that the newcomer has."""
    at: datetime
    """The newcomer's time."""
    protocol: int = PROTOCOL
    replaces: NodeUid | None = None
    """The node whose place the newcomer takes: it gets a number of its own, and that node is removed. None: it becomes a
    further node."""
    external_address: str = ""
    """Told to clients that come from outside; empty: the first address."""
    server_address: str = ""
    """Of the node's servers, one of the addresses; empty: the first one."""
    has_store_program: bool = False
    """Whether it can run a member of the store."""
    probe: str = ""
    """What the newcomer says to everybody who connects to its ports during the join."""


@dataclass(frozen=True, slots=True)
class MemberNode:
    """What matters of a node that is a member already."""

    uid: NodeUid
    machine_id: str
    """Empty: not known."""
    addresses: tuple[str, ...]
    is_replaceable: bool
    """It is certainly off, or is away and holds no copy. Judged by its liveness, not here."""
    key_hash: str = ""
    """Names the key for which its certificates are issued; empty: not known."""
    has_run: bool = True
    """Whether its daemon has been seen. False: its join may have been interrupted."""


@dataclass(frozen=True, slots=True)
class JoinView:
    """What a join is checked against, at one revision of the store."""

    tokens: Mapping[JoinTokenUid, JoinToken]
    members: tuple[MemberNode, ...]
    servers: tuple[ServerVersion, ...]
    """What the databases of the cluster run on, and new ones will."""
    version: str
    """The latest version of all daemons."""
    virtual_addresses: tuple[str, ...] = ()
    """Those of the cluster, which move from node to node."""


@dataclass(frozen=True, slots=True)
class SealingKey:
    """The key under which the store's secrets are sealed."""

    key_id: str
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoreFiles:
    """With what a node proves itself to an etcd that the operator runs: the content of the files, PEM."""

    authority: bytes
    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class JoinResponse:
    """What a newcomer is given. It has everything to start its daemon."""

    uid: NodeUid
    certificates: Mapping[CertificateRole, bytes]
    """PEM, each followed by the authority's."""
    authority: bytes
    """PEM."""
    store_endpoints: tuple[str, ...]
    sealing_keys: tuple[SealingKey, ...]
    """The key in use first; older ones while something is sealed under them."""
    initial_cluster: Mapping[str, str] = field(default_factory=dict)
    """The other members of the store, by name, with the addresses of their peers. The newcomer has been added to them, and
    runs a member. Empty: it runs none."""
    store_files: StoreFiles | None = None
    """None: the certificate of role ``store`` opens the store."""


def check_join(request: JoinRequest, view: JoinView, now: datetime, *, is_admin: bool = False) -> tuple[Reason, ...]:
    """Everything that forbids the join; empty: it may be committed. ``is_admin``: an administrator asks, who needs no token.

    Without a valid token the answer names only that: a stranger learns nothing about the cluster."""
    if request.protocol > PROTOCOL:
        return (_too_new(f"the newcomer speaks version {request.protocol} of the join protocol, the cluster {PROTOCOL}"),)
    own = earlier_node(request, view.members)
    refused = None if is_admin else _check_token(request, view, own, now)
    if refused is not None:
        return (refused,)
    others = tuple(member for member in view.members if member is not own)
    checks = (
        check_clock(request.at, now),
        check_request(request.request),
        _check_form(request),
        _check_version(request.version, view.version),
        *_check_servers(request, view),
        _check_machine(request, others),
        *_check_addresses(request, others),
        _check_virtual(request, view.virtual_addresses),
        # What was accepted once stays so: the node that it replaces may have left meanwhile.
        None if own is not None else _check_replaced(request.replaces, others),
    )
    return tuple(reason for reason in checks if reason is not None)


def earlier_node(request: JoinRequest, members: Sequence[MemberNode]) -> MemberNode | None:
    """The node that this newcomer became by an earlier request whose answer was lost: the same machine, which has the same
    key, and whose daemon has not run. None: it is new."""
    try:
        shown = keys.hash_of_key(key_of_request(request.request))
    except Permanent:
        return None
    return next(
        (m for m in members if m.machine_id == request.machine_id and m.key_hash == shown and not m.has_run),
        None,
    )


def names_by_role(addresses: Sequence[str], external: str = "") -> Mapping[CertificateRole, tuple[str, ...]]:
    """What the certificates of a node with these addresses name. ``external``: see ``JoinRequest.external_address``."""
    # A machine reaches loopback addresses from 127.0.0.1, and a member of the store compares a peer's address with its
    # certificate.
    is_loopback = not isinstance(first := _plain(addresses[0]), str) and first.is_loopback
    named = tuple(dict.fromkeys((*addresses, *((external,) if external else ()))))
    source = ("127.0.0.1",) if is_loopback else ()
    return {
        CertificateRole.NODE: named,
        CertificateRole.STORE: tuple(dict.fromkeys((*named, *source))),
        CertificateRole.API: named,
    }


def _check_token(request: JoinRequest, view: JoinView, own: MemberNode | None, now: datetime) -> Reason | None:
    """A token is good for one node; that node may use it again until its daemon runs."""
    found = check_token(view.tokens, request.token, now)
    if not isinstance(found, Reason):
        return None
    if found.code is not Code.JOIN_TOKEN_USED or own is None:
        return found
    record = view.tokens[uid_of_token(request.token)]
    return None if record.used_by == own.uid and now < record.expires_at else found


def answer_join(
    signer: Signer,
    request: JoinRequest,
    uid: NodeUid,
    *,
    addresses: Mapping[CertificateRole, Sequence[str]],
    serials: Mapping[CertificateRole, int],
    store_endpoints: Sequence[str],
    sealing_keys: Sequence[SealingKey],
    store_files: StoreFiles | None = None,
    now: datetime,
) -> tuple[JoinResponse, tuple[x509.Certificate, ...]]:
    """The answer to an accepted newcomer, and the certificates in it, to be recorded with the node.

    ``addresses``: what each certificate names; a role without an entry gets none. ``serials``: fresh random numbers, one for
    each of these roles."""
    signed = {
        role: sign_request(signer, request.request, Grant(role, uid, tuple(named)), serial=serials[role], now=now)
        for role, named in addresses.items()
    }
    authority = signer.authority
    response = JoinResponse(
        uid=uid,
        certificates={role: certificate_text(leaf, authority.certificate) for role, leaf in signed.items()},
        authority=authority.text,
        store_endpoints=tuple(store_endpoints),
        sealing_keys=tuple(sealing_keys),
        store_files=store_files,
    )
    return response, tuple(signed.values())


def _check_form(request: JoinRequest) -> Reason | None:
    """What the records of a node cannot hold."""
    wrong = ""
    if not 1 <= len(request.addresses) <= ADDRESSES_MAX or len(set(map(_plain, request.addresses))) != len(
        request.addresses
    ):
        wrong = f"a newcomer names 1 to {ADDRESSES_MAX} different addresses"
    elif not request.machine_id.strip() or len(request.machine_id) > TEXT_MAX:
        wrong = "the newcomer has no machine id"
    elif len(request.rack) > TEXT_MAX:
        wrong = f"the name of a rack has at most {TEXT_MAX} characters"
    elif request.memory_bytes <= 0:
        wrong = "the newcomer offers no memory"
    elif request.server_address and request.server_address not in request.addresses:
        wrong = f"the address of the servers, {request.server_address[:TEXT_MAX]}, is not one of the newcomer's addresses"
    else:
        named = (*request.addresses, *((request.external_address,) if request.external_address else ()))
        wrong = next((cause for cause in map(_wrong_in, named) if cause), "")
    return _reason(Code.JOIN_REQUEST_INVALID, wrong) if wrong else None


def _wrong_in(address: str) -> str:
    """Why no node can be reached there; empty: it may be."""
    try:
        names_of((address,))
    except ValueError as e:
        return str(e)
    found = _plain(address)
    is_one = isinstance(found, str) or not (found.is_unspecified or found.is_multicast)
    return "" if is_one else f"{address} is not the address of one machine"


def _plain(address: str) -> IPv4Address | IPv6Address | str:
    """Equal for two spellings of one address."""
    try:
        return ip_address(address)
    except ValueError:
        return address.lower()


def _check_version(theirs: str, ours: str) -> Reason | None:
    release = _release(theirs)
    if release is None or len(theirs) > TEXT_MAX:
        return _reason(Code.JOIN_REQUEST_INVALID, f"{theirs[:TEXT_MAX]!r} is not a version")
    if release > (_release(ours) or ()):
        return _too_new(f"the newcomer has version {theirs}, the cluster {ours}")
    return None


def _check_servers(request: JoinRequest, view: JoinView) -> Iterable[Reason]:
    """A copy never runs on another version than its database's, so a node without that version could hold no copy."""
    for needed in view.servers:
        if needed not in request.servers:
            has = ", ".join(str(server) for server in request.servers) or "none"
            text = f"the cluster's databases run on {needed}; the newcomer has {has}"
            yield _reason(Code.SERVER_BINARY_MISSING, text, remedy=f"install {needed} on the new machine")


def _check_machine(request: JoinRequest, members: Sequence[MemberNode]) -> Reason | None:
    """One machine is one node: two would share its failures, and copies on both would be lost together."""
    for member in members:
        if member.machine_id == request.machine_id:
            return _reason(
                Code.MACHINE_IS_MEMBER,
                f"this machine is node {member.uid} already",
                remedy=f"remove it first: shardwright node remove {member.uid}",
                node_uid=member.uid,
            )
    return None


def _check_addresses(request: JoinRequest, members: Sequence[MemberNode]) -> Iterable[Reason]:
    for member in members:
        held = {_plain(address) for address in member.addresses}
        shared = [address for address in request.addresses if _plain(address) in held]
        if shared:
            yield _reason(
                Code.ADDRESS_IN_USE,
                f"{', '.join(shared)} belongs to node {member.uid}",
                remedy=f"give another address, or remove that node first: shardwright node remove {member.uid}",
                node_uid=member.uid,
            )


def _check_virtual(request: JoinRequest, virtual: Sequence[str]) -> Reason | None:
    """A virtual address moves to another node, and nothing would reach the newcomer there."""
    moving = {_plain(address) for address in virtual}
    given = dict.fromkeys((*request.addresses, request.external_address))
    found = [address for address in given if _plain(address) in moving]
    if not found:
        return None
    remedy = "give an address that only the new machine has, or remove that one: shardwright cluster vip remove ADDRESS"
    return _reason(Code.ADDRESS_IN_USE, f"{', '.join(found)} is a virtual address of the cluster", remedy=remedy)


def _check_replaced(replaces: NodeUid | None, members: Sequence[MemberNode]) -> Reason | None:
    if replaces is None:
        return None
    found = next((member for member in members if member.uid == replaces), None)
    if found is None:
        text, remedy = f"node {replaces} is not a member of the cluster", "join as a new node"
        return _reason(Code.NODE_GONE, text, remedy=remedy, node_uid=replaces)
    if not found.is_replaceable:
        return _reason(
            Code.REPLACED_NODE_NEEDED, f"node {replaces} runs, or may hold copies that are needed", node_uid=replaces
        )
    return None


def _release(version: str) -> tuple[int, ...] | None:
    """The numbers of a version, without zeros at the end: 1.2 and 1.2.0 are equal. None: it has none."""
    match = _VERSION.match(version)
    if match is None:
        return None
    numbers = [int(part) for part in match[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _too_new(text: str) -> Reason:
    return _reason(Code.NEWCOMER_TOO_NEW, text)


def _reason(code: Code, text: str, *, remedy: str = "", node_uid: NodeUid | None = None) -> Reason:
    return Reason(code, text, Grade.CONFIGURATION, remedy=remedy or code.remedy, node_uid=node_uid)
