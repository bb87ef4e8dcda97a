"""What people read about a change of the cluster key."""

from typing import Any

import pytest

from shardwright.cli.cluster_key import line_of, rotation_text, waits_of

ANSWER: dict[str, Any] = {
    "name": "rotate_key",
    "status": "running",
    "phase": "sealing",
    "key_id": "1111",
    "former_key_id": "0000",
    "values": 40,
    "values_left": 10,
    "nodes": 3,
    "node_uids": [1, 2],
    "reasons": [],
}
REASON = {"code": "cluster_key_kept", "description": "node 3 is away", "remedy": "start it"}


@pytest.mark.parametrize(
    ("phase", "parts"),
    [
        ("making", ("requested",)),
        ("spreading", ("1111", "2 of 3 nodes")),
        ("sealing", ("1111", "30 of 40 secrets")),
        ("dropping", ("1111", "every secret")),
        ("done", ("1111", "0000 opens nothing")),
    ],
)
def test_each_phase_has_a_line(phase: str, parts: tuple[str, ...]) -> None:
    line = line_of(ANSWER | {"phase": phase})
    assert [part for part in parts if part not in line] == []
    assert "\n" not in line


def test_what_it_waits_for_is_said_with_the_remedy() -> None:
    assert waits_of(ANSWER | {"reasons": [REASON]}) == ["  waits: node 3 is away (remedy: start it)"]


def test_the_status_shows_a_change_that_is_under_way_only() -> None:
    shown = rotation_text([{"name": "change_master", "status": "queued"}, ANSWER | {"reasons": [REASON]}])
    assert shown.splitlines() == ["CLUSTER KEY:", line_of(ANSWER), "  waits: node 3 is away (remedy: start it)"]
    assert rotation_text([ANSWER | {"status": "completed"}]) == ""
    assert rotation_text([]) == ""
