"""``shardwright-node --ended``: the service manager says that the node's daemon has ended.

The lease of exactly that daemon is revoked, so that the next leader need not wait for its expiry. Best effort: without the
store, the lease expires.
"""

import asyncio

import structlog

from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import is_of_this_machine, is_running
from shardwright.node.known_store import known_store
from shardwright.node.places import daemon_file
from shardwright.node.settings import NodeSettings
from shardwright.store.ended import revoke_lease_of
from shardwright.store.open import open_store
from shardwright.store.protocol import StoreError

TIMEOUT_S = 5.0
"""Shorter than a lease: afterwards nothing would be left to do. The next start of the daemon waits for this command."""

_log = structlog.get_logger(__name__)


async def revoke_ended(settings: NodeSettings) -> bool:
    """Revoke the lease of the daemon whose identity is on the disk, unless it runs. False: the store did not answer. Raises
    Permanent if the store or the presence cannot be used."""
    identity = await asyncio.to_thread(read_identity, daemon_file(settings.directories))
    if identity is None or not is_of_this_machine(identity) or is_running(identity):
        return True
    try:
        async with asyncio.timeout(TIMEOUT_S):
            store = await open_store(await asyncio.to_thread(known_store, settings))
            try:
                if await revoke_lease_of(store, settings.node_uid, identity):
                    _log.info("revoked the lease of the daemon that has ended", pid=identity.pid)
            finally:
                await store.close()
    except (StoreError, TimeoutError) as e:
        _log.warning("the lease of the daemon that has ended could not be revoked; it expires", reason=str(e) or "too slow")
        return False
    return True
