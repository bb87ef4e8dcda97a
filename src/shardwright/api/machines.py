"""What the API of a cluster of machines needs besides a local cluster's: the parts with which a newcomer is admitted.

Values that the daemon's wiring gives. Decides nothing.
"""

from dataclasses import dataclass, field, replace

from shardwright.store.members import Members
from shardwright.store.seal import Sealing
from shardwright.trust.files import TrustFiles
from shardwright.trust.join import SealingKey, StoreFiles


@dataclass(frozen=True, slots=True)
class NodePorts:
    """The ports at which the other nodes reach a node, the same on all nodes."""

    agent: int = 9444
    control: int = 9445
    store_clients: int = 2379
    store_members: int = 2380


@dataclass(frozen=True, slots=True)
class Machines:
    """The parts."""

    trust: TrustFiles
    """Of the answering node. Only a node with the authority's key can admit a newcomer."""
    sealing: Sealing = field(repr=False)
    """Has the cluster's keys."""
    store_endpoints: tuple[str, ...]
    """Where this node reaches the store."""
    store_files: StoreFiles | None = field(default=None, repr=False)
    """What every node shows to an etcd that the operator runs; None: the store runs on the cluster's nodes."""
    members: Members | None = None
    """The members of the store, to which a newcomer's is added; None: the operator runs the store."""
    ports: NodePorts = NodePorts()

    @property
    def sealing_keys(self) -> tuple[SealingKey, ...]:
        """What a newcomer gets now: the key in use first, then those with which something may still be sealed."""
        return tuple(SealingKey(key.uid, key.secret) for key in self.sealing.keys)

    def with_members(self, members: Members | None) -> "Machines":
        """The same, with the members of the store; without them if the operator runs the store."""
        return self if self.store_files is not None else replace(self, members=members)
