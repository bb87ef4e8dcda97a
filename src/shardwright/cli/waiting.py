"""Waits for an action or a condition and shows the progress: live on a terminal, otherwise as lines, silent with
``--json``.

Daemons may die and be replaced during the wait; nodes that do not answer for a while do not end it.
"""

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shardwright.cli.client import ApiClient
from shardwright.cli.failure import Exit, Failure
from shardwright.cli.progress import (
    MOVE_COLUMNS,
    MOVE_ENDED,
    Changes,
    Json,
    ProgressRates,
    ending,
    has_ended,
    move_row,
    moves_of,
    pace,
    progress_of,
    reason_text,
    reasons_of,
    title,
)
from shardwright.cli.session import CommandSession
from shardwright.units import parse_duration

POLL_S = 0.25
PATIENCE_S = 30.0
"""A dead leader is replaced within its lease of 3 s, a daemon restarts soon after: beyond this time, the API is down."""
_MOVES_SHOWN = 12
"""Rows that fit on a small terminal with all other output; live moves come first."""

T = TypeVar("T")


def wait_for_action(session: CommandSession, uid: str, *, timeout: str | None, is_shown: bool = True) -> Json:
    """Show an action until it ends, and its end (with ``is_shown``). Raises Failure if it fails, is cancelled, or outlasts
    ``timeout``."""
    try:
        action = _watch(session, uid, deadline(timeout))
    except KeyboardInterrupt:
        print(f"The action continues. Watch it again: shardwright action watch {uid}", file=sys.stderr)
        raise
    if is_shown:
        session.show(action, lambda: ending(action))
    if action.get("status") == "completed":
        return action
    code = str(action.get("error_code") or action.get("status"))
    text = str(action.get("error_message") or f"{title(action)} ended {action.get('status')}")
    raise Failure(Exit.FAILED, code, text, remedy=f"shardwright action show {uid} shows the details")


def wait_for_cancellation(session: CommandSession, uid: str, *, timeout: str | None) -> Json:
    """Show a cancelled action until it ends. Raises Failure if it did not end as requested, or outlasts ``timeout``."""
    action = _watch(session, uid, deadline(timeout))
    session.show(action, lambda: ending(action))
    if action.get("status") in ("cancelled", "completed"):
        return action
    text = str(action.get("error_message") or f"{title(action)} ended {action.get('status')}")
    code = str(action.get("error_code") or action.get("status"))
    raise Failure(Exit.FAILED, code, text, remedy=f"shardwright action show {uid} shows the details")


def wait_until(session: CommandSession, what: str, ask: Callable[[], T | None], *, timeout: str | None) -> T:
    """Poll until the answer is not None."""
    until = deadline(timeout)
    patience = Patience()
    while True:
        answer = patience.call(ask)
        if answer is not None:
            return answer
        pause(until, what)


def deadline(timeout: str | None) -> float | None:
    """The monotonic time at which ``--timeout`` ends; None: never."""
    if timeout is None:
        return None
    try:
        limit: timedelta = parse_duration(timeout)
    except ValueError as error:
        raise Failure(Exit.USAGE, "usage", str(error)) from None
    return time.monotonic() + limit.total_seconds()


def pause(until: float | None, what: str) -> None:
    """Sleep until the next poll. Raises Failure (timeout) after the end."""
    if until is None:
        time.sleep(POLL_S)
        return
    left = until - time.monotonic()
    if left <= 0:
        raise Failure(Exit.TIMEOUT, "timeout", f"{what} has not ended in time; it continues")
    time.sleep(min(POLL_S, left))


class Patience:
    """Tolerates an API that does not answer, for a while."""

    def __init__(self, seconds: float = PATIENCE_S) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def call(self, ask: Callable[[], T | None]) -> T | None:
        """The answer; None if no node answered this time."""
        try:
            answer = ask()
        except Failure as failure:
            if failure.exit_code is not Exit.UNREACHABLE:
                raise
            now = time.monotonic()
            self._since = self._since or now
            if now - self._since > self._seconds:
                raise
            return None
        self._since = None
        return answer


def _watch(session: CommandSession, uid: str, until: float | None) -> dict[str, Any]:
    rates, patience = ProgressRates(), Patience()
    with _Display(is_silent=session.as_json) as display:
        while True:
            action = patience.call(lambda: read_action(session.api, uid))
            if action is not None:
                rates.note(action, time.monotonic())
                display.show(action, rates)
                if has_ended(action):
                    return action
            pause(until, f"action {uid}")


def read_action(api: ApiClient, uid: str) -> dict[str, Any]:
    """One action by its uid: readable even after the removal of its node."""
    answer = api.get(f"/v1/actions/{uid}")
    return answer if isinstance(answer, dict) else {}


class _Display:
    """A live table on a terminal, otherwise lines for changes."""

    def __init__(self, *, is_silent: bool) -> None:
        self._is_silent = is_silent
        self._changes = Changes()
        console = Console()
        self._live = (
            Live(console=console, transient=True, refresh_per_second=8) if console.is_terminal and not is_silent else None
        )

    def __enter__(self) -> "_Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, action: Json, rates: ProgressRates) -> None:
        if self._live is not None:
            self._live.update(_screen(action, rates))
        elif not self._is_silent:
            for line in self._changes.lines(action, rates):
                print(line, flush=True)


def _screen(action: Json, rates: ProgressRates) -> RenderableType:
    percent = progress_of(action)
    head = Table.grid(padding=(0, 2))
    head.add_row(Text(title(action), style="bold"), ProgressBar(total=100, completed=percent, width=30), f"{percent:.1f}%")
    head.add_row(Text(str(action.get("status"))), Text(pace(action)))
    moves = sorted(moves_of(action), key=lambda move: move.get("state") in MOVE_ENDED)
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in MOVE_COLUMNS:
        rows.add_column(column, justify="right" if column in ("BYTES", "RATE") else "left")
    for move in moves[:_MOVES_SHOWN]:
        rows.add_row(*(Text(cell) for cell in move_row(move, rates)), style="dim" if move.get("state") in MOVE_ENDED else "")
    more = [Text(f"… and {len(moves) - _MOVES_SHOWN} more moves", style="dim")] if len(moves) > _MOVES_SHOWN else []
    waits = [
        Text(f"waits: {reason_text(reason)}", style="yellow") for thing in (action, *moves) for reason in reasons_of(thing)
    ]
    return Group(head, *([rows] if moves else []), *more, *waits[:5])
