"""Plans and explanations as text for operators. Pure: API answers in, text out."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from shardwright.cli.progress import reason_text
from shardwright.cli.table import fields, table
from shardwright.units import format_bytes, format_duration

Json = Mapping[str, Any]

_GROUPS_SHOWN = 20
_SHARDS_SHOWN = 5
_STATUS = {
    "possible": "can be done",
    "partly": "would fail, and leave blocked shards and endpoints behind",
    "blocked": "would wait until its obstacles are removed or pass",
    "completed": "nothing has to move",
    "failed": "would be refused",
}
_VERDICTS = {
    "yes": "yes",
    "nothing_to_do": "yes, there is nothing to do",
    "later": "not now",
    "blocked": "not without intervention",
    "partly": "only in part",
    "no": "no",
}


def plan_text(plan: Json, *, start_with: str = "") -> str:
    """A dry run. ``start_with`` is the command that would execute it; empty if there is none."""
    moves: Sequence[Json] = plan.get("moves") or []
    basis = "measured here" if plan.get("rates_are_measured") else "typical rates: no measurements yet"
    pairs: list[tuple[str, object]] = [
        ("plan", f"{plan.get('name')} node:{plan.get('node_uid')}"),
        ("result", _STATUS.get(str(plan.get("status")), str(plan.get("status")))),
    ]
    if moves:
        pairs += [
            ("moves", f"{len(moves)}, {format_bytes(plan.get('bytes_total') or 0)}"),
            ("takes", f"about {duration(plan.get('seconds'))} ({basis})"),
        ]
        if pause := plan.get("pause_ms"):
            pairs.append(("write pause", f"about {pause:g} ms per database"))
    parts = [fields(pairs)]
    if error := plan.get("error_message"):
        parts.append(f"WOULD FAIL: {error} ({plan.get('error_code')})")
    parts += _plan_tables(plan, moves)
    if reasons := plan.get("reasons"):
        parts.append("\n".join(["OBSTACLES:", *(f"  {reason_text(reason)}" for reason in reasons)]))
    if warnings := plan.get("warnings"):
        parts.append("\n".join(["NOTE:", *(f"  {reason_text(warning)}" for warning in warnings)]))
    if start_with and moves and plan.get("status") in ("possible", "partly", "blocked"):
        parts.append(f"Nothing was started. To execute exactly this plan:\n  {start_with} --plan {plan.get('plan_id')}")
    else:
        parts.append("Nothing was started.")
    return "\n\n".join(parts)


def _plan_tables(plan: Json, moves: Sequence[Json]) -> list[str]:
    parts = []
    if moves:
        rows = [
            [
                move.get("order"),
                f"{move.get('kind')} {move.get('what')}",
                f"db:{move.get('bdb_uid')}",
                move.get("from") or "-",
                move.get("to") or "-",
                format_bytes(size) if (size := move.get("bytes_total")) else "-",
                f"+{duration(move.get('begins_s'))}",
                duration(move.get("seconds")),
                f"{pause:g}ms" if (pause := move.get("pause_ms")) else "-",
            ]
            for move in moves
        ]
        columns = ("#", "WHAT", "DB", "FROM", "TO", "BYTES", "BEGINS", "TAKES", "PAUSE")
        parts.append(table(columns, rows, title="MOVES"))
    if groups := plan.get("groups"):
        # The smallest numbers first: these are critical.
        weak = sorted(groups, key=lambda g: (g.get("if_node_off", 0), g.get("during", 0)))
        rows = [
            [
                f"db:{g.get('bdb_uid')}",
                g.get("group"),
                g.get("before"),
                g.get("during"),
                g.get("after"),
                g.get("if_node_off"),
            ]
            for g in weak[:_GROUPS_SHOWN]
        ]
        headings = ("DB", "SLOT GROUP", "BEFORE", "DURING", "AFTER", "IF NODE OFF")
        more = f"\n… and {len(weak) - _GROUPS_SHOWN} more" if len(weak) > _GROUPS_SHOWN else ""
        parts.append(table(headings, rows, title="COPIES IN SYNC") + more)
    if targets := plan.get("targets"):
        rows = [
            [
                f"node:{t.get('node_uid')}",
                f"{_size(t, 'provisioned_before')} -> {_size(t, 'provisioned_after')} of {_size(t, 'capacity')}",
                _size(t, "data"),
                f"up to {_size(t, 'copy_on_write')}",
                f"up to {_size(t, 'buffers')}",
                f"{_size(t, 'peak')}",
                _size(t, "free") if t.get("free") else "unknown",
            ]
            for t in targets
        ]
        titles = ("NODE", "PROVISIONED", "DATA", "FORKS", "BUFFERS", "PEAK", "FREE NOW")
        parts.append(table(titles, rows, title="MEMORY ON TARGETS"))
    return parts


def explanation_text(found: Json) -> str:
    """An explanation: the verdict, the effects, the obstacles, the smallest remedy."""
    verdict = str(found.get("verdict"))
    parts = [
        fields(
            [
                ("question", f"{found.get('action')} node:{found.get('node_uid')}?"),
                ("answer", f"{_VERDICTS.get(verdict, verdict)}: {found.get('description')}"),
                *([("remedy", found.get("remedy"))] if found.get("remedy") else []),
            ]
        )
    ]
    for block in found.get("blocks") or []:
        count = int(block.get("count") or 0)
        shards: Sequence[Json] = block.get("shards") or []
        head = f"{str(block.get('grade')).replace('_', ' ').upper()}: {block.get('code')}" + (
            f" × {count}" if count > 1 else ""
        )
        lines = [head, *(f"  {reason_text(reason)}" for reason in shards[:_SHARDS_SHOWN])]
        if count > _SHARDS_SHOWN:
            lines.append(f"  … and {count - _SHARDS_SHOWN} more")
        parts.append("\n".join(lines))
    if warnings := found.get("warnings"):
        parts.append("\n".join(["NOTE:", *(f"  {reason_text(warning)}" for warning in warnings)]))
    return "\n\n".join(parts)


def duration(seconds: object) -> str:
    """``12s`` or ``3m 05s``; with tenths below ten seconds."""
    if not isinstance(seconds, int | float):
        return "-"
    if seconds < 10:
        return f"{seconds:.1f}s"
    return f"{seconds:.0f}s" if seconds < 60 else format_duration(timedelta(seconds=seconds))


def _size(thing: Json, key: str) -> str:
    value = thing.get(key)
    return format_bytes(value) if isinstance(value, int) else "-"
