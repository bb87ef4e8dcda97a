"""The catalogue of codes: complete, unambiguous, and nothing in it that the product does not say."""

import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from shardwright.model.codes import Code
from shardwright.model.event import EventKind

SOURCE = Path(__file__).parents[3] / "src" / "shardwright"
ELSEWHERE = {Code.NODE_ACTION_IN_PROGRESS, Code.REMOVE_IN_PROGRESS, Code.SERVER_BINARY_UNUSABLE}
"""Raised as a rejection, which names its code by its text."""


def test_a_codes_name_is_its_value() -> None:
    for code in Code:
        assert code.name.lower() == code
        assert Code.of(str(code)) is code


def test_every_code_says_what_it_means() -> None:
    for code in Code:
        assert re.fullmatch(r"[A-Z].*\.", code.meaning), code
        assert not code.remedy or re.fullmatch(r"[a-z`].*[^.]", code.remedy), code
    assert len({code.meaning for code in Code}) == len(Code)


def _said(kind: str, beside: str) -> set[str]:
    """The members of a catalogue that the product names, but for the catalogue itself."""
    files = [p for p in SOURCE.rglob("*.py") if "testing" not in p.parts and p.name != beside]
    return {name for p in files for name in re.findall(rf"\b{kind}\.([A-Z_]+)\b", p.read_text())}


def test_every_code_is_used() -> None:
    said = _said("Code", "codes.py")
    assert {code for code in Code if code.name not in said} == ELSEWHERE


def test_every_kind_of_event_says_what_it_means_and_is_used() -> None:
    said = _said("EventKind", "event.py")
    asked = re.compile(r"(maintenance_on|maintenance_off|step_down)(_cancel)?_request")
    for kind in EventKind:
        assert kind.name.lower() == kind
        assert re.fullmatch(r"[A-Z].*\.", kind.meaning), kind
        assert kind.name in said or asked.fullmatch(kind), kind
    assert len({kind.meaning for kind in EventKind}) == len(EventKind)


@pytest.mark.parametrize("kind", [Code, EventKind])
def test_what_a_newer_version_has_written_is_kept_as_it_is(kind: type[Code] | type[EventKind]) -> None:
    adapter = TypeAdapter(kind)
    known = len(kind)
    read = adapter.validate_json('"something_new"')
    assert (read, adapter.dump_json(read), len(kind)) == ("something_new", b'"something_new"', known)
