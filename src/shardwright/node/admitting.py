"""What a node's API needs to admit newcomers, from the node's settings and files.

Called by the daemon's entry point, in a thread when there is an event loop. Reads files only.
"""

from shardwright.api.machines import Machines, NodePorts
from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.node.init import STORE_FILES
from shardwright.node.settings import NodeSettings
from shardwright.store.seal import Sealing
from shardwright.trust.files import TrustFiles
from shardwright.trust.join import StoreFiles


def machines_of(settings: NodeSettings, sealing: Sealing) -> Machines:
    """The parts of the API of this node, without the members of the store. ``sealing``: the daemon's. Raises Permanent
    ``credentials_unusable``."""
    directory, ports = settings.directories.configuration, settings.ports
    is_operators = settings.store.key == directory / STORE_FILES[2]
    return Machines(
        trust=TrustFiles(directory),
        sealing=sealing,
        store_endpoints=settings.store.endpoints,
        store_files=_store_files(settings) if is_operators else None,
        ports=NodePorts(ports.agent, ports.control, ports.store_clients, ports.store_members),
    )


def _store_files(settings: NodeSettings) -> StoreFiles:
    store = settings.store
    assert store.authority is not None
    assert store.certificate is not None
    assert store.key is not None
    try:
        return StoreFiles(*(path.read_bytes() for path in (store.authority, store.certificate, store.key)))
    except OSError as e:
        raise Permanent(Code.CREDENTIALS_UNUSABLE, f"{e.filename}: {e.strerror}") from e
