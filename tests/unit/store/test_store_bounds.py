"""The limits that all backends share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.store.bounds import page_of, prefix_end
from shardwright.store.protocol import KeyValue


@pytest.mark.parametrize(
    ("prefix", "end"),
    [("a", "b"), ("a/", "a0"), ("", None), ("\U0010ffff", None), ("a\U0010ffff", "b"), ("\ud7ff", "\ue000")],
)
def test_the_end_of_a_prefix(prefix: str, end: str | None) -> None:
    assert prefix_end(prefix) == end


@given(st.text(max_size=3), st.text(max_size=5))
def test_exactly_the_keys_of_a_prefix_are_before_its_end(prefix: str, key: str) -> None:
    end = prefix_end(prefix)
    lies_within = prefix <= key and (end is None or key < end)
    assert lies_within == key.startswith(prefix)


def test_an_exactly_full_page_is_the_last() -> None:
    items = [KeyValue(str(n), b"", 1, 1) for n in range(3)]
    assert page_of(items, revision=1, limit=3).next_start is None
    assert page_of(items, revision=1, limit=2).next_start == "2"
