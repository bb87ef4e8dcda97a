"""Whether the cluster still has this machine's node, by the store itself. Used by the daemon's wait and by ``join``: a node
that was removed keeps its files, which say nothing of that. Changes nothing."""

import asyncio
from typing import Final

from shardwright.errors import ShardwrightError
from shardwright.model.ids import NodeUid
from shardwright.node.known_store import known_store
from shardwright.node.settings import NodeSettings
from shardwright.store import keys
from shardwright.store.open import open_store

TIMEOUT_S: Final = 5.0


def record_key(node_uid: NodeUid) -> str:
    """Where the node's record is."""
    return f"{keys.NODES}{node_uid:08d}"


async def is_recorded(settings: NodeSettings) -> bool | None:
    """None: the store does not answer, or contains no cluster yet."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            store = await open_store(await asyncio.to_thread(known_store, settings))
            try:
                if await store.get(keys.CLUSTER) is None:
                    return None
                return await store.get(record_key(settings.node_uid)) is not None
            finally:
                await store.close()
    except (ShardwrightError, OSError, TimeoutError):
        return None
