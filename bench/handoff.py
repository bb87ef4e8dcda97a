"""Part 1: the write pause of a planned handoff, under writers, against the same by hand and against ``FAILOVER``.

The pause is defined alike for all three: the longest single write call, as its client saw it, that overlaps the handoff.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bench.bare import BareFailed, BareServer, BareServers, wait_for
from bench.context import Context, free_address, primary_node
from bench.figures import Figure, Goal, PartResult, Spread, at_most, spread
from bench.writers import BareLoad, BareWork
from demo.cluster import DemoCluster, DemoFailed
from demo.load import Calls, Load, Outcome, Work, longest_overlapping

NAME = "handoff"
DATABASE_BYTES = 256 << 20
PAUSE_GOAL_P50_MS = 20.0
PAUSE_GOAL_P99_MS = 100.0
PAUSE_MS = 3000
"""The expiring pause by hand; as long as the product's."""
REST_S = 0.2
"""Between two handoffs, so that each begins undisturbed."""


@dataclass(frozen=True, slots=True)
class Window:
    """When one handoff happened (wall time, seconds), and when its request was sent."""

    asked: float
    began: float
    ended: float
    had_to_wait: bool = False
    """Something else was done first, because the replica was not in sync yet: says nothing about the reaction."""


@dataclass(slots=True)
class Run:
    """The handoffs of one side, and what its writers saw."""

    windows: list[Window] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    fences_ms: list[float] = field(default_factory=list)
    holds_ms: list[float] = field(default_factory=list)
    actions_s: list[float] = field(default_factory=list)
    unmeasured: int = 0
    """Handoffs without times: a successor finished them."""

    @property
    def calls(self) -> list[Calls]:
        """Every write call of every writer."""
        return [c for group in self.outcome.calls.values() for c in group]

    def pauses(self) -> Spread:
        """Milliseconds."""
        return spread([longest_overlapping(self.calls, w.began, w.ended) * 1000 for w in self.windows])

    def quiet(self) -> Spread:
        """The same in equally long times just before each request: what the machine does without any handoff."""
        before = [(w.asked - (w.ended - w.began), w.asked) for w in self.windows]
        return spread([longest_overlapping(self.calls, began, ended) * 1000 for began, ended in before])

    def slowest_ms(self) -> float:
        """The longest write call between the first request and the last handoff's end, whatever it waited for."""
        return (
            longest_overlapping(self.calls, self.windows[0].asked, self.windows[-1].ended) * 1000
            if self.windows
            else math.nan
        )

    def reactions(self) -> Spread:
        """Milliseconds from the request to the hold, where the handoff was the first thing to do."""
        return spread([(w.began - w.asked) * 1000 for w in self.windows if not w.had_to_wait])


def measure(context: Context) -> PartResult:
    """Run it. Raises DemoFailed, BareFailed, OSError, EOFError."""
    count = 6 if context.is_quick else context.handoffs
    context.say(f"{count} handoffs through the product, {context.writers} writers")
    ours = _product(context, count)
    context.say(f"{count} handoffs by hand on bare servers, the same writers")
    by_hand = _bare(context, count, _by_hand)
    context.say(f"{count} times FAILOVER on bare servers, the same writers")
    failover = _bare(context, count, _failover)
    return report(ours, by_hand, failover)


def report(ours: Run, by_hand: Run, failover: Run) -> PartResult:
    """Pure: the figures of the three runs."""
    part = PartResult(NAME)
    pauses, hand, fail = ours.pauses(), by_hand.pauses(), failover.pauses()
    reactions = ours.reactions()
    for name, value, peer, floor, goal in (
        ("pause p50", pauses.p50, fail.p50, hand.p50, PAUSE_GOAL_P50_MS),
        ("pause p99", pauses.p99, fail.p99, hand.p99, PAUSE_GOAL_P99_MS),
        ("pause max", pauses.max, fail.max, hand.max, None),
        ("slowest write of the whole run", ours.slowest_ms(), failover.slowest_ms(), by_hand.slowest_ms(), None),
    ):
        wanted: Goal | None = None if goal is None else at_most(value, goal, "ms")
        part.figures.append(Figure(name, "ms", value, peer, "FAILOVER", floor, "by hand", wanted))
    quiet = ours.quiet()
    part.figures.append(
        Figure("longest write in equal times without a handoff, p50", "ms", quiet.p50, None, "", by_hand.quiet().p50, "bare")
    )
    part.details = {"product": _details(ours), "by_hand": _details(by_hand), "failover": _details(failover)}
    part.notes = [
        f"handoffs: {len(ours.windows)} ours, {len(by_hand.windows)} by hand, {len(failover.windows)} FAILOVER",
        f"acknowledged writes: {ours.outcome.acked}, by hand {by_hand.outcome.acked}, FAILOVER {failover.outcome.acked}",
        f"ours: lost {len(ours.outcome.lost)}, doubled {len(ours.outcome.doubled)}, errors {ours.outcome.errors}, "
        f"disconnects {ours.outcome.disconnects}",
        "pause: the longest single write call that overlaps the handoff, as its client saw it; bare writers are connected "
        "to both servers and repeat a refused write at once",
        f"from the POST to the hold, under these writers: p50 {reactions.p50:.1f} ms, p99 {reactions.p99:.1f} ms",
    ]
    if ours.unmeasured:
        part.notes.append(f"{ours.unmeasured} handoffs were finished by a successor and have no times")
    part.troubles = troubles_of(ours.outcome)
    if len(by_hand.outcome.lost) or len(failover.outcome.lost):
        part.notes.append(f"lost by hand: {len(by_hand.outcome.lost)}; lost by FAILOVER: {len(failover.outcome.lost)}")
    return part


