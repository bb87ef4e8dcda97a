"""Named points between the steps of what the leader performs, so that a test can kill or freeze a real daemon exactly there.

In production nobody listens and a point costs a call. ``faults.py`` has the listener that tests use.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

Probe = Callable[[str], None]
"""Called with ``<what>:<step>:before`` and ``<what>:<step>:after``."""


def silent(point: str) -> None:
    """The probe of a daemon that nobody tests."""


@asynccontextmanager
async def step(probe: Probe, name: str) -> AsyncIterator[None]:
    """Mark the beginning and the end of a step. A step that raises has no end."""
    probe(f"{name}:before")
    yield
    probe(f"{name}:after")
