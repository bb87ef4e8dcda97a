"""A slot group with two copies, and what a decision about it changes."""

from dataclasses import replace
from datetime import timedelta

from shardwright.model.database import GroupPhase, Shard, SlotGroup
from shardwright.model.decision import Decision
from shardwright.model.ids import GroupUid, ShardUid
from shardwright.model.seen import ProcessState
from shardwright.model.view import Put
from shardwright.reconcile.group import decide_group
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP = GroupUid("1:1")


def replicated() -> ClusterBuilder:
    """A database with its primary, shard 1, on node 1 and a replica in sync, shard 2, on node 2."""
    builder = cluster(nodes=3).with_database(on=((1, 2),))
    database = next(iter(builder.view.databases.values()))
    return builder.with_records(*(replace(s, settings=database.settings_fingerprint) for s in builder.view.shards.values()))


def starting(builder: ClusterBuilder, *, primary: int | None = 1) -> ClusterBuilder:
    group = replace(
        builder.view.groups[GROUP],
        phase=GroupPhase.STARTING,
        primary=None if primary is None else ShardUid(primary),
    )
    return builder.with_records(group)


def decide(builder: ClusterBuilder) -> Decision:
    """With the end of a primary noted a while ago: everybody was looked at since."""
    return decide_group(builder.view.groups[GROUP], noted(builder).view, NOW)


def noted(builder: ClusterBuilder, *, ago_s: float = 1.0) -> ClusterBuilder:
    primary = builder.view.shards.get(builder.view.groups[GROUP].primary or ShardUid(0))
    if primary is None or builder.view.process_state(primary.uid) is not ProcessState.GONE:
        return builder
    return builder.with_records(replace(primary, missing_since=(at := NOW - timedelta(seconds=ago_s)), ended_since=at))


def group_after(decision: Decision) -> SlotGroup | None:
    """The group's new record, unless it only notes what the group waits for."""
    found = (w.record for w in decision.writes if isinstance(w.record, SlotGroup))
    return next((group for group in found if not group.waits_for), None)


def shards_after(decision: Decision) -> dict[int, Shard]:
    return {w.record.uid: w.record for w in decision.writes if isinstance(w, Put) and isinstance(w.record, Shard)}
