"""Part 2: the time to evacuate a node, against the same full syncs on bare servers with no manager.

Four databases without a replica lie on one node, so every byte must move. The bare side copies the same data between servers
with the same settings, as many at a time, by a script that only says REPLICAOF and waits for the link.
"""

import itertools
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.bare import BareFailed, BareServer, BareServers
from bench.context import Context, free_address
from bench.figures import Figure, PartResult, at_least, at_most, median, tidy
from bench.wire import fill
from demo.cluster import DemoCluster, DemoFailed

NAME = "evacuation"
SHARDS = 4
SHARD_BYTES = 256 << 20
AT_A_TIME = 2
"""Full syncs at once, on both sides: the default of the policy ``max_slave_full_syncs``."""
ROUNDS = 3
"""Each round is an evacuation and the return of the shards, each followed by the bare syncs it is compared with."""
GOAL = 0.60
NEXT_GOAL = 0.80
ETA_GOAL = 0.15
"""How far the foretold end may be off, in shares of the whole action: the median of what is said after its first tenth, in
all actions but the first there and the first back, which have nothing to go by."""
SETTLE_S = 0.5
"""After an action and before what it is compared with: the old servers' memory is being given back."""
POLL_S = 0.05
"""How often the action is read: the resolution of the phases below."""
ACTION_S = 180.0
BUSY_NODE = 1
MB = 1_000_000


@dataclass(slots=True)
class Moved:
    """One action that moved all the data: how long it took, and when each move was seen to enter each state (s since the
    request)."""

    seconds: float = 0.0
    states: dict[str, dict[str, float]] = field(default_factory=dict)
    foretold: list[tuple[float, float]] = field(default_factory=list)
    """Each time it was read: seconds since the request, and the seconds that it said were left."""

    @property
    def eta_errors(self) -> list[float]:
        """How far each foretold end was off, in shares of the whole, after the first tenth."""
        late = [(at, left) for at, left in self.foretold if at > self.seconds / 10]
        return [abs(at + left - self.seconds) / self.seconds for at, left in late]


@dataclass(frozen=True, slots=True)
class Pair:
    """An action and the bare syncs made directly after it: on a noisy machine only neighbours compare."""

    moved: Moved
    bare_s: float

    @property
    def share(self) -> float:
        """Our rate divided by the bare one."""
        return self.bare_s / self.moved.seconds


def measure(context: Context) -> PartResult:
    """Run it. Raises DemoFailed, BareFailed, OSError, ServerError."""
    shard_bytes = 32 << 20 if context.is_quick else SHARD_BYTES
    rounds = 1 if context.is_quick else ROUNDS
    there: list[Pair] = []
    back: list[Pair] = []
    with context.cluster() as cluster, BareServers(context.binary, address=free_address()) as servers:
        _prepare(cluster, shard_bytes, context)
        context.say("filling the same data into bare servers")
        sources = [servers.start(memory_bytes=_memory(shard_bytes)) for _ in range(SHARDS)]
        for number, source in enumerate(sources):
            fill(source.address, source.port, total_bytes=shard_bytes, seed=number)
        for number in range(1, rounds + 1):
            context.say(f"round {number} of {rounds}: evacuation, bare syncs, return, bare syncs")
            for action, pairs in (("maintenance_on", there), ("maintenance_off", back)):
                moved = _act(cluster, action)
                time.sleep(SETTLE_S)
                pairs.append(Pair(moved, _sync_all(servers, sources, memory_bytes=_memory(shard_bytes))))
    return report(there, back, total_bytes=SHARDS * shard_bytes)


def report(there: Sequence[Pair], back: Sequence[Pair], *, total_bytes: int) -> PartResult:
    """Pure: rates, ratios, and where the time goes."""
    part = PartResult(NAME)
    floor_s = min(p.bare_s for p in (*there, *back))
    megabytes = total_bytes / MB
    for name, pairs in (("maintenance_on", there), ("maintenance_off", back)):
        rate = megabytes / median([p.moved.seconds for p in pairs])
        floor = megabytes / median([p.bare_s for p in pairs])
        share = median([p.share for p in pairs])
        best = min(p.bare_s for p in pairs) / min(p.moved.seconds for p in pairs)
        goal = at_least(share, GOAL, "") if pairs is there else None
        part.figures += [
            Figure(f"{name}: data moved", "MB/s", rate, None, "", floor, "bare full syncs"),
            Figure(f"{name}: share of the bare rate, median of the rounds", "", share, None, "", None, "", goal),
            Figure(f"{name}: share of the bare rate, best against best", "", best),
        ]
    moved = [p.moved for p in there]
    again = [p.moved for p in (*there[1:], *back[1:])]
    if errors := [error for one in again for error in one.eta_errors]:
        error = median(errors)
        goal = at_most(error, ETA_GOAL, "")
        part.figures.append(Figure("foretold end: median error, share of the whole action", "", error, goal=goal))
    part.details = {
        "megabytes": round(megabytes),
        "at_a_time": AT_A_TIME,
        "maintenance_on_s": [tidy(p.moved.seconds) for p in there],
        "maintenance_on_bare_s": [tidy(p.bare_s) for p in there],
        "maintenance_off_s": [tidy(p.moved.seconds) for p in back],
        "maintenance_off_bare_s": [tidy(p.bare_s) for p in back],
        "phases_s": {name: tidy(s) for name, s in phases(moved).items()},
        "moves": [m.states for m in moved],
    }
    fastest = min(moved, key=lambda m: m.seconds)
    part.notes = [
        f"{SHARDS} shards, {megabytes:.0f} MB together, {AT_A_TIME} full syncs at a time, {len(there)} rounds; least "
        f"disturbed: evacuation {fastest.seconds:.2f} s from the request to completed, bare syncs {floor_s:.2f} s",
        _needed(fastest.seconds, floor_s),
        *_where(fastest),
    ]
    return part


