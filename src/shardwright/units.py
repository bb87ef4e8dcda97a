"""Sizes, rates and durations as people write and read them. Pure; used by every command and by ``up``.

A unit is a power of 1024 (``4gb`` is 4 × 1024³ bytes), as in the servers' own ``maxmemory 4gb``. A bare letter (``4g``) is
refused, because the servers read it as a power of 1000.
"""

import re
from datetime import timedelta

_UNITS = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_DURATION_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_SIZE_BYTES_MAX = 1 << 60
"""Above any machine, below what a signed 64-bit number of bytes holds."""


def parse_bytes(text: str) -> int:
    """Bytes in ``4gb``, ``512 MB``, ``1.5GiB`` or ``1048576``. Raises ValueError with a sentence for people."""
    match = _SIZE.fullmatch(text.strip().lower())
    unit = match[2].replace("ib", "b") if match else ""
    if match is None or unit not in _UNITS:
        raise ValueError(f"{text!r} is no size: write for instance 512mb, 4gb or a number of bytes")
    size = int(_scaled(match[1], _UNITS[unit]))
    if size > _SIZE_BYTES_MAX:
        raise ValueError(f"{text!r} is more than any machine holds")
    return size


def _scaled(number: str, factor: int) -> int | float:
    return float(number) * factor if "." in number else int(number) * factor


def format_bytes(size: int | float) -> str:
    """``1.5GB``: the largest unit that leaves at least 1, at most two decimals, as operators know it from rladmin."""
    if abs(size) < _UNITS["kb"]:
        return f"{int(size)}B"
    for unit in ("TB", "GB", "MB"):
        factor = _UNITS[unit.lower()]
        # Rounding first: 1023.999 KB reads as 1MB, never as 1024KB.
        if round(abs(size) / factor, 2) >= 1:
            return f"{_trimmed(size / factor)}{unit}"
    return f"{_trimmed(size / _UNITS['kb'])}KB"


def _trimmed(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


def format_rate(bytes_per_second: float) -> str:
    """``120.5MB/s``."""
    return f"{format_bytes(bytes_per_second)}/s"


def parse_duration(text: str) -> timedelta:
    """The time in ``90``, ``90s``, ``10m``, ``2h`` or ``1d``. Raises ValueError with a sentence for people."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no duration: write for instance 30s, 10m or 2h")
    try:
        return timedelta(seconds=float(match[1]) * _DURATION_UNITS[match[2] or "s"])
    except OverflowError:
        raise ValueError(f"{text!r} is longer than anyone can wait") from None


def format_duration(duration: timedelta) -> str:
    """``850ms``, ``12.3s``, ``4m 05s`` or ``3h 20m``."""
    seconds = duration.total_seconds()
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m {rest:02d}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02d}m"
