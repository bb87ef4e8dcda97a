"""The table of guarantees names existing tests, or states that there is none."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(test_\w+\.py)::(\w+)`")


@cache
def names_in(file_name: str) -> set[str]:
    """The names of the tests in all files with that name."""
    files = list((ROOT / "tests").rglob(file_name))
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_named_test_exists() -> None:
    named = NAMED.findall(TEXT)
    assert len(named) > 30
    assert [f"{file}::{name}" for file, name in named if name not in names_in(file)] == []


def test_every_cell_names_a_test_or_states_that_there_is_none() -> None:
    rows = [line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("| **")]
    assert len(rows) >= 12
    silent = [
        (event, cell) for event, *cells in rows for cell in cells if not NAMED.search(cell) and "*(no test)*" not in cell
    ]
    assert silent == []
    assert {len(cells) for cells in rows} == {3}
