"""Which nodes are away: a missing presence key is not enough, a storm of them is nothing, and who is cut off yields."""

from collections.abc import Iterable

from shardwright.leader.presence import (
    AWAY_AFTER_S,
    CUT_OFF_AFTER_S,
    RETURN_S,
    STORM_S,
    STORM_WINDOW_S,
    YIELD_EVERY_S,
    Presence,
    away,
    is_to_yield,
    noted,
    reaches_few,
    returning,
    storm_event,
)
from shardwright.model.event import EventKind
from shardwright.model.ids import NodeUid
from testkit.builders import NOW


def nodes(*uids: int) -> frozenset[NodeUid]:
    return frozenset(NodeUid(uid) for uid in uids)


NONE = nodes()


class Watch:
    """The memory of a leader of some nodes, all present at first."""

    def __init__(self, members: int = 5) -> None:
        self.members = nodes(*range(1, members + 1))
        self.memory = Presence()
        self.look(0.0, self.members)

    def look(self, now: float, present: Iterable[NodeUid], *, ended: frozenset[NodeUid] = NONE) -> None:
        self.memory = noted(self.memory, present=frozenset(present), members=self.members, ended=ended, now=now)

    def away(self, now: float, *, answering: frozenset[NodeUid] = NONE, ended: frozenset[NodeUid] = NONE) -> frozenset[int]:
        return frozenset(away(self.memory, answering=answering, ended=ended, now=now))


def test_a_node_is_away_when_its_key_is_absent_for_a_while_and_its_agent_does_not_answer() -> None:
    watch = Watch()
    watch.look(10.0, nodes(2, 3, 4, 5))
    assert watch.away(10.0 + AWAY_AFTER_S - 0.01) == set()
    assert watch.away(10.0 + AWAY_AFTER_S) == {1}
    assert watch.away(100.0, answering=nodes(1)) == set(), "it is only cut from the store"


def test_a_daemon_that_has_just_ended_is_awaited_for_a_while() -> None:
    watch = Watch()
    watch.look(10.0, nodes(2, 3, 4, 5))
    for now, expected in ((10.5, {1}), (10.0 + RETURN_S - 0.1, {1}), (10.0 + RETURN_S, set())):
        assert returning(watch.memory, nodes(1), now) == expected
    assert returning(watch.memory, nodes(), 10.5) == set(), "it is not away"


def test_a_key_that_returns_begins_anew() -> None:
    watch = Watch()
    watch.look(10.0, nodes(2, 3, 4, 5))
    watch.look(12.0, nodes(1, 2, 3, 4, 5))
    watch.look(14.0, nodes(2, 3, 4, 5))
    assert watch.away(14.0 + AWAY_AFTER_S - 0.01) == set()
    assert watch.away(14.0 + AWAY_AFTER_S) == {1}


def test_a_new_leader_counts_from_its_own_first_look() -> None:
    memory = noted(Presence(), present=nodes(1), members=nodes(1, 2), ended=NONE, now=50.0)
    assert away(memory, answering=NONE, ended=NONE, now=52.0) == set()
    assert away(memory, answering=NONE, ended=NONE, now=53.0) == {2}
    assert not memory.has_storm(50.0), "it has seen no key vanish"


def test_a_new_leader_that_finds_most_keys_missing_waits_as_in_a_storm() -> None:
    """They may have vanished a moment ago, together with the last leader's."""
    memory = noted(Presence(), present=nodes(1), members=nodes(1, 2, 3), ended=NONE, now=50.0)
    assert memory.storm_of == (), "nothing to tell: it has seen no key vanish"
    assert away(memory, answering=NONE, ended=NONE, now=50.0 + STORM_S - 0.01) == set()
    assert away(memory, answering=NONE, ended=NONE, now=50.0 + STORM_S + 0.01) == {2, 3}
    known = noted(Presence(), present=nodes(1), members=nodes(1, 2, 3), ended=nodes(2), now=50.0)
    assert away(known, answering=NONE, ended=nodes(2), now=50.0 + AWAY_AFTER_S) == {2, 3}


def test_this_machine_proves_the_end_of_a_daemon_at_once() -> None:
    watch = Watch()
    watch.look(10.0, nodes(2, 3, 4, 5), ended=nodes(1))
    assert watch.away(10.0, ended=nodes(1)) == {1}
    assert watch.away(10.0, ended=nodes(2)) == set(), "its key is there: another daemon runs"


