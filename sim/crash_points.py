"""Every commit and every command of every action: the leader dies or freezes there, and its successor must finish or undo.

A scenario is run once to list its points, and then once for each point, moment and kind of failure. Generates
``docs/reference/crash-points.md``.
"""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from shardwright.leader.candidate import LEASE_TTL, LeaseTimes
from shardwright.leader.loop import Pace
from shardwright.model.database import Role
from shardwright.store import keys
from shardwright.store.protocol import CreatedAt, PutKey, Transaction
from sim.checker import Violation
from sim.daemon import SimDaemon
from sim.settled import missing
from sim.simulation import Simulation, quiet, recoveries_seen

MOMENTS = ("before", "sent", "after")
"""Before it is sent, while it is in transit, after its reply."""
WAYS = ("kill", "freeze")
SETTLED_S = LEASE_TTL.total_seconds() + 5.0
"""Limit from the strike until nothing is paused, fenced or held, and no handoff is pending."""
ENDED_S = 90.0
"""Limit until the action has ended and the cluster is at rest; it includes a sync or a retry."""
THAW_S = 6.0
PACE = Pace()
TIMES = LeaseTimes()
SEED = 7


@dataclass(frozen=True, slots=True)
class Scenario:
    """An action on a fresh cluster. ``prepare`` creates the initial state, ``begin`` requests the action."""

    name: str
    nodes: int
    prepare: Callable[[Simulation], None]
    begin: Callable[[Simulation], None]


@dataclass(frozen=True, slots=True)
class Strike:
    """The failure of the leader: where and how. ``index``: the n-th point of the scenario."""

    index: int
    moment: str
    way: str


@dataclass(frozen=True, slots=True)
class StrikeOutcome:
    """The result of a strike. ``settled_s``: seconds until nothing was paused, fenced, held or pending."""

    point: str
    strike: Strike
    found: str
    did: str
    ended: str
    settled_s: float
    failure: str


def _database(simulation: Simulation, *, replication: bool) -> None:
    simulation.run_for(6.0)
    simulation.operator.create(60, replication=replication, persistence="aof")
    simulation.run_for(6.0)
    simulation.world.writers.calm_s = 0.2


def _replicated(simulation: Simulation) -> None:
    _database(simulation, replication=True)


def _single(simulation: Simulation) -> None:
    _database(simulation, replication=False)


def _in_maintenance(simulation: Simulation) -> None:
    _replicated(simulation)
    simulation.operator.action(_primary_node(simulation), "maintenance_on")
    simulation.run_for(12.0)


def _slow_sync(simulation: Simulation) -> None:
    _single(simulation)
    simulation.world.sync_base_s = 6.0


def _silent_candidate(simulation: Simulation) -> None:
    _replicated(simulation)
    world = simulation.world

    def freeze(daemon: SimDaemon | None, point: str) -> None:
        if point == "handoff:fence:after":
            world.on_point.remove(freeze)
            for server in world.servers_of("1:1"):
                if server.role is Role.REPLICA:
                    server.process.freeze()
                    world.loop.at(3.0, server.process.thaw, world.loop)

    world.on_point.append(freeze)


def _primary_node(simulation: Simulation) -> int:
    tables = simulation.world.checker.tables
    group = next(iter(tables["groups"].values()))
    return int(tables["shards"][f"shards/{group['primary']:08d}"]["node_uid"])


def _asks(word: str, **parameters: Any) -> Callable[[Simulation], None]:
    def begin(simulation: Simulation) -> None:
        simulation.operator.action(_primary_node(simulation), word, parameters)

    return begin


def _restore(simulation: Simulation) -> None:
    marked = next(n["uid"] for n in simulation.world.checker.tables["nodes"].values() if n["is_quorum_only"])
    simulation.operator.action(marked, "maintenance_off")


def _cancelled(simulation: Simulation) -> None:
    node = _primary_node(simulation)
    simulation.operator.action(node, "maintenance_on")
    simulation.world.loop.at(2.0, simulation.operator.cancel, node, "maintenance_on")


def _undone(simulation: Simulation) -> None:
    simulation.world.sync_base_s = 6.0
    node = _primary_node(simulation)
    simulation.operator.action(node, "maintenance_on")
    simulation.world.loop.at(2.0, lambda: simulation.operator.cancel(node, "maintenance_on", mode="undo"))


SCENARIOS = (
    Scenario("step-down", 3, _replicated, _asks("enslave_node")),
    Scenario("maintenance on, with a replica", 3, _replicated, _asks("maintenance_on")),
    Scenario("maintenance on, without a replica", 3, _single, _asks("maintenance_on")),
    Scenario("maintenance off", 3, _in_maintenance, _restore),
    Scenario("remove", 4, _replicated, _asks("remove")),
    Scenario("cancel during a sync (undo)", 3, _slow_sync, _cancelled),
    Scenario("undo after the role has passed", 3, _replicated, _undone),
    Scenario("a handoff that is undone", 3, _silent_candidate, _asks("enslave_node")),
)


