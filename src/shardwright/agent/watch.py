"""Queries the servers of the agent's node, and sends the leader the news.

Owns the recurring query to each server that runs on the node, and the numbering of the news. Decides nothing: if a decision
waits for a server, the leader queries that server itself.
"""

import asyncio
from collections.abc import Awaitable, Callable

from shardwright.clock import Clock
from shardwright.errors import Transient
from shardwright.model.database import ShardWanted
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.seen import (
    ENDED_STATES,
    NodeFigures,
    ProcessIdentity,
    ProcessSeen,
    ProcessState,
    ServerSeen,
    decisive,
)
from shardwright.model.view import ClusterView
from shardwright.nodes.protocol import NewsMark, NodeNews
from shardwright.server.protocol import ServerTarget
from shardwright.server.targets import server_target
from shardwright.tasks import Polls

ASK_EVERY_S = 1.0


class ServerWatch:
    """``observe`` queries one server; ``epoch`` names this run of the agent, so that older marks of callers are
    recognized."""

    def __init__(
        self,
        node_uid: NodeUid,
        observe: Callable[[ServerTarget], Awaitable[ServerSeen]],
        *,
        clock: Clock,
        epoch: str,
        every_s: float = ASK_EVERY_S,
    ) -> None:
        self._node_uid = node_uid
        self._observe = observe
        self._clock = clock
        self._epoch = epoch
        self._every_s = every_s
        self.figures = NodeFigures()
        """Of the node's machine; the agent sets them when it has read them."""
        self.daemon: ProcessIdentity | None = None
        """The daemon of this agent."""
        self._ended: tuple[ProcessSeen, ...] = ()
        self._view = ClusterView()
        self._seen: dict[ShardUid, ServerSeen] = {}
        self._numbers: dict[ShardUid, int] = {}
        """The number of each server's latest news."""
        self._number = 0
        self._decisive = 0
        """The number of the latest news that may change a decision."""
        self._changed = asyncio.Event()
        self._polls: Polls[ShardUid] = Polls(f"agent of node {node_uid}: ask server", self._ask, lambda uid: every_s)

    def follow(self, view: ClusterView) -> None:
        """Query the servers that run on the node according to these records, and no others."""
        self._view = view
        running = [
            s.uid
            for s in view.shards_on(self._node_uid)
            if s.wanted is ShardWanted.RUNNING and view.process_state(s.uid) is ProcessState.RUNNING
        ]
        self._polls.follow(running)
        for uid in self._seen.keys() - set(running):
            del self._seen[uid], self._numbers[uid]

    def report(self, processes: tuple[ProcessSeen, ...]) -> None:
        """The agent's report of its node's shards. Leaders that wait for news hear of an end at once, also while the store
        is out of reach."""
        ended = tuple(seen for seen in processes if seen.state in ENDED_STATES)
        if ended != self._ended:
            self._ended = ended
            self._number += 1
            self._tell()

    async def news(self, since: NewsMark | None) -> NodeNews:
        """See ``NodeLink.news``."""
        began = self._clock.monotonic()
        known = since.number if since is not None and since.epoch == self._epoch else None
        if known is not None and self._decisive <= known:
            try:
                async with asyncio.timeout(self._every_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
        new = [self._seen[uid] for uid, number in self._numbers.items() if known is None or number > known]
        mark = NewsMark(self._epoch, self._number)
        waited_s = self._clock.monotonic() - began
        return NodeNews(mark, self._clock.now(), waited_s, self.figures, tuple(new), self.daemon, self._ended)

    async def close(self) -> None:
        """Stop the queries."""
        await self._polls.close()

    async def _ask(self, uid: ShardUid) -> None:
        shard = self._view.shards.get(uid)
        if shard is None:
            return
        try:
            target = server_target(self._view, shard)
        except Transient:
            return  # Its node or its secrets will be recorded soon.
        seen = await self._observe(target)
        before = self._seen.get(uid)
        self._number += 1
        self._seen[uid], self._numbers[uid] = seen, self._number
        if before is None or decisive(before) != decisive(seen):
            self._tell()

    def _tell(self) -> None:
        """End the wait of every caller: the latest news may change a decision."""
        self._decisive = self._number
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
