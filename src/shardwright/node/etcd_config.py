"""The configuration of a node's member of the store: the text of ``etcd.yaml``.

Pure. Called by what creates or joins a cluster. The member listens at the node's address only, and refuses callers without a
certificate of the cluster's authority.
"""

import json
from collections.abc import Mapping
from typing import Final

from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.node.settings import Address, NodeSettings
from shardwright.trust.files import TrustFiles

NAME: Final = "etcd.yaml"
"""In the directory of the configuration."""
HEARTBEAT_MS: Final = 100
ELECTION_MS: Final = 1000
"""Ten heartbeats. A leader that dies costs the store 1.2 to 1.5 s."""
HISTORY_REVISIONS: Final = 10_000
"""A watch that is further behind reads everything again."""
QUOTA_BYTES: Final = 2 * 1024**3
"""The records of the largest cluster take a tenth of it. Beyond the quota the store takes no writes, and says so."""

_HEAD: Final = """\
# This node's member of the cluster's store. Written when the node was created or joined.
# "initial-cluster" matters at the first start only.
"""


def member_name(uid: NodeUid) -> str:
    """The name of the node's member of the store."""
    return f"node-{uid}"


def client_url(address: Address, port: int) -> str:
    """Where clients reach the member of the node with this address."""
    return f"https://{_host(address)}:{port}"


def peer_url(settings: NodeSettings) -> str:
    """Where the other members reach this node's member."""
    return f"https://{_host(settings.address)}:{settings.ports.store_members}"


def metrics_url(settings: NodeSettings) -> str:
    """Where this machine, and no other, reads the member's figures. In clear, hence on loopback."""
    address = str(settings.address) if settings.address.is_loopback else "127.0.0.1"
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{metrics_port(settings)}"


def metrics_port(settings: NodeSettings) -> int:
    """The port of ``metrics_url``."""
    return settings.ports.store_members + 1


def render_etcd(
    settings: NodeSettings, files: TrustFiles, *, initial_cluster: Mapping[str, str], is_new: bool, token: str = ""
) -> str:
    """The text of the file.

    ``initial_cluster``: all members by name, with the addresses of their peers; this node's own is among them. ``is_new``:
    it is the first member of a new store; False: it joins the members that exist. ``token``: makes a new store another one
    than every store that began with the same members; empty: there was none."""
    own = member_name(settings.node_uid)
    assert initial_cluster.get(own) == peer_url(settings), "a member starts only if it finds itself among the members"
    clients, peers = client_url(settings.address, settings.ports.store_clients), peer_url(settings)
    tls = {
        "cert-file": str(files.certificate(CertificateRole.STORE)),
        "key-file": str(files.key),
        "client-cert-auth": True,
        "trusted-ca-file": str(files.authority),
    }
    values: dict[str, object] = {
        "name": own,
        "data-dir": str(settings.directories.etcd),
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "listen-metrics-urls": metrics_url(settings),
        "initial-cluster": ",".join(f"{name}={url}" for name, url in sorted(initial_cluster.items())),
        "initial-cluster-state": "new" if is_new else "existing",
        **({"initial-cluster-token": token} if token else {}),
        # On by default on the command line, and off with a file.
        "enable-grpc-gateway": True,
        "heartbeat-interval": HEARTBEAT_MS,
        "election-timeout": ELECTION_MS,
        # Without it, the end of a network cut costs the store an election.
        "pre-vote": True,
        "experimental-initial-corrupt-check": True,
        "auto-compaction-mode": "revision",
        "auto-compaction-retention": str(HISTORY_REVISIONS),
        "quota-backend-bytes": QUOTA_BYTES,
        "logger": "zap",
        "log-level": "warn",
        "client-transport-security": tls,
        "peer-transport-security": tls,
    }
    return _HEAD + "".join(_lines(values))


def _host(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def _lines(values: Mapping[str, object], indent: str = "") -> list[str]:
    """YAML reads JSON's texts, numbers and truth values as JSON does."""
    lines: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:\n", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}\n")
    return lines
