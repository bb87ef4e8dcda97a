"""A client that appends numbers to a list of its own and knows which of them were acknowledged, and when.

For tests and demonstrations of the loss of a machine: what is acknowledged must be in the list afterwards.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import redis
from redis.retry import Retry

EVERY_S = 0.005
AFTER_AN_ERROR_S = 0.05


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """One number that the database has acknowledged. ``at``: ``time.monotonic``."""

    number: int
    at: float


class ListWriter(threading.Thread):
    """Writes from ``start`` until ``is_over`` is set. ``repeats``: how the application repeats a write that failed; None: it
    repeats nothing, and goes on with the next number."""

    def __init__(self, name: str, connect: Callable[[], Any], *, repeats: Retry | None = None) -> None:
        super().__init__(name=name, daemon=True)
        self.acknowledged: list[Acknowledged] = []
        self.refused = 0
        self.last_error = ""
        self.is_over = False
        self._connect = connect
        self._repeats = repeats

    @property
    def key(self) -> str:
        """Of its list."""
        return f"list of {self.name}"

    @property
    def acknowledged_at(self) -> float:
        """When the last write was acknowledged; 0: none was."""
        return self.acknowledged[-1].at if self.acknowledged else 0.0

    def run(self) -> None:
        """Write, one number after the other."""
        client = self._connect()
        number = 0
        while not self.is_over:
            number += 1
            try:
                self._append(client, number)
                self.acknowledged.append(Acknowledged(number, time.monotonic()))
            except redis.RedisError as e:
                self.refused += 1
                self.last_error = f"{type(e).__name__}: {e}"
                time.sleep(AFTER_AN_ERROR_S)
            time.sleep(EVERY_S)
        client.close()

    def _append(self, client: Any, number: int) -> None:
        if self._repeats is None:
            client.rpush(self.key, number)
        else:
            self._repeats.call_with_retry(lambda: client.rpush(self.key, number), lambda _: None)

    def lost(self, client: Any) -> list[Acknowledged]:
        """What was acknowledged and is not in the list."""
        stored = {int(number) for number in client.lrange(self.key, 0, -1)}
        return [one for one in self.acknowledged if one.number not in stored]

    def longest_gap_s(self, since: float) -> float:
        """The longest time without an acknowledgement that ended after ``since``."""
        began, ended = self.longest_gap(since)
        return ended - began

    def longest_gap(self, since: float) -> tuple[float, float]:
        """The two acknowledgements around the longest gap that ended after ``since``; 0, 0 if there is none."""
        times = [one.at for one in self.acknowledged]
        gaps = ((earlier, later) for earlier, later in pairwise(times) if later > since)
        return max(gaps, key=lambda gap: gap[1] - gap[0], default=(0.0, 0.0))
