"""The readable length of an append-only file, and cutting off its end."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.errors import Permanent
from shardwright.server.aof import MEASURED_BYTES_MAX, cut_damaged_end, readable_bytes, unreadable_end


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


SET = command(b"SET", b"key", b"value")
MULTI, EXEC = command(b"MULTI"), command(b"EXEC")


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        (b"", 0),
        (SET + SET, 2 * len(SET)),
        (SET + bytes(4096), len(SET)),
        (SET + SET[:-1], len(SET)),
        (SET + b"*0\r\n", len(SET)),
        (SET + b"*-1\r\n", len(SET)),
        (SET + b"*1\r\n$99999999999999999999\r\n", len(SET)),
        (SET + b"*1\r\n$3\r\nSETxx", len(SET)),
        (SET + b"SET key value\r\n", len(SET)),
        (SET + MULTI + SET, len(SET)),
        (SET + MULTI + SET + bytes(10), len(SET)),
        (SET + MULTI + SET + EXEC, len(SET + MULTI + SET + EXEC)),
        (SET + command(b"multi") + SET + command(b"exec") + SET, len(SET + MULTI + SET + EXEC + SET)),
        (b"#TS:1700000000\r\n" + SET, len(b"#TS:1700000000\r\n" + SET)),
        (SET + b"#TS:17", len(SET)),
        (command(b"SET", b"key", b"*1\r\n$4\r\nEXEC\r\n\x00\xff") + bytes(1), len(command(b"SET", b"key", bytes(16)))),
        (command(b"SET", b"k", b""), len(command(b"SET", b"k", b""))),
    ],
)
def test_a_file_is_intact_up_to_the_last_command_outside_an_open_transaction(content: bytes, whole: int) -> None:
    assert readable_bytes(content) == whole


@given(st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=4), max_size=8), st.data())
def test_exactly_the_complete_commands_of_a_broken_off_file_are_kept(words: list[list[bytes]], data: st.DataObject) -> None:
    names = [[b"X" + w[0], *w[1:]] for w in words]  # no MULTI among them
    ends = [0]
    for one in names:
        ends.append(ends[-1] + len(command(*one)))
    content = b"".join(command(*one) for one in names)
    at = data.draw(st.integers(0, len(content)))
    assert readable_bytes(content[:at]) == max(end for end in ends if end <= at)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    (folder / "appendonly.aof.1.base.rdb").write_bytes(b"base")
    (folder / "appendonly.aof.1.incr.aof").write_bytes(SET)
    (folder / "appendonly.aof.2.incr.aof").write_bytes(SET + bytes(100))
    lines = ["file appendonly.aof.1.base.rdb seq 1 type b"]
    lines += [f"file appendonly.aof.{n}.incr.aof seq {n} type i" for n in (1, 2)]
    (folder / "appendonly.aof.manifest").write_text("\n".join(lines) + "\n")
    return tmp_path


def last(directory: Path) -> Path:
    return directory / "appendonlydir/appendonly.aof.2.incr.aof"


def test_the_end_of_the_last_part_is_cut_and_the_original_file_is_kept(directory: Path) -> None:
    cut = cut_damaged_end(directory, directory / "damaged-3")
    assert (cut.file, cut.offset, cut.bytes_cut) == (last(directory).name, len(SET), 100)
    assert last(directory).read_bytes() == SET
    assert Path(cut.kept_as).read_bytes() == SET + bytes(100)
    assert Path(cut.kept_as).parent == directory / "damaged-3"
    assert "100 bytes" in str(cut)
    assert f"offset {len(SET)}" in str(cut)


def test_a_cut_may_be_repeated_after_a_crash_at_any_moment(directory: Path) -> None:
    aside = directory / "damaged-3"
    # After the link, before the cut.
    aside.mkdir()
    (aside / last(directory).name).hardlink_to(last(directory))
    assert cut_damaged_end(directory, aside).bytes_cut == 100
    # After the cut, before the start of the server.
    assert cut_damaged_end(directory, aside).bytes_cut == 100
    assert (aside / last(directory).name).read_bytes() == SET + bytes(100)


def test_the_amount_of_a_cut_is_known_beforehand(directory: Path) -> None:
    size = len(SET) + 100
    assert unreadable_end(directory) == f"100 of its {size} bytes cannot be read, from offset {len(SET)}"
    cut_damaged_end(directory, directory / "damaged-3")
    assert unreadable_end(directory) == ""
    assert unreadable_end(directory / "nowhere") == ""


def test_a_large_file_is_not_measured(directory: Path) -> None:
    with last(directory).open("r+b") as file:
        file.truncate(MEASURED_BYTES_MAX + 1)
    assert unreadable_end(directory) == ""


def test_an_intact_file_is_not_changed(directory: Path) -> None:
    last(directory).write_bytes(SET)
    with pytest.raises(Permanent, match="can be read to its end"):
        cut_damaged_end(directory, directory / "damaged-3")
    assert not (directory / "damaged-3").exists()


def test_damage_before_the_last_part_is_not_cut(directory: Path) -> None:
    first = directory / "appendonlydir/appendonly.aof.1.incr.aof"
    first.write_bytes(SET + bytes(3))
    with pytest.raises(Permanent, match="is not the last part"):
        cut_damaged_end(directory, directory / "damaged-3")
    assert first.read_bytes() == SET + bytes(3)
    assert last(directory).read_bytes() == SET + bytes(100)


def test_without_an_append_only_file_there_is_nothing_to_cut(tmp_path: Path) -> None:
    (tmp_path / "dump.rdb").write_bytes(b"damaged")
    with pytest.raises(Permanent, match="does not have an append-only file"):
        cut_damaged_end(tmp_path, tmp_path / "damaged-3")
