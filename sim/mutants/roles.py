"""Mistakes about which copy is primary and where clients are directed."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from shardwright.endpoint import gate
from shardwright.model import liveness
from shardwright.model.database import GroupPhase
from shardwright.model.decision import Decision
from shardwright.model.liveness import Proof
from shardwright.model.seen import Health, ProcessIdentity, Sighting
from shardwright.model.view import Put
from shardwright.nodes.protocol import ProcessLook
from shardwright.reconcile import group as groups
from shardwright.reconcile import heirs, repair, start
from shardwright.reconcile.copies import Copy
from shardwright.reconcile.restarts import decide_restarts
from sim.mutants.registry import Patch, mutant, mutant_in
from sim.mutants.situations import (
    a_node_that_dies_long_after_its_links_and_comes_back,
    a_primary_that_dies_long_after_its_link,
    an_only_copy_that_dies_while_its_new_one_is_empty,
    an_only_copy_whose_new_one_dies_before_it_has_a_file,
    primaries_that_die_during_a_move,
    primaries_that_freeze_without_a_replica,
    separate_machines_of_which_one_is_cut_off,
)
from sim.nodes import SimNodeLink


@mutant
def restarts_an_empty_primary_in_place() -> Sequence[Patch]:
    right = groups._replace_primary

    def replace_primary(group: Any, database: Any, primary: Any, copies: Any, view: Any, now: datetime) -> Decision:
        if primary is None:
            return right(group, database, primary, copies, view, now)
        shard = primary.shard
        return Decision(writes=(Put(replace(shard, incarnation=shard.incarnation + 1)),))

    return [(groups, "_replace_primary", replace_primary)]


@mutant_in(an_only_copy_whose_new_one_dies_before_it_has_a_file)
def leaves_what_a_move_has_kept() -> Sequence[Patch]:
    return [(start, "set_aside", lambda group, database, view: [])]


@mutant_in(an_only_copy_that_dies_while_its_new_one_is_empty)
def lets_an_empty_copy_lead() -> Sequence[Patch]:
    def choose(group: Any, copies: Any, silent: Any) -> Any:
        loaded = [c for c in copies if c.answers]
        return (loaded[0].shard, ()) if loaded else (None, ())

    return [(start, "choose_primary", choose)]


@mutant_in(a_primary_that_dies_long_after_its_link)
def promotes_a_replica_out_of_sync() -> Sequence[Patch]:
    right = groups._replace_primary

    def replace_primary(group: Any, database: Any, primary: Any, copies: Any, view: Any, now: datetime) -> Decision:
        marked = [replace(c, shard=replace(c.shard, in_sync_generation=group.generation)) for c in copies]
        return right(group, database, primary, marked, view, now)

    return [(groups, "_replace_primary", replace_primary)]


@mutant_in(a_node_that_dies_long_after_its_links_and_comes_back)
def takes_any_copy_when_a_node_is_dead() -> Sequence[Patch]:
    def found(group: Any, primary: Any, copies: Any) -> Any:
        return [c for c in copies if c is not primary and c.answers]

    return [(groups, "unnoted_heirs", found), (heirs, "unnoted_heirs", found)]


@mutant_in(a_node_that_dies_long_after_its_links_and_comes_back)
def forgets_that_a_dead_node_keeps_files() -> Sequence[Patch]:
    return [(start, "_is_hollow", lambda copy, view: copy.shard.node_uid not in view.daemons and not copy.answers)]


@mutant
def replaces_a_primary_that_is_only_silent() -> Sequence[Patch]:
    right = Copy.has_ended

    def has_ended(self: Any) -> bool:
        is_silent = self.seen is not None and self.seen.health is Health.TIMEOUT
        return bool(right.__get__(self)) or is_silent

    return [(Copy, "has_ended", property(has_ended))]


@mutant_in(primaries_that_freeze_without_a_replica)
def ends_a_frozen_server_that_is_the_only_copy() -> Sequence[Patch]:
    return [(groups, "is_dispensable", lambda shard, view, *, since: True)]


@mutant_in(primaries_that_die_during_a_move)
def notes_a_loss_and_takes_it_back_without_end() -> Sequence[Patch]:
    right = repair.is_sound

    def is_sound(view: Any, group: Any, shard: Any) -> bool:
        seen = view.servers.get(shard.uid)
        was_serving = seen is not None and seen.health is Health.OK and group.primary == shard.uid
        return was_serving or right(view, group, shard)

    return [(repair, "is_sound", is_sound)]


@mutant
def ignores_the_generation_at_endpoints() -> Sequence[Patch]:
    def release(self: Any, target: Any) -> Any:
        return gate.Change.NONE if self.hold is not None else self._move(target)

    def serve(self: Any, spec: Any) -> Any:
        self.spec = spec
        return gate.Change.NONE if spec.target is None or self.target is not None else self._move(spec.target)

    return [(gate.Gate, "release", release), (gate.Gate, "serve", serve)]


@mutant
def opens_a_group_before_its_copies_are_compared() -> Sequence[Patch]:
    def decide_start(group: Any, database: Any, copies: Any, view: Any, now: datetime) -> Decision:
        answering = [c for c in copies if c.answers]
        if not answering:
            return _restart_all(database, copies, view, now)
        chosen = answering[-1].shard
        opened = replace(group, phase=GroupPhase.SERVING, primary=chosen.uid, generation=group.generation + 1)
        return Decision(writes=(Put(opened), Put(replace(chosen, in_sync_generation=opened.generation))))

    return [(groups, "decide_start", decide_start)]


def _restart_all(database: Any, copies: Any, view: Any, now: datetime) -> Decision:
    writes, wake_at = decide_restarts([c for c in copies if c.has_ended], view, now)
    return Decision(writes=writes, wake_at=wake_at)


@mutant_in(separate_machines_of_which_one_is_cut_off)
def judges_a_process_of_another_machine_by_its_own_table() -> Sequence[Patch]:
    async def look(self: SimNodeLink, process: ProcessIdentity) -> ProcessLook:
        return ProcessLook(Sighting.RUNS if self.nodes.machine.has_here(process) else Sighting.ENDED)

    return [(SimNodeLink, "look", look)]


@mutant_in(separate_machines_of_which_one_is_cut_off)
def treats_unreachable_as_ended() -> Sequence[Patch]:
    table = {facts: Proof.SEEN if facts[2] is Health.UNREACHABLE else verdict for facts, verdict in liveness.TABLE.items()}
    return [(liveness, "TABLE", table)]
