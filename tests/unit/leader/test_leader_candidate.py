"""Daemons that campaign on one store in memory, in virtual time: one leads at a time, each in a term of its own."""

from collections.abc import Coroutine
from typing import Any

import pytest

from shardwright.errors import LostLeadership
from shardwright.leader.candidate import Candidate, Held, check_term
from shardwright.model.action import ActionStatus
from shardwright.model.cluster import DaemonPresence
from shardwright.model.ids import LeaseId, NodeUid
from shardwright.model.leader_change import LeaderChange
from shardwright.store import keys, records
from shardwright.store.memory import MemoryStore
from shardwright.store.protocol import PutKey, Transaction
from sim.loop import SimLoop, SimProcess
from testkit.builders import NOW
from tests.unit.leader.leader_store import Client, VirtualClock


class Daemon:
    """A candidate, and what it was told."""

    def __init__(self, world: "World", uid: int) -> None:
        self.world = world
        self.client = Client(world.store, world.clock)
        self.process = SimProcess(f"daemon {uid}")
        self.told: list[Held | None] = []
        self.leases = 0
        presence = DaemonPresence(NodeUid(uid), 100 + uid, 1, "boot", 0, "0.1.0", "https://127.0.0.1:9443", NOW)
        store: Any = self.client
        self.candidate = Candidate(
            store, presence, clock=world.clock, on_change=self.told.append, on_present=self._became_present
        )
        self.run = world.loop.start(self.process, self.candidate.run(), "candidate")

    def _became_present(self) -> None:
        self.leases += 1

    @property
    def held(self) -> Held | None:
        """What it may take for its leadership now."""
        held = self.told[-1] if self.told else None
        return held if held is not None and held.is_valid(self.world.loop.now) else None

    @property
    def terms(self) -> list[int]:
        """The terms that it has led in, in their order."""
        return list(dict.fromkeys(h.term for h in self.told if h is not None))


