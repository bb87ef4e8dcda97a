"""Virtual addresses on the wire. An extension. Pure."""

from typing_extensions import TypedDict

from shardwright.api.schemas.v1.common import iso
from shardwright.model.view import ClusterView
from shardwright.model.virtual_address import VirtualAddress
from shardwright.reconcile.virtual_addresses import able_nodes


class VirtualAddressAnswer(TypedDict):
    """A virtual address. ``bdb_uid``: null for all databases. ``node_uid``: its holder; null until one is chosen.
    ``status``: ``active`` if the holder has it, ``pending`` until then, ``moving`` while its clients are closed, ``ending``
    during its removal. ``able_nodes``: the nodes whose daemon can add it to the interface."""

    addr: str
    prefix_length: int
    interface: str
    bdb_uid: int | None
    node_uid: int | None
    generation: int
    status: str
    able_nodes: list[int]
    added: str


def virtual_address(one: VirtualAddress, view: ClusterView) -> VirtualAddressAnswer:
    """An address, and how it stands."""
    return {
        "addr": one.address,
        "prefix_length": one.prefix_length,
        "interface": one.interface,
        "bdb_uid": one.database_uid,
        "node_uid": one.holder,
        "generation": one.generation,
        "status": _status(one, view),
        "able_nodes": [int(uid) for uid in able_nodes(one, view)],
        "added": iso(one.created_at),
    }


def _status(one: VirtualAddress, view: ClusterView) -> str:
    if one.is_ending:
        return "ending"
    if one.leaving_since is not None:
        return "moving"
    seen = None if one.holder is None else view.node_seen.get(one.holder)
    held = () if seen is None else seen.virtual_addresses
    is_there = any((h.address, h.generation, h.failure) == (one.address, one.generation, "") for h in held)
    return "active" if is_there else "pending"
