"""What the loss of its primary's machine would mean for a database now: whether another copy takes over without anyone's
word, and what it may lack.

Called by the API, on any node. Judges by the records, so it is as old as the leader's last commit. ``parking.py`` decides
when a machine is lost; whether its way is open is asked there.
"""

from dataclasses import dataclass
from enum import StrEnum

from shardwright.model.database import Database, DatabaseStatus, GroupPhase, ShardWanted, SlotGroup
from shardwright.model.view import ClusterView
from shardwright.reconcile.parking import is_in_force


class LossOutcome(StrEnum):
    """What happens to the database. The values are the API's words."""

    NOTHING_LOST = "nothing_lost"
    """Another copy takes over. It has every acknowledged write."""
    LATEST_LOST = "latest_lost"
    """Another copy takes over. It may lack the writes of the last moments."""
    WAITS = "waits"
    """The database waits until the machine is back, or is declared off."""


_SERVING = (DatabaseStatus.ACTIVE, DatabaseStatus.ACTIVE_CHANGE_PENDING)


@dataclass(frozen=True, slots=True)
class MachineLoss:
    """The outcome, and why."""

    outcome: LossOutcome
    text: str
    """A clause, for people."""


def machine_loss_of(database: Database, view: ClusterView) -> MachineLoss | None:
    """None: the database does not serve, or all nodes of the cluster share a machine."""
    if view.cluster is None or not view.cluster.is_of_machines or database.status not in _SERVING:
        return None
    groups = view.groups_of(database.uid)
    if not groups or any(group.phase is not GroupPhase.SERVING for group in groups):
        return None
    if not database.has_replica:
        return MachineLoss(LossOutcome.WAITS, "it has one copy")
    if not all(_has_replica(group, view) for group in groups):
        return MachineLoss(LossOutcome.WAITS, "no replica is in sync")
    if not all(is_in_force(group, database) for group in groups):
        return MachineLoss(LossOutcome.WAITS, _missing(groups, database))
    if database.is_strict_in_force:
        return MachineLoss(LossOutcome.NOTHING_LOST, "another copy takes over, with every acknowledged write")
    return MachineLoss(LossOutcome.LATEST_LOST, "another copy takes over, which may lack the writes of the last moments")


def _has_replica(group: SlotGroup, view: ClusterView) -> bool:
    """Whether a replica was in sync and is not known to be lost."""
    return any(
        shard.wanted is ShardWanted.RUNNING
        and shard.uid != group.primary
        and shard.in_sync_generation == group.generation
        and shard.missing_since is None
        for shard in view.shards_of_group(group.uid)
    )


def _missing(groups: list[SlotGroup], database: Database) -> str:
    """Why the old primary might still answer."""
    if database.is_strict:
        return "strict mode is not in force everywhere yet"
    nodes = sorted({waiver.node_uid for group in groups if group.lease is not None for waiver in group.lease.waived})
    named = ", ".join(f"node {uid}" for uid in nodes)
    return (
        f"the endpoint processes of {named} ask for no proof of a replica yet" if named else "no process asks for proofs yet"
    )
