"""The actions together with the product's own moves, in a world where every server does at once what is asked of it."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from shardwright.model.action import ActionName, ActionStatus
from shardwright.model.commands import Command, HandOff, PassEndpoint, SaveNow
from shardwright.model.database import Persistence, ShardWanted
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.move import MoveState
from shardwright.model.seen import EndpointSeen, EndpointState, ProcessSeen, ProcessState
from shardwright.moves.decide import decide_move
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.stepper import action_of, decide_once

N1 = NodeUid(1)


def world(builder: ClusterBuilder) -> ClusterBuilder:
    """Agents and servers: whatever is wanted is so, and is seen."""
    for shard in list(builder.view.shards.values()):
        if shard.wanted == ShardWanted.RUNNING:
            group = builder.view.groups[shard.group_uid]
            builder = builder.with_records(replace(shard, in_sync_generation=group.generation))
            seen = builder.view.servers.get(shard.uid)
            builder = builder.with_healthy_shard(shard.uid)
            saves = 0 if seen is None else seen.saves_since_start
            builder = builder.with_server(shard.uid, saves_since_start=saves, is_aof_on=True)
        else:
            is_deleted = shard.wanted == ShardWanted.GONE
            gone = ProcessSeen(shard.uid, shard.incarnation, ProcessState.GONE, files_are_deleted=is_deleted)
            builder = ClusterBuilder(replace(builder.view, processes={**builder.view.processes, shard.uid: gone}))
    return builder


def obey(builder: ClusterBuilder, command: Command) -> ClusterBuilder:
    match command:
        case HandOff():
            group = builder.view.groups[command.group_uid]
            return builder.with_records(replace(group, primary=command.to_shard, generation=group.generation + 1))
        case SaveNow():
            return builder.with_server(command.shard_uid, saves_since_start=1)
        case PassEndpoint():
            found = dict(builder.view.endpoint_processes)
            for node, state in ((command.from_node, EndpointState.ABSENT), (command.to_node, EndpointState.LISTENING)):
                others = [e for e in found[node].endpoints if e.endpoint_uid != command.endpoint_uid]
                found[node] = replace(found[node], endpoints=(*others, EndpointSeen(command.endpoint_uid, state)))
            return ClusterBuilder(replace(builder.view, endpoint_processes=found))
        case _:
            raise AssertionError(f"no move gives {command}")


def turn(builder: ClusterBuilder, uid: str, now: datetime) -> ClusterBuilder:
    builder = decide_once(world(builder), action_of(builder.view, uid), now=now)
    for move in builder.view.live_moves():
        decision = decide_move(builder.view.moves[move.uid], builder.view, now)
        builder = builder.with_writes(*decision.writes)
        for command in decision.commands:
            builder = obey(builder, command)
    return builder


def run(builder: ClusterBuilder, name: ActionName) -> ClusterBuilder:
    number = len(builder.view.actions) + 1
    uid = f"action-{number}"
    builder = builder.with_action(name, 1)
    for step in range(200):
        now = NOW + timedelta(hours=number, seconds=step)
        builder = turn(builder, uid, now)
        if action_of(builder.view, uid).status.is_terminal:
            break
    action = action_of(builder.view, uid)
    states = [(m.uid, m.state, m.reasons) for m in builder.view.live_moves()]
    assert action.status == ActionStatus.COMPLETED, (action, states)
    return builder


@pytest.fixture(params=list(Persistence))
def start(request: pytest.FixtureRequest) -> ClusterBuilder:
    builder = cluster(3, leader=2).with_database(on=((1, 2),), persistence=request.param)
    builder = builder.with_database(on=((2, 1),), persistence=request.param)
    builder = builder.with_database(on=((1,),), persistence=request.param)
    return builder.with_endpoints_seen()


def roles(builder: ClusterBuilder) -> list[tuple[str, bool]]:
    running = [s for s in builder.view.shards_on(N1) if s.wanted == ShardWanted.RUNNING]
    return sorted((s.group_uid, builder.view.is_primary(s)) for s in running)


def test_into_maintenance_and_back(start: ClusterBuilder) -> None:
    away = run(start, ActionName.MAINTENANCE_ON)
    assert roles(away) == []
    assert away.view.endpoints_on(N1) == []
    back = run(away, ActionName.MAINTENANCE_OFF)
    assert roles(back) == roles(start)
    assert [e.uid for e in back.view.endpoints_on(N1)] == ["1:1", "3:1"]


def test_remove(start: ClusterBuilder) -> None:
    gone = run(start, ActionName.REMOVE)
    assert N1 not in gone.view.nodes
    assert all(m.state == MoveState.DONE for m in gone.view.moves.values() if m.from_node == N1)
    assert sorted(s.group_uid for s in gone.view.shards.values()) == ["1:1", "1:1", "2:1", "2:1", "3:1"]


def test_remove_waits_for_persistence(start: ClusterBuilder) -> None:
    gone = run(start.with_policy(persistent_node_removal=True), ActionName.REMOVE)
    assert N1 not in gone.view.nodes


def test_step_down(start: ClusterBuilder) -> None:
    with_replica = start.with_database(on=((1, 3),))
    only = [s for s in with_replica.view.shards.values() if s.database_uid != 3]
    view = replace(
        with_replica.view,
        shards={s.uid: s for s in only},
        groups={uid: g for uid, g in with_replica.view.groups.items() if g.database_uid != 3},
        endpoints={uid: e for uid, e in with_replica.view.endpoints.items() if e.database_uid != 3},
    )
    down = run(ClusterBuilder(view).with_endpoints_seen(), ActionName.STEP_DOWN)
    assert {is_primary for _, is_primary in roles(down)} == {False}
    assert ShardUid(1) in down.view.shards
