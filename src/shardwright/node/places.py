"""Where a node's daemon keeps its own files, and how it reaches the store: from the settings alone.

Called by everything of the node's program. No I/O, and few imports: ``--ended`` must begin at once.
"""

from pathlib import Path

from shardwright.node.settings import Directories, StorePlace
from shardwright.store.settings import EtcdSettings
from shardwright.trust.files import TrustFiles


def store_settings(place: StorePlace) -> EtcdSettings:
    """How the store is reached, by the settings alone."""
    return EtcdSettings(place.endpoints, place.authority, place.certificate, place.key)


def daemon_file(directories: Directories) -> Path:
    """Identity of the node's daemon, written by the daemon itself."""
    return directories.state / "daemon.json"


def daemon_lock(directories: Directories) -> Path:
    """Locked by the node's daemon for its lifetime: a second one cannot run."""
    return directories.state / "daemon.lock"


def daemon_log(directories: Directories) -> Path:
    """The daemon's log."""
    return directories.log / "daemon.log"


def fence_hooks(directories: Directories) -> Path:
    """Where the operator puts the programs that switch another node's machine off."""
    return directories.configuration / "fence.d"


def trust_files(directories: Directories) -> TrustFiles:
    """The node's certificates and keys."""
    return TrustFiles(directories.configuration)