def _details(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {
        "handoffs": len(run.windows),
        "pause_ms": run.pauses().as_json(),
        "acked": run.outcome.acked,
        "lost": len(run.outcome.lost),
        "doubled": len(run.outcome.doubled),
        "errors": run.outcome.errors,
        "disconnects": run.outcome.disconnects,
    }
    if run.actions_s:  # the product alone has these
        found |= {
            "without_handoff_ms": run.quiet().as_json(),
            "fence_ms": spread(run.fences_ms).as_json(),
            "hold_ms": spread(run.holds_ms).as_json(),
            "action_s": spread(run.actions_s).as_json(),
            "reaction_ms": run.reactions().as_json(),
            "unmeasured": run.unmeasured,
        }
    return found


def troubles_of(outcome: Outcome) -> list[str]:
    """What must not happen to any writer."""
    found = [*outcome.lost[:5], *outcome.doubled[:5], *outcome.error_texts[:5]]
    for what, number in (
        ("lost writes", len(outcome.lost)),
        ("doubled writes", len(outcome.doubled)),
        ("errors", outcome.errors),
        ("disconnects", outcome.disconnects),
    ):
        if number:
            found.append(f"{number} {what}")
    return found


# -- ours --------------------------------------------------------------------------------------------------------------


def _product(context: Context, count: int) -> Run:
    run = Run()
    with context.cluster() as cluster:
        database = cluster.create_database(name="bench", memory_size=2 * DATABASE_BYTES, replication=True)
        endpoint = database["endpoints"][0]
        address = str(endpoint["addr"][0])
        load = Load([Work("bench", address, endpoint["port"], context.writers, 0, context.writes_per_s)])
        try:
            warm_up(load)
            for _ in range(count):
                step_down(cluster, database["uid"], run)
                time.sleep(REST_S)
            run.outcome = load.finish()
        finally:
            load.kill()
    return run


def step_down(cluster: DemoCluster, database: int, run: Run) -> None:
    """Have the node with the primary step down; note the handoff."""
    node = primary_node(cluster, database)
    asked, start = time.time(), time.monotonic()
    uid = cluster.start(node, "enslave_node")
    record = cluster.finish(uid)
    run.actions_s.append(time.monotonic() - start)
    moves = record.get("moves", [])
    had_to_wait = bool(moves) and moves[0]["kind"] != "handoff"
    evidence = [m["evidence"] for m in moves if m.get("evidence")]
    if not evidence:
        raise DemoFailed(f"a step-down of node {node} completed without a handoff: {record}")
    for one in evidence:
        if not one.get("began_at") or not one.get("released_at"):
            run.unmeasured += 1
            continue
        run.windows.append(Window(asked, stamp(one["began_at"]), stamp(one["released_at"]), had_to_wait))
        run.fences_ms.append(float(one["fence_ms"]))
        run.holds_ms.append(float(one["pause_ms"] or 0.0))


def stamp(text: str) -> float:
    """Seconds since the epoch of a time of the API."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def warm_up(load: Load | BareLoad) -> None:
    """Wait until the writers write. Raises DemoFailed."""
    deadline = time.monotonic() + 20
    while load.acked() < 500:
        if time.monotonic() > deadline:
            raise DemoFailed("the writers did not get going")
        time.sleep(0.05)


# -- on bare servers ---------------------------------------------------------------------------------------------------

Passing = Callable[[BareServer, BareServer], tuple[float, float]]
"""Passes the primary role; when it began and ended (wall time)."""


def _bare(context: Context, count: int, pass_role: Passing) -> Run:
    run = Run()
    with BareServers(context.binary, address=free_address()) as servers:
        old, new = (servers.start(memory_bytes=DATABASE_BYTES) for _ in range(2))
        new.follow(old)
        wait_for("the replica's link", new.is_in_sync)
        addresses = ((old.address, old.port), (new.address, new.port))
        load = BareLoad(BareWork(addresses, context.writers, context.writes_per_s))
        try:
            warm_up(load)
            for _ in range(count):
                began, ended = pass_role(old, new)
                run.windows.append(Window(began, began, ended))
                old, new = new, old
                wait_for("the replica's link", new.is_in_sync)
                time.sleep(REST_S)
            run.outcome = load.finish()
        finally:
            load.kill()
    return run


def _by_hand(old: BareServer, new: BareServer) -> tuple[float, float]:
    """Pause, compare, promote, demote, and let the writers go on."""
    began = time.time()
    old.control.call("CLIENT", "PAUSE", PAUSE_MS, "WRITE")
    offset = old.offset()
    wait_for("the replica's offset", lambda: new.offset() >= offset, poll_s=0.0)
    new.control.call("REPLICAOF", "NO", "ONE")
    old.follow(new)
    old.control.call("CLIENT", "UNPAUSE")
    return began, time.time()


def _failover(old: BareServer, new: BareServer) -> tuple[float, float]:
    """The server's own planned failover; it waits for the replica's acknowledgement, which comes once per second."""
    began = time.time()
    old.control.call("FAILOVER", "TO", new.address, new.port, "TIMEOUT", 10_000)

    def is_over() -> bool:
        found = old.control.info("replication")
        return found["role"] == "slave" and found["master_failover_state"] == "no-failover"

    wait_for("FAILOVER", is_over)
    if new.control.info("replication")["role"] != "master":
        raise BareFailed("FAILOVER ended without a new primary")
    return began, time.time()
