"""The simulated server behaves as measured on real servers."""

from sim.history import History, Position


def test_a_copy_holds_everything_on_its_path() -> None:
    first = History("a")
    second = History("b", base=10, parent=first, parent_offset=10, keys_before=10)
    here = Position(second, 12)
    assert here.holds(Position(first, 10))
    assert here.holds(Position(second, 11))
    assert not here.holds(Position(first, 11)), "written after the histories parted"
    assert not here.holds(Position(second, 13))
    assert here.keys == 12


def test_a_server_that_returns_from_its_file_has_the_files_data() -> None:
    first = History("a")
    again = History("b", base=0, parent=first, parent_offset=7, keys_before=7)
    assert Position(again, 0).holds(Position(first, 7))
    assert not Position(again, 3).holds(Position(first, 8))
    assert Position(again, 3).keys == 10
