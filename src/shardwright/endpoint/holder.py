"""Finds the process that occupies an endpoint's port, if this user may see it. Linux only.

Called by ``served.py`` in a thread, because it reads all of ``/proc``. Changes nothing.
"""

import ipaddress
import os
import struct
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
_LISTEN, _TIME_WAIT = "0A", "06"


def holder_of(address: str, port: int) -> str:
    """For instance ``process 4242 (nginx)``; empty if it is not visible. Without its arguments: they may be secret."""
    inodes = [inode for name in ("tcp", "tcp6") for inode in sockets_at(_text(PROC / "net" / name), address, port)]
    wanted = {f"socket:[{inode}]" for inode in inodes}
    if not wanted:
        return ""
    pids = sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    holder = next((pid for pid in pids if not wanted.isdisjoint(_links(PROC / str(pid) / "fd"))), None)
    return "" if holder is None else f"process {holder} ({_text(PROC / str(holder) / 'comm').strip() or 'unnamed'})"


def sockets_at(table: str, address: str, port: int) -> list[str]:
    """Inodes of the sockets in ``/proc/net/tcp`` or ``tcp6`` that prevent a listener at this address: of listening sockets
    if there are any, otherwise of connections."""
    listening: list[str] = []
    others: list[str] = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        local, _, local_port = fields[1].partition(":")
        if int(local_port, 16) != port or fields[3] == _TIME_WAIT or not _conflicts(local, address):
            continue
        (listening if fields[3] == _LISTEN else others).append(fields[9])
    return listening or others


def _conflicts(local: str, address: str) -> bool:
    theirs, ours = _address(local), ipaddress.ip_address(address)
    if isinstance(theirs, ipaddress.IPv6Address) and theirs.ipv4_mapped is not None:
        theirs = theirs.ipv4_mapped
    return theirs == ours or theirs.is_unspecified or ours.is_unspecified


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The kernel writes addresses as words in the machine's byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    return ipaddress.ip_address(b"".join(struct.pack("=I", word) for word in words))


def _links(directory: Path) -> Iterator[str]:
    try:
        names = os.listdir(directory)
    except OSError:  # The process has ended, or belongs to another user.
        return
    for name in names:
        try:
            yield os.readlink(directory / name)
        except OSError:
            continue


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
