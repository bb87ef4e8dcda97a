"""Which node has a virtual address: it stays while its node is fit, and moves to another fit node otherwise.

Called by the leader each turn. A node that is silent, or that cannot add the address, loses it at once. One that is emptied
first closes the clients of the address, each behind a reply, so that every command that was executed is answered. Nothing
waits for the old holder's word that the address is gone: two nodes that have it for a moment forward to the same primary,
and an address that no node has is an outage. For the same reason it stays where it is while no other node is fit.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto

from shardwright.model.database import DatabaseStatus, Endpoint, ProxyPolicy
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import NodeUid
from shardwright.model.seen import EndpointProcessSeen, VirtualState
from shardwright.model.view import ClusterView, Delete, Put
from shardwright.model.virtual_address import VirtualAddress

SILENT_AFTER = timedelta(seconds=3)
"""So long must an endpoint process be silent for the leader. One that died is back within a second."""
CLOSING_MAX = timedelta(seconds=12)
"""An endpoint process closes the clients of an address within half of this time. If it does not, the address goes anyway."""
BIND_FAILED_S = 3.0
"""So long must a port of the address be occupied before the address moves."""
_PASSING = (DatabaseStatus.PENDING, DatabaseStatus.DELETE_PENDING, DatabaseStatus.CREATION_FAILED)
"""Such a database has no clients yet, or any more."""


class HolderState(Enum):
    """How the holder of an address stands."""

    FIT = auto()
    LEAVING = auto()
    """It serves, and should not: its clients are closed first."""
    LOST = auto()
    """It does not serve: nothing can be closed, and nothing is waited for."""


@dataclass(frozen=True, slots=True)
class HolderStanding:
    """A holder's standing, and why."""

    hold: HolderState
    why: str = ""
    look_at: datetime | None = None
    """When time alone may change it; None: it does not."""


def decide_virtual_address(address: VirtualAddress, view: ClusterView, now: datetime) -> Decision:
    """The next step of one address."""
    if address.database_uid is not None and address.database_uid not in view.databases and not address.is_ending:
        return Decision(writes=(Put(replace(address, is_ending=True)),))
    if address.holder is None:
        return _ended(address, now) if address.is_ending else _moved(address, view, now, why="")
    standing = _standing(address, address.holder, view, now)
    others = [uid for uid in fit_nodes(address, view) if uid != address.holder]
    if standing.hold is HolderState.FIT or not (others or address.is_ending):
        kept = replace(address, leaving_since=None)
        return Decision(writes=() if kept == address else (Put(kept),), wake_at=standing.look_at)
    if standing.hold is HolderState.LEAVING:
        since = address.leaving_since
        if since is None:
            return Decision(writes=(Put(replace(address, leaving_since=now)),), wake_at=now + CLOSING_MAX)
        if now < since + CLOSING_MAX and not _is_closed(address, address.holder, view):
            return Decision(wake_at=since + CLOSING_MAX)
    return _ended(address, now) if address.is_ending else _moved(address, view, now, why=standing.why)


def fit_nodes(address: VirtualAddress, view: ClusterView) -> list[NodeUid]:
    """The nodes that can have the address, the best first: those with the fewest addresses. A node must be open, its daemon
    present and able to add the address, and its endpoint process must listen there for every database concerned."""
    concerned = endpoints_concerned(address, view)

    def rank(uid: NodeUid) -> tuple[int, NodeUid]:
        return sum(other.holder == uid for other in view.virtual_addresses.values()), uid

    able = (uid for uid in view.nodes if _is_open(uid, address, view))
    return sorted((uid for uid in able if _listens(uid, address, concerned, view)), key=rank)


def able_nodes(address: VirtualAddress, view: ClusterView) -> list[NodeUid]:
    """The nodes whose agent can add the address to the interface, in ascending order."""
    return [uid for uid in sorted(view.nodes) if _is_able(uid, address, view)]


def endpoints_concerned(address: VirtualAddress, view: ClusterView) -> list[Endpoint]:
    """The endpoints that every holder must serve. At an address of all databases, those that only some nodes serve do not
    count: no node might serve all of them."""
    found = []
    for _, endpoint in sorted(view.endpoints.items()):
        database = view.databases.get(endpoint.database_uid)
        if database is None or database.status in _PASSING or not address.is_for(database.uid):
            continue
        if address.database_uid is not None or database.proxy_policy is ProxyPolicy.ALL_NODES:
            found.append(endpoint)
    return found


# -- nodes that may get it -------------------------------------------------------------------------------------------------


def _is_open(uid: NodeUid, address: VirtualAddress, view: ClusterView) -> bool:
    is_there = uid in view.daemons and not view.is_off(uid)
    return is_there and view.nodes[uid].accepts_placement and _is_able(uid, address, view)


def _is_able(uid: NodeUid, address: VirtualAddress, view: ClusterView) -> bool:
    seen = view.node_seen.get(uid)
    if seen is None or address.interface not in seen.virtual_interfaces:
        return False
    return not any(held.failure for held in seen.virtual_addresses if held.address == address.address)


