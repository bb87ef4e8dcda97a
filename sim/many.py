"""Many seeds on all cores, and a summary of what they covered."""

import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from sim.simulation import Result, quiet, replay

BATCH = 20
TELL_EVERY_S = 10.0


@dataclass(slots=True)
class Summary:
    """The summary of a series of seeds."""

    results: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    cpu_s: float = 0.0
    virtual_s: float = 0.0
    steps: int = 0
    actions: int = 0
    faults: int = 0
    poorest: tuple[float, int, int] = (1e9, 1 << 30, 1 << 30)
    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, result: Result, counts: dict[str, Counter[str]]) -> None:
        """Add one seed."""
        self.results += 1
        if result.failure:
            self.failures.append((result.seed, result.failure))
        self.virtual_s += result.virtual_s
        self.steps += result.steps
        self.actions += result.actions
        self.faults += result.faults
        if not result.failure:
            a, b, c = self.poorest
            self.poorest = (min(a, result.virtual_s), min(b, result.actions), min(c, result.faults))
        for name, counter in counts.items():
            self.counts.setdefault(name, Counter()).update(counter)

    def merge(self, other: "Summary") -> None:
        """Add the summary of another process."""
        self.results += other.results
        self.failures += other.failures
        self.cpu_s += other.cpu_s
        self.virtual_s += other.virtual_s
        self.steps += other.steps
        self.actions += other.actions
        self.faults += other.faults
        self.poorest = (
            min(self.poorest[0], other.poorest[0]),
            min(self.poorest[1], other.poorest[1]),
            min(self.poorest[2], other.poorest[2]),
        )
        for name, counter in other.counts.items():
            self.counts.setdefault(name, Counter()).update(counter)


def run_batch(seeds: Iterable[int]) -> Summary:
    """Run some seeds in this process."""
    quiet()
    summary = Summary()
    began = time.process_time()
    for seed in seeds:
        simulation, result = replay(seed, keeps_log=False)
        tally = simulation.world.tally
        summary.add(
            result,
            {
                "fault": tally.faults,
                "ended action": tally.actions,
                "step reached": tally.points,
                "leader struck at": tally.struck,
                "write": tally.writes,
                "client": tally.clients,
                "transition": simulation.world.checker.transitions,
            },
        )
    summary.cpu_s = time.process_time() - began
    return summary


def run_many(first: int, count: int, jobs: int) -> Summary:
    """Run the seeds ``first`` to ``first + count - 1`` in ``jobs`` processes. Prints failures and progress."""
    batches = [range(at, min(at + BATCH, first + count)) for at in range(first, first + count, BATCH)]
    total = Summary()
    told_at = time.monotonic()
    with ExitStack() as stack:
        summaries: Iterable[Summary] = map(run_batch, batches)
        if jobs > 1:
            summaries = stack.enter_context(ProcessPoolExecutor(jobs)).map(run_batch, batches)
        for summary in summaries:
            total.merge(summary)
            for seed, failure in summary.failures:
                print(f"seed {seed}: {failure[:300]}", flush=True)
            if time.monotonic() - told_at >= TELL_EVERY_S:
                told_at = time.monotonic()
                print(f"{total.results} of {count} seeds, {len(total.failures)} failures", file=sys.stderr, flush=True)
    return total


def report(total: Summary, wall_s: float) -> str:
    """The summary for people."""
    lines = [
        f"{total.results} seeds in {wall_s:.0f} s: {total.results / max(wall_s, 1e-9):.1f} seeds/s, "
        f"{total.cpu_s / max(total.results, 1):.3f} s CPU per seed; {total.virtual_s / 3600:.0f} virtual hours",
        f"{total.actions} requests accepted, {total.faults} faults; the least active: {total.poorest[0]:.0f} virtual s, "
        f"{total.poorest[1]} requests, {total.poorest[2]} faults",
    ]
    for name, counter in sorted(total.counts.items()):
        lines.append(f"{name}:")
        lines += [f"  {key:45} {value}" for key, value in sorted(counter.items())]
    lines.append(f"failures: {len(total.failures)}")
    lines += [f"  seed {seed}: {failure}" for seed, failure in sorted(total.failures)]
    return "\n".join(lines)


def hunt_all(seeds: int, jobs: int) -> int:
    """Try every mutant. Returns the number of mutants that were not noticed."""
    from sim.mutants import MUTANTS

    missed = 0
    with ProcessPoolExecutor(jobs) as pool:
        for mutant, found in zip(MUTANTS, pool.map(_hunt, range(len(MUTANTS)), [seeds] * len(MUTANTS)), strict=True):
            missed += found is None
            text = f"NOT NOTICED in {seeds} seeds" if found is None else f"seed {found[0]}: {found[1][:160]}"
            print(f"{mutant.name:58} {text}", flush=True)
    print(f"{len(MUTANTS)} mutants, {missed} not noticed")
    return missed


def _hunt(index: int, seeds: int) -> tuple[int, str] | None:
    from sim.mutants import MUTANTS, hunt

    quiet()
    found = hunt(MUTANTS[index], range(seeds))
    return None if found is None else (found[0], str(found[1]))
