"""From the settings of a node to what its daemon is made of: the store, the certificates, the directories. No I/O, except
in a check of the nodes."""

from pathlib import Path

from shardwright.agent.check import CheckedHere
from shardwright.api.machines import Machines
from shardwright.daemon_config import DaemonConfig, NodeTrust
from shardwright.learned_file import Learning
from shardwright.model.trust import CertificateRole
from shardwright.node import etcd_config
from shardwright.node.founding_file import NAME
from shardwright.node.offers import offers_of
from shardwright.node.places import fence_hooks, trust_files
from shardwright.node.settings import Directories, NodeSettings
from shardwright.store.seal import Sealing
from shardwright.store.settings import EtcdSettings

RESTORING = "restoring.backup"
"""In the directory of the configuration."""


def founding_file(directories: Directories) -> Path:
    """Where ``init`` leaves the first records of the cluster."""
    return directories.configuration / NAME


def restoring_file(directories: Directories) -> Path:
    """Where ``cluster restore`` leaves the records for the new store."""
    return directories.configuration / RESTORING


def checked_here(settings: NodeSettings) -> CheckedHere:
    """What a check of the nodes looks at on this one, at the time of the check."""
    directories, files = settings.directories, trust_files(settings.directories)
    certificates = {str(role): files.certificate(role) for role in CertificateRole}
    return CheckedHere(
        offers=lambda: offers_of(settings, runs_member=(directories.configuration / etcd_config.NAME).exists()),
        certificates={**certificates, "authority": files.authority},
    )


def daemon_config(
    settings: NodeSettings, sealing: Sealing, machines: Machines, *, store: EtcdSettings, learning: Learning | None
) -> DaemonConfig:
    """What the composition needs. ``store``, ``learning``: see ``known_store.py``."""
    directories, files = settings.directories, trust_files(settings.directories)
    return DaemonConfig(
        node_uid=settings.node_uid,
        addresses=tuple(map(str, settings.addresses)),
        api_port=settings.ports.api,
        api_certificate=files.certificate(CertificateRole.API),
        api_key=files.key,
        store=store,
        sealing=sealing,
        directory=directories.state,
        endpoint_directory=directories.endpoint,
        run_directory=directories.run,
        cluster_key=directories.cluster_key,
        trust=NodeTrust(files, str(settings.address), settings.ports.agent, settings.ports.control),
        fence_hooks=fence_hooks(directories),
        discovery_port=settings.ports.discovery,
        checked=checked_here(settings),
        learning=learning,
        backups=directories.backups,
        machines=machines,
    )
