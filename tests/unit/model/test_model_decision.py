"""When a decision wants to be made again."""

from datetime import timedelta

from shardwright.model.decision import earlier
from testkit.builders import NOW

LATER = NOW + timedelta(seconds=1)


def test_the_earlier_of_two_times_and_never() -> None:
    assert earlier(None, None) is None
    assert earlier(NOW, None) == earlier(None, NOW) == earlier(NOW, LATER) == earlier(LATER, NOW) == NOW