def test_a_node_that_is_no_member_is_forgotten() -> None:
    watch = Watch()
    watch.look(10.0, nodes(2, 3, 4, 5))
    watch.members = nodes(2, 3, 4, 5)
    watch.look(20.0, nodes(2, 3, 4, 5))
    assert watch.away(20.0) == set()


# -- storms --------------------------------------------------------------------------------------------------------------


def test_when_most_keys_vanish_together_all_nodes_stay_as_they_were() -> None:
    watch = Watch()
    watch.look(5.0, nodes(2, 3, 4, 5))
    assert watch.away(9.0) == {1}
    watch.look(10.0, nodes(4, 5))
    watch.look(10.4, nodes(5))
    assert watch.memory.has_storm(10.4)
    assert watch.away(10.4 + STORM_S - 0.01) == {1}, "it was away before"
    assert watch.away(10.4 + STORM_S + 0.01) == {1, 2, 3, 4}


def test_who_returns_after_a_storm_was_never_away() -> None:
    watch = Watch()
    watch.look(10.0, NONE)
    watch.look(11.0, nodes(1, 2, 3, 4, 5))
    for now in (11.0, 15.0, 30.0):
        assert watch.away(now) == set()


def test_half_of_the_keys_are_no_storm() -> None:
    watch = Watch(members=4)
    watch.look(10.0, nodes(3, 4))
    assert not watch.memory.has_storm(10.0)
    assert watch.away(10.0 + AWAY_AFTER_S) == {1, 2}


def test_keys_that_vanish_one_after_the_other_are_no_storm() -> None:
    watch = Watch()
    for at, left in ((10.0, nodes(2, 3, 4, 5)), (11.5, nodes(3, 4, 5)), (13.0, nodes(4, 5)), (14.5, nodes(5))):
        watch.look(at, left)
        assert not watch.memory.has_storm(at)
    assert STORM_WINDOW_S < 1.5


def test_daemons_whose_end_is_known_make_no_storm() -> None:
    """Most daemons of one machine were killed: this machine says so."""
    watch = Watch(members=3)
    watch.look(10.0, nodes(3), ended=nodes(1, 2))
    assert not watch.memory.has_storm(10.0)
    assert watch.away(10.0, ended=nodes(1, 2)) == {1, 2}


def test_a_storm_does_not_hide_an_end_that_is_known() -> None:
    watch = Watch()
    watch.look(10.0, NONE)
    assert watch.away(10.1, ended=nodes(2)) == {2}


def test_removed_nodes_make_no_storm() -> None:
    watch = Watch(members=3)
    watch.members = nodes(3)
    watch.look(10.0, nodes(3))
    assert not watch.memory.has_storm(10.0)


def test_a_storm_has_one_event_that_names_the_nodes() -> None:
    watch = Watch(members=3)
    watch.look(10.0, nodes(1))
    began = watch.memory.storm_at
    watch.look(10.3, NONE)
    assert watch.memory.storm_at == began
    event = storm_event(watch.memory, NOW)
    assert event.kind is EventKind.PRESENCE_STORM
    assert "nodes 2, 3 " in event.text


# -- a leader that is cut off --------------------------------------------------------------------------------------------


def test_a_leader_reaches_few_when_fewer_than_half_of_the_present_agents_answer() -> None:
    own = NodeUid(1)
    assert reaches_few(own=own, present=nodes(1, 2, 3), answering=nodes(1))
    assert not reaches_few(own=own, present=nodes(1, 2, 3), answering=nodes(1, 2))
    assert not reaches_few(own=own, present=nodes(1, 2), answering=nodes(1)), "half"
    assert not reaches_few(own=own, present=nodes(1), answering=nodes(1)), "the others are absent: none could lead"
    assert not reaches_few(own=own, present=nodes(1, 2, 3), answering=NONE), "its own machine is at fault"


def test_it_yields_after_some_seconds_and_only_once_a_minute() -> None:
    assert not is_to_yield(None, None, 100.0)
    assert not is_to_yield(100.0, None, 100.0 + CUT_OFF_AFTER_S - 0.01)
    assert is_to_yield(100.0, None, 100.0 + CUT_OFF_AFTER_S)
    assert not is_to_yield(100.0, 100.0 + CUT_OFF_AFTER_S - YIELD_EVERY_S + 1.0, 100.0 + CUT_OFF_AFTER_S)
    assert is_to_yield(100.0, 100.0 + CUT_OFF_AFTER_S - YIELD_EVERY_S, 100.0 + CUT_OFF_AFTER_S)
