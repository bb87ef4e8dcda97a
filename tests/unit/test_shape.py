"""Files and functions stay small, and a name means one thing. A ratchet: what is larger today is listed with its size, and
may only shrink."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FUNCTION_LINES = 60
FILE_LINES = 400
LONG_FUNCTIONS = {"src/shardwright/endpoint/resp.py:_scan": 66}
"""Without their docstrings. The scanner is one loop over the bytes on purpose."""
LARGE_FILES = {
    "src/shardwright/endpoint/connection.py": 490,
    "src/shardwright/endpoint/session.py": 585,
    "sim/checker.py": 429,
    "sim/server.py": 530,
    "tests/integration/test_agent.py": 496,
    "tests/integration/test_cli.py": 535,
    "tests/sim/test_scenarios.py": 441,
    "tests/unit/reconcile/test_group.py": 490,
}

TABLES = frozenset({"src/shardwright/model/codes.py"})
"""Entry after entry, and nothing else: the members of an enumeration cannot be spread over files."""


def _files() -> Iterator[tuple[str, str]]:
    for root in ("src", "tests", "testkit", "sim", "chaos", "demo", "bench", "docs"):
        for path in sorted((ROOT / root).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()


def _functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All of a file. No expression has one, and most of a tree is expressions."""
    waiting: list[ast.AST] = [ast.parse(text)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting.extend(found if isinstance(found := getattr(node, field, []), list) else [])


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body
    first = body[1] if ast.get_docstring(function) is not None and len(body) > 1 else body[0]
    return (function.end_lineno or first.lineno) - first.lineno + 1


def test_no_two_modules_of_tests_have_the_same_name() -> None:
    """Pytest cannot collect both."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, number in names.items() if number > 1] == []


def test_no_two_classes_of_the_product_have_the_same_name() -> None:
    """A reader who knows one of them would take the other for it."""
    product = (text for name, text in _files() if name.startswith("src/"))
    names = Counter(found for text in product for found in re.findall(r"^ *class (\w+)", text, re.MULTILINE))
    assert [name for name, number in names.items() if number > 1] == []


def test_files_have_one_owner_each() -> None:
    found = {name: text.count("\n") for name, text in _files() if text.count("\n") > FILE_LINES and name not in TABLES}
    grown = {name: size for name, size in found.items() if size > LARGE_FILES.get(name, FILE_LINES)}
    assert grown == {}, "split them: a large file has two owners"
    shrunk = {name: found.get(name, 0) for name, size in LARGE_FILES.items() if found.get(name, 0) < size}
    assert shrunk == {}, "write down the smaller size, or take it off the list"


def test_functions_are_short() -> None:
    found = {
        f"{name}:{node.name}": _length(node)
        for name, text in _files()
        for node in _functions(text)
        if (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES and _length(node) > FUNCTION_LINES
    }
    assert found == LONG_FUNCTIONS
