"""Small named scenarios: each shows a mistake that a seed once found, or a trap that must stay closed."""

import pytest

from shardwright.testing.sim.daemon import SimDaemon
from shardwright.testing.sim.simulation import Simulation, quiet

pytestmark = pytest.mark.usefixtures("product_log")


def cluster(*, replication: bool = True, persistence: str = "aof") -> Simulation:
    """Three nodes with one database that is written to."""
    quiet()
    simulation = Simulation(3, nodes=3)
    simulation.run_for(10.0)
    simulation.operator.create(60, replication=replication, persistence=persistence)
    simulation.run_for(10.0)
    simulation.world.writers.calm_s = 0.1
    return simulation


def primary_node(simulation: Simulation) -> int:
    tables = simulation.world.checker.tables
    primary = tables["groups"]["groups/1:1"]["primary"]
    return int(tables["shards"][f"shards/{primary:08d}"]["node_uid"])


def at_point(simulation: Simulation, point: str, do: object) -> None:
    """Call ``do(daemon)`` when a leader reaches the point for the first time."""

    def reached(daemon: SimDaemon | None, name: str) -> None:
        if name == point and daemon is not None:
            simulation.world.on_point.remove(reached)
            assert callable(do)
            do(daemon)

    simulation.world.on_point.append(reached)


def ended(simulation: Simulation) -> list[str]:
    return [f"{a['name']} {a['status']}" for a in simulation.world.checker.tables["actions"].values()]


def test_a_planned_action_under_writers() -> None:
    simulation = cluster()
    simulation.operator.action(primary_node(simulation), "maintenance_on")
    simulation.run_for(30.0)
    simulation.rest()
    assert ended(simulation) == ["maintenance_on completed"]
    assert simulation.world.tally.writes["acknowledged"] > 100
    assert simulation.world.tally.writes["unknown"] == simulation.world.tally.writes["refused"] == 0
    simulation.end()


@pytest.mark.parametrize("point", ["handoff:intend:before", "handoff:verify:after", "handoff:commit:before"])
def test_a_store_that_is_away_fails_the_command_and_nothing_else(point: str) -> None:
    """Once the exception ended the queue of the database and everything that waited in it."""
    simulation = cluster()

    def cut(daemon: SimDaemon) -> None:
        pairs = {(daemon.node.uid, 0), (0, daemon.node.uid)}
        simulation.world.network.cuts |= pairs
        simulation.world.loop.at(1.8, simulation.world.network.cuts.difference_update, pairs)

    at_point(simulation, point, cut)
    simulation.operator.action(primary_node(simulation), "enslave_node")
    simulation.run_for(30.0)
    simulation.rest()
    assert ended(simulation) == ["step_down completed"]
    simulation.end()


@pytest.mark.parametrize("way", ["kill", "freeze"])
@pytest.mark.parametrize("point", ["handoff:fence:after", "handoff:promote:before", "handoff:promote:after"])
def test_a_leader_that_fails_around_the_promotion(point: str, way: str) -> None:
    simulation = cluster(persistence="disabled")

    def strike(daemon: SimDaemon) -> None:
        if way == "kill":
            daemon.process.kill()
            simulation.world.loop.at(1.0, simulation.restart_daemon, daemon.node.uid)
        else:
            daemon.process.freeze()
            simulation.world.loop.at(15.0, daemon.process.thaw, simulation.world.loop)

    at_point(simulation, point, strike)
    simulation.operator.action(primary_node(simulation), "enslave_node")
    simulation.run_for(60.0)
    simulation.rest()
    assert ended(simulation) == ["step_down completed"]
    simulation.end()


def test_a_primary_without_files_dies_and_its_replica_takes_over_with_everything() -> None:
    simulation = cluster(persistence="disabled")
    group = simulation.world.checker.tables["groups"]["groups/1:1"]
    primary = next(s for s in simulation.world.servers_of("1:1") if s.shard_uid == group["primary"])
    kept = primary.position
    primary.die(planned=False)
    simulation.rest()
    now = simulation.world.checker.tables["groups"]["groups/1:1"]
    assert now["primary"] != group["primary"]
    heir = next(s for s in simulation.world.servers_of("1:1") if s.shard_uid == now["primary"])
    assert heir.position.holds(kept) or kept.offset - heir.position.keys < 3
    simulation.end()


def test_a_clock_that_was_ahead_puts_no_restart_off_for_an_hour() -> None:
    """The leader that started a server again had a clock an hour ahead; its successor's is right."""
    simulation = cluster(replication=False)
    leader = simulation.world.leader()
    assert leader is not None
    leader.node.skew_s = 3600.0
    for _ in range(4):
        for server in simulation.world.servers_of("1:1"):
            server.die(planned=False)
        simulation.run_for(3.0)
    leader.process.kill()
    leader.node.skew_s = 0.0
    for server in simulation.world.servers_of("1:1"):
        server.die(planned=False)
    simulation.rest(60.0)
    simulation.end()


def test_replication_is_not_given_up_while_the_primary_is_dead() -> None:
    """The only live copy was deleted: the leader had not noticed the primary's death yet."""
    simulation = cluster(persistence="disabled")
    simulation.world.writers.is_over = True
    simulation.run_for(10.0)
    group = simulation.world.checker.tables["groups"]["groups/1:1"]
    primary = next(s for s in simulation.world.servers_of("1:1") if s.shard_uid == group["primary"])
    primary.die(planned=False)
    simulation.run_for(2.0)
    simulation.operator.change(1, replication=False)
    simulation.run_for(20.0)
    chain = simulation.world.checker.chains["1:1"]
    assert chain.required
    assert any(s.position.holds(chain.required[-1]) for s in simulation.world.servers_of("1:1"))
    simulation.end()


def replica_node(simulation: Simulation) -> int:
    tables = simulation.world.checker.tables
    primary = tables["groups"]["groups/1:1"]["primary"]
    return next(int(s["node_uid"]) for s in tables["shards"].values() if s["uid"] != primary and s["wanted"] == "running")


def homes(simulation: Simulation) -> set[int]:
    shards = simulation.world.checker.tables["shards"].values()
    return {int(s["node_uid"]) for s in shards if s["wanted"] == "running"}


@pytest.mark.parametrize("returns_after_s", [10.0, 35.2, 36.0, 36.3, 120.0])
def test_a_lost_copy_is_rebuilt_and_what_comes_back_is_not_one_too_many(returns_after_s: float) -> None:
    """The node returns before, during and after the rebuild of its copy."""
    simulation = cluster(persistence="disabled")
    simulation.operator.policy(slave_ha_grace_period_s=20)
    simulation.run_for(5.0)
    dead, before = replica_node(simulation), homes(simulation)
    simulation.kill_node(dead)
    simulation.run_for(returns_after_s)
    if returns_after_s > 100:
        assert dead not in homes(simulation)
    simulation.revive_node(dead)
    simulation.rest()
    assert len(homes(simulation)) == 2
    if returns_after_s < 20:
        assert homes(simulation) == before
    simulation.end()


def test_a_dead_primarys_copy_is_rebuilt_too() -> None:
    simulation = cluster(persistence="disabled")
    simulation.operator.policy(slave_ha_grace_period_s=20)
    simulation.run_for(5.0)
    dead = primary_node(simulation)
    simulation.kill_node(dead)
    simulation.run_for(120.0)
    assert dead not in homes(simulation)
    assert len(homes(simulation)) == 2
    simulation.rest()
    simulation.end()
