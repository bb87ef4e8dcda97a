"""The loop of a leadership on a store in memory, in virtual time: it commits, commands, goes on after failures, and ends."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from shardwright.leader.loop import Leader, LeaderParts
from shardwright.leader.pace import RETENTION_EVERY
from shardwright.leader.probe import silent
from shardwright.leader.retention import DELETIONS_AT_ONCE, EVENTS_MAX
from shardwright.leader.upgrade import BackUp
from shardwright.model.action import ActionStatus
from shardwright.model.cluster import RemovedNode
from shardwright.model.database import ServerSecrets, SlotGroup
from shardwright.model.ids import NodeUid
from shardwright.model.leader_change import LeaderChange
from shardwright.model.seen import Health, ProcessState
from shardwright.model.view import ClusterView
from shardwright.store import keys, records
from shardwright.store.commit import Fence
from shardwright.store.members import Members
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import DeleteKey, Operation, PutKey, Transaction
from sim.loop import SimLoop, SimProcess, result_of
from testkit.builders import NOW, ClusterBuilder, cluster
from tests.unit.leader.leader_fakes import DATABASE, GROUP, NEW, OLD, FakeNodes, World
from tests.unit.leader.leader_store import Client, VirtualClock


def settled() -> ClusterBuilder:
    """A database at rest: shard 1 leads, shard 2 follows."""
    builder = cluster(3).with_database(on=((1, 2),)).with_endpoints_seen()
    settings = builder.view.databases[DATABASE].settings_fingerprint
    shards = (replace(s, settings=settings) for s in builder.view.shards.values())
    return builder.with_records(*shards, ServerSecrets(DATABASE, "a", "b", "c", "d", "e"))


def stored(view: ClusterView) -> list[PutKey]:
    """The records and the agents' reports of a view."""
    reports = [
        replace(seen, processes=tuple(p for uid, p in view.processes.items() if view.shards[uid].node_uid == node))
        for node, seen in view.node_seen.items()
    ]
    found: list[Any] = [view.cluster, view.policy, view.counters, view.leadership, *reports]
    for table in (view.nodes, view.databases, view.groups, view.shards, view.endpoints, view.secrets, view.daemons):
        found += table.values()
    return [PutKey(keys.key_of(r), records.encode(r)) for r in found if r is not None]


class Leading:
    """A leader in its world, and what it has written."""

    def __init__(self, view: ClusterView, *, members: Members | None = None, back_up: BackUp | None = None) -> None:
        self.loop = SimLoop()  # type: ignore[abstract]  # it has what the product uses of a loop, and no more
        self.clock = VirtualClock(self.loop)
        self.store = MemoryStore(self.clock)
        self.world = World(view, clock=self.clock)
        self.change(*stored(view))
        self.client = Client(self.store, self.clock)
        self.mirror = Mirror(self.store, clock=self.clock)
        leader_key = result_of(self.store.get(keys.LEADER))
        assert leader_key is not None
        client: Any = self.client
        numbers = count()
        self.leader = Leader(
            LeaderParts(
                store=client,
                mirror=self.mirror,
                servers=self.world,
                nodes=FakeNodes(self.world),
                clock=self.clock,
                probe=silent,
                random_text=lambda: f"{next(numbers):08x}",
                yield_leadership=lambda: None,
                members=members,
                back_up=back_up,
            ),
            term=1,
            fence=Fence(leader_key.create_revision),
        )
        self.loop.start(SimProcess("mirror"), self.mirror.run(), "mirror")
        self.run = self.loop.start(SimProcess("leader"), self.leader.run(), "leader")

    def change(self, *operations: Operation) -> None:
        """Another writer changes the store."""
        result_of(self.store.transact(Transaction(operations=operations)))

    def put(self, builder: ClusterBuilder) -> None:
        """The agents report what this view says of processes."""
        seen = {o.key: o for o in stored(builder.view) if o.key.startswith(keys.SEEN_NODES)}
        self.change(*seen.values())

    def run_for(self, seconds: float) -> None:
        self.loop.run_until(self.loop.now + seconds)
        assert self.loop.failures == []
        assert self.loop.circle == ""

    @property
    def group(self) -> SlotGroup:
        return self.mirror.view().groups[GROUP]

    def end(self) -> None:
        self.loop.end()


@pytest.fixture
def leading() -> Iterator[Leading]:
    made = Leading(settled().view)
    made.run_for(1.0)
    yield made
    made.end()


def kill_primary(leading: Leading) -> None:
    """The server ends, and its agent reports it."""
    leading.world.servers[OLD].seen = replace(leading.world.servers[OLD].seen, health=Health.REFUSED)
    leading.put(settled().with_process(OLD, ProcessState.GONE))


def test_a_leader_of_a_cluster_at_rest_commands_nothing_and_turns_once_a_second(leading: Leading) -> None:
    before = leading.loop.steps
    leading.run_for(10.0)
    assert leading.world.commands() == []
    assert leading.loop.steps - before < 2_000
    assert leading.group == settled().view.groups[GROUP]


