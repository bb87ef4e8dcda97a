"""Small named scenarios of nodes that never return, and of primaries that die just after their handoff."""

from dataclasses import replace
from datetime import datetime

import pytest

from shardwright.leader import loop as leader_loop
from shardwright.model.decision import Decision
from shardwright.model.view import ClusterView
from sim.checker import Violation
from sim.daemon import SimDaemon
from sim.mutants import RIGHT
from sim.mutants.registry import planted
from tests.sim.sim_scenarios import at_point, cluster, ended, first_relocation, lead_from, primary_node, run_until

pytestmark = pytest.mark.usefixtures("product_log")


def test_a_creation_on_a_dead_node_is_repeated_on_the_others() -> None:
    """It waited for that node, which never returned."""
    simulation = cluster(nodes=4)
    simulation.operator.create(60, replication=True, persistence="aof")
    placed: list[int] = []
    while not placed:
        simulation.run_for(0.01)
        shards = simulation.world.checker.tables["shards"].values()
        placed = [s["node_uid"] for s in shards if s["database_uid"] == 2]
    simulation.lose_node(placed[0])
    simulation.run_for(60.0)
    database = simulation.world.checker.database(2)
    assert database is not None
    assert database["status"] == "active"
    simulation.rest()
    simulation.end()


def test_a_deletion_does_not_wait_for_a_dead_node() -> None:
    simulation = cluster()
    simulation.lose_node(3 if primary_node(simulation) != 3 else 2)
    simulation.operator.delete(1)
    simulation.run_for(30.0)
    assert simulation.world.checker.database(1) is None
    simulation.rest()
    simulation.end()


def test_a_copy_on_a_node_that_is_lost_for_good_is_rebuilt_and_the_node_removed() -> None:
    simulation = cluster(nodes=4)
    policy = simulation.world.checker.tables["policy"]["policy"]
    lost = primary_node(simulation)
    simulation.lose_node(lost)
    simulation.run_for(policy["slave_ha_grace_period_s"] + 60.0)
    shards = simulation.world.checker.tables["shards"]
    copies = [s["node_uid"] for s in shards.values() if s["wanted"] == "running"]
    assert len(copies) == 2
    assert lost not in copies
    simulation.operator.action(lost, "remove")
    simulation.run_for(30.0)
    assert ended(simulation) == ["remove completed"]
    assert len(shards) == 2
    simulation.rest()
    simulation.end()


def test_a_primary_that_dies_with_its_node_and_the_leader_just_after_its_handoff_has_an_heir() -> None:
    """The old primary had not been observed as a follower yet: the group waited for a node that never returned."""
    simulation = cluster(persistence="disabled")
    old = primary_node(simulation)

    def strike(daemon: SimDaemon) -> None:
        daemon.process.kill()
        simulation.world.loop.at(20.0, simulation.restart_daemon, daemon.node.uid)
        simulation.world.loop.at(0.1, simulation.lose_node, primary_node(simulation))

    at_point(simulation, "handoff:commit:after", strike)
    simulation.operator.action(old, "enslave_node")
    simulation.run_for(60.0)
    assert primary_node(simulation) == old
    simulation.rest()
    simulation.end()


def test_the_only_copy_dies_with_its_node_when_the_new_one_has_just_received_everything() -> None:
    """The move waited and could not be cancelled, and nothing else was possible with the database."""
    simulation = cluster(replication=False, persistence="disabled")
    source = primary_node(simulation)
    simulation.operator.action(source, "maintenance_on")
    run_until(simulation, lambda: any(s.is_link_up for s in simulation.world.servers_of("1:1")))
    assert first_relocation(simulation)["state"] == "syncing"
    simulation.lose_node(source)
    simulation.run_for(60.0)
    assert ended(simulation) == ["maintenance_on completed"]
    simulation.rest()
    simulation.end()


def test_a_node_that_dies_while_its_old_copies_are_ended_delays_nothing() -> None:
    """Servers that were to end were no longer observed: the action waited for one, and the endpoint stayed in place."""
    simulation = cluster(nodes=4)
    world = simulation.world
    source = primary_node(simulation)
    simulation.operator.action(source, "maintenance_on")
    while not any(m["state"] == "cleaning" for m in world.checker.tables["moves"].values()):
        simulation.run_for(0.005)
    daemon = world.nodes[source].daemon
    assert daemon is not None
    daemon.process.kill()
    simulation.run_for(15.0)
    assert any(s.node_uid == source and s.is_alive for s in world.all_servers)
    simulation.lose_node(source)
    simulation.run_for(60.0)
    assert ended(simulation) == ["maintenance_on completed"]
    simulation.rest()
    simulation.end()