def _listens(uid: NodeUid, address: VirtualAddress, concerned: Iterable[Endpoint], view: ClusterView) -> bool:
    process = view.endpoint_processes.get(uid)
    if process is None or not process.answers:
        return False
    for endpoint in concerned:
        there = process.endpoint(endpoint.uid).virtual_at(address.address)
        if not _is_served(endpoint, uid) or there is None or there.state is not VirtualState.LISTENING:
            return False
    return True


def _is_served(endpoint: Endpoint, uid: NodeUid) -> bool:
    """Whether the node serves the endpoint, and is not about to stop."""
    return uid in endpoint.bound_nodes and endpoint.leaving_of(uid) is None


# -- the holder ------------------------------------------------------------------------------------------------------------


def _standing(address: VirtualAddress, uid: NodeUid, view: ClusterView, now: datetime) -> HolderStanding:
    node = view.nodes.get(uid)
    if node is None:
        return HolderStanding(HolderState.LOST, f"node {uid} was removed")
    if view.is_off(uid):
        return HolderStanding(HolderState.LOST, f"node {uid} is off")
    process = view.endpoint_processes.get(uid)
    if process is not None and process.silent_since is not None:
        silent_until = process.silent_since + SILENT_AFTER
        if now >= silent_until:
            return HolderStanding(HolderState.LOST, f"the endpoint process of node {uid} does not answer")
        return replace(_reason_to_leave(address, uid, view), look_at=silent_until)
    if failure := _failure(address, uid, view):
        return HolderStanding(HolderState.LOST, f"node {uid} cannot add it: {failure}")
    return _reason_to_leave(address, uid, view)


def _failure(address: VirtualAddress, uid: NodeUid, view: ClusterView) -> str:
    """What the holder's agent says of the address in this generation; empty: nothing bad."""
    seen = view.node_seen.get(uid)
    held = () if seen is None else seen.virtual_addresses
    mine = (h for h in held if h.address == address.address and h.generation == address.generation)
    return next((h.failure for h in mine), "")


def _reason_to_leave(address: VirtualAddress, uid: NodeUid, view: ClusterView) -> HolderStanding:
    node = view.nodes[uid]
    if address.is_ending:
        return HolderStanding(HolderState.LEAVING, "it is removed")
    if node.is_decommissioning:
        return HolderStanding(HolderState.LEAVING, f"node {uid} is being removed")
    if node.is_quorum_only:
        return HolderStanding(HolderState.LEAVING, f"node {uid} is in maintenance")
    process = view.endpoint_processes.get(uid)
    for endpoint in endpoints_concerned(address, view):
        if not _is_served(endpoint, uid):
            return HolderStanding(HolderState.LEAVING, f"node {uid} does not serve database {endpoint.database_uid}")
        if _is_occupied(endpoint, address, process):
            return HolderStanding(HolderState.LEAVING, f"another process of node {uid} occupies port {endpoint.port}")
    return HolderStanding(HolderState.FIT)


def _is_occupied(endpoint: Endpoint, address: VirtualAddress, process: EndpointProcessSeen | None) -> bool:
    there = None if process is None else process.endpoint(endpoint.uid).virtual_at(address.address)
    return there is not None and there.state is VirtualState.BIND_FAILED and there.failed_s >= BIND_FAILED_S


def _is_closed(address: VirtualAddress, uid: NodeUid, view: ClusterView) -> bool:
    """Whether no client is connected at the address through its holder any more, and none can connect."""
    process = view.endpoint_processes.get(uid)
    if process is None or not process.answers:
        return False
    seen = (process.endpoint(endpoint.uid).virtual_at(address.address) for endpoint in view.endpoints.values())
    return all(one is None or one.state is VirtualState.LEFT for one in seen)


# -- what follows ----------------------------------------------------------------------------------------------------------


def _moved(address: VirtualAddress, view: ClusterView, now: datetime, *, why: str) -> Decision:
    """Give it to the best node; nothing while none is fit."""
    best = next((uid for uid in fit_nodes(address, view) if uid != address.holder), None)
    if best is None:
        return NOTHING
    after = replace(address, holder=best, generation=address.generation + 1, leaving_since=None)
    text = f"node {best} gets the virtual address {address.address}" + (f": {why}" if why else "")
    kind, database = EventKind.VIRTUAL_ADDRESS_MOVED, address.database_uid
    event = Event(now, kind, Severity.INFO, text, node_uid=best, database_uid=database)
    return Decision(writes=(Put(after), Put(event)))


def _ended(address: VirtualAddress, now: datetime) -> Decision:
    text = f"the virtual address {address.address} was removed"
    event = Event(now, EventKind.VIRTUAL_ADDRESS_REMOVED, Severity.INFO, text, database_uid=address.database_uid)
    return Decision(writes=(Delete(address), Put(event)))
