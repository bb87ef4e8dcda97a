"""Named points between the leader's steps. A test can kill or freeze a real daemon exactly there.

In production no listener is set, and a point costs one call. ``faults.py`` has the listener that tests use.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

Probe = Callable[[str], None]
"""Called with ``<what>:<step>:before`` and ``<what>:<step>:after``."""


def silent(point: str) -> None:
    """The probe of a daemon in production."""


@asynccontextmanager
async def step(probe: Probe, name: str) -> AsyncIterator[None]:
    """Mark the beginning and the end of a step. If the step raises, its end is not marked."""
    probe(f"{name}:before")
    yield
    probe(f"{name}:after")
