import pytest

from shardwright.cli.table import fields, table


def test_columns_are_padded_and_lines_end_without_spaces() -> None:
    assert table(("A", "LONG"), [["xxx", 1], [None, True]]) == "A    LONG\nxxx  1\nN/A  enabled"


def test_without_rows_the_heading_stays() -> None:
    assert table(("A", "B"), [], title="T") == "T:\nA  B"


def test_a_row_of_another_length_is_a_bug() -> None:
    with pytest.raises((ValueError, IndexError)):
        table(("A", "B"), [["only one"]])


def test_fields_are_aligned() -> None:
    assert fields([("a", 1), ("long name", "")]) == "a          1\nlong name  N/A"
