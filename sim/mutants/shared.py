"""Mistakes with an endpoint that several nodes serve, and the situation in which its clients notice them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from shardwright.leader import handoff
from sim.clients import leave
from sim.mutants.client_situations import talker_at, unharmed
from sim.mutants.registry import Patch, mutant_in
from sim.mutants.situations import primary_of_a_new_database, when
from sim.simulation import Simulation

STEP_DOWNS = 3
SETTLED_S = 30.0
"""Long enough for another leader to finish the action."""


def clients_at_every_node(simulation: Simulation) -> None:
    """Each node serves the endpoint and has a client that writes all the time. The role is handed over to and fro."""
    _hand_over_repeatedly(simulation, lambda: None)


def clients_at_every_node_of_a_leader_that_dies(simulation: Simulation) -> None:
    """The same, and the leader dies when it has told the processes to go on: before another one repairs what it has
    forgotten, the clients notice it."""
    _hand_over_repeatedly(simulation, lambda: when(simulation, "handoff:release:after", simulation.faults._kill))


def _hand_over_repeatedly(simulation: Simulation, prepare: Callable[[], None]) -> None:
    primary = primary_of_a_new_database(simulation, replication=True, proxy_policy="all-nodes")
    database = primary["database_uid"]
    record = simulation.world.checker.database(database)
    assert record is not None
    serving = simulation.world.holders_of(record["port"])
    assert len(serving) == len(simulation.world.nodes), "every node serves"
    talkers = [talker_at(simulation, database, served, number=n) for n, served in enumerate(serving)]
    simulation.run_for(1.0)
    for _ in range(STEP_DOWNS):
        (group,) = simulation.world.checker.tables["groups"].values()
        holder = simulation.world.checker.tables["shards"][f"shards/{group['primary']:08d}"]["node_uid"]
        prepare()
        with unharmed(simulation):
            simulation.operator.action(holder, "enslave_node")
            simulation.run_for(SETTLED_S)
    for talker in talkers:
        leave(talker)


def _with_one_process(right: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """The step as if only the first process served each endpoint."""

    async def wrong(self: Any, attempt: Any, *rest: Any) -> None:
        every = attempt.endpoints
        attempt.endpoints = tuple((uid, nodes[:1]) for uid, nodes in every)
        try:
            await right(self, attempt, *rest)
        finally:
            attempt.endpoints = every

    return wrong


@mutant_in(clients_at_every_node)
def holds_only_one_process() -> Sequence[Patch]:
    return [(handoff.Handoffs, "_hold", _with_one_process(handoff.Handoffs._hold))]


@mutant_in(clients_at_every_node_of_a_leader_that_dies)
def releases_only_one_process() -> Sequence[Patch]:
    return [(handoff.Handoffs, "_release", _with_one_process(handoff.Handoffs._release))]