def test_leadership_is_yielded_even_while_the_store_does_not_answer() -> None:
    simulation = cluster()
    world = simulation.world
    leader = world.leader()
    assert leader is not None
    pairs = {(leader.node.uid, 0), (0, leader.node.uid)}
    world.network.cuts |= pairs
    world.loop.start(leader.process, leader.candidate.yield_leadership(), "yield")
    simulation.run_for(2.0)
    assert leader.leader is None
    world.network.cuts -= pairs
    simulation.run_for(15.0)
    assert world.leader() is not None
    simulation.rest()
    simulation.end()


def test_a_new_primary_that_dies_just_after_its_handoff_loses_nothing() -> None:
    """It returned empty, but marked as in sync. A third copy, on a lost node, was awaited; meanwhile the old copy, the only
    one with data, was ended."""
    simulation = cluster(persistence="snapshot", nodes=5)
    world = simulation.world
    lost = primary_node(simulation)
    kept = next(s for s in world.servers_of("1:1") if s.node_uid == lost).position
    simulation.lose_node(lost)
    simulation.run_for(30.0)
    source = primary_node(simulation)

    def strike(daemon: SimDaemon) -> None:
        max(world.servers_of("1:1"), key=lambda s: s.shard_uid).die(planned=False)

    at_point(simulation, "handoff:commit:before", strike)
    simulation.operator.action(source, "maintenance_on")
    simulation.run_for(60.0)
    assert any(s.position.holds(kept) for s in world.servers_of("1:1"))
    simulation.rest()
    simulation.end()


def test_a_new_primary_that_dies_before_it_has_a_file_gives_way_to_the_kept_files() -> None:
    """The old copy, the only other one, had left; its files were kept, but it was not started again."""
    simulation = cluster(replication=False, persistence="snapshot")
    world = simulation.world
    simulation.operator.action(primary_node(simulation), "maintenance_on")
    shards = world.checker.tables["shards"]
    run_until(simulation, lambda: any(s["wanted"] == "stopped" for s in shards.values()))
    left, new = sorted(world.servers_of("1:1"), key=lambda s: s.shard_uid)
    run_until(simulation, lambda: not left.is_alive)
    kept = left.comes_back
    assert kept is not None
    assert new.comes_back is None or not new.comes_back.holds(kept)
    new.die(planned=False)
    simulation.run_for(60.0)
    assert ended(simulation) == ["maintenance_on completed"]
    assert all(s.position.holds(kept) for s in world.servers_of("1:1") if s.is_alive)
    simulation.rest()
    simulation.end()


def test_the_replica_that_has_received_most_takes_over_from_an_unobserved_primary() -> None:
    """The leader's node, with a replica that was recorded as in sync, was cut off from the primary, which a new, unobserved
    copy followed. The old replica took over and lacked the writes of that time."""
    simulation = cluster()
    world = simulation.world
    source = primary_node(simulation)
    primary, cut_off = sorted(world.servers_of("1:1"), key=lambda s: s.node_uid != source)
    lead_from(simulation, cut_off.node_uid)
    pairs = {(source, cut_off.node_uid), (cut_off.node_uid, source)}
    world.network.cuts |= pairs
    simulation.operator.action(cut_off.node_uid, "maintenance_on")
    simulation.run_for(12.0)
    (new,) = [s for s in world.servers_of("1:1") if s not in (primary, cut_off)]
    kept = primary.position
    assert new.position.holds(kept)
    assert not cut_off.position.holds(kept)
    primary.die(planned=False)
    world.network.cuts -= pairs
    simulation.run_for(5.0)
    assert primary_node(simulation) == new.node_uid
    simulation.rest()
    simulation.end()


