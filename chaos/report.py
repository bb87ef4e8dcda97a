"""The findings of a run, for people and as one line of JSON."""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Result:
    """The result of a run."""

    seed: int
    seconds: float
    server: str
    is_unnoticed: bool = False
    """Whether the run did nothing that an ordinary client may notice."""
    found: dict[str, Any] = field(default_factory=dict)
    """The checker's findings."""
    crowd: dict[str, Any] = field(default_factory=dict)
    """What each of the slow, rude and large clients observed."""
    reconnects: int | None = None
    """Disconnects of the writers; None: they did not report."""
    too_long: list[str] = field(default_factory=list)
    """Actions that exceeded the limit for undisturbed actions."""
    faults: dict[str, int] = field(default_factory=dict)
    """Faults that had a target, by kind."""
    requests: dict[str, int] = field(default_factory=dict)
    """Requests that were sent, by kind."""
    actions: dict[str, int] = field(default_factory=dict)
    """By name, outcome and error code."""
    handoffs: int = 0
    rebuilds: int = 0
    converged_s: float | None = None
    """None: not in time."""
    complaints: list[str] = field(default_factory=list)
    """What was not at rest at the end."""
    defects: list[str] = field(default_factory=list)
    """Errors of steps that should have succeeded, and lines in the daemons' logs that name a defect."""

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, doubled or torn, everything is at rest, and no forbidden effect was noticed."""
        damage = sum(int(self.found.get(name, 1)) for name in ("lost", "doubled", "torn"))
        damage += sum(c["lost"] + c["doubled"] + len(c["wrong"]) for c in self.crowd.values())
        is_whole = damage == 0 and self.converged_s is not None and not self.defects
        return is_whole and not (self.is_unnoticed and self.noticed)

    @property
    def noticed(self) -> list[str]:
        """Effects that no ordinary client may notice of planned actions, and actions that did not end in time."""
        effects = [
            f"{name}: {c['noticed']} of {sum(c['outcomes'].values())} turns"
            for name, c in self.crowd.items()
            if c["noticed"]
        ]
        if self.found.get("in_doubt"):
            effects.append(f"writers: {self.found['in_doubt']} errors")
        if self.reconnects != 0:
            effects.append(f"writers: {self.reconnects} disconnects")
        return effects + self.too_long


def show(result: Result) -> str:
    """The readable part."""
    found = result.found
    pauses = {
        name: f"{d['longest_pause_s']} (from {time.strftime('%H:%M:%S', time.localtime(d['longest_pause_at']))})"
        for name, d in found.get("databases", {}).items()
    }
    lines = [
        f"seed {result.seed}, {result.seconds:.0f} s, {result.server}",
        f"acknowledged writes: {found.get('acked')}; in doubt: {found.get('in_doubt')}; reads: {found.get('looks')}",
        f"faults: {sum(result.faults.values())}: {_counts(result.faults)}",
        f"requests: {sum(result.requests.values())}: {_counts(result.requests)}",
        f"actions: {_counts(result.actions)}",
        f"handoffs: {result.handoffs}; copies rebuilt: {result.rebuilds}",
        f"lost: {found.get('lost')}; doubled: {found.get('doubled')}; torn: {found.get('torn')}",
        f"lost as the default mode allows (in the last moment before a primary was killed): {found.get('lost_allowed')}",
        *(f"crowd, {name}: {_crowd(c)}" for name, c in result.crowd.items()),
        f"noticed{'' if result.is_unnoticed else ', as may be'}: {'; '.join(result.noticed) or 'nothing'}",
        f"longest pause, seconds: {_counts(pauses)}",
        "at rest " + (f"after {result.converged_s:.1f} s" if result.converged_s is not None else "NOT in time:"),
        *(f"  {line}" for line in result.complaints[:20]),
        *(f"  {line}" for line in found.get("examples", [])),
        *(f"  defect: {line[:400]}" for line in result.defects[:10]),
    ]
    return "\n".join(lines)


def _crowd(client: dict[str, Any]) -> str:
    damage = "".join(f"; {name} {client[name]}" for name in ("lost", "doubled", "wrong") if client[name])
    return "; ".join([_counts(client["outcomes"]) + damage, *client["texts"]])


def _counts(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def summary(result: Result) -> str:
    """One JSON object on one line."""
    return json.dumps({"chaos": {"ok": result.is_good, **asdict(result)}})