def test_a_dead_primary_is_replaced_and_its_heir_promoted_within_a_second(leading: Leading) -> None:
    kill_primary(leading)
    leading.run_for(1.0)
    assert (leading.group.primary, leading.group.generation) == (NEW, 2)
    assert "2:promote" in leading.world.commands()
    events = [records.decode(i.key, i.value) for i in leading.mirror.range(keys.EVENTS)]
    assert "failover" in [e.kind for e in events]  # type: ignore[union-attr]


def test_a_leader_yields_to_the_wanted_daemon_and_that_one_notes_that_it_leads(leading: Leading) -> None:
    yielded: list[bool] = []
    leading.leader._applier._yield_leadership = lambda: yielded.append(True)
    term, own = leading.mirror.view().leadership, NodeUid(1)
    assert term is not None
    assert term.node_uid == own
    for wanted, status, is_yielded in ((2, ActionStatus.QUEUED, True), (1, ActionStatus.COMPLETED, False)):
        yielded.clear()
        wish = LeaderChange(NodeUid(wanted), term.term, NOW, "admin@example.com")
        leading.change(PutKey(keys.key_of(wish), records.encode(wish)))
        leading.run_for(2.0)
        found = leading.mirror.view().leader_change
        assert found is not None
        assert (found.node_uid, found.status, bool(yielded)) == (wanted, status, is_yielded)


def test_a_leader_that_has_lost_its_term_writes_nothing_and_ends(leading: Leading) -> None:
    leading.change(DeleteKey(keys.LEADER))
    kill_primary(leading)
    leading.run_for(3.0)
    assert leading.run.done()
    assert leading.run.exception() is None
    assert leading.group.primary == OLD
    assert "2:promote" not in leading.world.commands()


def test_a_leader_without_a_store_goes_on_when_it_is_back(leading: Leading) -> None:
    leading.client.is_cut = True
    kill_primary(leading)
    leading.run_for(3.0)
    assert leading.group.primary == OLD
    leading.client.is_cut = False
    leading.run_for(2.0)
    assert leading.group.primary == NEW


def test_a_leader_that_cannot_reach_the_store_when_it_begins_begins_when_it_can() -> None:
    """The leadership may outlast the interruption, so no other leader would begin."""
    leading = Leading(settled().view)
    store: Any = leading.client
    leading.mirror._store = store
    leading.client.is_cut = True
    leading.run_for(3.0)
    assert not leading.run.done()
    leading.client.is_cut = False
    leading.run_for(2.0)
    kill_primary(leading)
    leading.run_for(2.0)
    assert leading.group.primary == NEW
    leading.end()


def test_a_lost_answer_to_a_commit_does_no_harm(leading: Leading) -> None:
    """The next turn sees that the commit was executed."""
    leading.client.loses_answer_to = f"groups/{GROUP}"
    kill_primary(leading)
    leading.run_for(2.0)
    assert leading.client.loses_answer_to == ""
    assert (leading.group.primary, leading.group.generation) == (NEW, 2)


def test_a_record_that_another_writer_changes_is_decided_again(leading: Leading) -> None:
    """A policy, a setting, a request: the decision rests on what is stored when it is committed."""
    view = leading.mirror.view()
    kill_primary(leading)
    changed = replace(view.shards[NEW], restarts=1)
    leading.change(PutKey(keys.key_of(changed), records.encode(changed)))
    leading.run_for(2.0)
    heir = leading.mirror.view().shards[NEW]
    assert (leading.group.primary, heir.in_sync_generation, heir.restarts) == (NEW, 2, 1)


def test_what_was_kept_long_enough_is_looked_for_seldom(leading: Leading) -> None:
    removed = RemovedNode(NodeUid(9), NOW, NOW)
    leading.change(PutKey(keys.key_of(removed), records.encode(removed)))
    leading.run_for(60.0)
    assert leading.mirror.view().removed_nodes.keys() == {9}, "the first turn has looked"
    leading.run_for(RETENTION_EVERY.total_seconds())
    assert leading.mirror.view().removed_nodes == {}


def test_the_log_keeps_the_latest_events_and_a_backlog_goes_within_minutes(leading: Leading) -> None:
    surplus = 2 * DELETIONS_AT_ONCE + 5
    for first in range(0, EVENTS_MAX + surplus, 100):
        numbers = range(first, min(first + 100, EVENTS_MAX + surplus))
        leading.change(*(PutKey(f"{keys.EVENTS}{number:08d}", b"{}") for number in numbers))
    leading.run_for(RETENTION_EVERY.total_seconds() + 30.0)
    left = [item.key for item in leading.mirror.range(keys.EVENTS)]
    assert len(left) <= EVENTS_MAX
    assert left[-1] == f"{keys.EVENTS}{EVENTS_MAX + surplus - 1:08d}"
