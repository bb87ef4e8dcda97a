"""What the loss of its primary's machine would mean for a database now: whether another copy takes over without anyone's
word, and what it may lack.

Pure; called by the API, on any node. Judges by the records, so it is as old as the leader's last commit. What is decided
when a machine is lost is decided in ``reconcile/parking.py``.
"""

from dataclasses import dataclass
from enum import StrEnum

from shardwright.model.database import Database, DatabaseStatus, GroupPhase, ShardWanted, SlotGroup
from shardwright.model.view import ClusterView


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
    if database.is_strict:
        if database.is_strict_everywhere:
            return MachineLoss(LossOutcome.NOTHING_LOST, "another copy takes over, with every acknowledged write")
        return MachineLoss(LossOutcome.WAITS, "strict mode is not in force everywhere yet")
    if all(group.lease is not None and group.lease.is_in_force for group in groups):
        return MachineLoss(LossOutcome.LATEST_LOST, "another copy takes over, which may lack the writes of the last moments")
    return MachineLoss(LossOutcome.WAITS, f"{_unproven(groups)} to ask for proofs of a replica")


def _has_replica(group: SlotGroup, view: ClusterView) -> bool:
    """Whether a replica was in sync and is not known to be lost."""
    return any(
        shard.wanted is ShardWanted.RUNNING
        and shard.uid != group.primary
        and shard.in_sync_generation == group.generation
        and shard.missing_since is None
        for shard in view.shards_of_group(group.uid)
    )


def _unproven(groups: list[SlotGroup]) -> str:
    """Who does not ask yet."""
    nodes = sorted({waiver.node_uid for group in groups if group.lease is not None for waiver in group.lease.waived})
    named = [f"node {uid}" for uid in nodes]
    return f"it waits for the endpoint processes of {', '.join(named)}" if named else "its endpoint processes are about"
