"""A node's daemon in a simulation: mirror, candidacy, leadership and agent, as tasks of one simulated process.

All decisions are the product's; this module only starts and ends simulated processes.
"""

import asyncio
from collections.abc import Collection, Coroutine
from datetime import datetime, timedelta
from typing import Any

from shardwright.agent.watch import ServerWatch
from shardwright.clock import SteadyClock
from shardwright.endpoint.spec import spec_of
from shardwright.leader.candidate import Candidate, Held, check_term
from shardwright.leader.loop import Leader, LeaderParts
from shardwright.model.cluster import DaemonPresence
from shardwright.model.database import Shard
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.seen import NodeFigures, NodeSeen
from shardwright.model.view import ClusterView
from shardwright.reconcile.shard import AgentCommand, LocalShard, LocalState, Verb, decide_shards, report_of
from shardwright.store import keys, records
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import CreatedAt, PutKey, StoreUnavailable, Transaction
from shardwright.tasks import Wake
from sim.loop import SimProcess
from sim.node import SimNode
from sim.nodes import SimNodes
from sim.servers import SimServers
from sim.store import LeaderStore, StoreClient
from sim.world import START, World

AGENT_TURN_S = 15.0


class SimClock:
    """Wall time with the node's own error; monotonic time is the loop's."""

    def __init__(self, world: World, node: SimNode) -> None:
        self._world = world
        self._node = node

    def now(self) -> datetime:
        return START + timedelta(seconds=self._world.loop.now + self._node.skew_s)

    def monotonic(self) -> float:
        return self._world.loop.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Keeper:
    """The part of the election that the leadership runner and the API use."""

    def __init__(self) -> None:
        self.held: Held | None = None
        self._changed = asyncio.Event()

    def change(self, held: Held | None) -> None:
        """The candidate reports its leadership."""
        self.held = held
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait_other(self, term: int | None) -> Held | None:
        """Wait until the leadership is not that of ``term`` (None: until there is one)."""
        while (None if self.held is None else self.held.term) == term:
            await self._changed.wait()
        return self.held


