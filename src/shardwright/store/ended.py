"""Ends the lease of a daemon that has certainly ended, so that the next leader need not wait for its expiry.

Called by what watches a daemon from outside. Must not be called for a daemon that may still run.
"""

from shardwright.model.cluster import DaemonPresence
from shardwright.model.ids import LeaseId, NodeUid
from shardwright.model.seen import ProcessIdentity
from shardwright.store import keys, records
from shardwright.store.protocol import Store


async def revoke_lease_of(store: Store, node_uid: NodeUid, ended: ProcessIdentity) -> bool:
    """Revoke the lease of exactly this daemon. False: the node has no lease, or another daemon has it. Raises StoreError,
    and Permanent if the presence cannot be read."""
    item = await store.get(f"{keys.DAEMONS}{node_uid:08d}")
    presence = records.decode(item.key, item.value) if item is not None else None
    if not isinstance(presence, DaemonPresence) or not is_of(presence, ended):
        return False
    await store.revoke(LeaseId(presence.lease_id))
    return True


def is_of(presence: DaemonPresence, process: ProcessIdentity) -> bool:
    """Whether the presence is this process's."""
    theirs = (presence.pid, presence.start_ticks, presence.boot_id)
    return theirs == (process.pid, process.start_ticks, process.boot_id)