class World:
    """One store and its daemons."""

    def __init__(self) -> None:
        self.loop = SimLoop()  # type: ignore[abstract]  # it has what the product uses of a loop, and no more
        self.clock = VirtualClock(self.loop)
        self.store = MemoryStore(self.clock)
        self.daemons: dict[int, Daemon] = {}

    def start(self, uid: int) -> Daemon:
        self.daemons[uid] = Daemon(self, uid)
        return self.daemons[uid]

    def run_for(self, seconds: float) -> None:
        """Let time pass in small steps; never do two daemons lead."""
        until = self.loop.now + seconds
        while self.loop.now < until - 1e-9:
            self.loop.run_until(min(until, self.loop.now + 0.05))
            assert len(self.leaders()) <= 1
            assert self.loop.failures == []

    def leaders(self) -> list[int]:
        return [uid for uid, daemon in self.daemons.items() if daemon.held is not None]

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something to its end."""
        task = self.loop.start(SimProcess("test"), work, "test")
        self.loop.run_until(self.loop.now + 0.001)
        return task.result()

    def value(self, key: str) -> bytes | None:
        found = self.do(self.store.get(key))
        return None if found is None else found.value

    def end(self) -> None:
        self.loop.end()


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    made.end()


def test_the_first_daemon_leads_at_once_and_the_lease_is_renewed(world: World) -> None:
    daemon = world.start(1)
    world.run_for(0.1)
    assert world.leaders() == [1]
    assert daemon.held is not None
    assert (daemon.held.term, daemon.held.valid_until_monotonic) == (1, 3.0)
    world.run_for(10.0)
    assert daemon.held.valid_until_monotonic > 12.0
    assert (daemon.terms, daemon.leases) == ([1], 1)
    assert world.value(keys.TERM) == b"1"


def test_a_daemon_that_stops_is_followed_at_once_in_the_next_term(world: World) -> None:
    first, second = world.start(1), world.start(2)
    world.run_for(1.0)
    assert (world.leaders(), second.terms) == ([1], [])
    first.run.cancel()
    world.run_for(0.05)
    world.do(first.candidate.leave())
    world.run_for(0.1)
    assert (world.leaders(), second.terms) == ([2], [2])
    assert first.told[-1] is None


def test_a_frozen_leader_is_followed_when_its_lease_has_ended_and_then_knows_it(world: World) -> None:
    first, second = world.start(1), world.start(2)
    world.run_for(1.5)
    first.process.freeze()
    world.run_for(2.0)
    assert second.terms == [], "its lease may last"
    world.run_for(3.0)
    assert (world.leaders(), second.terms) == ([2], [2])
    first.process.thaw(world.loop)
    world.run_for(5.0)
    assert first.told[-1] is None
    assert (world.leaders(), first.leases) == ([2], 2)


def test_a_leader_without_a_store_leads_no_longer_than_its_lease(world: World) -> None:
    first, second = world.start(1), world.start(2)
    world.run_for(1.5)
    first.client.is_cut = True
    world.run_for(5.0)
    assert (world.leaders(), second.terms) == ([2], [2])
    first.client.is_cut = False
    world.run_for(3.0)
    assert (world.leaders(), first.terms) == ([2], [1])
    assert first.told[-1] is None


def test_a_leader_whose_lease_was_ended_begins_a_new_one_and_a_new_term(world: World) -> None:
    daemon = world.start(1)
    world.run_for(0.5)
    world.do(world.store.revoke(LeaseId(1)))
    world.run_for(2.0)
    assert (daemon.terms, daemon.leases, world.leaders()) == ([1, 2], 2, [1])


def test_a_lease_that_was_renewed_too_late_does_not_revive_the_leadership(world: World) -> None:
    """The store has renewed it, but the answer came after the end of the leadership."""
    daemon = world.start(1)
    world.run_for(0.5)
    daemon.client.next_renewal_late_s = 2.3
    world.run_for(2.6)
    assert world.leaders() == []
    world.run_for(1.0)
    assert None in daemon.told
    assert (daemon.terms, daemon.leases, world.leaders()) == ([1, 2], 1, [1])


def test_a_leadership_whose_answer_was_lost_is_never_claimed(world: World) -> None:
    daemon = world.start(1)
    daemon.client.loses_answer_to = keys.LEADER
    world.run_for(2.0)
    assert daemon.terms == [2], "the key of term 1 was deleted, and not taken for its own"
    assert world.value(keys.TERM) == b"2"


def test_a_presence_that_arrives_late_does_not_replace_that_of_the_present_lease(world: World) -> None:
    """The lease of the late one is not renewed, so the presence would end with it."""
    daemon, key = world.start(1), keys.daemon_key(NodeUid(1))
    daemon.client.delays = key
    world.run_for(1.0)
    assert daemon.leases == 1
    assert world.do(world.store.get(key)).lease == 2
    assert not world.do(world.store.transact(daemon.client.delayed)).succeeded
    world.run_for(10.0)
    assert world.do(world.store.get(key)).lease == 2


def test_a_presence_that_arrives_between_the_look_and_the_next_one_is_replaced(world: World) -> None:
    """Whichever is executed last belongs to a lease that is renewed."""
    daemon, key = world.start(1), keys.daemon_key(NodeUid(1))
    daemon.client.delays = daemon.client.overtaken_by_delayed = key
    world.run_for(10.0)
    assert world.do(world.store.get(key)).lease == daemon.candidate._lease
    assert daemon.terms == [1]


def test_after_a_yield_another_daemon_leads(world: World) -> None:
    first, second = world.start(1), world.start(2)
    world.run_for(1.0)
    world.do(first.candidate.yield_leadership())
    world.run_for(0.1)
    assert (world.leaders(), second.terms) == ([2], [2])
    world.run_for(10.0)
    assert (world.leaders(), first.terms) == ([2], [1])


def test_a_daemon_that_is_alone_leads_again_immediately_in_a_new_term(world: World) -> None:
    daemon = world.start(1)
    world.run_for(1.0)
    world.do(daemon.candidate.yield_leadership())
    world.run_for(0.1)
    assert (world.leaders(), daemon.terms) == ([1], [1, 2])


def test_a_daemon_that_yielded_leads_again_when_the_other_one_fails(world: World) -> None:
    first, second = world.start(1), world.start(2)
    world.run_for(1.0)
    world.do(first.candidate.yield_leadership())
    world.run_for(1.0)
    second.process.freeze()
    world.run_for(6.0)
    assert (world.leaders(), first.terms) == ([1], [1, 3])


def wish(world: World, uid: int, *, term: int = 1, status: ActionStatus = ActionStatus.QUEUED) -> None:
    """An operator wants this daemon to lead."""
    change = LeaderChange(NodeUid(uid), term, NOW, "admin@example.com", status)
    world.do(world.store.transact(Transaction(operations=(PutKey(keys.LEADER_CHANGE, records.encode(change)),))))


@pytest.mark.parametrize("wanted", [2, 3, 4])
def test_the_wanted_daemon_leads_after_a_yield_whoever_looks_first(world: World, wanted: int) -> None:
    first = world.start(1)
    world.run_for(0.5)
    for uid in (2, 3, 4):
        world.start(uid)
    world.run_for(1.0)
    wish(world, wanted)
    world.do(first.candidate.yield_leadership())
    world.run_for(0.3)
    assert world.leaders() == [wanted]
    world.run_for(10.0)
    assert (world.leaders(), world.daemons[wanted].terms) == ([wanted], [2])


def test_a_wanted_daemon_that_does_not_take_over_is_waited_for_three_seconds_and_no_longer(world: World) -> None:
    first, second = world.start(1), world.start(2)
    world.run_for(1.0)
    present = DaemonPresence(NodeUid(9), 109, 1, "boot", 0, "0.1.0", "https://127.0.0.9:9443", NOW)
    world.do(world.store.transact(Transaction(operations=(PutKey(keys.key_of(present), records.encode(present)),))))
    wish(world, 9)
    world.do(first.candidate.yield_leadership())
    world.run_for(2.9)
    assert world.leaders() == []
    world.run_for(0.5)
    (leader,) = world.leaders()
    # The same wish holds up no further election.
    world.do(world.daemons[leader].candidate.yield_leadership())
    world.run_for(0.2)
    assert world.leaders() == [3 - leader]
    assert sorted(first.terms + second.terms) == [1, 2, 3]


def test_a_wish_for_a_daemon_that_is_gone_or_that_has_ended_or_is_unreadable_delays_nothing(world: World) -> None:
    first, second = world.start(1), world.start(2)
    world.run_for(1.0)
    wish(world, 7)
    world.do(first.candidate.yield_leadership())
    world.run_for(0.2)
    assert world.leaders() == [2]
    world.run_for(3.0)
    wish(world, 2, status=ActionStatus.FAILED)
    world.do(second.candidate.yield_leadership())
    world.run_for(0.2)
    assert world.leaders() == [1]
    world.run_for(3.0)
    world.do(world.store.transact(Transaction(operations=(PutKey(keys.LEADER_CHANGE, b"{"),))))
    world.do(first.candidate.yield_leadership())
    world.run_for(0.2)
    assert world.leaders() == [2]


def test_a_daemon_that_does_not_lead_yields_nothing(world: World) -> None:
    first, second = world.start(1), world.start(2)
    world.run_for(1.0)
    world.do(second.candidate.yield_leadership())
    world.run_for(1.0)
    assert (world.leaders(), first.terms) == ([1], [1])
    assert second.told == []


def test_a_leader_key_that_a_yield_could_not_delete_is_deleted_later(world: World) -> None:
    daemon = world.start(1)
    world.run_for(1.05)
    daemon.client.is_cut = True
    world.do(daemon.candidate.yield_leadership())
    assert world.leaders() == []
    assert world.value(keys.LEADER) is not None
    daemon.client.is_cut = False
    world.run_for(1.0)
    assert (world.leaders(), daemon.terms) == ([1], [1, 2])


def test_a_leadership_holds_in_the_store_until_another_begins(world: World) -> None:
    daemon = world.start(1)
    world.run_for(1.0)
    held = daemon.held
    assert held is not None
    store: Any = daemon.client
    world.do(check_term(store, held))
    world.do(daemon.candidate.yield_leadership())
    world.run_for(0.1)
    assert daemon.held is not None
    world.do(check_term(store, daemon.held))
    with pytest.raises(LostLeadership, match="term 1"):
        world.do(check_term(store, held))


def test_a_watch_that_breaks_delays_a_succession_by_one_look(world: World) -> None:
    first, second = world.start(1), world.start(2)
    world.run_for(1.0)
    second.client.is_cut = True
    world.run_for(0.5)
    first.run.cancel()
    world.run_for(0.05)
    world.do(first.candidate.leave())
    second.client.is_cut = False
    world.run_for(1.2)
    assert (world.leaders(), second.terms) == ([2], [2])
