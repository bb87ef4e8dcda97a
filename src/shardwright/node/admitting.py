"""What a node's API needs to admit newcomers, from the node's settings and files.

Called by the daemon's entry point, in a thread when there is an event loop. Reads files only.
"""

from shardwright.api.machines import Machines, NodePorts
from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.node.init import STORE_FILES
from shardwright.node.settings import NodeSettings
from shardwright.store.seal import keys_of
from shardwright.trust.files import TrustFiles
from shardwright.trust.join import SealingKey, StoreFiles


def machines_of(settings: NodeSettings) -> Machines:
    """The parts of the API of this node, without the members of the store. Raises Permanent ``cluster_key_unusable`` or
    ``credentials_unusable``."""
    directory, ports = settings.directories.configuration, settings.ports
    is_operators = settings.store.key == directory / STORE_FILES[2]
    try:
        text = settings.directories.cluster_key.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        raise Permanent(Code.CLUSTER_KEY_UNUSABLE, f"{settings.directories.cluster_key} cannot be read") from None
    return Machines(
        trust=TrustFiles(directory),
        sealing_keys=tuple(SealingKey(key.uid, key.secret) for key in keys_of(text)),
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
