"""Which servers the leader asks."""

from dataclasses import replace
from typing import Any

from shardwright.clock import SystemClock
from shardwright.leader.observe import Observer, _nodes_of_endpoints, is_unreported, is_worth_asking
from shardwright.model.action import Move, MoveKind, MoveState
from shardwright.model.database import ShardWanted
from shardwright.model.ids import DatabaseUid, EndpointUid, MoveUid, NodeUid, ShardUid
from shardwright.model.liveness import Ended, Proof
from shardwright.model.seen import ProcessIdentity, ProcessState, Sighting
from shardwright.testing.builders import NOW, cluster

SHARD = ShardUid(1)


def test_a_running_server_is_asked_whether_its_daemon_lives_or_not() -> None:
    builder = cluster(nodes=3).with_database(on=((1, 2),))
    for one in (builder, builder.without_daemon(1)):
        assert is_worth_asking(one.view, one.view.shards[SHARD])
        assert not is_unreported(one.view, one.view.shards[SHARD])


def test_what_an_agent_reported_as_ended_is_not_asked() -> None:
    for state in (ProcessState.GONE, ProcessState.ABSENT, ProcessState.FAILED):
        view = cluster(nodes=3).with_database(on=((1, 2),)).with_process(1, state).without_daemon(1).view
        assert not is_worth_asking(view, view.shards[SHARD])


def test_an_incarnation_that_no_agent_will_report_is_asked_also_when_it_is_unwanted() -> None:
    """A node that dies with all its processes: its shards got new incarnations that nobody started."""
    builder = cluster(nodes=3).with_database(on=((1, 2),))
    shard = replace(builder.view.shards[SHARD], incarnation=2, wanted=ShardWanted.GONE)
    dead = replace(builder.with_records(shard).without_daemon(1).view, processes={})
    assert is_unreported(dead, shard)
    assert is_worth_asking(dead, shard)
    alive = replace(builder.with_records(shard).view, processes={})
    assert not is_worth_asking(alive, shard)


class Processes:
    """A machine whose processes all run, until one is ended."""

    def __init__(self) -> None:
        self.have_ended = False

    def is_local(self, identity: ProcessIdentity) -> bool:
        return True

    def is_running(self, identity: ProcessIdentity) -> bool:
        return not self.have_ended

    def cpu_seconds(self, identity: ProcessIdentity) -> float | None:
        return None


def observer(machine: Processes) -> Observer:
    nobody: Any = None
    return Observer(nobody, nobody, machine=machine, clock=SystemClock(), wake=lambda: None)


def test_a_view_is_made_anew_only_when_the_records_have_changed() -> None:
    looking = observer(Processes())
    view = cluster(nodes=3).view
    assert looking.augment(view) is looking.augment(view)
    assert looking.augment(replace(view, revision=view.revision + 1)).revision == view.revision + 1


def test_the_process_of_a_silent_server_is_looked_at_each_time() -> None:
    """It may end at any moment, and nobody else will say so."""
    machine = Processes()
    looking = observer(machine)
    view = cluster(nodes=3).with_database(on=((1, 2),)).view
    assert looking.augment(view).sightings[SHARD] is Sighting.RUNS
    machine.have_ended = True
    now = looking.augment(view)
    assert now.liveness(now.shards[SHARD]) == Ended(Proof.SEEN)


def test_only_the_endpoint_processes_that_something_waits_for_are_asked_often() -> None:
    """All of them were, in any cluster, for as long as one copy was being synced."""
    builder = cluster(nodes=5).with_database(on=((1, 2),), endpoint_on=3).with_database(on=((4, 5),))
    assert _nodes_of_endpoints(builder.view, frozenset()) == frozenset()
    assert _nodes_of_endpoints(builder.view, frozenset({SHARD})) == {3}
    rebind = Move(
        MoveUid("a-1"), None, MoveKind.REBIND, MoveState.HANDOFF, DatabaseUid(2), NOW,
        endpoint_uid=EndpointUid("2:1"), from_node=NodeUid(4), to_node=NodeUid(2),
    )  # fmt: skip
    assert _nodes_of_endpoints(builder.with_move(rebind).view, frozenset({SHARD})) == {2, 3, 4}
