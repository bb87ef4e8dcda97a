"""The API of the cluster that this machine's node belongs to: its addresses, by the node's settings and by what its daemon
learned of the store's members, and the user's credentials for it.

Imported only on a machine that is a node: it needs much that a command of a local cluster does not.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from shardwright.cli.access import (
    GIVE_ALL,
    GIVE_USER,
    START_NODE,
    Access,
    Wanted,
    certificate_at,
    credentials_file,
    normal_url,
    read_admin,
    read_password,
)
from shardwright.cli.failure import usage
from shardwright.errors import Rejected
from shardwright.node.files import service_owner
from shardwright.node.known_store import known_endpoints, learning_of
from shardwright.node.settings import NodeSettings
from shardwright.node.settings_file import load_settings


def settings_of_own(path: Path) -> NodeSettings:
    """The node's settings. Raises Rejected, as ``load_settings`` does."""
    owner = service_owner()
    return load_settings(path, user=None if owner is None else owner.user)


def urls_of(settings: NodeSettings) -> tuple[str, ...]:
    """Addresses of the API: this node's, and those that others have if they run members of the store, by what the daemon
    learned and by the settings. Every node of a cluster has the same ports. An etcd of the operator's own runs elsewhere:
    then the further addresses do not answer. Waits for the disk."""
    hosts = [str(settings.address), *(str(urlsplit(endpoint).hostname) for endpoint in known_endpoints(settings))]
    shown = [f"[{host}]" if ":" in host else host for host in dict.fromkeys(hosts)]
    return tuple(f"https://{host}:{settings.ports.api}" for host in shown)


def access_of_own(wanted: Wanted, environment: Mapping[str, str], settings: NodeSettings) -> Access:
    """For a command that changes this machine's node: its own cluster, even if other commands speak to another one. The
    authority proves that; an address that was given only comes last, and not if it brings an authority of its own. The
    credentials are those that were given, or of ``init`` for this authority. Raises Failure (usage)."""
    authority = settings.directories.configuration / "ca.pem"
    certificate = wanted.certificate or authority
    for path in dict.fromkeys((authority, certificate)):
        if not certificate_at(path):
            raise usage(f"no certificate at {path}")
    urls, is_named = urls_of(settings), wanted.certificate is None
    if wanted.url and certificate.read_bytes() == authority.read_bytes() and normal_url(wanted.url).startswith("https://"):
        urls = tuple(dict.fromkeys((*urls, normal_url(wanted.url))))
    path = credentials_file(environment)
    kept = read_admin(path, is_required=False) if path.exists() else {}
    of_init = Path(str(kept.get("certificate", "")))
    if not kept or not of_init.is_file() or of_init.read_bytes() != authority.read_bytes():
        kept = {}
    user = wanted.user or kept.get("username")
    if not user:
        raise usage(f"no credentials here for the cluster of this machine's node ({urls[0]})", remedy=GIVE_USER)
    if wanted.password_file is not None:
        return Access(urls, user, read_password(wanted.password_file), certificate, is_named, START_NODE)
    if user != kept.get("username"):
        raise usage(f"no password given for {user}", remedy=GIVE_USER)
    return Access(urls, user, str(kept["password"]), certificate, is_named, START_NODE)


def further_urls(certificate: Path, path: Path) -> tuple[str, ...]:
    """Addresses of the nodes that this machine's node knows, if it belongs to the cluster with this authority. Empty if that
    cannot be read, and if an operator runs the store, whose members are no nodes: the address that ``init`` wrote counts
    then."""
    try:
        settings = settings_of_own(path)
        if (settings.directories.configuration / "ca.pem").read_bytes() != certificate.read_bytes():
            return ()
    except (Rejected, OSError):
        return ()
    return urls_of(settings) if learning_of(settings) is not None else ()


def at_own_node(wanted: Wanted, path: Path) -> tuple[Wanted, tuple[str, ...]]:
    """The same with the address of this machine's node, and further addresses. Only the user who ran ``init`` has the
    credentials in a file."""
    try:
        settings = settings_of_own(path)
    except Rejected as e:
        raise usage(
            f"this machine is a node of a cluster, but its settings cannot be used: {e.text}", remedy=GIVE_ALL
        ) from None
    url, *others = urls_of(settings)
    if wanted.user is None:
        raise usage(f"no credentials here for the cluster of this machine's node ({url})", remedy=GIVE_USER)
    authority = settings.directories.configuration / "ca.pem"
    return replace(wanted, url=url, certificate=wanted.certificate or authority), tuple(others)
