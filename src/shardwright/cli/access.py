"""The API's address and the user: from options, the environment, or the files that ``up`` wrote to the cluster's directory
and ``init`` to the user's configuration. A local cluster's file comes first. On a machine that is a node, and without such a
file, the address is the node's own.

The password in such a file is only sent to the addresses in that file, and to the further nodes of that cluster that this
machine's node knows. Passwords are never read from the command line or the environment, where other users of the machine
could see them.
"""

import ipaddress
import json
import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shardwright.cli.failure import usage
from shardwright.errors import Rejected
from shardwright.node.files import service_owner
from shardwright.node.known_store import known_endpoints, learning_of
from shardwright.node.settings import NodeSettings
from shardwright.node.settings_file import SETTINGS_FILE, load_settings

_GIVE_USER = (
    "--user E-MAIL --password-file FILE (or SHARDWRIGHT_USER and SHARDWRIGHT_PASSWORD_FILE); or run the command on the "
    "machine of `shardwright init`, as the user who ran that"
)
_GIVE_ALL = (
    "--url https://NODE:9443 --user E-MAIL --password-file FILE --certificate CA.PEM (or SHARDWRIGHT_URL, SHARDWRIGHT_USER, "
    "SHARDWRIGHT_PASSWORD_FILE and SHARDWRIGHT_CERTIFICATE)"
)
START_LOCAL = "start the cluster: shardwright up --detach; or give another address: --url URL or --dir DIR"
START_NODE = (
    "on the machine of each node: systemctl status shardwright-node shardwright-etcd; or ask another node: "
    "--url https://OTHER:9443"
)
CHECK_ADDRESS = "check the address and whether that node runs; or ask another node of the cluster: --url URL"
"""What helps if no node answers: of a local cluster, of a cluster of machines, of a cluster that only an address names."""
_HOST = re.compile(r"[\w.-]+|[0-9a-f:.]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Access:
    """All connection data of a client. ``certificate`` None: verify against the system's trusted certificates."""

    urls: tuple[str, ...]
    """One per node, the preferred node first."""
    username: str
    password: str = field(repr=False)
    certificate: Path | None = None
    is_named: bool = False
    """Whether the certificate of each node names its addresses: an authority issues them. What answers there with
    another certificate of the authority is refused then."""
    remedy: str = CHECK_ADDRESS
    """What helps if no node answers."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Values from options and the environment; None: not given."""

    directory: Path | None = None
    url: str | None = None
    user: str | None = None
    password_file: Path | None = None
    certificate: Path | None = None


def default_directory(environment: Mapping[str, str]) -> Path:
    """The cluster's directory if none is given."""
    base = environment.get("XDG_DATA_HOME") or str(Path(environment.get("HOME") or "/") / ".local" / "share")
    return Path(base) / "shardwright"


def credentials_file(environment: Mapping[str, str]) -> Path:
    """Where ``init`` keeps how its user reaches the cluster as its administrator."""
    base = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME") or "/") / ".config")
    return Path(base) / "shardwright" / "cluster.json"


def load_access(wanted: Wanted, environment: Mapping[str, str], *, node_settings: Path = SETTINGS_FILE) -> Access:
    """Combine the values. ``node_settings``: exists if this machine is a node of a cluster of machines. Raises Failure
    (usage), which names the missing value and the way to give it."""
    directory = wanted.directory or default_directory(environment)
    own = directory / "tls" / "cert.pem"
    admin = directory / "admin.json"
    if wanted.directory is None and not admin.exists() and credentials_file(environment).exists():
        admin = credentials_file(environment)
    remedy = START_LOCAL if wanted.url is None else CHECK_ADDRESS
    others: tuple[str, ...] = ()
    is_own = False
    if wanted.directory is None and wanted.url is None and not admin.exists() and os.path.exists(node_settings):
        is_own = wanted.certificate is None
        wanted, others = _at_own_node(wanted, node_settings)
        remedy = START_NODE
    kept = _read_admin(admin, is_required=wanted.url is None)
    if "certificate" in kept:  # Only ``init`` writes it.
        own = Path(str(kept["certificate"]))
        kept["urls"] = [*(kept.get("urls") or [kept["url"]]), *_further_urls(own, node_settings)]
    if wanted.url:
        urls: tuple[str, ...] = (_normal(wanted.url), *others)
    else:
        urls = tuple(dict.fromkeys(_normal(url) for url in kept.get("urls") or [kept["url"]]))
    if not _is_known(urls[0], kept):
        kept = {}
    elif "certificate" in kept:
        remedy = START_NODE
    user = wanted.user or kept.get("username")
    if not user:
        raise usage(f"no user given for {urls[0]}", remedy="--user E-MAIL (or SHARDWRIGHT_USER)")
    if wanted.password_file is not None:
        password = _read_password(wanted.password_file)
    elif kept and user == kept.get("username"):
        password = str(kept["password"])
    else:
        raise usage(
            f"no password given for {user}",
            remedy="--password-file FILE (or SHARDWRIGHT_PASSWORD_FILE); - reads it from standard input",
        )
    certificate = wanted.certificate or (own if kept and _certificate_at(own) else None)
    if certificate is not None and not _certificate_at(certificate):
        raise usage(f"no certificate at {certificate}")
    is_named = is_own or (wanted.certificate is None and certificate is not None and "certificate" in kept)
    return Access(urls, user, password, certificate, is_named, remedy)


def _certificate_at(path: Path) -> bool:
    """Whether there is a file. Raises Failure (usage) if this user may not read it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        path.open("rb").close()
    except PermissionError:
        remedy = f"copy it to a place that this user can read: sudo cat {path} > ca.pem; then --certificate ca.pem"
        raise usage(f"this user may not read the certificate {path}", remedy=remedy) from None
    except OSError:
        return False
    return True


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
        if not _certificate_at(path):
            raise usage(f"no certificate at {path}")
    urls, is_named = urls_of(settings), wanted.certificate is None
    if wanted.url and certificate.read_bytes() == authority.read_bytes() and _normal(wanted.url).startswith("https://"):
        urls = tuple(dict.fromkeys((*urls, _normal(wanted.url))))
    path = credentials_file(environment)
    kept = _read_admin(path, is_required=False) if path.exists() else {}
    of_init = Path(str(kept.get("certificate", "")))
    if not kept or not of_init.is_file() or of_init.read_bytes() != authority.read_bytes():
        kept = {}
    user = wanted.user or kept.get("username")
    if not user:
        raise usage(f"no credentials here for the cluster of this machine's node ({urls[0]})", remedy=_GIVE_USER)
    if wanted.password_file is not None:
        return Access(urls, user, _read_password(wanted.password_file), certificate, is_named, START_NODE)
    if user != kept.get("username"):
        raise usage(f"no password given for {user}", remedy=_GIVE_USER)
    return Access(urls, user, str(kept["password"]), certificate, is_named, START_NODE)


def _further_urls(certificate: Path, path: Path) -> tuple[str, ...]:
    """Addresses of the nodes that this machine's node knows, if it belongs to the cluster with this authority. Empty if that
    cannot be read, and if an operator runs the store, whose members are no nodes: the address that ``init`` wrote counts
    then."""
    try:
        owner = service_owner()
        settings = load_settings(path, user=None if owner is None else owner.user)
        if (settings.directories.configuration / "ca.pem").read_bytes() != certificate.read_bytes():
            return ()
    except (Rejected, OSError):
        return ()
    return urls_of(settings) if learning_of(settings) is not None else ()


def _at_own_node(wanted: Wanted, path: Path) -> tuple[Wanted, tuple[str, ...]]:
    """The same with the address of this machine's node, and further addresses. Only the user who ran ``init`` has the
    credentials in a file."""
    try:
        owner = service_owner()
        settings = load_settings(path, user=None if owner is None else owner.user)
    except Rejected as e:
        raise usage(
            f"this machine is a node of a cluster, but its settings cannot be used: {e.text}", remedy=_GIVE_ALL
        ) from None
    url, *others = urls_of(settings)
    if wanted.user is None:
        raise usage(f"no credentials here for the cluster of this machine's node ({url})", remedy=_GIVE_USER)
    authority = settings.directories.configuration / "ca.pem"
    return replace(wanted, url=url, certificate=wanted.certificate or authority), tuple(others)


def _read_admin(path: Path, *, is_required: bool) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not is_required:
            return {}
        raise usage(
            f"no cluster found in {path.parent}",
            remedy=f"{_GIVE_ALL}; --dir DIR for a local cluster; or start one: shardwright up --detach "
            "(on several machines: shardwright init)",
        ) from None
    except PermissionError:
        if not is_required:
            return {}
        raise usage(f"{path} belongs to another user", remedy="--url URL --user E-MAIL --password-file FILE") from None
    except (OSError, ValueError) as error:
        raise usage(f"{path} cannot be read: {error}") from error
    if not isinstance(kept, dict) or not all(isinstance(kept.get(key), str) for key in ("url", "username", "password")):
        raise usage(f"{path} is not a file that `shardwright up` or `init` wrote")
    return kept


def _read_password(path: Path) -> str:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise usage(f"the password file {path} cannot be read: {error}") from error
    password = text.split("\n", 1)[0].rstrip("\r")
    if not password:
        raise usage(f"the first line of the password file {path} is empty")
    return password


def _normal(url: str) -> str:
    """``https://host:port`` without a path. Clear text is accepted only for addresses of this machine."""
    with_scheme = url if "://" in url else f"https://{url}"
    try:
        parts = urlsplit(with_scheme)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise usage(f"{url!r} is not a valid address: {error}") from error
    if parts.scheme not in ("https", "http") or not host or not _HOST.fullmatch(host) or parts.username is not None:
        raise usage(f"{url!r} is not an address of the API", remedy="for instance https://127.0.0.1:9443")
    if parts.scheme == "http" and not _is_this_machine(host):
        raise usage(f"{url} would send the password in clear text", remedy="use https://")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port or (9443 if parts.scheme == 'https' else 8080)}"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_known(url: str, kept: Mapping[str, Any]) -> bool:
    return bool(kept) and url in {_normal(known) for known in (kept["url"], *(kept.get("urls") or []))}
