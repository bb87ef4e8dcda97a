"""The join of a newcomer as an intent, and the tokens that admit it. Pure; ``api/joins.py`` is the shell around it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from typing import Final

from shardwright import __version__
from shardwright.api.errors import RefusedForReasons
from shardwright.api.services.intent import Intent, Look, audit
from shardwright.errors import Refusal
from shardwright.model.cluster import Node
from shardwright.model.database import ServerKind
from shardwright.model.event import EventKind
from shardwright.model.ids import NodeUid
from shardwright.model.reason import Reason
from shardwright.model.store_member import StoreMember, StoreRole
from shardwright.model.trust import CertificateRole, JoinToken
from shardwright.model.version import release_of
from shardwright.model.view import ClusterView, Delete, Put
from shardwright.plan.store_members import node_of
from shardwright.trust import keys
from shardwright.trust.authority import Signer
from shardwright.trust.certificates import issued_record, key_of_request
from shardwright.trust.join import (
    JoinRequest,
    JoinResponse,
    JoinView,
    MemberNode,
    SealingKey,
    ServerVersion,
    StoreFiles,
    answer_join,
    check_join,
    earlier_node,
    names_by_role,
)
from shardwright.trust.tokens import is_forgettable, make_token, uid_of_token, used

STORE_MEMBERS_MAX: Final = 3
"""Of a store that runs on the cluster's nodes: it then survives the loss of one. More would make every write slower."""
TOKENS_MAX: Final = 1000
"""Unused tokens at a time."""

REFUSALS: Final[dict[str, Refusal]] = {
    "join_token_unknown": Refusal.FORBIDDEN,
    "join_token_used": Refusal.FORBIDDEN,
    "join_token_expired": Refusal.FORBIDDEN,
    "join_request_invalid": Refusal.INVALID,
    "certificate_request_invalid": Refusal.INVALID,
    "machine_is_member": Refusal.CONFLICT,
    "address_in_use": Refusal.CONFLICT,
    "clock_off": Refusal.NOT_ACCEPTABLE,
    "newcomer_too_new": Refusal.NOT_ACCEPTABLE,
    "server_binary_missing": Refusal.NOT_ACCEPTABLE,
    "node_gone": Refusal.CONFLICT,
    "replaced_node_needed": Refusal.CONFLICT,
    "no_route_back": Refusal.NOT_ACCEPTABLE,
}
"""What each reason against a join is to the API: a test checks that every reason has one."""
TOKEN_REASONS: Final = frozenset(code for code in REFUSALS if code.startswith("join_token_"))


class StorePart(StrEnum):
    """What becomes of a newcomer in a store that runs on the cluster's nodes."""

    CLIENT = "client"
    """It runs no member."""
    MEMBER = "member"
    """Its member is added, or was by an earlier request."""
    LATER = "later"
    """Another new member must catch up first."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What the answering node admits a newcomer with."""

    signer: Signer
    serials: Mapping[CertificateRole, int] = field(repr=False)
    """Fresh random numbers, one for each role."""
    sealing_keys: tuple[SealingKey, ...] = field(repr=False)
    store_endpoints: tuple[str, ...]
    store_files: StoreFiles | None = field(repr=False)


# -- tokens ------------------------------------------------------------------------------------------------------------


def new_token(seen: Look, randomness: bytes) -> Intent[tuple[str, JoinToken]]:
    """A token that admits one newcomer. Expired ones are forgotten. Raises Rejected if there are too many."""
    known = seen.view.join_tokens.values()
    forgotten = [token for token in known if is_forgettable(token, seen.now)]
    if len(known) - len(forgotten) >= TOKENS_MAX:
        raise RefusedForReasons(Refusal.CONFLICT, "too_many_tokens", f"There are {TOKENS_MAX} join tokens already.", ())
    text, record = make_token(randomness, seen.now)
    # Deletions beyond this number wait for the next token: a transaction is limited.
    deletions = tuple(Delete(token) for token in forgotten[:50])
    event = audit(seen, EventKind.JOIN_TOKEN_CREATED, f"join token {record.uid} was made")
    return Intent((text, record), (Put(record), *deletions, event))


def signing_node(view: ClusterView, preferred: NodeUid) -> Node | None:
    """A node that admits newcomers: one that was given the authority's key, if possible a live one, if possible this one.
    None: no record says so."""
    found = [node for node in view.nodes.values() if node.is_signer]
    return min(found, key=lambda node: (node.uid not in view.daemons, node.uid != preferred, node.uid), default=None)


# -- the join ----------------------------------------------------------------------------------------------------------


def join_view(view: ClusterView) -> JoinView:
    """What a join is checked against."""
    versions = [daemon.version for daemon in view.daemons.values()]
    return JoinView(
        tokens=view.join_tokens,
        members=tuple(_member(node, view) for node in view.nodes.values()),
        servers=_servers(view),
        version=max((*versions, __version__), key=release_of),
        virtual_addresses=tuple(view.virtual_addresses),
    )


def check(seen: Look, request: JoinRequest, *, is_admin: bool) -> None:
    """Raises RefusedForReasons with everything that forbids the join."""
    found = check_join(request, join_view(seen.view), seen.now, is_admin=is_admin)
    if found:
        raise refused(found)


def refused(reasons: Sequence[Reason]) -> RefusedForReasons:
    """The refusal for these reasons."""
    text = " ".join(f"{reason.text[:1].upper()}{reason.text[1:]}." for reason in reasons)
    return RefusedForReasons(REFUSALS[reasons[0].code], reasons[0].code, text, tuple(reasons))


