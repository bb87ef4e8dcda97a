"""Mistakes in the rebuild of a strict database's only replica: what counts as its loss, and when."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from shardwright.reconcile import reach, repair
from sim.mutants.registry import Patch, mutant_in
from sim.mutants.repair_situations import (
    a_strict_replica_that_only_the_leader_does_not_reach,
    a_strict_replica_whose_machine_dies,
    a_strict_replica_whose_machine_is_paused,
)


@mutant_in(a_strict_replica_whose_machine_dies)
def waits_for_the_lease_of_a_replicas_daemon() -> Sequence[Patch]:
    return [(repair, "is_unheard", lambda view, shard, now: False)]


@mutant_in(a_strict_replica_that_only_the_leader_does_not_reach)
def does_not_ask_the_primary_for_its_replica() -> Sequence[Patch]:
    right = reach._serving_primary

    def serving_primary(view: Any, replica: Any) -> Any:
        seen = right(view, replica)
        return None if seen is None else replace(seen, replicas=())

    return [(reach, "_serving_primary", serving_primary)]


@mutant_in(a_strict_replica_whose_machine_is_paused)
def takes_a_short_pause_for_a_loss() -> Sequence[Patch]:
    """As short as the time after which a replica is said to be silent."""
    second = timedelta(seconds=1)
    return [(reach, "UNHEARD_AFTER", 2 * second), (reach, "CUT_OFF_AFTER", second), (repair, "STRICT_GRACE_S", 1)]
