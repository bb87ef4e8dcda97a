"""Mistakes with leases: who may serve without a proof, how long a proof holds, and how long the heir waits."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shardwright.endpoint.gate import Gate
from shardwright.endpoint.lease import LeaseStanding
from shardwright.endpoint.protocol import LeaseTerms
from shardwright.leader import fitting, turn
from shardwright.leader.fitting import to_tell
from shardwright.model.commands import TellLease
from shardwright.model.decision import Decision
from shardwright.model.lease import Lease
from shardwright.reconcile import lease as lease_module
from shardwright.reconcile import parking, start
from shardwright.reconcile.copies import merit
from sim.lease import Prover
from sim.mutants.lease_situations import (
    a_default_primary_that_is_cut_off,
    a_default_primary_that_sleeps_while_its_successor_restarts_empty,
    a_default_primary_that_sleeps_with_a_write_in_flight,
    a_default_primary_whose_last_replica_is_parked_late,
    a_leader_that_dies_when_a_process_is_told_to_serve_without_proofs,
    a_process_that_misses_the_return_of_the_proofs,
    a_process_that_sleeps_with_an_answer_on_its_way,
    a_word_that_no_proof_is_needed_and_that_arrives_late,
)
from sim.mutants.registry import Patch, mutant_in


@mutant_in(a_default_primary_whose_last_replica_is_parked_late)
def promotes_before_the_last_proof_has_ended() -> Sequence[Patch]:
    return [(parking, "_wait_for_proofs", lambda *_: None)]


@mutant_in(a_process_that_misses_the_return_of_the_proofs)
def ignores_a_process_that_may_serve_without_a_proof() -> Sequence[Patch]:
    return [(Lease, "is_in_force", property(lambda lease: lease.is_needed))]


@mutant_in(a_leader_that_dies_when_a_process_is_told_to_serve_without_proofs)
def tells_that_no_proof_is_needed_before_it_is_on_record() -> Sequence[Patch]:
    """It saves the time of the commit: clients wait less."""
    right = lease_module.decide_lease

    def decide(group: Any, view: Any, now: Any) -> Decision:
        decision = right(group, view, now)
        after = decision.writes[0].record.lease if decision.writes else None  # type: ignore[union-attr]
        is_given_up = group.lease is not None and group.lease.is_needed and after is not None and not after.is_needed
        if not is_given_up or all(c.version < after.version for c in decision.commands):  # type: ignore[union-attr]
            return decision
        return replace(decision, writes=())

    def tell(command: TellLease, view: Any) -> LeaseTerms | None:
        found = to_tell(command, view)
        if found is not None:
            return found
        endpoint = view.endpoints[command.endpoint_uid]
        (group,) = view.groups_of(endpoint.database_uid)
        instances = tuple(p.instance for p in view.endpoint_processes.values() if p.instance)
        return LeaseTerms(command.version, group.generation, False, instances)

    return [(turn, "decide_lease", decide), (fitting, "to_tell", tell)]


@mutant_in(a_word_that_no_proof_is_needed_and_that_arrives_late)
def applies_an_older_lease() -> Sequence[Patch]:
    right = LeaseStanding.apply

    def apply_any(self: LeaseStanding, terms: LeaseTerms) -> bool:
        self.terms = None
        return right(self, terms)

    return [(LeaseStanding, "apply", apply_any)]


@mutant_in(a_process_that_sleeps_with_an_answer_on_its_way)
def counts_a_proof_from_its_answer() -> Sequence[Patch]:
    right = Gate.prove

    def prove(self: Gate, target: Any, asked_at: float, now: float) -> None:
        right(self, target, now, now)

    return [(Gate, "prove", prove)]


@mutant_in(a_default_primary_that_is_cut_off)
def asks_without_a_mark() -> Sequence[Patch]:
    """The server counts the replicas that it believes to have."""
    return [(Prover, "has_mark", False)]


@mutant_in(a_default_primary_that_sleeps_with_a_write_in_flight)
def passes_replies_on_after_the_proof_has_ended() -> Sequence[Patch]:
    return [(Gate, "is_outdated", lambda *_: False)]


@mutant_in(a_default_primary_that_is_cut_off)
def waits_for_a_proof_of_the_end_in_default_mode() -> Sequence[Patch]:
    return [(Lease, "is_in_force", property(lambda lease: False))]


@mutant_in(a_default_primary_that_sleeps_while_its_successor_restarts_empty)
def prefers_an_older_mark_to_the_latest_history() -> Sequence[Patch]:
    return [(start, "best_copy", lambda copies, group: max(copies, key=merit))]
