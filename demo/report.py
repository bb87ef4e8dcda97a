"""The demonstration's report: for people, and as one line of JSON."""

import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.scenario import ActionReport, DemoResult, Handoff

ACKED_PER_S_MIN = 1000


def show(result: DemoResult, console: Console) -> None:
    """Print the readable part."""
    table = Table(title=f"Node actions under live writes ({result.server})", title_justify="left")
    for column in ("action", "seconds", "moves", "MB moved", "handoffs", "longest pause", "writes/s meanwhile"):
        table.add_column(column, justify="left" if column == "action" else "right")
    for action in result.actions:
        moves = action.record.get("moves", [])
        moved = sum(m.get("bytes_done", 0) for m in moves) / 1e6
        pause = max((h.pause_ms for h in action.handoffs), default=0.0)
        row = (f"{action.seconds:.1f}", str(len(moves)), f"{moved:.0f}", str(len(action.handoffs)), f"{pause:.1f} ms")
        table.add_row(action.title, *row, f"{action.acked_per_s:.0f}")
    console.print(table)
    _show_handoffs([h for a in result.actions for h in a.handoffs], console)
    outcome = result.outcome
    console.print(f"leader killed: another daemon led after {result.recovery_s:.1f} s")
    if result.store_recovery_s is not None:
        console.print(f"store's leader killed: another member led after {result.store_recovery_s:.1f} s")
    console.print(f"acknowledged writes: {outcome.acked}; reads: {outcome.reads}; stale reads: {outcome.stale_reads}")
    console.print(f"lost writes: {len(outcome.lost)}; doubled writes: {len(outcome.doubled)}")
    console.print(f"client errors: {outcome.errors}; disconnects: {outcome.disconnects}")
    console.print(f"slowest call: {slowest_ms(result):.1f} ms")
    for line in [*outcome.lost[:10], *outcome.doubled[:10], *outcome.error_texts[:10]]:
        console.print(f"  {line}", markup=False)


def _show_handoffs(handoffs: list[Handoff], console: Console) -> None:
    table = Table(title="Handoffs and their evidence", title_justify="left")
    for column in (
        "database",
        "from → to",
        "generation",
        "fenced offset",
        "promoted offset",
        "history goes on",
        "fence",
        "pause",
    ):
        table.add_column(column, justify="right" if column in ("generation", "fence", "pause") else "left")
    for handoff in handoffs:
        e = handoff.evidence
        goes_on = "yes" if e["second_replication_id"] == e["replication_id_before"] else "by recovery"
        shards = f"{e['from_shard']} → {e['to_shard']}"
        offsets = (str(e["fenced_offset"]), str(e["promoted_offset"]))
        times = (f"{e['fence_ms']:.1f} ms", f"{handoff.pause_ms:.1f} ms")
        table.add_row(handoff.database, shards, str(e["generation"]), *offsets, goes_on, *times)
    console.print(table)


def slowest_ms(result: DemoResult) -> float:
    """The longest write call of all, in milliseconds."""
    calls = [c for group in result.outcome.calls.values() for c in group]
    return max((max(c.lasted, default=0.0) for c in calls), default=0.0) * 1000


def is_good(result: DemoResult) -> bool:
    """Whether nothing was lost or doubled, and no client saw anything; or, where clients may have to reconnect, no error."""
    o = result.outcome
    has_disconnects = o.disconnects > 0 and not result.may_reconnect
    return not (o.lost or o.doubled or o.errors or has_disconnects or o.stale_reads)


def summary(result: DemoResult) -> dict[str, Any]:
    """What the last line says, in JSON."""
    handoffs = [h for a in result.actions for h in a.handoffs]
    pauses = [h.pause_ms for h in handoffs]
    o = result.outcome
    return {
        "demo": "ok" if is_good(result) else "failed",
        "server": result.server,
        "acked": o.acked,
        "lost": len(o.lost),
        "doubled": len(o.doubled),
        "errors": o.errors,
        "stale_reads": o.stale_reads,
        "disconnects": o.disconnects,
        "slowest_ms": round(slowest_ms(result), 2),
        "handoffs": len(handoffs),
        "pause_ms_p50": round(statistics.median(pauses), 2) if pauses else 0.0,
        "pause_ms_max": round(max(pauses, default=0.0), 2),
        "acked_per_s_min": round(min((a.acked_per_s for a in result.actions), default=0.0)),
        "recovery_s": round(result.recovery_s, 2),
        **({} if result.store_recovery_s is None else {"store_recovery_s": round(result.store_recovery_s, 2)}),
        "actions": [_action(a) for a in result.actions],
    }


def _action(action: ActionReport) -> dict[str, Any]:
    return {
        "title": action.title,
        "seconds": round(action.seconds, 2),
        "status": action.record["status"],
        "moves": len(action.record.get("moves", [])),
        "acked_per_s": round(action.acked_per_s),
    }
