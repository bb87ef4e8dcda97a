"""What is said while a call blocks."""

import threading

import pytest

from shardwright.node.progress import saying

DEADLINE_S = 30.0


def test_a_long_call_is_reported_again_and_again_until_it_ends() -> None:
    said: list[str] = []
    twice = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            twice.set()

    with saying("waiting for the answer", say, every_s=0.01):
        assert twice.wait(DEADLINE_S), said
    assert said[0].startswith("waiting for the answer (")
    assert not any(thread.name == "progress" for thread in threading.enumerate())


def test_a_short_call_is_not_reported_and_its_error_passes() -> None:
    said: list[str] = []
    with pytest.raises(ValueError, match="refused"), saying("waiting", said.append, every_s=DEADLINE_S):
        raise ValueError("refused")
    assert said == []
