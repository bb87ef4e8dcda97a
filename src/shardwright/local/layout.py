"""The paths of a local cluster's files and sockets. The only module that builds these paths.

DIR (0700)
  store.db              admin.json (0600)      lock          supervisor.json      cluster.key (0600)
  store.json (0600)     if the records are in etcd: where; the former file is store.db.moved then
  tls/cert.pem  key.pem  ca.pem  ca-key.pem    logs/supervisor.log
  run/                  Unix sockets; elsewhere when DIR's path is too long for them: run.path then contains the path
  nodes/<n>/            daemon.json  daemon.lock  daemon.log  endpoint.json  endpoint.log  shards/<uid>/
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shardwright.errors import Refusal, Rejected
from shardwright.machine.files import make_private_directory, write_private
from shardwright.model.ids import NodeUid
from shardwright.nodes.paths import agent_path, control_path

SOCKET_PATH_MAX = 107
"""Bytes in the address of a Unix socket (108 with the closing NUL)."""
_SOCKET_NAME_BYTES = 40
"""Room for the longest name of a socket, and for a suffix that its owner may add during a replacement."""
_NODE_FILES = ("daemon.json", "daemon.lock", "endpoint.json")
_NODE_PATTERNS = ("daemon.log*", "daemon.out*", "endpoint.log*", "endpoint.out*", "*.json.new")
_SHARD_PATTERNS = (
    *("process.json*", "server.conf*", "server.log*", "server.out*", "*.rdb", "*.aof", "*.manifest"),
    *("temp-*", "nodes.conf", "*.pid"),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one cluster. ``directory`` is absolute and without links."""

    directory: Path

    @property
    def store(self) -> Path:
        return self.directory / "store.db"

    @property
    def store_place(self) -> Path:
        """Where the cluster's etcd is and how to reach it, mode 0600. Without this file, the records are in ``store``."""
        return self.directory / "store.json"

    @property
    def admin(self) -> Path:
        """``{url, urls, username, password}`` of the first user, mode 0600."""
        return self.directory / "admin.json"

    @property
    def cluster_key(self) -> Path:
        """The key that seals the secrets in the store, mode 0600. A cluster without this file has them in clear."""
        return self.directory / "cluster.key"

    @property
    def lock(self) -> Path:
        """Locked by the process that starts, supervises or stops the cluster."""
        return self.directory / "lock"

    @property
    def supervisor(self) -> Path:
        """Identity of the supervisor."""
        return self.directory / "supervisor.json"

    @property
    def tls(self) -> Path:
        return self.directory / "tls"

    @property
    def certificate(self) -> Path:
        """The certificates of the API and of the authority: clients that trust this file trust every node."""
        return self.tls / "cert.pem"

    @property
    def key(self) -> Path:
        return self.tls / "key.pem"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def supervisor_log(self) -> Path:
        return self.logs / "supervisor.log"

    @property
    def supervisor_output(self) -> Path:
        """Output of the supervisor outside its log, such as a traceback."""
        return self.logs / "supervisor.out"

    @property
    def nodes(self) -> Path:
        return self.directory / "nodes"

    def node(self, uid: NodeUid) -> Path:
        """A node's own directory."""
        return self.nodes / str(uid)

    def daemon(self, uid: NodeUid) -> Path:
        """Identity of a node's daemon, written by the daemon itself."""
        return self.node(uid) / "daemon.json"

    def daemon_lock(self, uid: NodeUid) -> Path:
        """Locked by a node's daemon for its lifetime: a second daemon cannot run."""
        return self.node(uid) / "daemon.lock"

    def daemon_log(self, uid: NodeUid) -> Path:
        return self.node(uid) / "daemon.log"

    def daemon_output(self, uid: NodeUid) -> Path:
        """Output of a daemon that cannot even log."""
        return self.node(uid) / "daemon.out"

    def endpoint(self, uid: NodeUid) -> Path:
        """Identity of a node's endpoint process."""
        return self.node(uid) / "endpoint.json"

    def shards(self, uid: NodeUid) -> Path:
        """Parent of the directories of a node's shards."""
        return self.node(uid) / "shards"

    def node_uids(self) -> list[NodeUid]:
        """Nodes with a directory."""
        if not self.nodes.is_dir():
            return []
        return sorted(NodeUid(int(p.name)) for p in self.nodes.iterdir() if p.name.isdigit() and p.is_dir())

    # -- sockets -----------------------------------------------------------------------------------------------------

    @property
    def run_note(self) -> Path:
        """The path of the sockets if they are not in ``run``."""
        return self.directory / "run.path"

    def run_directory(self) -> Path:
        """The directory of the sockets, as ``make_run_directory`` chose it."""
        try:
            return Path(self.run_note.read_text(encoding="utf-8").strip())
        except FileNotFoundError:
            return self.directory / "run"

    def control(self, uid: NodeUid) -> Path:
        """Control socket of a node's endpoint process."""
        return control_path(self.run_directory(), uid)

    def ping(self, uid: NodeUid) -> Path:
        """Socket on which a node's daemon answers pings from its main loop."""
        return self.run_directory() / f"daemon-{uid}.sock"

    def agent(self, uid: NodeUid) -> Path:
        """The socket on which the node's agent reports its servers."""
        return agent_path(self.run_directory(), uid)


