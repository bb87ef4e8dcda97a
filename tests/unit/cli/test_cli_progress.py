from typing import Any

import pytest

from shardwright.cli.progress import (
    Changes,
    ProgressRates,
    ending,
    evidence_text,
    has_ended,
    move_row,
    object_of,
    progress_of,
    reason_text,
)

MB = 1 << 20


def move(uid: str = "m1", **changes: object) -> dict[str, Any]:
    return {
        "uid": uid,
        "kind": "relocate",
        "what": "redis:4",
        "from": "node:3",
        "to": "node:1",
        "state": "syncing",
        "bytes_total": 200 * MB,
        "bytes_done": 50 * MB,
        "reasons": [],
        "evidence": None,
    } | changes


def action(*moves: dict[str, Any], **changes: object) -> dict[str, Any]:
    return {
        "name": "maintenance_on",
        "node_uid": "3",
        "status": "running",
        "progress": "40",
        "moves": list(moves),
        "reasons": [],
    } | changes


def test_a_rate_follows_from_successive_answers() -> None:
    rates = ProgressRates()
    rates.note(action(move(bytes_done=0)), 10.0)
    assert rates.of(move()) is None
    rates.note(action(move(bytes_done=50 * MB)), 10.5)
    assert rates.of(move()) == 100 * MB
    assert move_row(move(), rates) == ("relocate redis:4", "node:3", "node:1", "syncing", "50MB/200MB", "100MB/s")


def test_an_old_rate_is_forgotten_when_a_move_stalls() -> None:
    rates = ProgressRates()
    for at in range(20):
        rates.note(action(move(bytes_done=min(at, 3) * MB)), float(at))
    assert rates.of(move()) == 0


def test_an_ended_move_has_no_rate() -> None:
    rates = ProgressRates()
    rates.note(action(move(bytes_done=0)), 0.0)
    rates.note(action(move(bytes_done=9)), 1.0)
    assert rates.of(move(state="done")) is None


def test_a_handoff_moves_no_bytes() -> None:
    row = move_row(move(kind="handoff", bytes_total=0, bytes_done=0, state="handoff"), ProgressRates())
    assert row == ("handoff redis:4", "node:3", "node:1", "handoff", "-", "-")


@pytest.mark.parametrize(("value", "expected"), [("40", 40), (12.5, 12.5), (None, 0), ("much", 0), (250, 100), (-1, 0)])
def test_progress_is_a_number_in_every_version(value: object, expected: float) -> None:
    assert progress_of({"progress": value}) == expected


@pytest.mark.parametrize(
    ("status", "expected"), [("running", False), ("cancelling", False), ("completed", True), ("aborted", True)]
)
def test_the_end(status: str, expected: bool) -> None:
    assert has_ended({"status": status}) is expected


def test_lines_show_only_changes() -> None:
    changes, rates = Changes(), ProgressRates()
    assert list(changes.lines(action(move()), rates)) == [
        "maintenance_on node:3: 40% running",
        "  relocate redis:4 node:3 -> node:1: syncing 50MB/200MB",
    ]
    assert list(changes.lines(action(move(bytes_done=60 * MB), progress="44"), rates)) == []
    ready = action(move(state="done", bytes_done=200 * MB), status="completed", progress="100")
    assert list(changes.lines(ready, rates)) == [
        "maintenance_on node:3: 100% completed",
        "  relocate redis:4 node:3 -> node:1: done 200MB",
    ]


def test_lines_show_a_reason_once() -> None:
    changes, rates = Changes(), ProgressRates()
    waits = action(reasons=[{"code": "busy", "description": "a command runs", "remedy": "end it"}])
    assert "  waits: a command runs (busy); remedy: end it" in list(changes.lines(waits, rates))
    assert list(changes.lines(waits, rates)) == []


def test_the_end_shows_the_cause() -> None:
    failed = action(
        status="failed", error_code="insufficient_resources", error_message="no room", reasons=[{"description": "redis:4"}]
    )
    assert ending(failed) == "maintenance_on node:3: failed: no room (insufficient_resources)\n  - redis:4"


def test_an_action_on_a_database() -> None:
    assert object_of({"object_name": "bdb:1"}) == "bdb:1"


def test_a_reason_without_a_sentence_is_its_code() -> None:
    assert reason_text({"code": "quorum"}) == "quorum"


def test_evidence_names_the_leader_that_finished() -> None:
    evidence = {
        "from_shard": "1",
        "to_shard": "2",
        "pause_ms": 4.5,
        "fenced_offset": 10,
        "promoted_offset": 10,
        "finished_by": "recovery",
    }
    text = evidence_text(evidence)
    assert "redis:1 -> redis:2: pause 4.5 ms" in text
    assert text.endswith("finished by a new leader")
