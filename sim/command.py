"""The command line of the simulation. Its output is for people; CI uses the exit status."""

import argparse
import os
import sys
import time
from pathlib import Path

from sim.crash_points import all_outcomes, table
from sim.many import hunt_all, report, run_many
from sim.simulation import quiet, replay
from testkit import guard


def main(arguments: list[str]) -> int:
    """Run. Returns 0 if everything held."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of texts are iterated in the order of their hashes.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "sim", *arguments])
    parser = argparse.ArgumentParser(prog="python -m sim", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("replay", help="run one seed, and print a line for each event")
    one.add_argument("seed", type=int)
    many = verbs.add_parser("many", help="run many seeds on all cores, and print a report")
    many.add_argument("-n", type=int, default=1000)
    many.add_argument("--first", type=int, default=0)
    many.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    mutants = verbs.add_parser("mutants", help="plant mistakes, and check that each is noticed")
    mutants.add_argument("--seeds", type=int, default=60)
    mutants.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    crash = verbs.add_parser("crash-points", help="let the leader fail at every commit and command, and write the table")
    crash.add_argument("file", type=Path)
    crash.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args(arguments)
    guard.begin()
    quiet()
    if chosen.verb == "replay":
        return _replay(chosen.seed)
    if chosen.verb == "mutants":
        return 1 if hunt_all(chosen.seeds, chosen.jobs) else 0
    if chosen.verb == "crash-points":
        outcomes = all_outcomes(chosen.jobs)
        chosen.file.write_text(table(outcomes))
        return 1 if any(o.failure for outcomes in outcomes.values() for o in outcomes) else 0
    return _many(chosen.first, chosen.n, chosen.jobs)


def _many(first: int, count: int, jobs: int) -> int:
    began = time.monotonic()
    total = run_many(first, count, jobs)
    print(report(total, time.monotonic() - began))
    return 1 if total.failures else 0


def _replay(seed: int) -> int:
    simulation, result = replay(seed)
    for line in simulation.world.lines or ():
        print(line)
    print(f"seed {seed}: {result.failure or 'everything held'}")
    print(
        f"{result.virtual_s:.0f} virtual seconds, {result.steps} steps, {result.actions} requests, {result.faults} faults, "
        f"{result.writes} writes acknowledged, digest {result.digest}"
    )
    return 1 if result.failure else 0
