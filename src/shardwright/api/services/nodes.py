"""Nodes and their snapshots as intents: add, change, take and delete snapshots. Pure."""

import re
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address, ip_address

from shardwright.actions.maintenance_on import take_snapshot as snapshot_now
from shardwright.api.codes import conflict, forbidden, invalid, not_acceptable, not_found
from shardwright.api.schemas.v1.requests import NewNodeBody, NodeBody
from shardwright.api.schemas.v1.shards import shown
from shardwright.api.services.intent import Intent, Look, audit
from shardwright.model.cluster import MAINTENANCE_SNAPSHOT_PREFIX, Node, Snapshot
from shardwright.model.event import EventKind
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView, Delete, Put
from shardwright.store import keys
from shardwright.store.protocol import ModifiedAt

_SNAPSHOT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBERS = re.compile(r"[0-9.]+")
_STORED_OPTIONS = ("max_redis_forks", "max_slave_full_syncs", "second_rack_id", "recovery_path")


def node_of(view: ClusterView, uid: NodeUid) -> Node:
    """The node. Raises Rejected (404)."""
    found = view.nodes.get(uid)
    if found is None:
        raise not_found("node_not_found", f"Node {uid} does not exist.")
    return found


def add(seen: Look, body: NewNodeBody) -> Intent[Node]:
    """An additional node on this machine, with the next uid. The supervisor finds the record and starts its daemon; nothing
    is placed on the node before its daemon runs. Raises Rejected."""
    view = seen.view
    uid = NodeUid(max(view.counters.next_node, max(view.nodes, default=0) + 1))
    first = view.nodes[min(view.nodes)] if view.nodes else None
    memory = body.memory if body.memory is not None else (0 if first is None else first.memory_bytes)
    address = _checked_address(view, body.addr) if body.addr is not None else _next_address(view, uid)
    node = Node(uid, address, seen.now, rack=body.rack_id or "", memory_bytes=memory)
    counters = replace(view.counters, next_node=uid + 1)
    event = audit(seen, EventKind.NODE_ADD_REQUEST, f"the addition of node {uid} at {address} was requested", node_uid=uid)
    return Intent(node, (Put(node), Put(counters), event))


def _next_address(view: ClusterView, uid: NodeUid) -> str:
    """Counted from the first node, not from the last: the address of a removed node is not reused, because some of its
    processes may still be ending."""
    first = view.nodes[min(view.nodes)]
    start = int(IPv4Address(first.address)) + uid - first.uid
    taken = _addresses(view)
    for number in range(start, start + len(taken) + 1):
        address = IPv4Address(number)
        if address.is_loopback and str(address) not in taken:
            return str(address)
    raise invalid("invalid_address", "No loopback address is free after the other nodes' addresses.", remedy="Give addr.")


def _checked_address(view: ClusterView, text: str) -> str:
    try:
        address = IPv4Address(text)
    except AddressValueError as e:
        raise invalid("invalid_address", f"addr: {text!r} is not an IPv4 address.") from e
    if not address.is_loopback:
        raise invalid(
            "invalid_address", f"addr: {text} is not a loopback address: nodes of a local cluster share one machine."
        )
    if str(address) in _addresses(view):
        raise conflict("invalid_address", f"addr: {text} belongs to another node.")
    return str(address)


def _addresses(view: ClusterView) -> set[str]:
    return {node.address for node in view.nodes.values()}


def change(seen: Look, uid: NodeUid, body: NodeBody) -> Intent[Node]:
    """Change the editable keys. Raises Rejected."""
    node = node_of(seen.view, uid)
    for address in body.external_addr or ():
        if not _is_address(address):
            raise invalid("invalid_parameter", f"external_addr: {address!r} is neither an IP address nor a host name.")
        if address in seen.view.virtual_addresses:
            raise conflict("virtual_address_taken", f"external_addr: {address} is a virtual address of the cluster.")
    changed = _with_limits(node, body)
    if body.addr is not None and body.addr != node.address:
        raise not_acceptable("node_not_offline", "The address of a node that is a member cannot change.")
    if body.rack_id is not None and body.rack_id != node.rack:
        if shown(seen.view, node_uid=uid):
            raise not_acceptable("node_already_has_rack_id", f"Node {uid} holds shards that were placed by its rack.")
        changed = replace(changed, rack=body.rack_id)
    changed = _with_acceptance(seen, node, changed, body.accept_servers)
    if changed == node:
        return Intent(node)
    what = ", ".join(sorted(key for key, value in body.model_dump().items() if value is not None))
    event = audit(seen, EventKind.NODE_CHANGE_REQUEST, f"node {uid} was changed: {what}", node_uid=uid)
    return Intent(changed, (Put(changed), event))