class Run:
    """One run of a scenario, with or without a strike."""

    def __init__(self, scenario: Scenario, strike: Strike | None) -> None:
        self.simulation = simulation = Simulation(SEED, nodes=scenario.nodes)
        self.world = world = simulation.world
        world.times, world.pace = TIMES, PACE
        self.strike = strike
        self.points: list[str] = []
        self.struck_at: float | None = None
        self._open: dict[str, int] = {}
        for node in world.nodes.values():
            self._hook(node.daemon)
        scenario.prepare(simulation)
        world.on_command.append(self._command)
        self.began_at = world.loop.now
        self._is_counting = True
        scenario.begin(simulation)

    def _hook(self, daemon: SimDaemon | None) -> None:
        assert daemon is not None
        daemon.store.on_transact = lambda transaction, when: self._commit(daemon, transaction, when)

    def _commit(self, daemon: SimDaemon, transaction: Transaction, when: str) -> None:
        is_leaders = any(isinstance(c, CreatedAt) and c.key == keys.LEADER for c in transaction.compares)
        label = _label(transaction) if is_leaders else ""
        if label:
            self._reach(daemon, f"commit: {label}", when)

    def _command(self, daemon: SimDaemon | None, name: str, when: str) -> None:
        if daemon is not None:
            self._reach(daemon, f"command: {name}", when)

    def _reach(self, daemon: SimDaemon, label: str, when: str) -> None:
        if not getattr(self, "_is_counting", False) or self.struck_at is not None:
            return
        if when == "before":
            self._open[label] = len(self.points)
            self.points.append(label)
        index = self._open.get(label, -1)
        strike = self.strike
        if strike is None or strike.index != index:
            return
        if strike.moment == when:
            self._hit(daemon)
        elif strike.moment == "sent" and when == "before":
            self.world.loop.at(0.0, self._hit, daemon)

    def _hit(self, daemon: SimDaemon) -> None:
        assert self.strike is not None
        self.struck_at = self.world.loop.now
        uid = daemon.node.uid
        if self.strike.way == "kill":
            daemon.process.kill()
            self.world.loop.at(1.0, self.simulation.restart_daemon, uid)
        else:
            daemon.process.freeze()
            self.world.loop.at(THAW_S, daemon.process.thaw, self.world.loop)

    def finish(self) -> StrikeOutcome | None:
        """Let the cluster come to rest. None: the strike's point was not reached."""
        strike = self.strike
        settled = -1.0
        failure = ""
        try:
            while self.world.loop.now < self.began_at + ENDED_S:
                self.world.loop.run_until(self.world.loop.now + 0.1)
                self.simulation.check()
                if self.struck_at is not None:
                    settled = self._measure(settled)
                if self._is_over():
                    break
            wrong = [] if self._is_over() else missing(self.world) or ["the action has not ended"]
            if wrong:
                failure = "; ".join(wrong)
            elif self.struck_at is not None and settled > SETTLED_S:
                failure = f"settled only {settled:.1f} s after the strike"
        except Violation as e:
            failure = str(e)
        found, did = _recovered()
        ended = ", ".join(a["status"] for a in self.world.checker.tables["actions"].values()) or "no action"
        point = self.points[strike.index] if strike is not None and strike.index < len(self.points) else ""
        self.simulation.end()
        if strike is None:
            return StrikeOutcome("", Strike(-1, "", ""), found, did, ended, 0.0, failure)
        if self.struck_at is None:
            return None
        return StrikeOutcome(point, strike, found, did, ended, settled, failure)

    def _is_over(self) -> bool:
        actions = self.world.checker.tables["actions"].values()
        is_late_enough = self.struck_at is None or self.world.loop.now > self.struck_at + SETTLED_S + 1.0
        is_ended = bool(actions) and all(a["status"] in ("completed", "failed", "cancelled") for a in actions)
        return is_late_enough and is_ended and not missing(self.world)

    def _measure(self, settled: float) -> float:
        """The last moment at which the strike still delayed anything, in seconds after it."""
        assert self.struck_at is not None
        world = self.world
        is_pending = any(g["handoff"] is not None for g in world.checker.tables["groups"].values())
        stopped = [s for s in world.all_servers if s.is_alive and self._is_shut(s)]
        held = [h for d in world.checker.tables["databases"].values() for h in world.holders_of(d["port"]) if h.gate.hold]
        if is_pending or stopped or held:
            is_old = world.leader() is None or world.loop.now - self.struck_at < SETTLED_S * 2
            return world.loop.now - self.struck_at if is_old else settled
        return settled

    def _is_shut(self, server: Any) -> bool:
        group = self.world.checker.tables["groups"].get(f"groups/{server.group_uid}")
        is_primary = group is not None and group["primary"] == server.shard_uid and group["phase"] == "serving"
        return is_primary and (
            server.is_fenced or server.role is not Role.PRIMARY or server.paused_until > self.world.loop.now
        )


