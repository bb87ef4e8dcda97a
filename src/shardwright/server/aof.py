"""The append-only file: finds its readable length, and cuts an unreadable end. No server may use the file meanwhile.

Called by the agent before a start, if an operator requested it. The original file is kept; the server loads a new one. Only
the last part is ever cut: after earlier damage, nothing would be intact.
"""

import mmap
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.server.files import AOF_DIRECTORY_NAME, MANIFEST_NAME

_COPY_BYTES = 1 << 20
MEASURED_BYTES_MAX = 64 << 20
"""Takes about a second."""
_LINE_BYTES_MAX = 64
"""No count or length is longer."""
_NOTE_BYTES_MAX = 1024
"""Limit of a line that begins with ``#``: time stamps that some servers write."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A completed cut."""

    file: str
    offset: int
    bytes_cut: int
    kept_as: str
    """The location of the original file."""

    def __str__(self) -> str:
        return (
            f"{self.bytes_cut} bytes at the end of {self.file} could not be read and were cut, at offset {self.offset}; "
            f"the original file is {self.kept_as}"
        )


def readable_bytes(content: bytes | mmap.mmap) -> int:
    """Intact length of a part of the file: up to the end of the last complete command outside an open transaction."""
    at, end, whole = 0, len(content), 0
    is_open = False
    while at < end:
        command = _command(content, at)
        if command is None:
            break
        at, name = command
        if name == b"multi":
            is_open = True
        elif name == b"exec":
            is_open = False
        if not is_open:
            whole = at
    return whole


def _command(content: bytes | mmap.mmap, at: int) -> tuple[int, bytes] | None:
    """The end of the command (or note) at an offset, and its name in lower case; None: it is not complete."""
    if content[at : at + 1] == b"#":
        end = content.find(b"\n", at, at + _NOTE_BYTES_MAX)
        return None if end < 0 else (end + 1, b"")
    counted = _number(content, at, b"*")
    if counted is None or counted[1] < 1:
        return None
    at, count = counted
    name = b""
    for index in range(count):
        sized = _number(content, at, b"$")
        if sized is None:
            return None
        begin, size = sized
        at = begin + size + 2
        if content[begin + size : at] != b"\r\n":
            return None
        if index == 0:
            name = content[begin : begin + min(size, 16)].lower()
    return at, name


def _number(content: bytes | mmap.mmap, at: int, mark: bytes) -> tuple[int, int] | None:
    """The end of the line at an offset and the number after its mark; None: no such line."""
    end = content.find(b"\r\n", at, at + _LINE_BYTES_MAX)
    digits = content[at + 1 : end] if end > 0 else b""
    if content[at : at + 1] != mark or not digits.isdigit():
        return None
    return end + 2, int(digits)


def cut_damaged_end(directory: Path, aside: Path) -> Cut:
    """Cut the unreadable end of the append-only file in a shard's directory, and keep the original file in ``aside``. May
    be repeated after a crash. Raises OSError, and Permanent if it would not help."""
    folder = directory / AOF_DIRECTORY_NAME
    parts = _parts(folder)
    if not parts:
        raise Permanent(Code.NOTHING_TO_CUT, "the shard does not have an append-only file that could be cut")
    for part in parts[:-1]:
        if _readable_of(part) < part.stat().st_size:
            raise Permanent(Code.NOTHING_TO_CUT, f"{part.name} is damaged, but is not the last part: its end cannot be cut")
    last = parts[-1]
    offset = _readable_of(last)
    kept = aside / last.name
    if offset == last.stat().st_size and not kept.exists():
        raise Permanent(Code.NOTHING_TO_CUT, f"{last.name} can be read to its end: the damage is in another file")
    aside.mkdir(mode=0o700, exist_ok=True)
    if not kept.exists():
        # A link, not a copy: the server loads another file afterwards.
        kept.hardlink_to(last)
        shutil.copyfile(folder / MANIFEST_NAME, aside / MANIFEST_NAME)
        _sync(aside)
    if offset < last.stat().st_size:
        _write_beginning(last, offset)
    return Cut(last.name, offset, kept.stat().st_size - offset, str(kept))


def unreadable_end(directory: Path) -> str:
    """The amount that a cut would remove, for people; empty if nothing, if a cut would not help, or if the file is too
    large for a quick check."""
    parts = _parts(directory / AOF_DIRECTORY_NAME)
    try:
        if not parts or sum(part.stat().st_size for part in parts) > MEASURED_BYTES_MAX:
            return ""
        if any(_readable_of(part) < part.stat().st_size for part in parts[:-1]):
            return ""
        offset, size = _readable_of(parts[-1]), parts[-1].stat().st_size
    except OSError:
        return ""
    return f"{size - offset} of its {size} bytes cannot be read, from offset {offset}" if offset < size else ""


def _parts(folder: Path) -> list[Path]:
    """The parts that contain commands, oldest first."""
    try:
        manifest = (folder / MANIFEST_NAME).read_text()
    except FileNotFoundError:
        return []
    lines = (line.split() for line in manifest.splitlines())
    paths = [folder / words[1] for words in lines if len(words) >= 6 and words[5] == "i"]
    return [path for path in paths if path.exists()]


def _readable_of(path: Path) -> int:
    if path.stat().st_size == 0:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return readable_bytes(content)


def _write_beginning(path: Path, size: int) -> None:
    """Replace a file with its first bytes, atomically."""
    made = path.with_name(f"{path.name}.cut")
    with path.open("rb") as source, made.open("wb") as target:
        left = size
        while left:
            block = source.read(min(left, _COPY_BYTES))
            target.write(block)
            left -= len(block)
        target.flush()
        os.fsync(target.fileno())
    shutil.copystat(path, made)  # Keep its modification time: it decides whether this file or a snapshot is newer.
    os.replace(made, path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
