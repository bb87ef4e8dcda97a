"""Publishes the leader's observations of servers, so that the API can show them, also right after a change of leader.

Owns ``seen/servers/<shard>``. The leader's decisions must not use these records. Writes immediately if a shown state
changed, and figures at most every period. A failed write is harmless.
"""

from dataclasses import fields, replace
from datetime import datetime, timedelta
from operator import attrgetter

from shardwright.clock import Clock
from shardwright.model.database import GroupPhase, Role, Shard, SlotGroup
from shardwright.model.ids import ShardUid
from shardwright.model.seen import Health, ServerSeen, Sighting
from shardwright.model.view import ClusterView
from shardwright.store import keys, records
from shardwright.store.commit import Fence
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import CreatedAt, DeleteKey, Operation, PutKey, Store, Transaction

PERIOD = timedelta(minutes=1)
"""For figures: agents tell them to those who ask."""
PERIOD_WITHOUT_AGENT = timedelta(seconds=5)
OPERATIONS_MAX = 100
"""Below the store's limit for one transaction."""


class Publisher:
    """See the module's text."""

    def __init__(self, store: Store, mirror: Mirror, fence: Fence, *, clock: Clock) -> None:
        self._store = store
        self._mirror = mirror
        self._fence = fence
        self._clock = clock
        self._published: dict[ShardUid, ServerSeen] = {}
        self._swept: dict[ShardUid, Shard] | None = None
        """The shards at the last deletion of outdated records."""

    async def publish(self, view: ClusterView, now: datetime) -> None:
        """Write the observations that are due. Raises StoreUnavailable. A lost leadership shows at the next commit."""
        found = ((uid, _judged(seen, view)) for uid, seen in view.servers.items())
        due = {uid: seen for uid, seen in found if self._is_due(uid, seen, now, _period(uid, view))}
        shown = (with_last_service(seen, self._mirror.record(keys.seen_server_key(uid)), view) for uid, seen in due.items())
        operations: list[Operation] = [PutKey(keys.key_of(seen), records.encode(seen)) for seen in shown]
        if view.shards is not self._swept:
            published = (item.key for item in self._mirror.range(keys.SEEN_SERVERS))
            operations.extend(DeleteKey(key) for key in published if int(key.rpartition("/")[2]) not in view.shards)
        for start in range(0, len(operations), OPERATIONS_MAX):
            part = tuple(operations[start : start + OPERATIONS_MAX])
            compares = (CreatedAt(keys.LEADER, self._fence.revision_created),)
            await self._store.transact(Transaction(compares, part))
        self._published.update(due)
        self._swept = view.shards

    def _is_due(self, uid: ShardUid, seen: ServerSeen, now: datetime, period: timedelta) -> bool:
        before = self._published.get(uid)
        if before is seen:
            return False
        if before is None or _shown(before) != _shown(seen):
            return True
        if now - before.at < period:
            return False
        if _figures(before) != _figures(seen):
            return True
        self._published[uid] = seen  # Nothing changed: it is compared again after another period.
        return False


def with_last_service(seen: ServerSeen, before: object, view: ClusterView) -> ServerSeen:
    """The observation with the copy's last state while its group served: it later shows what the copy may lack. ``before``:
    the record that is published now."""
    shard = view.shards.get(seen.shard_uid)
    group = None if shard is None else view.groups.get(shard.group_uid)
    if group is not None and group.phase is GroupPhase.SERVING and _serves(seen, group):
        return replace(seen, served_at=seen.at, served_offset=seen.offset, served_keys=seen.keys)
    if not isinstance(before, ServerSeen):
        return seen
    return replace(seen, served_at=before.served_at, served_offset=before.served_offset, served_keys=before.served_keys)


def _period(uid: ShardUid, view: ClusterView) -> timedelta:
    shard = view.shards.get(uid)
    return PERIOD if shard is not None and view.has_agent(shard.node_uid) else PERIOD_WITHOUT_AGENT


def _serves(seen: ServerSeen, group: SlotGroup) -> bool:
    if seen.health is not Health.OK:
        return False
    if seen.shard_uid == group.primary:
        return seen.role is Role.PRIMARY
    return seen.role is Role.REPLICA and seen.is_link_up and not seen.is_syncing


def _judged(seen: ServerSeen, view: ClusterView) -> ServerSeen:
    """The observation with the leader's look at its machine's process table: a node without a daemon reports no death."""
    sighting = view.sightings.get(seen.shard_uid, Sighting.NONE)
    return seen if sighting is seen.sighting else replace(seen, sighting=sighting)


_shown = attrgetter(
    *("incarnation", "run_id", "replication_id", "health", "role", "is_link_up", "is_syncing", "is_fenced", "troubles"),
    "sighting",
)
"""States that are published immediately. The replication id is one of them: plans that the API makes from these records
check whether a replica is proven."""
_figures = attrgetter(*(field.name for field in fields(ServerSeen) if field.name not in ("at", "cpu_s")))
"""Figures that are published every PERIOD. Fields that change all the time do not count."""
