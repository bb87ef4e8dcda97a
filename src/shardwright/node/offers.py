"""Where a node accepts other nodes, from its settings. Pure."""

from shardwright.model.check import PortOffer, PortUse
from shardwright.node.settings import NodeSettings


def offers_of(settings: NodeSettings, *, runs_member: bool) -> tuple[PortOffer, ...]:
    """The ports at which the other nodes reach this one. ``runs_member``: the node runs a member of the store. Those of
    databases and servers are not among them: they are the cluster's choice."""
    ports, address = settings.ports, str(settings.address)
    own = [(PortUse.API, ports.api), (PortUse.AGENT, ports.agent), (PortUse.CONTROL, ports.control)]
    if runs_member:
        own += [(PortUse.STORE, ports.store_clients), (PortUse.STORE_MEMBERS, ports.store_members)]
    return tuple(PortOffer(use, address, port) for use, port in own)
