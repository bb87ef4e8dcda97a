"""``shardwright action``: list, show, watch and cancel actions; and ``events``, the event log."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from shardwright.cli.failure import Exit, Failure, usage
from shardwright.cli.progress import (
    MOVE_COLUMNS,
    ProgressRates,
    ending,
    evidence_text,
    has_ended,
    move_row,
    moves_of,
    object_of,
    pace,
    progress_of,
    reason_text,
    reasons_of,
    title,
)
from shardwright.cli.session import CommandSession, Timeout, Wait, command, confirm, parsed
from shardwright.cli.session import Yes as YesOption
from shardwright.cli.table import UNKNOWN, fields, table
from shardwright.cli.waiting import read_action, wait_for_action, wait_for_cancellation
from shardwright.units import format_duration, parse_duration

ActionArgument = Annotated[str, typer.Argument(metavar="ACTION", help="Uid of an action, or its first characters.")]
_WIRE_NAMES = {"remove_node": "remove"}
"""Actions whose name in lists differs from their name in the path."""
_PREFIX_LENGTH_MIN = 4


def register(app: typer.Typer) -> None:
    """Add ``action`` and ``events``."""
    group = typer.Typer(no_args_is_help=True, help="List, show, watch and cancel actions.")
    app.add_typer(group, name="action")
    command(group, "list")(_list)
    command(group, "show", examples="shardwright action show 7b0d")(_show)
    command(group, "watch", examples="shardwright action watch 7b0d --timeout 10m")(_watch)
    command(group, "cancel", examples="shardwright action cancel 7b0d --yes\nshardwright action cancel 7b0d --undo")(_cancel)
    command(app, "events", examples="shardwright events --limit 100\nshardwright events --since 1h")(_events)


def _list(
    session: CommandSession,
    node: Annotated[int | None, typer.Option("--node", min=1, help="Only actions of this node.")] = None,
) -> None:
    """List actions, the newest first."""
    answer = session.api.get("/v1/actions")
    actions = [action for action in _all(answer) if node is None or str(action.get("node_uid")) == str(node)]
    rows = [
        [
            action.get("action_uid"),
            action.get("name"),
            object_of(action),
            action.get("status"),
            f"{progress_of(action):g}%",
            _when(action),
        ]
        for action in actions
    ]
    if session.as_json and node is not None:
        answer = {"actions": actions}
    session.show(answer, lambda: table(("ACTION", "NAME", "OBJECT", "STATUS", "PROGRESS", "CREATED"), rows))


def _show(session: CommandSession, action: ActionArgument) -> None:
    """Show an action with its steps, moves, reasons and the evidence of its handoffs."""
    found = read_action(session.api, _uid(session, action))
    session.show(found, lambda: _described(found))


def _watch(session: CommandSession, action: ActionArgument, timeout: Timeout = None) -> None:
    """Watch an action until it ends; the exit code reports the result."""
    wait_for_action(session, _uid(session, action), timeout=timeout)


def _cancel(
    session: CommandSession,
    action: ActionArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Move everything back, instead of leaving it in place.")] = False,
    is_confirmed: YesOption = False,
    is_waited_for: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Ask an action to stop. Moved shards and endpoints stay, or move back with --undo; running moves end first."""
    found = read_action(session.api, _uid(session, action))
    if has_ended(found):
        if not _is_what_is_asked_for(found, undo=undo):
            raise Failure(Exit.FAILED, "already_ended", f"{title(found)} has already ended: {found.get('status')}")
        session.show(found, lambda: f"{title(found)} was already cancelled")
        return
    if not found.get("node_uid"):
        raise Failure(Exit.FAILED, "not_cancellable", f"{title(found)} cannot be cancelled")
    question = f"Cancel {title(found)} and move everything back?" if undo else f"Cancel {title(found)}?"
    confirm(question, is_confirmed=is_confirmed)
    name = str(found["name"])
    path = f"/v1/nodes/{found['node_uid']}/actions/{_WIRE_NAMES.get(name, name)}"
    answer = session.api.delete(path, query={"mode": "undo"} if undo else None)
    status = answer.get("status", "cancelling") if isinstance(answer, dict) else "cancelling"
    what = "everything moves back" if undo else "moved shards and endpoints stay"
    if is_waited_for:
        session.say(f"{title(found)}: {status}; {what}")
        wait_for_cancellation(session, str(found["action_uid"]), timeout=timeout)
        return
    text = f"{title(found)}: {status}; {what}\nwatch it: shardwright action watch {found['action_uid']}"
    session.show(answer, lambda: text)


def _is_what_is_asked_for(ended: dict[str, Any], *, undo: bool) -> bool:
    """Whether the action's end already satisfies a cancel request that came too late."""
    if ended.get("status") != "cancelled":
        return False
    is_undone = any(step.get("name") == "undo" for step in ended.get("steps", []))
    return not undo or is_undone or not ended.get("moves")


