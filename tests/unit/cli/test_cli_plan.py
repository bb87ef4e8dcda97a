"""Plans, explanations and paces as text."""

from shardwright.cli.plan import duration, explanation_text, plan_text
from shardwright.cli.progress import pace

PLAN = {
    "dry_run": True,
    "name": "maintenance_on",
    "node_uid": "2",
    "status": "possible",
    "plan_id": "abc123",
    "moves": [
        {"order": 1, "kind": "handoff", "what": "redis:1", "bdb_uid": 1, "from": "node:2", "to": "node:1", "bytes_total": 0,
         "begins_s": 0.0, "seconds": 0.3, "pause_ms": 12.0},
        {"order": 2, "kind": "relocate", "what": "redis:1", "bdb_uid": 1, "from": "node:2", "to": "node:3",
         "bytes_total": 104857600, "begins_s": 0.3, "seconds": 2.5, "pause_ms": 0.0},
    ],
    "bytes_total": 104857600,
    "seconds": 2.8,
    "pause_ms": 12.0,
    "rates_are_measured": True,
    "groups": [{"group": "1:1", "bdb_uid": 1, "before": 2, "during": 2, "after": 2, "if_node_off": 2}],
    "targets": [{"node_uid": "3", "capacity": 4 << 30, "provisioned_before": 0, "provisioned_after": 1 << 30,
                 "data": 100 << 20, "copy_on_write": 100 << 20, "buffers": 300 << 20, "peak": 500 << 20, "free": 0}],
    "warnings": [{"code": "scan_cursors", "description": "a SCAN may repeat keys", "grade": "soft_limit", "remedy": ""}],
    "reasons": [],
}  # fmt: skip


def test_a_plan_reads_from_top_to_bottom_and_ends_with_the_command() -> None:
    text = plan_text(PLAN, start_with="shardwright node maintenance on 2")
    assert text.splitlines()[0] == "plan         maintenance_on node:2"
    assert "about 2.8s (measured here)" in text
    assert "write pause  about 12 ms per database" in text
    assert "2  relocate redis:1  db:1  node:2  node:3  100MB  +0.3s   2.5s   -" in text
    assert "0B -> 1GB of 4GB" in text
    assert "unknown" in text
    assert text.endswith("To execute exactly this plan:\n  shardwright node maintenance on 2 --plan abc123")


def test_a_plan_that_would_fail_shows_the_cause_and_no_command() -> None:
    failed = {"name": "remove", "node_uid": "2", "status": "failed", "error_code": "no_quorum", "error_message": "too few"}
    text = plan_text(failed, start_with="shardwright node remove 2")
    assert "would be refused" in text
    assert "WOULD FAIL: too few (no_quorum)" in text
    assert "--plan" not in text


def test_an_explanation_gives_the_answer_first() -> None:
    reason = {"code": "insufficient_memory", "description": "shard 1 finds no place", "grade": "hard_limit", "remedy": "r"}
    found = {
        "action": "remove", "node_uid": "2", "verdict": "no", "description": "it would be refused", "remedy": "add 3.2 GB",
        "blocks": [{"code": "insufficient_memory", "grade": "hard_limit", "count": 7, "shards": [reason] * 7}],
    }  # fmt: skip
    lines = explanation_text(found).splitlines()
    assert lines[:3] == ["question  remove node:2?", "answer    no: it would be refused", "remedy    add 3.2 GB"]
    assert "HARD LIMIT: insufficient_memory × 7" in lines
    assert lines[-1] == "  … and 2 more"


def test_durations() -> None:
    assert [duration(s) for s in (0.34, 9.96, 42, 185, None)] == ["0.3s", "10.0s", "42s", "3m 05s", "-"]


def test_the_pace_shows_what_is_known() -> None:
    assert pace({"status": "completed", "condition": "ended"}) == ""
    action = {"status": "running", "condition": "moving", "bytes_total": 1 << 20, "bytes_done": 1 << 19, "eta_seconds": 12.2}
    assert pace(action) == "moving, 512KB of 1MB, about 12s left"
    assert pace({"status": "running"}) == ""