def admit(
    seen: Look, request: JoinRequest, admission: Admission, *, is_admin: bool, part: StorePart = StorePart.CLIENT
) -> Intent[JoinResponse]:
    """Node record, used token, issued certificates and event in one transaction. A newcomer whose earlier request was
    committed, and whose answer was lost, stays the node that it became. Raises RefusedForReasons."""
    check(seen, request, is_admin=is_admin)
    view = seen.view
    earlier = earlier_node(request, join_view(view).members)
    uid = NodeUid(max(view.counters.next_node, max(view.nodes, default=0) + 1)) if earlier is None else earlier.uid
    response, certificates = answer_join(
        admission.signer,
        request,
        uid,
        addresses=names_by_role(request.addresses, request.external_address),
        serials=admission.serials,
        store_endpoints=admission.store_endpoints,
        sealing_keys=admission.sealing_keys,
        store_files=admission.store_files,
        now=seen.now,
    )
    writes = [Put(_node(seen, request, uid, part)), *(Put(issued_record(certificate)) for certificate in certificates)]
    token = view.join_tokens.get(uid_of_token(request.token))
    if token is not None and token.used_by is None and not is_admin:
        writes.append(Put(used(token, uid)))
    if earlier is None:
        writes.append(Put(replace(view.counters, next_node=uid + 1)))
        place = "" if request.replaces is None else f", in place of node {request.replaces}"
        text = f"a machine joined as node {uid} at {request.addresses[0]}{place}"
        writes.append(audit(seen, EventKind.CLUSTER_NODE_JOINED, text, node_uid=uid))
    return Intent(response, tuple(writes))


def staying_members(view: ClusterView, members: Iterable[StoreMember], request: JoinRequest) -> list[StoreMember]:
    """The members of the store without that of the node that the newcomer replaces."""
    return [member for member in members if request.replaces is None or node_of(member, view) != request.replaces]


def store_part(members: Sequence[StoreMember], peer_url: str, *, has_program: bool) -> StorePart:
    """Whether the newcomer with this address runs a member of the store."""
    if any(peer_url in member.peer_urls for member in members):
        return StorePart.MEMBER if has_program else StorePart.CLIENT
    if not has_program or len(members) >= STORE_MEMBERS_MAX:
        return StorePart.CLIENT
    return StorePart.LATER if any(member.is_learner for member in members) else StorePart.MEMBER


def why_later(view: ClusterView, members: Iterable[StoreMember]) -> str:
    """What a newcomer is told that must wait for another new member. One that has not started, perhaps because its machine
    died after its join, would keep every newcomer waiting: it is named with what helps."""
    waiting = [member for member in members if member.is_learner and not member.name]
    uid = node_of(waiting[0], view) if waiting else None
    if uid is not None:
        text = f"The new member of the store on node {uid} has not started."
        return f"{text} Start the node, or remove it: shardwright node remove {uid}. Then repeat in a few seconds."
    if waiting:
        return "A new member of the store that belongs to no node is being removed. Repeat in a minute."
    return "Another new member of the store is catching up. Repeat in a few seconds."


def with_store(response: JoinResponse, part: StorePart, members: Sequence[StoreMember], peer_url: str) -> JoinResponse:
    """The response, with the members of the store as they are now. Members that have not started have no address for
    clients."""
    others = [member for member in members if peer_url not in member.peer_urls]
    voters = tuple(url for member in others if not member.is_learner for url in member.client_urls)
    peers = {member.name: member.peer_urls[0] for member in others if member.name and member.peer_urls}
    return replace(
        response,
        store_endpoints=voters or response.store_endpoints,
        initial_cluster=peers if part is StorePart.MEMBER else {},
    )


def peer_url_of(address: str, port: int) -> str:
    """Where the other members of the store reach the newcomer's."""
    try:
        is_long = isinstance(ip_address(address), IPv6Address)
    except ValueError:
        is_long = False
    return f"https://{f'[{address}]' if is_long else address}:{port}"


def _node(seen: Look, request: JoinRequest, uid: NodeUid, part: StorePart) -> Node:
    first = request.addresses[0]
    before = seen.view.nodes.get(uid)
    replaced = None if request.replaces is None else seen.view.nodes.get(request.replaces)
    new = Node(
        uid,
        first,
        seen.now,
        rack=request.rack or (before.rack if before is not None else "" if replaced is None else replaced.rack),
        memory_bytes=request.memory_bytes,
        external_addresses=(request.external_address,) if request.external_address else (),
        server_address=request.server_address if request.server_address != first else "",
        store_role=StoreRole.LEARNER if part is StorePart.MEMBER else StoreRole.NONE,
        machine_id=request.machine_id,
        key_hash=keys.hash_of_key(key_of_request(request.request)),
        replaces=None if replaced is None else replaced.uid,
    )
    return new if before is None else replace(new, created_at=before.created_at, options=before.options)


def _member(node: Node, view: ClusterView) -> MemberNode:
    daemon, seen = view.daemons.get(node.uid), view.node_seen.get(node.uid)
    reported = seen.daemon.machine_id if seen is not None and seen.daemon is not None else ""
    present = daemon.machine_id if daemon is not None else ""
    return MemberNode(
        uid=node.uid,
        # What its daemon said last is newer than what the join recorded.
        machine_id=present or reported or node.machine_id,
        addresses=tuple(dict.fromkeys(a for a in (node.address, node.server_address) if a)),
        is_replaceable=view.is_off(node.uid) or (daemon is None and not view.shards_on(node.uid)),
        key_hash=node.key_hash,
        has_run=daemon is not None or seen is not None,
    )


def _servers(view: ClusterView) -> tuple[ServerVersion, ...]:
    found = {ServerVersion(d.server_kind, d.server_version) for d in view.databases.values()}
    if view.cluster is not None and view.cluster.server_version:
        found.add(ServerVersion(ServerKind(view.cluster.server_kind), view.cluster.server_version))
    return tuple(sorted(found, key=str))
