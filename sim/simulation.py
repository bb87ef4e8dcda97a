"""One seed: a cluster is created, used, disturbed and then left alone, and must come to rest."""

import gc
import logging
import sys
import traceback
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from shardwright.leader.candidate import LeaseTimes
from shardwright.leader.loop import Pace
from shardwright.local.supervisor import REMOVED_LINGER_S
from shardwright.model.cluster import Cluster, ClusterKind, Counters, Node, Policy
from shardwright.model.ids import NodeUid
from shardwright.model.version import CLUSTER_VERSION
from shardwright.store import keys, records
from shardwright.store.protocol import KeyChange, PutKey, Transaction
from sim.checker import Checker, Violation
from sim.daemon import SimDaemon
from sim.faults import Faults
from sim.loop import result_of
from sim.machine_faults import MachineFaults
from sim.machines import Layout, at_random
from sim.node import SimNode
from sim.operator import Operator
from sim.policies import ProxyPolicies
from sim.settled import is_out_of_reach, lost, missing
from sim.strict import lacks_replica
from sim.world import START, World
from sim.writers import Writers

MB = 1 << 20
DISTURBED_S = 480.0
REST_S = 600.0
"""Minimum duration of a seed."""
CONVERGE_S = 420.0
"""Limit after the end of the faults until everything is at rest."""
UNSERVED_MAX_S = 60.0
"""Limit for failing writes to a database without a new fault. A fault lasts at most 26 s; the maximum in a thousand seeds
was 31 s."""
SIM_TIMES = LeaseTimes(ttl=timedelta(seconds=9), renew_s=5.0, look_s=20.0)
SIM_PACE = Pace(turn_s=15.0, busy_turn_s=1.0, idle_poll_s=12.0, hot_poll_s=0.4)
"""Longer than in production while nothing happens, so that a virtual minute costs little."""
MACHINES_EVERY = 2
"""One seed in this many has several machines; in the others all nodes share one machine."""
OPTIONS: dict[str, object] = {"server_kind": "valkey", "server_version": "9.1.2"}
GRACE_PERIODS_S = (10, 60, 600)
"""Grace period until lost copies are rebuilt, by seed: during the faults, afterwards, or not within the seed."""
ACTIONS_MIN = 3
FAULTS_MIN = 5
WRITES_MIN = 50


class _Log:
    """Discards the product's log, except for defects."""

    def __init__(self) -> None:
        self.defects: list[str] = []
        self.recoveries: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return self._ignore

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        return None

    def info(self, event: str, **kwargs: Any) -> None:
        if event == "recovering a handoff":
            self.recoveries.append(kwargs)

    def bind(self, **kwargs: Any) -> "_Log":
        return self

    def exception(self, event: str, **kwargs: Any) -> None:
        error = sys.exc_info()[1]
        where = "".join(traceback.format_exception(error)[-3:]) if error is not None else ""
        self.defects.append(f"{event}: {error!r} {where}")

    def error(self, event: str, **kwargs: Any) -> None:
        error = kwargs.get("exc_info")
        if isinstance(error, BaseException):
            self.defects.append(f"{event}: {''.join(traceback.format_exception(error)[-3:])}")


_LOG = _Log()


def recoveries_seen() -> list[dict[str, Any]]:
    """The states of handoffs that successors found since the last simulation began."""
    return list(_LOG.recoveries)


def _bind(logger: Any, processors: Any, context: Any) -> _Log:
    return _LOG


