"""What differs between the daemons of a local cluster and those of a cluster of machines, as values.

Built by ``local/daemon.py`` and ``node/daemon.py``, read by ``wiring.py``. Contains no secret but the sealing.
"""

from dataclasses import dataclass
from pathlib import Path

from shardwright.agent.check import CheckedHere
from shardwright.api.machines import Machines
from shardwright.discovery.server import DISCOVERY_PORT
from shardwright.endpoint.protocol import CONTROL_PORT
from shardwright.learned_file import Learning
from shardwright.model.ids import NodeUid
from shardwright.nodes.protocol import AGENT_PORT
from shardwright.store.seal import Sealing
from shardwright.store.settings import StoreSettings
from shardwright.trust.files import TrustFiles


@dataclass(frozen=True, slots=True)
class NodeTrust:
    """How a node of a cluster of machines proves to the others who it is, and where they reach it."""

    files: TrustFiles
    address: str
    """Where its agent and its endpoint process accept the others."""
    agent_port: int = AGENT_PORT
    """The same on all nodes, like the next one."""
    control_port: int = CONTROL_PORT


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """The settings of one daemon."""

    node_uid: NodeUid
    addresses: tuple[str, ...]
    """Where its API listens; the first one is in its URL."""
    api_port: int
    api_certificate: Path
    """The API's certificate, followed by the authority's; PEM. It is read again when it changes."""
    api_key: Path
    store: StoreSettings
    sealing: Sealing
    directory: Path
    """The node's own: the parent of ``shards/``, and of nothing of another node."""
    endpoint_directory: Path
    """Identity, log and configuration of the endpoint process; below ``directory``, or the same."""
    run_directory: Path
    """Sockets."""
    cluster_key: Path | None = None
    """The file with the keys of ``sealing``, which a change of the cluster key replaces; None: nothing changes them."""
    trust: NodeTrust | None = None
    """None: all nodes are on this machine, and reach each other by Unix sockets."""
    fence_hooks: Path | None = None
    """Directory of the programs that switch another node's machine off; None: all nodes are on this machine."""
    discovery_port: int = DISCOVERY_PORT
    """Where clients ask for the address of a database, at the same addresses as the API."""
    checked: CheckedHere | None = None
    """What a check of the nodes looks at here; None: what it does in a local cluster."""
    learning: Learning | None = None
    """How it follows the members of the store; None: ``store`` holds as it is."""
    backups: Path | None = None
    """Where it keeps backups of the cluster's state while its node runs a member of the store; None: nowhere."""
    machines: Machines | None = None
    """What the API needs to admit newcomers; None: a local cluster, to which machines cannot be added."""

    @property
    def api_url(self) -> str:
        """The URL of this node's API."""
        host = f"[{self.addresses[0]}]" if ":" in self.addresses[0] else self.addresses[0]
        return f"https://{host}:{self.api_port}"
