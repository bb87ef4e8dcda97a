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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shardwright.cli.failure import usage
from shardwright.node.settings import SETTINGS_FILE

GIVE_USER = (
    "--user E-MAIL --password-file FILE (or SHARDWRIGHT_USER and SHARDWRIGHT_PASSWORD_FILE); or run the command on the "
    "machine of `shardwright init`, as the user who ran that"
)
GIVE_ALL = (
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
        from shardwright.cli.own_node import at_own_node

        is_own = wanted.certificate is None
        wanted, others = at_own_node(wanted, node_settings)
        remedy = START_NODE
    kept = read_admin(admin, is_required=wanted.url is None)
    if "certificate" in kept:  # Only ``init`` writes it.
        own = Path(str(kept["certificate"]))
        kept["urls"] = [*(kept.get("urls") or [kept["url"]]), *_further_urls(own, node_settings)]
    if wanted.url:
        urls: tuple[str, ...] = (normal_url(wanted.url), *others)
    else:
        urls = tuple(dict.fromkeys(normal_url(url) for url in kept.get("urls") or [kept["url"]]))
    if not _is_known(urls[0], kept):
        kept = {}
    elif "certificate" in kept:
        remedy = START_NODE
    user = wanted.user or kept.get("username")
    if not user:
        raise usage(f"no user given for {urls[0]}", remedy="--user E-MAIL (or SHARDWRIGHT_USER)")
    if wanted.password_file is not None:
        password = read_password(wanted.password_file)
    elif kept and user == kept.get("username"):
        password = str(kept["password"])
    else:
        raise usage(
            f"no password given for {user}",
            remedy="--password-file FILE (or SHARDWRIGHT_PASSWORD_FILE); - reads it from standard input",
        )
    certificate = wanted.certificate or (own if kept and certificate_at(own) else None)
    if certificate is not None and not certificate_at(certificate):
        raise usage(f"no certificate at {certificate}")
    is_named = is_own or (wanted.certificate is None and certificate is not None and "certificate" in kept)
    return Access(urls, user, password, certificate, is_named, remedy)


def _further_urls(certificate: Path, node_settings: Path) -> tuple[str, ...]:
    """Addresses of the nodes that this machine's node knows, if it belongs to the cluster with this authority."""
    if not os.path.exists(node_settings):
        return ()
    from shardwright.cli.own_node import further_urls

    return further_urls(certificate, node_settings)


def certificate_at(path: Path) -> bool:
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


def read_admin(path: Path, *, is_required: bool) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not is_required:
            return {}
        raise usage(
            f"no cluster found in {path.parent}",
            remedy=f"{GIVE_ALL}; --dir DIR for a local cluster; or start one: shardwright up --detach "
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


def read_password(path: Path) -> str:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise usage(f"the password file {path} cannot be read: {error}") from error
    password = text.split("\n", 1)[0].rstrip("\r")
    if not password:
        raise usage(f"the first line of the password file {path} is empty")
    return password


def normal_url(url: str) -> str:
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
    return bool(kept) and url in {normal_url(known) for known in (kept["url"], *(kept.get("urls") or []))}
