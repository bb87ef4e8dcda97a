"""The report of the losses of machines: for people, and as a part of the line of JSON."""

from typing import Any

from rich.console import Console
from rich.table import Table

from demo.machines.losses import LossesResult


def show(result: LossesResult, console: Console) -> None:
    """Print the readable part."""
    for loss in result.losses:
        table = Table(title=loss.title, title_justify="left")
        for column in ("database", "clients", "errors", "longest time without a reply"):
            table.add_column(column, justify="right" if column[0] in "el" else "left")
        for seen in loss.seen:
            table.add_row(seen.database, seen.kind, str(seen.errors), f"{seen.longest_gap_s:.1f} s")
        console.print(table)
        took = ", ".join(f"{name} after {seconds:.1f} s" for name, seconds in loss.takeover_s.items()) or "none was needed"
        console.print(f"failover: {took}; all copies in sync again after {loss.healthy_s:.1f} s")
    for name, acked in result.acked.items():
        console.print(f"{name}: acknowledged writes: {acked}; lost: {result.lost[name]}", end="")
        console.print(f", of which acknowledged after the power had failed: {result.lost_late[name]}")


def summary(result: LossesResult) -> dict[str, Any]:
    """The part of the line of JSON."""
    return {
        "acked": result.acked,
        "lost": result.lost,
        "lost_late": result.lost_late,
        "losses": [
            {
                "title": loss.title,
                "takeover_s": {name: round(seconds, 2) for name, seconds in loss.takeover_s.items()},
                "healthy_s": round(loss.healthy_s, 1),
                "clients": [
                    {"database": s.database, "kind": s.kind, "errors": s.errors, "longest_gap_s": round(s.longest_gap_s, 2)}
                    for s in loss.seen
                ],
            }
            for loss in result.losses
        ],
    }
