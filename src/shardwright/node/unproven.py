"""Takes the virtual addresses off this machine while its daemon waits for the store for a long time.

The daemon that had them may have been restarted while the machine was cut off; another node has them by now, or the node was
removed. ``agent/virtual_addresses.py`` has the same rule for a daemon that has found its store.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from shardwright.agent.virtual_addresses import PROOF_S
from shardwright.machine import virtual_addresses
from shardwright.tasks import spawn

AGAIN_S = 5.0
"""An interface may appear while the daemon waits."""

_log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def without_virtual_addresses() -> AsyncIterator[None]:
    """Within it, after PROOF_S, the machine has no virtual address of ours."""
    task = spawn("unproven virtual addresses", _remove())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _remove() -> None:
    await asyncio.sleep(PROOF_S)
    while True:
        try:
            for placed in virtual_addresses.ours():
                virtual_addresses.remove(placed)
                why = "the store has not confirmed that it is this node's"
                _log.warning("removed a virtual address", address=placed.address, interface=placed.interface, reason=why)
        except OSError as e:
            _log.error("a virtual address cannot be removed", reason=e.strerror or str(e))
        await asyncio.sleep(AGAIN_S)
