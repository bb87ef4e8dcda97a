"""Small files that are whole or not there, and what the last of their lines says."""

from pathlib import Path

import pytest

from shardwright.machine.files import last_line, make_private_directory, rotate, write_private


def test_a_file_is_replaced_whole_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old, and for everybody")
    path.chmod(0o644)
    before = path.stat().st_ino
    with path.open() as reader:
        write_private(path, b"new")
        assert reader.read() == "old, and for everybody", "who reads it has the old one, whole"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_ino != before
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_what_a_crash_left_half_written_does_not_hinder_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "record.json.new").write_bytes(b"half of a much longer recor")
    write_private(tmp_path / "record.json", b"new")
    assert (tmp_path / "record.json").read_bytes() == b"new"


def test_a_file_in_no_directory_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_private(tmp_path / "none" / "record.json", b"new")


def test_directories_are_made_with_their_parents_for_their_owner_alone(tmp_path: Path) -> None:
    make_private_directory(tmp_path / "a" / "b")
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        assert path.stat().st_mode & 0o777 == 0o700
    (tmp_path / "a").chmod(0o750)
    make_private_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o750, "what an operator has set stays"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ""),
        (b"one", "one"),
        (b"one\n  two  \n\n \n", "two"),
        (b"one\ntwo \xff\n", "two \ufffd"),
        (b"x" * 5000 + b"\nlast\n", "last"),
        (b"first\n" + b"x" * 5000, "x" * 4096),
    ],
)
def test_the_last_line_that_says_something(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "log"
    assert last_line(path) == ""
    path.write_bytes(content)
    assert last_line(path) == said


def test_only_a_log_above_its_limit_is_put_aside_and_one_of_them_is_kept(tmp_path: Path) -> None:
    log, aside = tmp_path / "log", tmp_path / "log.1"
    rotate(log, bytes_max=5)
    log.write_text("12345")
    rotate(log, bytes_max=5)
    assert (log.exists(), aside.exists()) == (True, False)
    for text in ("123456", "abcdefg"):
        log.write_text(text)
        rotate(log, bytes_max=5)
        assert (log.exists(), aside.read_text()) == (False, text)