def _label(transaction: Transaction) -> str:
    """A short description of a commit: the records and their new states."""
    words: list[str] = []
    for operation in transaction.operations:
        name = operation.key.partition("/")[0]
        if name in ("events", "seen", "last_actions", "counters", "locks"):
            continue
        if not isinstance(operation, PutKey):
            words.append(f"{name.removesuffix('s')} deleted")
            continue
        record = json.loads(operation.value)
        match name:
            case "actions":
                words.append(f"action {record['status']}")
            case "moves":
                words.append(f"{record['kind']} {record['state']}{' with evidence' if record.get('evidence') else ''}")
            case "groups":
                words.append("handoff intended" if record["handoff"] else "slot group's primary and generation")
            case "shards":
                words.append(f"shard {record['wanted']}")
            case "nodes":
                words.append("node marked" if record["is_quorum_only"] or record["is_decommissioning"] else "node unmarked")
            case _:
                words.append(name.removesuffix("s"))
    return ", ".join(dict.fromkeys(words))


def _recovered() -> tuple[str, str]:
    seen = recoveries_seen()
    if not seen:
        return "no handoff pending", "continued the action"
    found = [f"old {r['old']}, candidate {r['new']}, endpoints {r['endpoints']}" for r in seen]
    return " → ".join(dict.fromkeys(found)), " → ".join(dict.fromkeys(str(r["does"]) for r in seen))


def points_of(scenario: Scenario) -> list[str]:
    """The points of a scenario in order, from an undisturbed run. Raises AssertionError if that run does not end well."""
    run = Run(scenario, None)
    outcome = run.finish()
    assert outcome is not None
    assert not outcome.failure, f"{scenario.name}: {outcome.failure}"
    return run.points


def strikes_of(points: list[str]) -> list[Strike]:
    """All strikes of a scenario; for a point that is repeated without another point in between, only the first two."""
    chosen = []
    seen: dict[str, int] = {}
    for index, label in enumerate(points):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= 2:
            chosen.append(index)
    return [Strike(index, moment, way) for index in chosen for moment in MOMENTS for way in WAYS]


def strike(scenario_name: str, chosen: Strike) -> StrikeOutcome | None:
    """One run with one strike."""
    quiet()
    scenario = next(s for s in SCENARIOS if s.name == scenario_name)
    return Run(scenario, chosen).finish()


def _strike_all(scenario_name: str, chosen: list[Strike]) -> list[StrikeOutcome]:
    return [outcome for one in chosen if (outcome := strike(scenario_name, one)) is not None]


def all_outcomes(jobs: int) -> dict[str, list[StrikeOutcome]]:
    """All strikes of all scenarios."""
    found: dict[str, list[StrikeOutcome]] = {}
    with ProcessPoolExecutor(jobs) as pool:
        for scenario in SCENARIOS:
            strikes = strikes_of(points_of(scenario))
            parts = [strikes[at : at + 12] for at in range(0, len(strikes), 12)]
            done = pool.map(_strike_all, [scenario.name] * len(parts), parts)
            found[scenario.name] = [outcome for part in done for outcome in part]
            failed = [o for o in found[scenario.name] if o.failure]
            print(f"{scenario.name}: {len(found[scenario.name])} strikes, {len(failed)} failed", flush=True)
            for o in failed[:6]:
                print(
                    f"  {o.point} {o.strike.moment} {o.strike.way} (point {o.strike.index}): {o.failure[:300]}", flush=True
                )
    return found


def table(found: dict[str, list[StrikeOutcome]]) -> str:
    """The document."""
    total = sum(len(outcomes) for outcomes in found.values())
    good = sum(not o.failure for outcomes in found.values() for o in outcomes)
    slowest = max((o.settled_s for outcomes in found.values() for o in outcomes), default=0.0)
    lines = [
        "# Crash points",
        "",
        "Generated by `make crash-points`: do not edit. In simulation the leader is killed, or frozen and thawed "
        f"{THAW_S:g} s later, at every commit and every command of every action: just before it is sent, while it is on its "
        "way, and just after its reply. Its successor resumes or undoes; from the strike until nothing is paused, fenced, "
        f"held or pending it may take the lease time ({LEASE_TTL.total_seconds():g} s) plus 5 s.",
        "",
        f"{total} strikes, {good} ended well ({100 * good // max(total, 1)} %); the slowest was settled after "
        f"{slowest:.1f} s.",
    ]
    for name, outcomes in found.items():
        head = "| point | strikes | the successor found | it did | the action ended | settled within |"
        lines += ["", f"## {name}", "", head, "|---|---|---|---|---|---|"]
        by_point: dict[str, list[StrikeOutcome]] = {}
        for outcome in outcomes:
            by_point.setdefault(outcome.point, []).append(outcome)
        for point, some in by_point.items():
            cells = [
                point.replace("|", "/"),
                str(len(some)),
                _cell(o.found for o in some),
                _cell(o.did for o in some),
                _cell(o.ended for o in some),
                f"{max(max(o.settled_s, 0.0) for o in some):.1f} s",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))
