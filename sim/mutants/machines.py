"""Mistakes about other machines: what is taken for the end of a process, or of a node."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from shardwright.leader import turn
from shardwright.leader.observe import Observer
from shardwright.leader.presence import Presence
from shardwright.model import liveness
from shardwright.model.decision import NOTHING
from shardwright.model.ids import NodeUid
from shardwright.model.liveness import Alive, Ended, Proof
from shardwright.model.seen import Health, ProcessState, Sighting, answers
from shardwright.model.view import ClusterView
from shardwright.reconcile import group, heirs
from shardwright.reconcile.copies import Copy
from sim.mutants.machine_situations import (
    a_firewall_that_refuses_the_leaders,
    a_machine_that_is_cut_off_with_its_daemon,
    a_machine_that_is_declared_off,
    a_machine_that_sleeps,
    a_machine_whose_daemon_alone_is_cut_off,
    a_primary_that_ends_behind_a_cut,
    a_record_of_an_older_boot_that_arrives_late,
    a_store_that_loses_most_leases,
)
from sim.mutants.registry import Patch, mutant_in

_SILENT = (Health.TIMEOUT, Health.UNREACHABLE)


@mutant_in(a_machine_whose_daemon_alone_is_cut_off)
def takes_an_absent_presence_for_the_end_of_the_node() -> Sequence[Patch]:
    right = ClusterView.liveness

    def judged(self: Any, shard: Any) -> Any:
        found = right(self, shard)
        is_gone = shard.node_uid not in self.daemons and not isinstance(found, Alive)
        return Ended(Proof.SEEN) if is_gone else found

    return [(ClusterView, "liveness", judged)]


@mutant_in(a_machine_that_is_cut_off_with_its_daemon)
def takes_a_node_that_is_away_for_ended() -> Sequence[Patch]:
    """Even with the hysteresis: neither the store, nor its agent, nor its server answers."""
    table = {
        facts: Proof.SEEN if not facts[1] and facts[2] in _SILENT and facts[0] is ProcessState.RUNNING else verdict
        for facts, verdict in liveness.TABLE.items()
    }
    return [(liveness, "TABLE", table)]


@mutant_in(a_machine_that_sleeps)
def takes_long_silence_for_an_end() -> Sequence[Patch]:
    table = {facts: Proof.SEEN if facts[2] in _SILENT else verdict for facts, verdict in liveness.TABLE.items()}
    return [(liveness, "TABLE", table)]


@mutant_in(a_primary_that_ends_behind_a_cut)
def takes_the_beginning_of_a_silence_for_the_time_of_the_end() -> Sequence[Patch]:
    """A replica that was cut off from a serving primary then seems to have lost its link by the primary's end."""
    right = heirs.lost_link_before

    def lost_link_before(copy: Copy, primary: Copy | None, limit: timedelta = heirs.LINK_LOST_AFTER) -> bool:
        if primary is not None:
            primary = replace(primary, shard=replace(primary.shard, ended_since=primary.shard.missing_since))
        return right(copy, primary, limit)

    return [
        (heirs, "lost_link_before", lost_link_before),
        (group, "lost_link_before", lost_link_before),
        (heirs, "_seen_to_end", lambda primary, now: None),
    ]


@mutant_in(a_firewall_that_refuses_the_leaders)
def takes_a_refusal_by_another_machine_for_an_end() -> Sequence[Patch]:
    table = {
        facts: Proof.PORT_CLOSED if facts[2] is Health.REFUSED else verdict for facts, verdict in liveness.TABLE.items()
    }
    right = liveness._STILL_TO_START - {Proof.PORT_CLOSED}
    return [(liveness, "TABLE", table), (liveness, "_STILL_TO_START", right)]


@mutant_in(a_record_of_an_older_boot_that_arrives_late)
def takes_the_boot_on_record_for_the_present_one() -> Sequence[Patch]:
    """A record says which boot wrote it, not when it arrived."""
    right = Observer.augment

    def augment(self: Any, view: Any) -> Any:
        found = right(self, view)
        sightings = dict(found.sightings)
        for uid, process in found.processes.items():
            shard, seen = found.shards.get(uid), found.servers.get(uid)
            daemon = None if shard is None else found.daemons.get(shard.node_uid)
            is_another = daemon is not None and process.identity is not None and daemon.boot_id != process.identity.boot_id
            if is_another and (seen is None or not answers(seen)):
                sightings[uid] = Sighting.REBOOTED
        return found.changed(sightings=sightings)

    return [(Observer, "augment", augment)]


@mutant_in(a_store_that_loses_most_leases)
def knows_no_storm() -> Sequence[Patch]:
    return [(Presence, "has_storm", lambda self, now: False)]


@mutant_in(a_machine_that_is_declared_off)
def believes_for_ever_that_a_machine_is_off() -> Sequence[Patch]:
    def is_off(self: ClusterView, uid: NodeUid) -> bool:
        return self.nodes[uid].declared_off is not None and self.is_away(uid)

    return [(turn, "decide_declarations", lambda view, now: NOTHING), (ClusterView, "is_off", is_off)]


@mutant_in(a_machine_that_is_declared_off)
def takes_the_word_for_the_time_of_the_end() -> Sequence[Patch]:
    """Every replica has then lost its link long before."""
    return [(heirs, "_known_to_end", lambda primary: primary.shard.ended_since)]
