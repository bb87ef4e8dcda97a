"""Several nodes at once: no order of requests, moves, failures and cancellations loses the quorum or the last live copy, or
promises more memory than a node has."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shardwright.api.services import node_actions
from shardwright.api.services.intent import Look
from shardwright.errors import Rejected
from shardwright.model.action import ActionName, ActionStatus
from shardwright.model.database import ShardWanted
from shardwright.model.ids import ActionUid, NodeUid
from shardwright.model.move import GroupMove, MoveState
from shardwright.store import keys
from testkit.builders import MB, NOW, ClusterBuilder, cluster
from testkit.stepper import decide_once, step_move

WORDS = ("maintenance_on", "maintenance_off", "remove", "enslave_node")
COPY_BYTES = 650 * MB
"""Six of them almost fill a node."""


class SeveralNodes(RuleBasedStateMachine):
    """Requests pass the API's own checks; the actions decide; the stepper moves. Daemons stay alive, because the law is that
    no request loses the quorum."""

    @initialize(nodes=st.integers(3, 6), seed=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=6))
    def start(self, nodes: int, seed: list[tuple[int, bool]]) -> None:
        self.at = NOW
        self.numbers = 0
        builder = cluster(nodes, leader=1)
        for first, has_replica in seed:
            on = (1 + first % nodes, 1 + (first + 1) % nodes) if has_replica else (1 + first % nodes,)
            builder = builder.with_database(on=(on,), memory_bytes=COPY_BYTES * len(on))
        self.builder: ClusterBuilder = builder.with_endpoints_seen()

    @rule(node=st.integers(1, 6), word=st.sampled_from(WORDS))
    def ask(self, node: int, word: str) -> None:
        members = sorted(self.builder.view.nodes)
        node = members[node % len(members)]
        self.numbers += 1
        view = self.builder.view
        held = {keys.node_lock_key(a.node_uid): str(a.uid) for a in view.live_actions()}
        removals = [a for a in view.live_actions() if a.name is ActionName.REMOVE]
        held |= {keys.REMOVE_LOCK: str(removals[0].uid)} if removals else {}
        look = Look(view, held.get, lambda key: 0, self.at, "admin@example.com")
        try:
            intent = node_actions.start(look, NodeUid(node), word, b"", uid=ActionUid(f"action-{self.numbers}"))
        except Rejected:
            return
        self.builder = self.builder.with_writes(*intent.writes)

    @rule(number=st.integers(0, 20), undoes=st.booleans())
    def cancel(self, number: int, undoes: bool) -> None:
        live = self.builder.view.live_actions()
        if live:
            action = live[number % len(live)]
            wish = replace(action, cancel_requested_at=action.cancel_requested_at or self.at)
            self.builder = self.builder.with_records(replace(wish, is_undo_wanted=undoes or action.is_undo_wanted))

    @rule(turns=st.integers(1, 4))
    def decide(self, turns: int) -> None:
        for _ in range(turns):
            self.at += timedelta(seconds=1)
            for action in self.builder.view.live_actions():
                self.builder = decide_once(self.builder, self.builder.view.actions[action.uid], now=self.at)
                self.check()

    @precondition(lambda self: bool(self.builder.view.live_moves()))
    @rule(number=st.integers(0, 20), fails=st.booleans(), steps=st.integers(1, 4))
    def move(self, number: int, fails: bool, steps: int) -> None:
        live = self.builder.view.live_moves()
        uid = live[number % len(live)].uid
        for step in range(steps):
            move = self.builder.view.moves.get(uid)
            if move is None or move.state.is_terminal:
                return
            self.builder = step_move(self.builder, move, now=self.at, fails=fails and step == 0)

    @rule(turns=st.sampled_from([3, 6, 40]))
    def proceed(self, turns: int) -> None:
        """Let everything in progress advance for this many turns, mostly to its end."""
        for _ in range(turns):
            if not self.builder.view.live_actions():
                return
            self.decide(1)
            self.move_all()

    @rule()
    def move_all(self) -> None:
        for move in self.builder.view.live_moves():
            self.builder = step_move(self.builder, move, now=self.at)

    @invariant()
    def check(self) -> None:
        view = self.builder.view
        members = len(view.nodes)
        voting = [n for n in view.nodes.values() if not n.is_quorum_only]
        going = {a.node_uid for a in view.live_actions() if a.name is ActionName.REMOVE and a.status is ActionStatus.RUNNING}
        assert len(voting) >= members // 2 + 1, "a majority could be switched off"
        left = [n for n in voting if n.uid not in going]
        after = members - len(going)
        assert not after or len(left) >= after // 2 + 1, "the removal would leave no majority"
        for group in view.groups.values():
            copies = [s for s in view.shards_of_group(group.uid) if s.wanted is ShardWanted.RUNNING]
            nodes = [s.node_uid for s in copies]
            assert copies, "no live copy"
            assert any(s.uid == group.primary for s in copies), "the primary is not among the live copies"
            assert len(nodes) == len(set(nodes)), "two copies on one node"
        for node in view.nodes.values():
            held = sum(
                view.databases[s.database_uid].shard_memory_bytes
                for s in view.shards_on(node.uid)
                if s.wanted is not ShardWanted.GONE and s.database_uid in view.databases
            )
            assert held <= node.memory_bytes, f"node {node.uid} is promised more than it has"
        live = [m.group_uid for m in view.live_moves() if isinstance(m, GroupMove) and m.state is not MoveState.CLEANING]
        assert len(live) == len(set(live)), "two moves of one slot group"


TestSeveralNodes = SeveralNodes.TestCase
TestSeveralNodes.settings = settings(stateful_step_count=40, deadline=None)


def test_a_node_that_may_go_back_into_maintenance_counts_as_away() -> None:
    machine = SeveralNodes()
    machine.start(3, [(0, True), (1, True)])
    machine.ask(0, "maintenance_on")
    machine.proceed(40)
    machine.ask(0, "maintenance_off")
    machine.decide(2)
    machine.ask(1, "maintenance_on")
    machine.decide(3)
    machine.cancel(0, True)
    machine.proceed(40)
    actions = machine.builder.view.actions
    assert [(a.name, a.status) for a in actions.values()] == [
        (ActionName.MAINTENANCE_ON, ActionStatus.COMPLETED),
        (ActionName.MAINTENANCE_OFF, ActionStatus.CANCELLED),
        (ActionName.MAINTENANCE_ON, ActionStatus.FAILED),
    ]
    assert actions[ActionUid("action-3")].error_code == "no_quorum"
