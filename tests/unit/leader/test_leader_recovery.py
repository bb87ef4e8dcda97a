"""What a new leader does with a handoff that another leader began: each way out of the table, and its order."""

import asyncio
from dataclasses import replace

import pytest

from shardwright.errors import OutcomeUnknown, Transient
from shardwright.leader.recovery import Recoveries
from shardwright.model.codes import Code
from shardwright.model.database import GroupPhase, Role
from shardwright.model.ids import NodeUid
from shardwright.model.view import Delete
from testkit.builders import ClusterBuilder
from tests.unit.leader.leader_fakes import GROUP, NEW, OLD, World, intended, ready

FORWARD = [
    "node 1:release to 2",
    "1:end_clients",
    "1:attach",
    "1:end_pause",
    "1:unfence",
    "commit: SlotGroup, Shard, Move, Event",
]
UNDO = ["1:unfence", "node 1:release to 1", "commit: SlotGroup, Move"]


def world(builder: ClusterBuilder | None = None, *, held: bool = True) -> World:
    """A handoff with its intent on record, and its hold."""
    made = World((intended() if builder is None else builder).view)
    for node in made.nodes.values():
        for uid, seen in node.endpoints.items():
            node.endpoints[uid] = replace(seen, held_generation=2 if held else None)
    return made


def change(made: World, uid: object, **changes: object) -> None:
    server = made.servers[uid]  # type: ignore[index]
    server.seen = replace(server.seen, **changes)  # type: ignore[arg-type]


def recover(made: World) -> list[str]:
    asyncio.run(Recoveries(made.handoffs()).recover(GROUP))
    return made.commands()


def promoted(made: World) -> World:
    change(made, OLD, is_fenced=True)
    change(made, NEW, role=Role.PRIMARY, second_replication_id="replication-1:1", second_offset=1001)
    return made


def test_without_a_pending_handoff_nothing_is_asked() -> None:
    made = World(ready().view)
    assert recover(made) == made.steps == []


def test_both_sessions_are_opened_before_either_server_is_read() -> None:
    """Opening one ends those of earlier leaders: what is read then cannot change by a late command of theirs."""
    made = world()
    recover(made)
    for uid in (OLD, NEW):
        assert made.steps.index(f"{uid}:session") < made.steps.index(f"{uid}:info")


def test_a_writable_old_primary_gets_its_clients_back() -> None:
    made = world()
    assert recover(made) == UNDO
    assert made.view.groups[GROUP].handoff is None
    move = made.move
    assert ([r.code for r in move.reasons], move.attempts) == (["handoff_undone"], 1)


def test_a_fence_is_lifted_while_the_candidate_is_a_replica() -> None:
    made = world()
    change(made, OLD, is_fenced=True)
    assert recover(made) == UNDO
    assert not made.servers[OLD].seen.is_fenced


def test_a_promoted_candidate_gets_the_clients() -> None:
    made = promoted(world())
    assert recover(made) == FORWARD
    assert made.view.groups[GROUP].primary == NEW
    evidence = made.move.evidence
    assert evidence is not None
    assert (evidence.finished_by, evidence.replication_id_before) == ("recovery", "replication-1:1")


def test_an_old_primary_that_was_opened_by_hand_is_fenced_before_it_is_demoted() -> None:
    made = promoted(world(held=False))
    change(made, OLD, is_fenced=False)
    for node in made.nodes.values():
        for uid, seen in node.endpoints.items():
            node.endpoints[uid] = replace(seen, generation=2)
    assert recover(made) == ["1:fence", *FORWARD]


def test_a_demoted_old_primary_means_that_the_candidate_is_promoted() -> None:
    made = world()
    change(made, OLD, role=Role.REPLICA)
    assert recover(made) == ["2:promote", *FORWARD]


