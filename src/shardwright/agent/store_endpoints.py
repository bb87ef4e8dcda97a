"""Keeps this daemon's knowledge of where the store is: asks the members, tells all clients, and remembers it on the disk.

Part of a daemon whose store runs on the cluster's own nodes. ``store/endpoints.py`` decides. A node's settings name the
members of the time of its ``init`` or join, and the daemon's user cannot change them. So what was learned has a file of its
own in the directory of the state. Must change no member.
"""

import asyncio
from collections.abc import Collection, Mapping

import structlog

from shardwright.errors import ShardwrightError
from shardwright.learned_file import Learning
from shardwright.model.ids import NodeUid
from shardwright.model.store_member import StoreRole
from shardwright.store import keys
from shardwright.store.endpoints import EndpointBook, Learned, asked, member_urls
from shardwright.store.members import Members
from shardwright.store.mirror import Mirror
from shardwright.tasks import Wake

LOOK_S = 30.0
"""Between two looks. A change of the members' roles on the nodes' records causes one too."""

_log = structlog.get_logger(__name__)


class StoreEndpoints:
    """See the module's text. ``book``: of all clients of this daemon. ``members``: a client with this book, so that no other
    etcd than the daemon's is believed. The caller closes it."""

    def __init__(self, learning: Learning, members: Members, book: EndpointBook, *, mirror: Mirror) -> None:
        self._learning = learning
        self._members = members
        self._book = book
        self._mirror = mirror
        self._kept: Learned | None = None
        """What is in the file."""

    async def run(self) -> None:
        """Eternal task."""
        await self._mirror.ready()
        self._kept = await asyncio.to_thread(self._learning.file.read)
        wake, loop = Wake(), asyncio.get_running_loop()

        def changed(changes: Collection[str]) -> None:
            if any(key.startswith(keys.NODES) for key in changes):
                wake.set()

        end = self._mirror.subscribe(changed)
        try:
            while True:
                roles = self._roles()
                await self._look_safely()
                until = loop.time() + LOOK_S
                while self._roles() == roles and (left_s := until - loop.time()) > 0:
                    await wake.wait(left_s)
                    wake.clear()
        finally:
            end()

    def _roles(self) -> Mapping[NodeUid, StoreRole]:
        return {uid: node.store_role for uid, node in self._mirror.view().nodes.items()}

    async def _look_safely(self) -> None:
        try:
            await self.look()
        except (ShardwrightError, OSError) as e:
            _log.warning("the members of the store cannot be learned", reason=str(e))
        except Exception:
            _log.exception("the look at where the members of the store are failed; a defect")

    async def look(self) -> None:
        """Ask the members once. Raises StoreUnavailable, StoreReplaced (nothing is believed), OSError if the file cannot be
        written (the clients know already)."""
        urls = member_urls(await self._members.members(), self._learning.own)
        if not urls:
            return
        if self._book.replace(asked(urls, self._learning.configured)):
            _log.info("the members of the store have changed", endpoints=[str(e) for e in self._book.endpoints])
        learned = Learned(self._book.identity.cluster_id, urls)
        if learned != self._kept:
            await asyncio.to_thread(self._learning.file.write, learned)
            self._kept = learned
