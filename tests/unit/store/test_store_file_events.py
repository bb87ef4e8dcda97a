import select
from pathlib import Path

import pytest

from shardwright.store.file_events import FileEvents


def is_told(events: FileEvents) -> bool:
    return bool(select.select([events.descriptor], [], [], 0)[0])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


def test_a_write_is_told_until_it_is_taken(file: Path) -> None:
    events = FileEvents.of(file)
    assert events is not None
    assert not is_told(events)
    with file.open("ab") as log:
        for _ in range(1000):
            log.write(b"x" * 100)
            log.flush()
    assert is_told(events)
    while is_told(events):
        assert events.take()
    assert not events.take()
    file.write_bytes(b"again")
    assert is_told(events)
    events.close()


def test_reads_are_not_told(file: Path) -> None:
    events = FileEvents.of(file)
    assert events is not None
    file.read_bytes()
    assert not is_told(events)
    events.close()


def test_without_a_file_there_are_no_events(tmp_path: Path) -> None:
    assert FileEvents.of(tmp_path / "absent") is None
