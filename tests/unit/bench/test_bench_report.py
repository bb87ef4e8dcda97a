import io
import json
import math

from rich.console import Console

from bench.figures import Figure, PartResult, at_most
from bench.report import is_good, number, results, show, summary

SLOW = Figure("pause p50", "ms", 30.0, 600.0, "FAILOVER", 3.0, "by hand", at_most(30.0, 20, "ms"))


def _printed(part: PartResult) -> str:
    console = Console(file=io.StringIO(), width=150)
    show(part, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_table_shows_the_product_the_peer_the_floor_and_the_goal() -> None:
    text = _printed(PartResult("handoff", [SLOW], notes=["[8 writers]"], seconds=12.0))
    for part in (
        "handoff (12 s)",
        "30.0 ms",
        "600 ms (FAILOVER)",
        "0.05",
        "3.00 ms (by hand)",
        "10.0",
        "missed",
        "[8 writers]",
    ):
        assert part in text


def test_troubles_are_shown_even_without_figures() -> None:
    assert "TROUBLE: could not run" in _printed(PartResult("endpoint", troubles=["could not run"]))


def test_a_slow_figure_is_not_a_failure_but_a_trouble_is_one() -> None:
    assert is_good([PartResult("handoff", [SLOW])])
    assert not is_good([PartResult("handoff", [SLOW]), PartResult("endpoint", troubles=["1 lost writes"])])
    assert not is_good([])


def test_the_last_line_is_one_json_object_without_details() -> None:
    part = PartResult("handoff", [SLOW], details={"moves": [1, 2, 3]}, notes=["a note"])
    found = results([part], date="2024-01-02", server="valkey 9.1.2", machine={"cores": 2}, quick=False)
    line = summary(found, "bench/results/2024-01-02.json")
    assert line.startswith('{"bench": "ok"')
    assert "\n" not in line
    told = json.loads(line)
    assert told["machine"] == {"cores": 2}
    assert told["file"] == "bench/results/2024-01-02.json"
    assert told["parts"]["handoff"]["figures"][0]["to_floor"] == 10.0
    assert "details" not in told["parts"]["handoff"]
    assert found["parts"]["handoff"]["details"] == {"moves": [1, 2, 3]}


def test_numbers_have_about_three_digits() -> None:
    assert [number(v) for v in (0.034, 1.234, 12.34, 123.4, 12345.0, math.nan)] == [
        "0.03",
        "1.23",
        "12.3",
        "123",
        "12,345",
        "",
    ]