def test_the_candidate_takes_over_from_an_old_primary_that_has_ended() -> None:
    made = world(intended().with_dead_shard(OLD))
    assert recover(made) == ["2:promote", "node 1:release to 2", "commit: SlotGroup, Shard, Move, Event"]
    assert not [s for s in made.steps if s.startswith("1:")], "there is no server to ask"


def test_the_old_primary_serves_again_when_the_candidate_has_ended() -> None:
    made = world(intended().with_dead_shard(NEW))
    change(made, OLD, is_fenced=True)
    assert recover(made) == ["commit: SlotGroup, Shard, Event"]
    group = made.view.groups[GROUP]
    assert (group.primary, group.generation, group.phase) == (OLD, 3, GroupPhase.SERVING)


def test_a_candidate_that_was_started_again_has_ended() -> None:
    """It is a primary of its own, with what its files held."""
    builder = intended()
    again = builder.with_records(replace(builder.view.shards[NEW], incarnation=2)).with_healthy_shard(NEW)
    made = world(again.with_server(NEW, role=Role.PRIMARY, is_fenced=True))
    change(made, OLD, is_fenced=True)
    assert recover(made) == ["commit: SlotGroup, Shard, Event"]
    assert made.view.groups[GROUP].primary == OLD


@pytest.mark.parametrize(("generation", "last"), [(1, OLD), (2, NEW)], ids=["held", "released"])
def test_a_group_without_a_process_starts_over_from_the_copy_that_served_last(generation: int, last: int) -> None:
    made = world(intended().with_dead_shard(OLD).with_dead_shard(NEW))
    node = made.nodes[NodeUid(1)]
    node.endpoints = {uid: replace(seen, generation=generation) for uid, seen in node.endpoints.items()}
    assert recover(made) == ["commit: SlotGroup, Shard, Event"]
    group = made.view.groups[GROUP]
    assert (group.phase, group.primary, group.generation) == (GroupPhase.STARTING, last, 2)


def test_a_group_of_which_a_shard_has_no_record_starts_over() -> None:
    builder = intended()
    made = world(builder.with_writes(Delete(builder.view.shards[NEW])))
    assert recover(made) == ["commit: SlotGroup, Event"]
    assert made.view.groups[GROUP].phase is GroupPhase.STARTING


@pytest.mark.parametrize("silent", [OLD, NEW])
def test_a_silent_server_is_waited_for(silent: int) -> None:
    """An old primary may be writable again, and a candidate may have been promoted."""
    made = world()
    change(made, OLD, is_fenced=True)
    made.servers[silent].is_reachable = False  # type: ignore[index]
    with pytest.raises(Transient) as waits:
        recover(made)
    assert waits.value.code == "handoff_unclear"
    assert made.commands() == []
    assert made.view.groups[GROUP].handoff is not None


@pytest.mark.parametrize("silent", [OLD, NEW])
def test_a_server_whose_answer_is_lost_counts_as_silent(silent: int) -> None:
    made = world()
    change(made, OLD, is_fenced=True)
    made.fails[f"{silent}:info"] = OutcomeUnknown(Code.SERVER_NO_ANSWER, "no answer")
    with pytest.raises(Transient, match="does not answer"):
        recover(made)


def test_a_silent_endpoint_process_keeps_nothing_from_being_recovered() -> None:
    made = promoted(world())
    made.nodes[NodeUid(1)].answers = False
    assert recover(made) == [s for s in FORWARD if not s.startswith("node")]


def test_a_recovery_that_fails_in_the_middle_is_done_again_by_the_next_one() -> None:
    made = promoted(world())
    made.fails["commit: SlotGroup, Shard, Move, Event"] = OutcomeUnknown(Code.SERVER_NO_ANSWER, "no answer")
    with pytest.raises(OutcomeUnknown):
        recover(made)
    made.fails.clear()
    made.steps.clear()
    assert recover(made)[-1] == "commit: SlotGroup, Shard, Move, Event"
    assert made.view.groups[GROUP].primary == NEW