def layout_of(directory: Path) -> Layout:
    """The layout of a directory, which may not exist yet."""
    return Layout(Path(os.path.realpath(directory.expanduser())))


def make_run_directory(layout: Layout, environment: Mapping[str, str]) -> Path:
    """Choose and create the directory of the sockets: in DIR if their paths stay short enough, otherwise a new one in
    ``$XDG_RUNTIME_DIR`` or ``/tmp``. The choice is recorded in DIR, because later commands may have another environment.

    Raises Rejected if the directory outside DIR is not private to this user.
    """
    inside = layout.directory / "run"
    if not layout.run_note.exists():
        if len(os.fsencode(inside)) + 1 + _SOCKET_NAME_BYTES <= SOCKET_PATH_MAX:
            make_private_directory(inside)
            return inside
        outside = _outside(layout, environment)
        write_private(layout.run_note, f"{outside}\n".encode())
    chosen = layout.run_directory()
    make_private_directory(chosen)
    _check_private(chosen)
    return chosen


def _outside(layout: Layout, environment: Mapping[str, str]) -> Path:
    digest = hashlib.sha256(os.fsencode(layout.directory)).hexdigest()[:12]
    name = f"shardwright-{os.getuid()}-{digest}"
    base = environment.get("XDG_RUNTIME_DIR") or "/tmp"
    if len(os.fsencode(base)) + len(name) + 2 + _SOCKET_NAME_BYTES > SOCKET_PATH_MAX or not Path(base).is_dir():
        base = "/tmp"
    return Path(base) / name


def _check_private(path: Path) -> None:
    """Check the owner: another user may have created a directory with that name in ``/tmp`` first."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise Rejected(
            Refusal.CONFLICT,
            "run_directory_unsafe",
            f"{path} must be a directory that only you can enter, because it holds sockets",
            remedy=f"remove {path}, or choose a shorter --dir",
        )


# -- deletion --------------------------------------------------------------------------------------------------------------


def purge(layout: Layout) -> list[Path]:
    """Delete all files that Shardwright created, and every directory that is then empty, DIR included. Returns the
    remaining paths. No process of the cluster may run. The lock file is deleted last."""
    run = layout.run_directory()
    _delete_patterns(run, ("*.sock", "*.sock.*"))
    _remove_if_empty(run)
    for uid in layout.node_uids():
        purge_node(layout, uid)
    _remove_if_empty(layout.nodes)
    _delete_patterns(layout.tls, ("cert.pem*", "key.pem*", "ca.pem*", "ca-key.pem*"))
    _remove_if_empty(layout.tls)
    _delete_patterns(layout.logs, ("supervisor.log*", "supervisor.out*"))
    _remove_if_empty(layout.logs)
    _delete_patterns(
        layout.directory, ("store.db*", "store.json*", "admin.json*", "supervisor.json*", "run.path*", "cluster.key*")
    )
    layout.lock.unlink(missing_ok=True)
    _remove_if_empty(layout.directory)
    return sorted(layout.directory.iterdir()) if layout.directory.is_dir() else []


def purge_node(layout: Layout, uid: NodeUid) -> None:
    """Delete all files that Shardwright created in a node's directory. No process of the node may run."""
    shards = layout.shards(uid)
    if shards.is_dir():
        for path in list(shards.iterdir()):
            if path.name.isdigit() and path.is_dir() and not path.is_symlink():
                _purge_shard(path)
        _remove_if_empty(shards)
    for name in _NODE_FILES:
        (layout.node(uid) / name).unlink(missing_ok=True)
    _delete_patterns(layout.node(uid), _NODE_PATTERNS)
    _remove_if_empty(layout.node(uid))


def _purge_shard(path: Path) -> None:
    appended = path / "appendonlydir"
    if not appended.is_symlink():
        _delete_patterns(appended, ("*.aof", "*.rdb", "*.manifest", "temp-*"))
        _remove_if_empty(appended)
    _delete_patterns(path, _SHARD_PATTERNS)
    _remove_if_empty(path)


def _delete_patterns(directory: Path, patterns: tuple[str, ...]) -> None:
    if not directory.is_dir():
        return
    for pattern in patterns:
        for path in list(directory.glob(pattern)):
            if not path.is_dir() or path.is_symlink():
                path.unlink(missing_ok=True)


def _remove_if_empty(directory: Path) -> None:
    if directory.is_dir() and not directory.is_symlink() and not any(directory.iterdir()):
        directory.rmdir()