def quiet() -> None:
    """Redirect the product's log into the simulation."""
    logging.disable(logging.CRITICAL)
    wrapper: Any = _bind
    structlog.configure(wrapper_class=wrapper, processors=[], cache_logger_on_first_use=True)
    # Imported objects stay; a garbage collection over them after each seed would cost a fifth of the seed.
    gc.collect()
    gc.freeze()


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a seed."""

    seed: int
    failure: str
    """Empty if everything held."""
    invariant: str
    digest: str
    virtual_s: float
    steps: int
    actions: int
    faults: int
    writes: int


class Simulation:
    """See the module's docstring."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int | None = None,
        keeps_log: bool = False,
        grace_period_s: int = GRACE_PERIODS_S[-1],
        layout: Layout | None = None,
    ) -> None:
        _LOG.defects.clear()
        _LOG.recoveries.clear()
        self.world = world = World(seed, keeps_log=keeps_log)
        world.times, world.pace = SIM_TIMES, SIM_PACE
        world.checker = Checker(world)
        world.writers = Writers(world)
        self.policies = ProxyPolicies(seed)
        self.operator = Operator(world, self.policies)
        self.faults = Faults(world, self)
        self._out_of_reach_at: dict[int, float] = {}
        """When a database whose writes fail was last seen to wait for a lost machine: a change may end that wait."""
        world.store.on_batch.append(self._node_removed)
        count = nodes or world.rng.choice((3, 3, 4, 4, 5))
        if layout is not None:
            world.machines.names = layout(seed, count)
            self.faults.add(MachineFaults(self.faults).kinds)
        self._make(count, grace_period_s)

    def _make(self, count: int, grace_period_s: int) -> None:
        world = self.world
        memory = world.rng.choice((400, 500, 800)) * MB
        kind = ClusterKind.MACHINES if world.machines.are_several else ClusterKind.LOCAL
        made = [
            Cluster("sim.local", START, "127.0.0.1", 9443, OPTIONS, CLUSTER_VERSION, kind),
            Policy(slave_ha_grace_period_s=grace_period_s, drain_clients_s=self.policies.drain_s()),
            Counters(next_node=count + 1, next_user=2),
            *(Node(NodeUid(n), f"127.0.0.{n}", START, memory_bytes=memory) for n in range(1, count + 1)),
        ]
        result_of(
            world.store.transact(
                Transaction((), tuple(PutKey(keys.key_of(r), records.encode(r)) for r in made))  # type: ignore[arg-type]
            )
        )
        for uid in range(1, count + 1):
            world.nodes[uid] = SimNode(world, uid)
            self.restart_daemon(uid)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def restart_daemon(self, uid: int) -> None:
        """Like the supervisor."""
        node = self.world.nodes[uid]
        if node.is_down or (node.daemon is not None and node.daemon.process.is_alive):
            return
        self.world.log(f"daemon {uid} starts")
        node.daemon = SimDaemon(self.world, node)

    def kill_node(self, uid: int) -> None:
        """All processes of a node end at once."""
        node = self.world.nodes[uid]
        node.is_down = True
        if node.daemon is not None:
            node.daemon.process.kill()
        if node.endpoint_process is not None:
            node.endpoint_process.process.kill()
        for _, shard in sorted(node.shards.items()):
            if shard.server is not None:
                shard.server.die(planned=False)

    def lose_node(self, uid: int) -> None:
        """The machine and its disk are lost for good."""
        self.world.nodes[uid].is_lost = True
        self.kill_node(uid)
        self.world.checker.node_lost(uid)
        self.world.loop.at(40.0, self._serve_somebody)

    def _node_removed(self, changes: tuple[KeyChange, ...]) -> None:
        for change in changes:
            if change.key.startswith(keys.NODES) and change.current is None:
                self.world.loop.at(REMOVED_LINGER_S, self._retire, int(change.key.removeprefix(keys.NODES)))

    def _retire(self, uid: int) -> None:
        """Like the supervisor: end the processes of a removed node, but not while a shard is recorded on it."""
        if any(s["node_uid"] == uid for s in self.world.checker.tables["shards"].values()):
            self.world.loop.at(REMOVED_LINGER_S, self._retire, uid)
            return
        node = self.world.nodes[uid]
        for _, shard in sorted(node.shards.items()):
            if shard.server is not None:
                shard.server.die(planned=True)
        self.kill_node(uid)
        node.is_lost = True

    def _serve_somebody(self) -> None:
        """If every database was lost with the machine, or is strict and has no place for a replica, create another one for
        the writers."""
        uids = [d["uid"] for d in self.world.checker.tables["databases"].values()]
        if all(is_out_of_reach(self.world, uid) or lacks_replica(self.world, uid) for uid in uids):
            self.operator.create(60, replication=False, persistence="aof")
        if not self.faults.is_over:
            self.world.loop.at(40.0, self._serve_somebody)

    def revive_node(self, uid: int) -> None:
        """The machine is on again."""
        node = self.world.nodes[uid]
        if node.is_down and not node.is_lost and uid not in self.world.network.off:
            node.is_down = False
            self.restart_daemon(uid)

    # -- time ----------------------------------------------------------------------------------------------------------

    def run_for(self, seconds: float) -> None:
        """Let virtual time pass. Raises Violation for the first invariant that does not hold."""
        world = self.world
        until = world.loop.now + seconds
        while world.loop.now < until:
            world.loop.run_until(min(until, world.loop.now + 1.0))
            self.check()

    def check(self) -> None:
        """Raises Violation if an invariant does not hold."""
        world = self.world
        if world.checker.violations:
            raise world.checker.violations[0]
        if _LOG.defects:
            raise Violation("defect", _LOG.defects[0])
        if world.loop.failures:
            raise Violation("defect", world.loop.failures[0])
        if world.loop.circle:
            raise Violation("turns_in_circles", world.loop.circle)
        for uid, since in world.writers.failing_since.items():
            if is_out_of_reach(world, uid) or lacks_replica(world, uid):
                self._out_of_reach_at[uid] = world.loop.now
            began = max(since, self.faults.last_at, self._out_of_reach_at.get(uid, 0.0))
            if world.loop.now - began > UNSERVED_MAX_S:
                raise Violation("unserved", f"writes to database {uid} fail since {since:.1f}, and nothing new went wrong")

    def rest(self, seconds: float = CONVERGE_S) -> None:
        """End the faults. Raises Violation unless the cluster comes to rest in time."""
        world = self.world
        self.faults.end()
        until = world.loop.now + seconds
        wrong = ["nothing was checked"]
        while wrong and world.loop.now < until:
            self.run_for(5.0)
            wrong = missing(world)
        if wrong:
            raise Violation("convergence", "; ".join(wrong[:5]))

    # -- a random seed -------------------------------------------------------------------------------------------------

    def disturb(self) -> None:
        """Databases, requests and faults, at random times."""
        world, rng = self.world, self.world.rng
        loop = world.loop
        world.writers.has_pipelines = True
        self.run_for(3.0)
        for number in range(rng.choice((1, 2, 2, 3))):
            loop.at(number * 0.5, self._create_first, number)
        self.run_for(20.0)
        begin = loop.now
        for _ in range(rng.randint(4, 7)):
            at = rng.random() * (DISTURBED_S - begin - 60.0)
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                loop.at(at + rng.random() * 0.2, self.operator.request)
            for _ in range(rng.choice((0, 1, 1, 2))):
                loop.at(max(0.0, at + rng.choice((-20.0, -0.5, 0.0, 0.2, 1.0, 6.0)) * rng.random()), self.faults.inject)
        for _ in range(rng.randint(3, 6)):
            loop.at(rng.random() * (DISTURBED_S - begin), self.faults.inject)
        self.run_for(DISTURBED_S - begin)
        while sum(world.tally.faults.values()) < FAULTS_MIN:
            self.faults.inject()
            self.run_for(5.0)
        while self.operator.accepted < ACTIONS_MIN and loop.now < DISTURBED_S + 60.0:
            self.operator.request()
            self.run_for(5.0)

    def _create_first(self, number: int) -> None:
        self.operator.create_any(safe=number == 0)

    def press(self, rounds: int = 8) -> None:
        """A series of role changes, each with a fault in the middle."""
        world, rng, operator = self.world, self.world.rng, self.operator
        world.writers.has_pipelines = True
        self.run_for(3.0)
        draw = self.policies.draw
        operator.create(60, replication=True, persistence=rng.choice(("aof", "disabled")), proxy_policy=draw())
        replication, persistence = rng.random() < 0.7, rng.choice(("aof", "disabled"))
        operator.create(60, replication=replication, persistence=persistence, proxy_policy=draw())
        self.run_for(20.0)
        for _ in range(rounds):
            nodes = sorted(n["uid"] for n in world.checker.tables["nodes"].values())
            marked = sorted(n["uid"] for n in world.checker.tables["nodes"].values() if n["is_quorum_only"])
            if marked and rng.random() < 0.7:
                operator.action(rng.choice(marked), "maintenance_off")
            else:
                operator.action(rng.choice(nodes), rng.choice(("enslave_node", "maintenance_on", "maintenance_on")))
            if rng.random() < 0.3:
                operator.action(rng.choice(nodes), rng.choice(("maintenance_on", "enslave_node")))
            for strike in rng.choices((self.faults.strike_step, self.faults.inject, self.faults.strike_server), k=2):
                world.loop.at(rng.random() * 0.5, strike)
            self.run_for(rng.choice((4.0, 15.0, 30.0)))

    def run(self) -> None:
        """Run the whole seed. Raises Violation."""
        self.disturb()
        self.rest()
        if self.world.tally.writes["acknowledged"] < WRITES_MIN:
            self.world.writers.calm_s /= 10
            self.run_for(30.0)
        if self.world.loop.now < REST_S:
            self.run_for(REST_S - self.world.loop.now)
        gone = lost(self.world)
        if gone:
            raise Violation("no_write_lost", "; ".join(gone))
        wrong = missing(self.world)
        if wrong:
            self.rest(60.0)
        self._rich()

    def _rich(self) -> None:
        """A seed in which almost nothing happened proves nothing."""
        faults, writes = sum(self.world.tally.faults.values()), self.world.tally.writes["acknowledged"]
        if self.operator.accepted < ACTIONS_MIN or faults < FAULTS_MIN or writes < WRITES_MIN:
            raise Violation("rich", f"{self.operator.accepted} requests, {faults} faults, {writes} acknowledged writes")

    def end(self) -> None:
        """Release everything."""
        self.world.loop.end()
        _LOG.defects.clear()


def run_seed(seed: int) -> Result:
    """Run one seed to its end."""
    simulation, result = replay(seed, keeps_log=False)
    del simulation
    return result


def replay(seed: int, *, keeps_log: bool = True) -> tuple[Simulation, Result]:
    """Run one seed and keep its log."""
    gc.disable()
    simulation = Simulation(
        seed,
        keeps_log=keeps_log,
        grace_period_s=GRACE_PERIODS_S[seed % len(GRACE_PERIODS_S)],
        layout=at_random if seed % MACHINES_EVERY == 0 else None,
    )
    world = simulation.world
    failure = invariant = ""
    try:
        simulation.run()
    except Violation as e:
        failure, invariant = str(e), e.name
    result = Result(
        seed,
        failure,
        invariant,
        world.digest,
        world.loop.now,
        world.loop.steps,
        simulation.operator.accepted,
        sum(world.tally.faults.values()),
        world.tally.writes["acknowledged"],
    )
    simulation.end()
    gc.enable()
    return simulation, result