def _is_address(text: str) -> bool:
    try:
        found = ip_address(text)
    except ValueError:
        return _HOST.fullmatch(text) is not None and not _NUMBERS.fullmatch(text)
    return not (found.is_unspecified or found.is_multicast)


def _with_limits(node: Node, body: NodeBody) -> Node:
    given = {key: value for key in _STORED_OPTIONS if (value := getattr(body, key)) is not None}
    return replace(
        node,
        shards_max=node.shards_max if body.max_redis_servers is None else body.max_redis_servers,
        endpoints_max=node.endpoints_max if body.max_listeners is None else body.max_listeners,
        external_addresses=node.external_addresses if body.external_addr is None else tuple(body.external_addr),
        options={**node.options, **given},
    )


def _with_acceptance(seen: Look, node: Node, changed: Node, accepts: bool | None) -> Node:
    """Reopening removes both marks: a closed node's and a quorum-only one's. Refused while an action runs on the node."""
    if accepts is None or accepts == node.accepts_placement:
        return changed
    if seen.bare(keys.node_lock_key(node.uid)) is not None:
        raise conflict(
            "node_action_in_progress", f"An action is running on node {node.uid}.", remedy="Wait for it, or cancel it."
        )
    if accepts:
        return replace(changed, is_closed=False, is_quorum_only=False, is_decommissioning=False)
    if shown(seen.view, node_uid=node.uid) or seen.view.endpoints_on(node.uid):
        raise not_acceptable(
            "node_already_populated",
            f"Node {node.uid} has shards or endpoints.",
            remedy="Use the action maintenance_on, which moves them to other nodes.",
        )
    return replace(changed, is_closed=True)


def snapshot_of(view: ClusterView, uid: NodeUid, name: str) -> Snapshot:
    """A snapshot by its name. Raises Rejected (404)."""
    node_of(view, uid)
    found = view.snapshots.get((uid, name))
    if found is None:
        raise not_found("snapshot_not_found", f"Node {uid} has no snapshot {name!r}.")
    return found


def take_snapshot(seen: Look, uid: NodeUid, name: str) -> Intent[Snapshot]:
    """Record the placement and roles of the node's shards and endpoints. Raises Rejected."""
    view = seen.view
    node = node_of(view, uid)
    if not _SNAPSHOT_NAME.fullmatch(name) or name.startswith(MAINTENANCE_SNAPSHOT_PREFIX):
        raise invalid("invalid_snapshot_name", f"{name!r} is not a valid snapshot name.")
    if (uid, name) in view.snapshots:
        raise conflict("snapshot_exists", f"Node {uid} already has a snapshot {name!r}.")
    taken = snapshot_now(view, uid, name=name, now=seen.now)
    event = audit(seen, EventKind.NODE_SNAPSHOT_CREATED, f"snapshot {name} of node {uid} was taken", node_uid=uid)
    key = keys.key_of(node)
    return Intent(taken, (Put(taken), event), (ModifiedAt(key, seen.modified_at(key)),))


def delete_snapshot(seen: Look, uid: NodeUid, name: str) -> Intent[Snapshot]:
    """Delete a user's snapshot. Raises Rejected: 403 for a maintenance snapshot."""
    found = snapshot_of(seen.view, uid, name)
    if found.is_maintenance:
        raise forbidden(
            "maintenance_snapshot", "maintenance_off deletes maintenance snapshots; they cannot be deleted manually."
        )
    event = audit(seen, EventKind.NODE_SNAPSHOT_DELETED, f"snapshot {name} of node {uid} was deleted", node_uid=uid)
    return Intent(found, (Delete(found), event))
