from typing import Any

import pytest

from shardwright.cli.database_text import addresses, described

DATABASE: dict[str, Any] = {"uid": 1, "name": "orders", "status": "active", "memory_size": 1 << 30, "strict": True}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"outcome": "nothing_lost", "text": "another copy takes over"}, "another copy takes over"),
        ({"outcome": "waits", "text": "it has one copy"}, "the database waits for it: it has one copy"),
    ],
)
def test_what_the_loss_of_a_machine_means_is_shown(loss: dict[str, str], expected: str) -> None:
    lines = described(DATABASE | {"machine_loss": loss}).splitlines()
    (line,) = [line for line in lines if line.startswith("loss of a machine")]
    assert line.split("  ", 1)[1].strip() == expected


def test_a_local_cluster_has_no_such_line() -> None:
    assert "loss of a machine" not in described(DATABASE)


def test_a_database_without_an_address_says_so() -> None:
    assert addresses({}) == "an address yet to be chosen"
