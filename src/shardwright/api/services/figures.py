"""The figures of nodes and servers, asked of the agents when somebody looks. Owns the answers for a second; stores nothing.

An agent that does not answer is left alone for some seconds, so that requests do not wait for it: what the store has is
shown then.
"""

import asyncio
from collections.abc import Collection

from shardwright.clock import Clock
from shardwright.errors import Transient
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.seen import NodeFigures, ServerSeen, with_figures
from shardwright.model.view import ClusterView
from shardwright.nodes.protocol import Nodes

FRESH_S = 1.0
TIMEOUT_S = 0.3
SILENT_S = 5.0


class Figures:
    """See the module's text. ``clock``: its monotonic time is used."""

    def __init__(self, nodes: Nodes, *, clock: Clock) -> None:
        self._nodes = nodes
        self._clock = clock
        self._asking = asyncio.Lock()
        self._ask_again_at: dict[NodeUid, float] = {}
        self._figures: dict[NodeUid, NodeFigures] = {}
        self._servers: dict[NodeUid, dict[ShardUid, ServerSeen]] = {}

    async def refresh(self, nodes: Collection[NodeUid]) -> None:
        """Ask the agents of these nodes, as far as their figures are older than FRESH_S, and forget all others. Never
        raises."""
        async with self._asking:
            now = self._clock.monotonic()
            await asyncio.gather(*(self._ask(uid) for uid in nodes if self._ask_again_at.get(uid, now) <= now))
            for uid in self._ask_again_at.keys() - set(nodes):
                self._forget(uid)
                del self._ask_again_at[uid]

    def over(self, view: ClusterView) -> ClusterView:
        """The view with the figures of the nodes whose agents answered."""
        latest = {uid: seen for servers in self._servers.values() for uid, seen in servers.items()}
        servers = {uid: with_figures(seen, latest[uid]) if uid in latest else seen for uid, seen in view.servers.items()}
        return view.changed(figures=dict(self._figures), servers=servers)

    async def _ask(self, uid: NodeUid) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                news = await self._nodes.link(uid).news(None)
        except (Transient, TimeoutError):
            self._forget(uid)
            self._ask_again_at[uid] = self._clock.monotonic() + SILENT_S
            return
        self._ask_again_at[uid] = self._clock.monotonic() + FRESH_S
        self._figures[uid] = news.figures
        self._servers[uid] = {seen.shard_uid: seen for seen in news.servers}

    def _forget(self, uid: NodeUid) -> None:
        self._figures.pop(uid, None)
        self._servers.pop(uid, None)
