"""The virtual addresses that a node has, as reasons why it cannot be switched off or removed yet. Pure."""

from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView


def held_by(view: ClusterView, node_uid: NodeUid) -> list[Reason]:
    """One for each address whose holder the node is, in the order of the addresses. The address leaves by itself as soon as
    another node can have it."""
    found = []
    for name, address in sorted(view.virtual_addresses.items()):
        if address.holder != node_uid:
            continue
        if address.leaving_since is not None:
            text, grade = f"the clients of the virtual address {name} on node {node_uid} are being closed", Grade.SOFT_LIMIT
        else:
            text, grade = f"no other node can have the virtual address {name} of node {node_uid}", Grade.CONFIGURATION
        remedy = "" if grade is Grade.SOFT_LIMIT else Code.VIRTUAL_ADDRESS_HELD.remedy
        found.append(Reason(Code.VIRTUAL_ADDRESS_HELD, text, grade, remedy=remedy, node_uid=node_uid))
    return found
