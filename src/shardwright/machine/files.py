"""Small files that must survive a crash: written completely or not at all, readable only by their owner.

Used by the agent and the local cluster. Waits for the disk: in an event loop, call it in a thread.
"""

import os
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """Replace a file's content (mode 0600). After the return it survives a power cut. Raises OSError."""
    temporary = path.with_name(f"{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make added and removed names of a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private_directory(path: Path) -> None:
    """Create a directory (mode 0700) and its parents, if they do not exist."""
    if not path.is_dir():
        if not path.parent.is_dir():
            make_private_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def last_line(path: Path, *, bytes_max: int = 4096) -> str:
    """The last line of a file that is not blank; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - bytes_max))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def rotate(path: Path, *, bytes_max: int) -> None:
    """Rename a file that has grown too large to ``<name>.1``, and replace an older file of that name. Only for logs that
    their writer opens again for each line, as the servers do, or before the writer starts."""
    try:
        if path.stat().st_size > bytes_max:
            os.replace(path, path.with_name(f"{path.name}.1"))
    except FileNotFoundError:
        pass
