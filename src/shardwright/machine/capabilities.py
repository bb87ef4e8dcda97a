"""The capabilities of this process (``capabilities(7)``), as far as virtual addresses need them."""

from ctypes import CDLL
from pathlib import Path

_NET_ADMIN, _NET_RAW = 12, 13
_AMBIENT, _CLEAR_ALL = 47, 4
"""Numbers of ``prctl(2)``."""


def may_move_addresses() -> bool:
    """Whether this process may add addresses to interfaces and announce them. Raises OSError."""
    words = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    effective = next((int(word[1], 16) for word in words if word[:1] == ["CapEff:"]), 0)
    return bool(effective >> _NET_ADMIN & 1) and bool(effective >> _NET_RAW & 1)


def keep_from_children() -> None:
    """Let programs that are started from now on have none of the capabilities that the service manager gave to this process:
    servers and endpoint processes need none. Without effect for root, and where the kernel knows no such thing."""
    CDLL(None).prctl(_AMBIENT, _CLEAR_ALL, 0, 0, 0)
