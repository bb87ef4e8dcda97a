"""The file ``node.toml`` on the disk, and whether the files beside it are closed to other users.

Called by the daemon's entry point and by what creates or joins a cluster, in a thread when there is an event loop. Must not
read the content of a secret: its owner does.
"""

import os
import stat
from pathlib import Path

from shardwright.errors import Refusal, Rejected
from shardwright.machine.files import sync_directory
from shardwright.model.codes import Code
from shardwright.node.settings import NodeSettings
from shardwright.node.settings_text import parse, render

FILE_MODE = 0o640
"""Written by root, read by the daemon's group. It holds no secret, but it decides which store the node believes."""
_BYTES_MAX = 64 * 1024
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_ANY = stat.S_IRWXG | stat.S_IRWXO


def load_settings(path: Path, *, user: int | None = None) -> NodeSettings:
    """The settings in the file, after a check that neither it nor the node's secrets are open to other users. A secret that
    does not exist is not an error here. ``user``: the id of the one who uses the secrets; None: of this process.

    Raises Rejected: ``node_settings_absent``, ``node_settings_invalid`` (also when the file cannot be read) or
    ``secret_exposed``.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_BYTES_MAX + 1)
    except FileNotFoundError as e:
        remedy = "create a cluster on this machine, or join one"
        raise Rejected(Refusal.NOT_FOUND, Code.NODE_SETTINGS_ABSENT, f"{path} does not exist", remedy=remedy) from e
    except OSError as e:
        raise _invalid(f"{path} cannot be read: {e.strerror}", "let the daemon's user read it") from e
    _check(path, status, forbidden=_OTHERS_WRITE, means="changed", remedy=f"chmod {FILE_MODE:o} {path}", user=user)
    if len(content) > _BYTES_MAX:
        raise _invalid(f"{path} is larger than {_BYTES_MAX} bytes", "write the settings of one node only")
    try:
        text = content.decode()
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise _invalid(f"{path}, line {line}: not UTF-8", "write the line again") from e
    settings = parse(text, name=str(path))
    check_secrets(settings, user=user)
    return settings


def check_secrets(settings: NodeSettings, *, user: int | None = None) -> None:
    """Refuse secrets that other users may read. Raises Rejected ``secret_exposed``."""
    for path in settings.secret_files:
        try:
            status = path.stat()
        except OSError:
            continue
        _check(path, status, forbidden=_OTHERS_ANY, means="read", remedy=f"chmod 600 {path}", user=user)


def write_settings(path: Path, settings: NodeSettings, *, group: int | None = None) -> None:
    """Write the file completely or not at all; afterwards it survives a power cut. ``group``: the group that may read it;
    None: the writer's. Raises Rejected ``node_settings_invalid``, OSError."""
    content = render(settings).encode()
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        if group is not None:
            os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, FILE_MODE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    sync_directory(path.parent)


def _check(path: Path, status: os.stat_result, *, forbidden: int, means: str, remedy: str, user: int | None) -> None:
    user = os.geteuid() if user is None else user
    if status.st_uid not in (0, user):
        owner = "root" if user == 0 else f"root or the daemon's user ({user})"
        text = f"{path} belongs to user {status.st_uid}, but must belong to {owner}"
        raise Rejected(Refusal.FORBIDDEN, Code.SECRET_EXPOSED, text, remedy=f"chown {user} {path}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        text = f"{path} can be {means} by other users (its mode is {mode:04o})"
        raise Rejected(Refusal.FORBIDDEN, Code.SECRET_EXPOSED, text, remedy=remedy)


def _invalid(text: str, remedy: str) -> Rejected:
    return Rejected(Refusal.INVALID, Code.NODE_SETTINGS_INVALID, text, remedy=remedy)
