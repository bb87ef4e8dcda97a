from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.units import format_bytes, format_duration, format_rate, parse_bytes, parse_duration


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("4gb", 4 << 30),
        ("512 MB", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("10KB", 10240),
        ("7b", 7),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "gb", "4g", "-1gb", "4 zb", "1e9", "four", "4gb4", "nan", "9" * 40, "99999999tb"])
def test_an_invalid_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|machine"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1KB"),
        (1536 << 20, "1.5GB"),
        ((1 << 20) - 1, "1MB"),
        (5 << 40, "5TB"),
        (10 << 20, "10MB"),
    ],
)
def test_a_size_is_written(size: int, text: str) -> None:
    assert format_bytes(size) == text


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_written_size_is_read_back_nearly_equal(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=0.006)


def test_rates() -> None:
    assert format_rate(120.5 * (1 << 20)) == "120.5MB/s"


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("10m", 600), ("2h", 7200), ("1d", 86400)])
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "m", "-5s", "ten", "5 weeks", "9" * 30])
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|wait"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0204, "20ms"), (12.34, "12.3s"), (245, "4m 05s"), (12000, "3h 20m"), (0, "0ms")]
)
def test_a_duration_is_written(seconds: float, text: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == text
