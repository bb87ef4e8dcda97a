"""When a silent machine is to be switched off: only if that brings a database back, and nothing on it is heard."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.model.cluster import DeclaredOff
from shardwright.model.commands import Command, SwitchOff
from shardwright.model.ids import EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.parking import Parked, Parking
from shardwright.model.seen import EndpointProcessSeen, EndpointSeen, EndpointState, Health
from shardwright.reconcile.group import decide_group
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP, PRIMARY, REPLICA, ONE = GroupUid("1:1"), ShardUid(1), ShardUid(2), NodeUid(1)
SILENT_FOR = timedelta(seconds=5)


def silent(*, strict: bool = False, on: tuple[int, ...] = (1, 2)) -> ClusterBuilder:
    """The primary's machine has been out of everyone's reach for five seconds."""
    builder = cluster(nodes=4, leader=4).with_database(on=(on,), is_strict=strict, is_strict_everywhere=strict)
    builder = hidden(builder, int(PRIMARY)).without_daemon(1)
    asked = EndpointSeen(EndpointUid("1:1"), EndpointState.LISTENING, server_silent_s=4.0)
    process = EndpointProcessSeen(ONE, NOW, answers=False)
    other = EndpointProcessSeen(NodeUid(2), NOW, answers=True, endpoints=(asked,))
    builder = ClusterBuilder(builder.view.changed(endpoint_processes={ONE: process, NodeUid(2): other}))
    return builder.with_server(REPLICA, is_link_up=False, link_down_s=5)


def hidden(builder: ClusterBuilder, shard: int) -> ClusterBuilder:
    return builder.with_server(shard, health=Health.TIMEOUT, unanswered_since=NOW - SILENT_FOR)


def commands(builder: ClusterBuilder) -> list[Command]:
    decided = decide_group(builder.view.groups[GROUP], builder.view, NOW).commands
    return [command for command in decided if isinstance(command, SwitchOff)]


def test_the_machine_of_a_silent_primary_is_switched_off() -> None:
    assert commands(silent()) == [SwitchOff(ONE)]


@pytest.mark.parametrize(
    ("builder", "why"),
    [
        (silent(strict=True), "a strict database needs no proof"),
        (silent().with_daemon(1), "its daemon holds its lease"),
        (silent().with_server(PRIMARY, unanswered_since=NOW - timedelta(seconds=2)), "it has just fallen silent"),
        (silent().with_server(PRIMARY, machine_heard_since=NOW), "its machine answers"),
        (silent().with_server(REPLICA, link_down_s=1), "its replica has just heard of it"),
        (silent().with_server(REPLICA, replication_id="another"), "no other copy has its data"),
        (silent().with_node_changed(1, declared_off=DeclaredOff(NOW, "admin@example.com")), "it is declared off"),
    ],
)
def test_the_machine_is_left_alone(builder: ClusterBuilder, why: str) -> None:
    assert commands(builder) == [], why


def test_a_machine_on_which_anything_answers_is_left_alone() -> None:
    other = silent().with_database(on=((1, 3),))
    assert commands(hidden(other, 3)) == [SwitchOff(ONE)]
    assert commands(other) == [], "the server of another database answers"
    heard = replace(silent().view.endpoint_processes[ONE], answers=True)
    processes = {**silent().view.endpoint_processes, ONE: heard}
    assert commands(ClusterBuilder(silent().view.changed(endpoint_processes=processes))) == []


def parking(*, parked: tuple[int, ...], silent_copy: bool = True) -> ClusterBuilder:
    """A strict database with copies on nodes 1, 2 and 3 replaces its primary; node 3 is silent too."""
    builder = silent(strict=True, on=(1, 2, 3))
    done = tuple(Parked(ShardUid(uid), 1, "replication-1:1", 1000) for uid in parked)
    builder = builder.with_records(replace(builder.view.groups[GROUP], parking=Parking(PRIMARY, 1, NOW, done)))
    return hidden(builder, 3).without_daemon(3) if silent_copy else builder


def test_the_machine_of_a_copy_that_may_still_confirm_writes_is_switched_off() -> None:
    assert commands(parking(parked=(2,))) == [SwitchOff(NodeUid(3))]
    assert commands(parking(parked=(2, 3))) == []
    assert commands(parking(parked=(2,), silent_copy=False)) == []
