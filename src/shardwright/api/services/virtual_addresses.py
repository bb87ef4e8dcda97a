"""Virtual addresses as intents: added and removed by an operator. Pure. The leader chooses who has one."""

from dataclasses import replace
from ipaddress import AddressValueError, IPv4Interface, NetmaskValueError

from shardwright.api.codes import conflict, invalid, not_acceptable, not_found
from shardwright.api.schemas.v1.requests import VirtualAddressBody
from shardwright.api.services.databases import database_of
from shardwright.api.services.intent import Intent, Look, audit
from shardwright.model.event import EventKind
from shardwright.model.ids import DatabaseUid
from shardwright.model.view import ClusterView, Put
from shardwright.model.virtual_address import VirtualAddress
from shardwright.reconcile.virtual_addresses import able_nodes

INTERFACE_CHARACTERS_MAX = 15
"""By the kernel."""


def find(view: ClusterView, address: str) -> VirtualAddress:
    """The virtual address. Raises Rejected (404)."""
    found = view.virtual_addresses.get(address)
    if found is None:
        raise not_found("virtual_address_not_found", f"There is no virtual address {address}.")
    return found


def add(seen: Look, body: VirtualAddressBody) -> Intent[VirtualAddress]:
    """Add an address; the same request again changes nothing. Raises Rejected: nothing is changed if it cannot be a virtual
    address, or if no node could have it."""
    view = seen.view
    if view.cluster is None or not view.cluster.is_of_machines:
        text = "The nodes of a local cluster share one machine: their endpoints need no virtual address."
        raise not_acceptable("local_cluster", text)
    wished = _wished(seen, body)
    known = view.virtual_addresses.get(wished.address)
    if known is not None:
        return _again(known, wished)
    _check_free(wished.address, view)
    if not able_nodes(wished, view):
        text = f"No node can add an address to {wished.interface}: no daemon with the capabilities has such an interface."
        remedy = "Name an interface that every node has, and install virtual-address.conf for shardwright-node.service."
        raise not_acceptable("virtual_address_impossible", text, remedy=remedy)
    of = "all databases" if wished.database_uid is None else f"database {wished.database_uid}"
    text = f"the virtual address {wished.address}/{wished.prefix_length} on {wished.interface} was added for {of}"
    event = audit(seen, EventKind.VIRTUAL_ADDRESS_ADDED, text, database_uid=wished.database_uid)
    return Intent(wished, (Put(wished), event))


def remove(seen: Look, address: str) -> Intent[VirtualAddress]:
    """Let the leader close the clients of the address and delete it. Raises Rejected (404)."""
    known = find(seen.view, address)
    if known.is_ending:
        return Intent(known)
    after = replace(known, is_ending=True)
    text = f"the removal of the virtual address {address} was requested"
    event = audit(seen, EventKind.VIRTUAL_ADDRESS_REMOVE_REQUEST, text, database_uid=known.database_uid)
    return Intent(after, (Put(after), event))


def _again(known: VirtualAddress, wished: VirtualAddress) -> Intent[VirtualAddress]:
    def wish(one: VirtualAddress) -> object:
        return one.prefix_length, one.interface, one.database_uid

    if known.is_ending:
        raise conflict("virtual_address_exists", f"{known.address} is being removed.", remedy="Repeat it a little later.")
    if wish(known) != wish(wished):
        text = (
            f"{known.address}/{known.prefix_length} on {known.interface} is a virtual address already, with other settings."
        )
        raise conflict("virtual_address_exists", text, remedy="Remove it first.")
    return Intent(known)


def _wished(seen: Look, body: VirtualAddressBody) -> VirtualAddress:
    found = _parsed(body.address)
    ip, network = found.ip, found.network
    is_host = network.prefixlen >= 31 or ip not in (network.network_address, network.broadcast_address)
    if ip.is_multicast or ip.is_loopback or ip.is_unspecified or ip.is_reserved or not is_host:
        raise invalid("invalid_parameter", f"address: {body.address} is not the address of a host.")
    name = body.interface
    if not name or name == "lo" or len(name) > INTERFACE_CHARACTERS_MAX or "/" in name or any(c.isspace() for c in name):
        raise invalid("invalid_parameter", "interface: must name a network interface of the nodes, such as eth0.")
    uid = None if body.bdb_uid is None else database_of(seen.view, DatabaseUid(body.bdb_uid)).uid
    return VirtualAddress(str(ip), network.prefixlen, name, seen.now, uid)


def _parsed(text: str) -> IPv4Interface:
    if ":" in text:
        raise not_acceptable("invalid_configuration", "address: virtual addresses of IPv6 are not available.")
    try:
        if "/" not in text:
            raise ValueError
        return IPv4Interface(text)
    except (AddressValueError, NetmaskValueError, ValueError) as e:
        raise invalid("invalid_parameter", "address: must be ADDRESS/PREFIX, such as 10.0.0.9/24.") from e


def _check_free(address: str, view: ClusterView) -> None:
    for uid, node in sorted(view.nodes.items()):
        if address in (node.address, node.server_address, *node.external_addresses):
            text = f"{address} is an address of node {uid}: a virtual address must be free."
            raise conflict("virtual_address_taken", text)