class SimDaemon:
    """See the module's docstring."""

    def __init__(self, world: World, node: SimNode) -> None:
        self.world = world
        self.node = node
        self.process = SimProcess(f"daemon {node.uid}")
        self.clock = SimClock(world, node)
        self.store = StoreClient(world.store, world.network, self.process, node.uid)
        self.mirror = Mirror(self.store, clock=self.clock, decode=world.decode)
        self.keeper = Keeper()
        self.leader: Leader | None = None
        self.term: int | None = None
        self.busy: set[int] = set()
        self._wake = Wake()
        self._reported: object = None
        self._told: object = None
        self._started_at = world.loop.now
        self._node_key = f"{keys.NODES}{node.uid:08d}"
        self.watch = ServerWatch(
            NodeUid(node.uid),
            self._observing(node).observe,
            clock=self.clock,
            epoch=world.new_id("epoch"),
            every_s=world.pace.idle_poll_s,
        )
        self.watch.figures = NodeFigures(memory_free_bytes=4 << 30)
        self._run("mirror", self.mirror.run())
        self._run("daemon", self._main())

    def _run(self, name: str, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        return self.world.loop.start(self.process, work, f"{name} {self.node.uid}")

    def _observing(self, node: SimNode) -> SimServers:
        async def nothing() -> None: ...

        return SimServers(
            self.world,
            process=self.process,
            place=node.uid,
            term=0,
            check_term=nothing,
            is_leader=lambda: False,
            clock=self.clock,
        )

    async def _main(self) -> None:
        await self.mirror.ready()
        machine, url = self.node.machine, f"https://{self.node.address}:9443"
        presence = DaemonPresence(NodeUid(self.node.uid), machine.new_pid(), 1, machine.boot_id, 0, "0.1.0", url, START)
        self.candidate = Candidate(
            self.store,
            presence,
            clock=self.clock,
            on_change=self.keeper.change,
            on_present=lambda: None,
            times=self.world.times,
        )
        self._run("candidate", self.candidate.run())
        self._run("leadership", self._lead())
        await self._agent()

    # -- leading -------------------------------------------------------------------------------------------------------

    async def _lead(self) -> None:
        """Like ``wiring.LeadershipRunner``."""
        held = await self.keeper.wait_other(None)
        while True:
            if held is None:
                held = await self.keeper.wait_other(None)
                continue
            self.term = held.term
            self.world.log(f"daemon {self.node.uid} leads term {held.term}")
            self.leader = self._leader(held)
            leading = asyncio.ensure_future(self.leader.run())
            try:
                held = await self.keeper.wait_other(held.term)
            finally:
                leading.cancel()
                await asyncio.gather(leading, return_exceptions=True)
                self.leader = None
                self.term = None

    def _leader(self, held: Held) -> Leader:
        def is_leader() -> bool:
            now = self.keeper.held
            is_ours = now is not None and now.term == held.term
            return is_ours and now is not None and self.clock.monotonic() < now.valid_until_monotonic

        async def check() -> None:
            await check_term(self.store, held)

        clock = SteadyClock(self.clock)
        parts = LeaderParts(
            store=LeaderStore(self.store, held.term),
            mirror=self.mirror,
            servers=SimServers(
                self.world,
                process=self.process,
                place=self.node.uid,
                term=held.term,
                check_term=check,
                is_leader=is_leader,
                clock=clock,
            ),
            nodes=SimNodes(self.world, process=self.process, place=self.node.uid, clock=clock),
            clock=clock,
            probe=lambda point: self.world.probed(self, point),
            random_text=self.world.random_text,
            yield_leadership=self._yield,
        )
        return Leader(parts, term=held.term, fence=held.fence, pace=self.world.pace)

    def _yield(self) -> None:
        self._run("yield", self.candidate.yield_leadership())

    # -- the agent -----------------------------------------------------------------------------------------------------

    def wake_agent(self) -> None:
        """A process of the node has started or ended."""
        if self.process.is_alive:
            self._wake.set()

    async def _agent(self) -> None:
        self.mirror.subscribe(self._changed)
        while True:
            self._wake.clear()
            try:
                await self._agent_turn()
                await self._wake.wait(AGENT_TURN_S)
            except StoreUnavailable:
                await self._wake.wait(1.0)

    def _changed(self, changed: Collection[str]) -> None:
        """The mirror has changed: wake the agent if the change is about this node."""
        uid = self.node.uid
        for key in changed:
            if key.startswith("shards/"):
                shard = self.mirror.record(key)
                if not isinstance(shard, Shard) or shard.node_uid == uid:
                    self._wake.set()
            elif key == self._node_key:
                self._wake.set()

    async def _agent_turn(self) -> None:
        self.node.ensure_endpoint_process()
        view = self.world.view_of(self.mirror)
        self._configure(view)
        self.watch.follow(view)
        local = self.node.local(self.busy)
        shards = view.shards_on(NodeUid(self.node.uid))
        is_certain = False
        if not {found.shard_uid for found in local} <= {s.uid for s in shards}:
            await self.mirror.fresh()
            view = self.world.view_of(self.mirror)
            shards = view.shards_on(NodeUid(self.node.uid))
            is_certain = view.cluster is not None and self.node.uid in view.nodes
        for command in decide_shards(shards, local, is_certain=is_certain):
            self._apply(command)
        await self._report()

    def _configure(self, view: ClusterView) -> None:
        """Like the agent: send a new endpoint process its specifications without waiting for a leader."""
        found = self.world.endpoint_process(self.node.uid)
        if found is None or found is self._told or not found.process.runs:
            return
        self._told = found
        for endpoint in view.endpoints_on(NodeUid(self.node.uid)):
            spec = spec_of(view, endpoint)
            if spec is not None and endpoint.uid not in found.endpoints:
                found.serve(spec)

    def _apply(self, command: AgentCommand) -> None:
        uid = command.shard_uid
        if uid in self.busy or command.verb is Verb.WAIT:
            return
        self.busy.add(uid)
        rng, loop = self.world.rng, self.world.loop
        match command.verb:
            case Verb.START:
                loop.at(0.05 + rng.random() * 0.2, self._start, uid, process=self.process)
            case Verb.STOP | Verb.END:
                server = self.node.shards[uid].server
                is_stuck = server is not None and server.process.is_frozen
                grace = 10.0 if command.verb is Verb.STOP else 3.0
                loop.at(grace if is_stuck else 0.05 + rng.random() * 0.3, self._end, uid, process=self.process)
            case Verb.DELETE:
                loop.at(0.02 + rng.random() * 0.1, self._delete, uid, process=self.process)

    def _start(self, uid: ShardUid) -> None:
        self.busy.discard(uid)
        view = self.world.view_of(self.mirror)
        shard = view.shards.get(uid)
        database = view.databases.get(shard.database_uid) if shard is not None else None
        if shard is not None and database is not None and shard.node_uid == self.node.uid:
            self.node.start(shard, database)
        self._wake.set()

    def _end(self, uid: ShardUid) -> None:
        self.busy.discard(uid)
        found = self.node.shards.get(uid)
        if found is not None and found.server is not None:
            found.server.die(planned=True)
        self._wake.set()

    def _delete(self, uid: ShardUid) -> None:
        self.busy.discard(uid)
        found = self.node.shards.get(uid)
        if found is not None and (found.server is None or not found.server.is_alive):
            del self.node.shards[uid]
        self._wake.set()

    async def _report(self) -> None:
        view = self.world.view_of(self.mirror)
        local = {found.shard_uid: found for found in self.node.local(self.busy)}
        shards = view.shards_on(NodeUid(self.node.uid))
        nothing = {s.uid: LocalShard(s.uid, is_busy=s.uid in self.busy) for s in shards}
        processes = tuple(report_of(s, local.get(s.uid, nothing[s.uid])) for s in shards)
        endpoint_process = self.node.endpoint_process
        report = (processes, 0 if endpoint_process is None else endpoint_process.pid)
        if report == self._reported:
            return
        record = self.mirror.get(self._node_key)
        if record is None:
            return
        seen = NodeSeen(
            NodeUid(self.node.uid),
            self.clock.now(),
            processes,
            cores=2,
            memory_total_bytes=8 << 30,
            servers=(("valkey", "9.1.2"),),
        )
        written = Transaction(
            (CreatedAt(record.key, record.create_revision),), (PutKey(keys.key_of(seen), records.encode(seen)),)
        )
        if (await self.store.transact(written)).succeeded:
            self._reported = report


__all__ = ["LocalState", "SimDaemon"]