def test_a_group_with_a_lost_primary_continues_with_the_copy_that_an_operator_chose() -> None:
    """Both servers ended at once, and one node never returns: the other copy was loaded, and the group waited
    indefinitely."""
    simulation = cluster()
    world = simulation.world
    lost = primary_node(simulation)
    (replica,) = [s for s in world.servers_of("1:1") if s.node_uid != lost]
    lead_from(simulation, replica.node_uid)
    replica.die(planned=False)
    simulation.lose_node(lost)
    simulation.operator.action(lost, "remove")
    groups = world.checker.tables["groups"]
    run_until(simulation, lambda: bool(groups["groups/1:1"]["waits_for"]))
    simulation.run_for(30.0)
    assert ended(simulation) == ["remove running"]
    (reason,) = groups["groups/1:1"]["waits_for"]
    assert (reason["code"], reason["node_uid"]) == ("copy_out_of_reach", lost)
    leader = world.leader()
    assert leader is not None
    leader.process.kill()
    simulation.operator.start(1, replica.shard_uid)
    world.loop.at(2.0, simulation.restart_daemon, leader.node.uid)
    simulation.run_for(60.0)
    assert groups["groups/1:1"]["primary"] == replica.shard_uid
    assert not groups["groups/1:1"]["waits_for"]
    assert ended(simulation) == ["remove completed"]
    simulation.rest()
    simulation.end()


def test_the_groups_of_a_dead_node_take_over_in_a_few_transactions() -> None:
    """Each failover was a separate round trip to the store."""
    simulation = cluster(nodes=3)
    world = simulation.world
    for _ in range(8):
        simulation.operator.create(10, replication=True, persistence="disabled")
        simulation.run_for(3.0)
    groups = world.checker.tables["groups"]
    shards = world.checker.tables["shards"]
    node_of = {uid: shards[f"shards/{g['primary']:08d}"]["node_uid"] for uid, g in groups.items()}
    dead = max(set(node_of.values()), key=list(node_of.values()).count)
    led = [uid for uid, node in node_of.items() if node == dead]
    assert len(led) >= 4
    commits: list[int] = []

    def committed(changes: object) -> None:
        taken_over = sum(1 for uid in led if groups[uid]["primary"] and node_now(uid) != dead)
        if not commits or commits[-1] != taken_over:
            commits.append(taken_over)

    def node_now(uid: str) -> int:
        return int(shards[f"shards/{groups[uid]['primary']:08d}"]["node_uid"])

    world.store.on_batch.append(committed)
    simulation.lose_node(dead)
    simulation.run_for(60.0)
    assert commits[-1] == len(led), commits
    assert len(commits) - 1 <= len(led) // 2, f"groups that had taken over, after each transaction: {commits}"
    simulation.rest()
    simulation.end()


def test_a_failing_decision_does_not_prevent_other_writes() -> None:
    """One decider has a defect: earlier decisions are committed in the next turn, each one separately."""
    failures: list[datetime] = []

    def fails(view: ClusterView, now: datetime) -> Decision:
        failures.append(now)
        raise AssertionError("planted")

    simulation = cluster(nodes=3)
    node = primary_node(simulation)
    deciders = (*leader_loop.DECIDERS, lambda view: [fails])
    with planted(replace(RIGHT, patches=lambda: [(leader_loop, "DECIDERS", deciders)])):
        simulation.kill_node(node)
        simulation.world.loop.run_until(simulation.world.loop.now + 60.0)
        assert failures
        assert primary_node(simulation) != node
        with pytest.raises(Violation, match="planted"):
            simulation.check()
    simulation.end()


def test_an_end_on_record_by_a_clock_that_was_ahead_delays_no_failover_by_an_hour() -> None:
    """No replica was observed after that time, so the failover once waited for it."""
    simulation = cluster()
    world = simulation.world
    primary, replica = sorted(world.servers_of("1:1"), key=lambda server: server.node_uid != primary_node(simulation))
    ahead = next(node for uid, node in world.nodes.items() if uid not in (primary.node_uid, replica.node_uid))
    ahead.skew_s = 3600.0
    assert ahead.daemon is not None
    ahead.daemon.process.kill()  # a daemon that runs does not follow a jump of the clock
    simulation.restart_daemon(ahead.uid)
    lead_from(simulation, ahead.uid)
    leader = world.leader()
    assert leader is not None
    replica.process.freeze()  # the leader notes the primary's end, and waits
    primary.die(planned=False)
    record = f"shards/{primary.shard_uid:08d}"
    run_until(simulation, lambda: world.checker.tables["shards"][record]["ended_since"] is not None)
    leader.process.kill()
    ahead.skew_s = 0.0
    replica.process.thaw(world.loop)
    simulation.run_for(30.0)
    assert world.checker.tables["groups"]["groups/1:1"]["primary"] == replica.shard_uid
    simulation.rest()
    simulation.end()
