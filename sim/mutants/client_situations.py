"""Traps with client connections: nothing fails, and no client may notice more than a short wait.

Each creates a database and lets a node step down (a handoff, then the endpoint is passed to another node). It raises
Violation if a client had an error, lost its connection without cause or waited too long, or if the action did not end.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

from shardwright.model.database import Role
from sim.checker import Json, Violation
from sim.clients import Client, Talker, join, leave
from sim.lives import ENDED_STATUS
from sim.mutants.situations import primary_of_a_new_database, when
from sim.served import Served
from sim.simulation import Simulation
from sim.writers import PIPELINE_DRAIN_S

STUCK, WATCHER, PIPELINE, TALKER, IDLE = 1, 2, 3, 4, 100
WAIT_MAX_S = 0.5
"""Limit for a command while an action runs and nothing fails."""
SCRIPT_S = 8.0
"""Less than the policy's timeout for a silent server."""
DESERVED = "disconnected: could not be passed on"


def _serving(simulation: Simulation, database: int) -> Served:
    record = simulation.world.checker.database(database)
    assert record is not None
    (served,) = simulation.world.holders_of(record["port"])
    return served


@contextmanager
def unharmed(simulation: Simulation, *, ended: int = 0) -> Iterator[None]:
    """Raises Violation at the end. ``ended``: the number of connections that may, and must, have been ended."""
    tally = simulation.world.tally
    before = Counter(tally.clients)
    yield
    simulation.check()
    for action in simulation.world.checker.tables["actions"].values():
        if action["status"] not in ENDED_STATUS:
            raise Violation("actions_end", f"{action['name']} is {action['status']}, and nothing failed")
    seen = tally.clients - before
    if seen != Counter({DESERVED: ended} if ended else {}):
        raise Violation("unharmed", f"{ended} connections had to end, clients saw {dict(seen)}")


def _step_down(
    simulation: Simulation, prepare: Callable[[Json, Served], object], *, seconds: float = 30.0, ended: int = 0
) -> None:
    primary = primary_of_a_new_database(simulation, replication=True)
    prepare(primary, _serving(simulation, primary["database_uid"]))
    simulation.run_for(1.0)
    with unharmed(simulation, ended=ended):
        simulation.operator.action(primary["node_uid"], "enslave_node")
        simulation.run_for(seconds)
    for node in simulation.world.nodes:
        process = simulation.world.endpoint_process(node)
        for served in () if process is None else process.endpoints.values():
            for client in list(served.clients.values()):
                leave(client)


def talker_at(simulation: Simulation, database: int, served: Served, *, number: int = 0) -> Talker:
    talker = Talker(simulation.world, TALKER + number, database, pause_s=0.005, wait_max_s=WAIT_MAX_S)
    join(served, talker)
    talker.begin()
    return talker


def clients_that_never_come_in(simulation: Simulation) -> None:
    """When the endpoint is passed, one client has sent half a command, and one waits between WATCH and EXEC."""

    def prepare(primary: Json, served: Served) -> None:
        def connect(daemon: Any) -> None:
            join(served, Client(STUCK, inf))
            join(served, Client(WATCHER, is_tied=True))

        for uid in range(IDLE, IDLE + 20):
            join(served, Client(uid))
        when(simulation, "handoff:commit:after", connect)

    _step_down(simulation, prepare, ended=2)


def a_busy_client_among_thousands(simulation: Simulation) -> None:
    """The others are idle."""

    def prepare(primary: Json, served: Served) -> None:
        for uid in range(IDLE, IDLE + 3000):
            join(served, Client(uid))
        talker_at(simulation, primary["database_uid"], served)

    _step_down(simulation, prepare, seconds=8.0)


def a_long_pipeline(simulation: Simulation) -> None:
    """More is always in flight than a drain can wait for."""

    def prepare(primary: Json, served: Served) -> None:
        join(served, Client(PIPELINE, PIPELINE_DRAIN_S))
        talker_at(simulation, primary["database_uid"], served)

    _step_down(simulation, prepare)


def a_script_that_begins_with_the_handoff(simulation: Simulation) -> None:
    """The primary executes a script of one client and answers nothing else. A cancellation does not wait for the script's
    end."""
    world = simulation.world
    primary = primary_of_a_new_database(simulation, replication=True)
    served = _serving(simulation, primary["database_uid"])
    script = Client(STUCK, inf)

    def begin(daemon: Any) -> None:
        join(served, script)
        for server in world.servers_of(primary["group_uid"]):
            if server.role is Role.PRIMARY:
                server.process.freeze()
                world.loop.at(SCRIPT_S, server.process.thaw, world.loop)

    when(simulation, "handoff:hold:before", begin)
    simulation.operator.action(primary["node_uid"], "enslave_node")
    simulation.run_for(2.0)
    simulation.operator.cancel(primary["node_uid"], "enslave_node")
    simulation.run_for(4.0)
    simulation.check()
    for action in world.checker.tables["actions"].values():
        if action["status"] not in ENDED_STATUS:
            raise Violation("actions_end", f"{action['name']} is {action['status']}: its cancellation waits for a script")
    simulation.run_for(SCRIPT_S)
    leave(script)


def an_endpoint_process_that_is_late(simulation: Simulation) -> None:
    """For some seconds it answers its requests only when no caller waits for the answer; it serves its clients normally."""

    def prepare(primary: Json, served: Served) -> None:
        served.owner.late_s = 1.2
        simulation.world.loop.at(6.0, setattr, served.owner, "late_s", 0.0)
        talker_at(simulation, primary["database_uid"], served)

    _step_down(simulation, prepare)


def an_endpoint_process_that_stands_still_while_it_is_passed_on(simulation: Simulation) -> None:
    """For less time than its agent tolerates. Most of its clients are still there; they wait, and keep their connections."""
    asleep_s = 8.0

    def prepare(primary: Json, served: Served) -> None:
        def sleep(daemon: Any) -> None:
            served.owner.process.freeze()
            simulation.world.loop.at(asleep_s, served.owner.process.thaw, simulation.world.loop)

        for uid in range(IDLE, IDLE + 1000):
            join(served, Client(uid))
        when(simulation, "pass:after", sleep)

    _step_down(simulation, prepare)


def an_endpoint_process_that_must_listen_again_while_it_passes(simulation: Simulation) -> None:
    """By a leader that saw it hold and ends the hold, or by a former leader. Most of its clients are still there."""

    def prepare(primary: Json, served: Served) -> None:
        for uid in range(IDLE, IDLE + 1000):
            join(served, Client(uid))
        when(simulation, "pass:after", lambda daemon: served.owner.serve(served.gate.spec))

    _step_down(simulation, prepare)


def a_command_to_pass_that_comes_late(simulation: Simulation) -> None:
    """The move was cancelled just when its endpoint was passed: the bound process does not have it."""
    primary = primary_of_a_new_database(simulation, replication=True)
    served = _serving(simulation, primary["database_uid"])
    for uid in range(IDLE, IDLE + 40):
        join(served, Client(uid))
    talker_at(simulation, primary["database_uid"], served)
    simulation.run_for(1.0)
    others = (simulation.world.endpoint_process(node) for node in simulation.world.nodes)
    other = next(process for process in others if process is not None and process is not served.owner)
    with unharmed(simulation):
        served.owner.pass_endpoint(served.gate.spec.uid, other)
        simulation.run_for(10.0)
    now = _serving(simulation, primary["database_uid"])
    if now.owner is not served.owner:
        raise Violation("endpoint", "it is not back at the node that the record says")
    for client in list(now.clients.values()):
        leave(client)
