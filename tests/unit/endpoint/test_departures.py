"""The order in which connections leave: transcripts of departures."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.endpoint.departures import (
    BATCH,
    FREEZE,
    GRACE_S,
    RETRY,
    TIED_GRACE_S,
    ConnectionStatus,
    Departures,
)


@dataclass
class Connections:
    """Connections as their sessions would show them: each becomes quiet some time after it was frozen."""

    drains_s: dict[int, float]
    tied: set[int] = field(default_factory=set)
    now: float = 0.0
    frozen: dict[int, float] = field(default_factory=dict)
    frozen_most: int = 0
    frozen_longest_s: float = 0.0
    passed: list[tuple[float, int]] = field(default_factory=list)
    ended: list[tuple[float, int]] = field(default_factory=list)

    def status(self, uid: int) -> ConnectionStatus | None:
        if uid not in self.drains_s:
            return None
        since = self.frozen.get(uid)
        is_quiet = since is not None and self.now - since >= self.drains_s[uid]
        return ConnectionStatus(is_quiet=is_quiet, is_tied=uid in self.tied and since is None)

    def leave(self, departures: Departures, *, until: float = 100.0) -> "Connections":
        while not departures.is_over and self.now < until:
            orders = departures.next(self.now, self.status)
            for uid in (*orders.thaw, *orders.passes):
                self.frozen_longest_s = max(self.frozen_longest_s, self.now - self.frozen.pop(uid))
            self.passed += [(self.now, uid) for uid in orders.passes]
            self.ended += [(self.now, uid) for uid in orders.end]
            self.frozen |= dict.fromkeys(orders.freeze, self.now)
            self.frozen_most = max(self.frozen_most, len(self.frozen))
            if not orders.passes:
                quiet = min((since + self.drains_s[uid] for uid, since in self.frozen.items()), default=None)
                times = [at for at in (orders.wake_at, quiet) if at is not None]
                self.now = max(self.now, min(times, default=self.now)) + 1e-6
        return self


def test_the_busiest_go_first_and_few_are_frozen_at_once() -> None:
    found = Connections(dict.fromkeys(range(1000), 0.001)).leave(Departures(range(1000), now=0.0))
    assert [uid for _, uid in found.passed] == list(range(1000))
    assert found.frozen_most == BATCH
    assert found.ended == []


def test_a_connection_that_does_not_become_quiet_is_thawed_and_tried_again_for_longer() -> None:
    found = Connections({1: 0.3, 2: 0.0}).leave(Departures([1, 2], now=0.0))
    assert [uid for _, uid in found.passed] == [2, 1]
    assert found.passed[1][0] == pytest.approx(sum(FREEZE.delays_s[:2]) + sum(RETRY.delays_s[:2]) + 0.3, abs=1e-3)


def test_a_connection_that_never_becomes_quiet_is_ended_in_time_and_never_frozen_for_long() -> None:
    found = Connections({1: 1e9, 2: 0.0}).leave(Departures([1, 2], now=0.0))
    assert [uid for _, uid in found.ended] == [1]
    assert GRACE_S <= found.ended[0][0] <= GRACE_S + max(FREEZE.delays_s) + max(RETRY.delays_s)
    assert found.frozen_longest_s <= max(FREEZE.delays_s) + 1e-3


def test_a_tied_connection_is_never_frozen_and_is_ended_after_its_grace() -> None:
    found = Connections({1: 0.0, 2: 0.0}, tied={1}).leave(Departures([1, 2], now=0.0))
    assert [uid for _, uid in found.ended] == [1]
    assert TIED_GRACE_S <= found.ended[0][0] <= TIED_GRACE_S + 0.1
    assert [uid for _, uid in found.passed] == [2]
    assert found.passed[0][0] == pytest.approx(0.0, abs=0.01)


def test_a_connection_whose_turn_comes_late_is_tried_once() -> None:
    stubborn = dict.fromkeys(range(200), 1e9)
    found = Connections(stubborn | {999: 0.0}).leave(Departures([*range(200), 999], now=0.0))
    assert [uid for _, uid in found.passed] == [999]
    assert len(found.ended) == 200


def test_a_connection_that_has_ended_is_forgotten() -> None:
    found = Connections({2: 0.0}).leave(Departures([1, 2, 3], now=0.0))
    assert [uid for _, uid in found.passed] == [2]


@given(
    st.lists(st.floats(0.0, 3.0) | st.just(1e9), max_size=60),
    st.sets(st.integers(0, 59)),
)
def test_every_departure_ends_and_nothing_is_left_frozen(drains: list[float], tied: set[int]) -> None:
    connections = Connections(dict(enumerate(drains)), tied=tied)
    found = connections.leave(Departures(range(len(drains)), now=0.0))
    assert sorted(uid for _, uid in found.passed + found.ended) == list(range(len(drains)))
    assert found.frozen == {}
    assert found.now <= GRACE_S + (len(drains) / BATCH + 1) * (max(FREEZE.delays_s) + max(RETRY.delays_s))