def phases(moved: Iterable[Moved]) -> dict[str, float]:
    """Mean seconds that one move spent in each state, as seen from outside."""
    spent: dict[str, list[float]] = {}
    for one in moved:
        for states in one.states.values():
            for (name, began), (_, ended) in itertools.pairwise(sorted(states.items(), key=lambda item: item[1])):
                spent.setdefault(name, []).append(ended - began)
    return {name: statistics.fmean(values) for name, values in spent.items()}


def _needed(ours_s: float, floor_s: float) -> str:
    allowed_s = floor_s / NEXT_GOAL
    if ours_s <= allowed_s:
        return f"{NEXT_GOAL:.2f} of the bare rate is reached"
    return (
        f"for {NEXT_GOAL:.2f} of the bare rate the whole action may take {allowed_s:.2f} s: {ours_s - allowed_s:.2f} s less "
        f"than the {ours_s:.2f} s it takes, of which {ours_s - floor_s:.2f} s are not transfer"
    )


def _where(moved: Moved) -> list[str]:
    """Where the time of one action goes, in words."""
    spent = phases([moved])
    if not spent:
        return []
    each = ", ".join(f"{name} {seconds:.2f}" for name, seconds in spent.items())
    first = min(min(states.values()) for states in moved.states.values())
    last = moved.seconds - max(max(states.values()) for states in moved.states.values())
    return [
        f"seconds of one move by phase (mean, seen every {POLL_S * 1000:.0f} ms): {each}",
        f"before the first move was seen {first:.2f} s; after the last change of a move {last:.2f} s",
    ]


# -- ours --------------------------------------------------------------------------------------------------------------


def _memory(shard_bytes: int) -> int:
    """Room for the values and what the server needs beside them."""
    return shard_bytes * 3 // 2 + (16 << 20)


def _prepare(cluster: DemoCluster, shard_bytes: int, context: Context) -> None:
    """All shards on one node: the others take none while the databases are created."""
    others = [int(n["uid"]) for n in cluster.call("GET", "/v1/nodes") if int(n["uid"]) != BUSY_NODE]
    for node in others:
        cluster.call("PUT", f"/v1/nodes/{node}", {"accept_servers": False})
    databases = [
        cluster.create_database(name=f"bench-{number}", memory_size=_memory(shard_bytes)) for number in range(SHARDS)
    ]
    for node in others:
        cluster.call("PUT", f"/v1/nodes/{node}", {"accept_servers": True})
    places = {int(s["node_uid"]) for s in cluster.call("GET", "/v1/shards")}
    if places != {BUSY_NODE}:
        raise DemoFailed(f"the shards should all be on node {BUSY_NODE}, they are on {sorted(places)}")
    context.say(f"filling {SHARDS} databases with {shard_bytes / MB:.0f} MB each, through their endpoints")
    for number, database in enumerate(databases):
        endpoint = database["endpoints"][0]
        fill(str(endpoint["addr"][0]), int(endpoint["port"]), total_bytes=shard_bytes, seed=number)


def _act(cluster: DemoCluster, action: str) -> Moved:
    """One action, read until it has ended. Raises DemoFailed when it does not complete."""
    moved = Moved()
    began = time.monotonic()
    uid = cluster.start(BUSY_NODE, action)
    while True:
        record: dict[str, Any] = cluster.call("GET", f"/v1/actions/{uid}")
        now = time.monotonic() - began
        if record.get("eta_seconds") is not None:
            moved.foretold.append((round(now, 3), record["eta_seconds"]))
        for move in record.get("moves", []):
            if move["kind"] == "relocate":
                moved.states.setdefault(move["uid"], {}).setdefault(move["state"], round(now, 3))
        if record["status"] == "completed":
            break
        if record["status"] in ("failed", "cancelled") or now > ACTION_S:
            raise DemoFailed(f"{action} is {record['status']} after {now:.0f} s: {record.get('error_message')}")
        time.sleep(POLL_S)
    moved.seconds = time.monotonic() - began
    if len(moved.states) != SHARDS:
        raise DemoFailed(f"{action} moved {len(moved.states)} shards, it should have moved {SHARDS}")
    return moved


# -- on bare servers ---------------------------------------------------------------------------------------------------


def _sync_all(servers: BareServers, sources: Sequence[BareServer], *, memory_bytes: int) -> float:
    """Seconds to sync every source to a fresh server. Their start does not count."""
    targets = [servers.start(memory_bytes=memory_bytes) for _ in sources]
    waiting = list(zip(targets, sources, strict=True))
    running: list[BareServer] = []
    began = time.monotonic()
    while waiting or running:
        while waiting and len(running) < AT_A_TIME:
            target, source = waiting.pop(0)
            target.follow(source)
            running.append(target)
        time.sleep(0.005)
        running = [target for target in running if not target.is_in_sync()]
        if time.monotonic() - began > ACTION_S:
            raise BareFailed(f"the bare syncs did not end within {ACTION_S:.0f} s")
    seconds = time.monotonic() - began
    for target, source in zip(targets, sources, strict=True):
        if target.control.call("DBSIZE") != source.control.call("DBSIZE"):
            raise BareFailed("a bare sync did not copy everything")
        servers.stop(target)
    return seconds