def _events(
    session: CommandSession,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Number of events, the newest ones.")] = 50,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only events of this last period, such as 30m or 2d.")
    ] = None,
) -> None:
    """Show the event log: time, user, cause; the newest event last."""
    query: dict[str, str | int] = {"order": "desc", "limit": limit}
    if since is not None:
        query["stime"] = _ago(since)
    events = session.api.get("/v1/logs", query=query)[::-1]
    rows = [
        [
            event.get("time"),
            event.get("severity"),
            event.get("type"),
            _subject(event),
            event.get("by") or "cluster",
            event.get("description"),
        ]
        for event in events
    ]
    session.show(events, lambda: table(("TIME", "SEVERITY", "TYPE", "OBJECT", "BY", "WHAT"), rows))


def _ago(text: str) -> str:
    try:
        start = datetime.now(UTC) - parsed(parse_duration, text)
    except OverflowError:
        raise usage(f"{text!r} is too long") from None
    return f"{start:%Y-%m-%dT%H:%M:%SZ}"


def _subject(event: dict[str, Any]) -> str:
    node, database = event.get("node_uid"), event.get("bdb_uid")
    return f"node:{node}" if node is not None else f"db:{database}" if database is not None else "-"


def _all(answer: dict[str, Any]) -> list[dict[str, Any]]:
    both = [*(answer.get("actions") or []), *(answer.get("state-machines") or [])]
    return sorted(both, key=lambda action: _epoch(action) or 0, reverse=True)


def _uid(session: CommandSession, text: str) -> str:
    """The whole uid for its first characters. A text without a matching action is passed on, so that the API refuses it."""
    if not text.isascii() or not text.replace("-", "").isalnum():
        raise usage(f"{text!r} is not the uid of an action", remedy="shardwright action list shows them")
    if len(text) >= 32:
        return text
    if len(text) < _PREFIX_LENGTH_MIN:
        raise usage(f"{text!r} is too short: give at least {_PREFIX_LENGTH_MIN} characters of the uid")
    found = sorted(
        {uid for action in _all(session.api.get("/v1/actions")) if (uid := str(action.get("action_uid"))).startswith(text)}
    )
    if len(found) > 1:
        raise usage(f"{text!r} matches {len(found)} uids: {', '.join(found)}")
    return found[0] if found else text


def _epoch(action: dict[str, Any]) -> int | None:
    value = str(action.get("creation_time") or action.get("heartbeat") or "")
    return int(value) if value.isdigit() and len(value) < 12 else None


def _when(action: dict[str, Any]) -> str:
    seconds = _epoch(action)
    return UNKNOWN if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _described(action: dict[str, Any]) -> str:
    moves = moves_of(action)
    parts = [
        fields(
            [
                ("action", action.get("action_uid")),
                ("name", title(action)),
                ("status", action.get("status")),
                ("progress", f"{progress_of(action):g}%" + (f" ({going})" if (going := pace(action)) else "")),
                ("requested by", action.get("requested_by")),
                ("created", _when(action)),
            ]
        )
    ]
    if steps := action.get("steps"):
        rows = [[step.get("name"), step.get("started"), _lasted(step), step.get("description") or "-"] for step in steps]
        parts.append(table(("STEP", "STARTED", "TOOK", "WHAT"), rows))
    if moves:
        # A single answer has no rate: show the duration of each move.
        rows = [[*move_row(move, ProgressRates())[:-1], _lasted(move)] for move in moves]
        parts.append(table((*MOVE_COLUMNS[:-1], "TOOK"), rows))
    if proofs := [evidence_text(evidence) for move in moves if (evidence := move.get("evidence"))]:
        parts.append("\n".join(["EVIDENCE:", *proofs]))
    if waits := [f"  {move.get('what')}: {reason_text(reason)}" for move in moves for reason in reasons_of(move)]:
        parts.append("\n".join(["MOVES WAITING OR FAILED:", *waits]))
    if has_ended(action):
        parts.append(ending(action))
    elif blocked := [f"  {reason_text(reason)}" for reason in reasons_of(action)]:
        parts.append("\n".join(["BLOCKED:", *blocked]))
    return "\n\n".join(parts)


def _lasted(thing: Mapping[str, Any]) -> str:
    started, ended = _time(thing.get("started")), _time(thing.get("ended"))
    if started is None:
        return "-"
    if ended is None:
        return "under way"
    # The wire's times have a resolution of whole seconds.
    took = ended - started
    return "<1s" if took < timedelta(seconds=1) else format_duration(took).replace(".0s", "s")


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")) if text else None
    except ValueError:
        return None
