"""Where a node's programs find the store at their start: what its last daemon learned of the members, then the settings.

Used by the daemon and by the short commands of its units. An etcd that an operator runs is asked where the settings say, and
nowhere else. Reads and removes one file.
"""

from shardwright.learned_file import LearnedFile, Learning
from shardwright.model.trust import CertificateRole
from shardwright.node.etcd_config import client_url
from shardwright.node.places import store_settings, trust_files
from shardwright.node.settings import NodeSettings
from shardwright.store.endpoints import asked, read_learned, with_learned
from shardwright.store.settings import EtcdSettings


def learning_of(settings: NodeSettings) -> Learning | None:
    """How the node follows the members of its store. None: an operator runs the store; the settings hold as they are."""
    files, store = trust_files(settings.directories), settings.store
    # The nodes' own store is asked with the node's own certificate, an operator's with what the operator gave.
    if (store.key, store.certificate) != (files.key, files.certificate(CertificateRole.STORE)):
        return None
    own = tuple(client_url(address, settings.ports.store_clients) for address in settings.addresses)
    return Learning(LearnedFile(settings.directories.store_endpoints), own, store.endpoints)


def known_store(settings: NodeSettings) -> EtcdSettings:
    """How the store is reached, with what was learned. Waits for the disk."""
    learning, configured = learning_of(settings), store_settings(settings.store)
    return configured if learning is None else with_learned(configured, learning.file.read())


def known_endpoints(settings: NodeSettings) -> tuple[str, ...]:
    """The addresses alone, for the commands of any user: what this user may not read, or cannot, adds nothing and is not
    logged. Waits for the disk."""
    learning, configured = learning_of(settings), settings.store.endpoints
    if learning is None:
        return configured
    try:
        learned = read_learned(learning.file.path.read_bytes())
    except (OSError, ValueError):
        return configured
    return asked(learned.endpoints, configured)


def forget_learned(settings: NodeSettings) -> None:
    """Only what the settings say counts from now on. Waits for the disk. Raises OSError."""
    learning = learning_of(settings)
    if learning is not None:
        learning.file.forget()
