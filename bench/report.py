"""The report: tables for people, one JSON object for the results file, one JSON line for programs. Writes nothing itself."""

import json
import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.figures import Figure, PartResult


def show(part: PartResult, console: Console) -> None:
    """Print one part."""
    table = Table(title=f"{part.name} ({part.seconds:.0f} s)", title_justify="left")
    for column in ("figure", "Shardwright", "peer", "ratio", "floor", "ratio", "goal"):
        table.add_column(column, justify="left" if column in ("figure", "goal") else "right")
    for figure in part.figures:
        table.add_row(*_row(figure))
    if part.figures:
        console.print(table)
    for note in part.notes:
        console.print(f"  {note}", markup=False, highlight=False)
    for trouble in part.troubles:
        console.print(f"  TROUBLE: {trouble}", markup=False, highlight=False)
    console.print()


def _row(figure: Figure) -> tuple[str, ...]:
    unit = f" {figure.unit}" if figure.unit else ""
    peer = "" if figure.peer is None else f"{number(figure.peer)}{unit} ({figure.peer_name})"
    floor = "" if figure.floor is None else f"{number(figure.floor)}{unit} ({figure.floor_name})"
    goal = "" if figure.goal is None else f"{figure.goal.text}: {'reached' if figure.goal.is_met else 'missed'}"
    return (figure.name, f"{number(figure.ours)}{unit}", peer, number(figure.to_peer), floor, number(figure.to_floor), goal)


def number(value: float) -> str:
    """Three significant digits, no exponent; empty for NaN."""
    if math.isnan(value):
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def is_good(parts: Sequence[PartResult]) -> bool:
    """Whether every part ran and nothing was lost or went wrong."""
    return bool(parts) and not any(p.troubles for p in parts)


def results(parts: Sequence[PartResult], *, date: str, server: str, machine: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Everything, as it goes into the results file."""
    return {
        "bench": "ok" if is_good(parts) else "failed",
        "date": date,
        "server": server,
        "quick": quick,
        "machine": machine,
        "parts": {p.name: p.as_json() for p in parts},
    }


def summary(found: dict[str, Any], path: str) -> str:
    """One JSON object on one line, beginning with ``{"bench":``: the results without details."""
    parts = {name: {"figures": part["figures"], "troubles": part["troubles"]} for name, part in found["parts"].items()}
    return json.dumps({**found, "parts": parts, "file": path}, ensure_ascii=False)
