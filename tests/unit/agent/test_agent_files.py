"""Small files are written completely or not at all; the last line of a file."""

from pathlib import Path

import pytest

from shardwright.machine.files import last_line, make_private_directory, rotate, write_private


def test_a_file_is_replaced_completely_and_private(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old, and for everybody")
    path.chmod(0o644)
    before = path.stat().st_ino
    with path.open() as reader:
        write_private(path, b"new")
        assert reader.read() == "old, and for everybody", "a reader has the complete old file"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_ino != before
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_half_written_file_of_a_crash_does_not_prevent_the_next_write(tmp_path: Path) -> None:
    (tmp_path / "record.json.new").write_bytes(b"half of a much longer recor")
    write_private(tmp_path / "record.json", b"new")
    assert (tmp_path / "record.json").read_bytes() == b"new"


def test_a_file_without_a_directory_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_private(tmp_path / "none" / "record.json", b"new")


def test_directories_are_created_private_with_their_parents(tmp_path: Path) -> None:
    make_private_directory(tmp_path / "a" / "b")
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        assert path.stat().st_mode & 0o777 == 0o700
    (tmp_path / "a").chmod(0o750)
    make_private_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o750, "an operator's mode is kept"


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
def test_the_last_line_that_is_not_blank(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "log"
    assert last_line(path) == ""
    path.write_bytes(content)
    assert last_line(path) == said


def test_only_a_log_above_its_limit_is_rotated_and_one_old_log_is_kept(tmp_path: Path) -> None:
    log, aside = tmp_path / "log", tmp_path / "log.1"
    rotate(log, bytes_max=5)
    log.write_text("12345")
    rotate(log, bytes_max=5)
    assert (log.exists(), aside.exists()) == (True, False)
    for text in ("123456", "abcdefg"):
        log.write_text(text)
        rotate(log, bytes_max=5)
        assert (log.exists(), aside.read_text()) == (False, text)
