"""What a server's log reports about damaged files; the lines are from Valkey 9.1 and Redis 7.0."""

from pathlib import Path

import pytest

from shardwright.agent.damage import damage_in_log, with_extent, without_prefix
from shardwright.model.database import Damage

BEGIN = "24873:C 28 Nov 2026 09:21:36.700 * oO0OoO0OoO0Oo Valkey is starting oO0OoO0OoO0Oo\n"
AT = "24873:M 28 Nov 2026 09:21:36.811 "
BAD = "Bad file format reading the append only file appendonly.aof.1.incr.aof"
ADVICE = ": make a backup of your AOF file, then use ./redis-check-aof --fix <filename.manifest>\n"


def said(path: Path, text: str) -> tuple[Damage, str] | None:
    log = path / "server.log"
    log.write_text(text)
    return damage_in_log(log)


@pytest.mark.parametrize(
    ("line", "damage"),
    [
        (BAD, Damage.APPEND_ONLY_FILE),
        ("Unexpected end of file reading the append only file appendonly.aof.1.incr.aof", Damage.APPEND_ONLY_FILE),
        ("Bad file format reading the append only file appendonly.aof.1.base.rdb", Damage.SNAPSHOT),
        ("Wrong signature trying to load DB from file", Damage.SNAPSHOT),
        ("Short read or OOM loading DB. Unrecoverable error, aborting now.", Damage.SNAPSHOT),
        ("Internal error in RDB reading offset 0, function at rdb.c:529 -> Unknown RDB string encoding", Damage.SNAPSHOT),
        ("Invalid AOF manifest file format", Damage.INCOMPLETE),
        ("Unable to obtain the AOF file appendonly.aof.1.base.rdb length. stat: No such file", Damage.INCOMPLETE),
        ("Fatal error: the truncated file is not the last file", Damage.INCOMPLETE),
    ],
)
def test_the_cause_of_a_failed_load(tmp_path: Path, line: str, damage: Damage) -> None:
    assert said(tmp_path, f"{BEGIN}{AT}# {line}\n{AT}# Fatal error loading the DB, check server logs. Exiting.\n") == (
        damage,
        line,
    )


def test_the_advice_to_use_a_missing_tool_is_removed(tmp_path: Path) -> None:
    assert said(tmp_path, f"{BEGIN}{AT}# {BAD}{ADVICE}") == (Damage.APPEND_ONLY_FILE, BAD)


def test_messages_of_an_earlier_start_do_not_count(tmp_path: Path) -> None:
    assert said(tmp_path, f"{BEGIN}{AT}# {BAD}{ADVICE}{BEGIN}{AT}# Out of memory\n") is None


def test_a_sync_failure_long_before_the_end_is_not_its_cause(tmp_path: Path) -> None:
    later = "".join(f"{AT}* line {n}\n" for n in range(12))
    assert said(tmp_path, f"{BEGIN}{AT}# Internal error in RDB reading offset 0\n{later}") is None


def test_without_a_log_there_is_no_damage(tmp_path: Path) -> None:
    assert damage_in_log(tmp_path / "server.log") is None


def test_equal_messages_at_different_times_are_equal() -> None:
    assert without_prefix(f"{AT}# Out of memory") == without_prefix("7:S 1 Jan 2027 00:00:00.000 # Out of memory")


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    other = "".join(f"{AT}* line {n}\n" for n in range(2000))
    assert said(tmp_path, f"{BEGIN}{other}{AT}# {BAD}\n") == (Damage.APPEND_ONLY_FILE, BAD)
    assert said(tmp_path, f"{BEGIN}{AT}# {BAD}\n{other}") is None


def test_the_first_cause_counts_and_invalid_text_is_tolerated(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    two = f"{BEGIN}{AT}# Wrong RDB checksum expected: (1) but got (2)\n{AT}# {BAD}\n".encode()
    log.write_bytes(b"\xff\xfe" + two + b"\xff")
    assert damage_in_log(log) == (Damage.SNAPSHOT, "Wrong RDB checksum expected: (1) but got (2)")


def test_the_extent_of_the_damage_is_added_if_it_can_be_measured(tmp_path: Path) -> None:
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    (folder / "appendonly.aof.manifest").write_text("file a.incr.aof seq 1 type i\n")
    (folder / "a.incr.aof").write_bytes(b"*1\r\n$4\r\nPING\r\n" + bytes(6))
    assert with_extent(tmp_path, Damage.APPEND_ONLY_FILE, BAD) == f"{BAD}: 6 of its 20 bytes cannot be read, from offset 14"
    assert with_extent(tmp_path, Damage.SNAPSHOT, BAD) == BAD
    assert with_extent(tmp_path / "none", Damage.APPEND_ONLY_FILE, BAD) == BAD


@pytest.mark.parametrize("line", ["", "no prefix", "12 of its bytes", "7:S 1 Jan"])
def test_a_line_without_a_prefix_is_unchanged(line: str) -> None:
    assert without_prefix(line) == line
