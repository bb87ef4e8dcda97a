"""Keeps the record of this node right about whether it holds the key of the cluster's authority.

An operator may copy the key to a further node, or take it away, at any time. The record decides whether a node that signs
may leave the cluster, and where newcomers are sent. Must change nothing else of the record.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import structlog

from shardwright.clock import Clock
from shardwright.errors import Permanent, ShardwrightError
from shardwright.model.cluster import ClusterKind, Node
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView, Put
from shardwright.store.commit import commit
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import Store
from shardwright.trust.files import TrustFiles, load_signer

LOOK_S = 30.0
"""Between two looks at the key."""

_log = structlog.get_logger(__name__)


def corrected(view: ClusterView, node_uid: NodeUid, *, has_key: bool) -> Node | None:
    """The node's record with what is true of the key. None: the record is right, or there is none to correct. Pure."""
    node = view.nodes.get(node_uid)
    if view.cluster is None or view.cluster.kind is not ClusterKind.MACHINES or node is None or node.is_signer is has_key:
        return None
    return replace(node, is_signer=has_key)


class KeyHolder:
    """See the module's text."""

    def __init__(
        self,
        node_uid: NodeUid,
        files: TrustFiles,
        store: Store,
        *,
        mirror: Mirror,
        clock: Clock,
        random_text: Callable[[], str],
    ) -> None:
        self._node_uid = node_uid
        self._files = files
        self._store = store
        self._mirror = mirror
        self._clock = clock
        self._random_text = random_text
        self._complaint = ""

    async def run(self) -> None:
        """Eternal task."""
        await self._mirror.ready()
        while True:
            try:
                await self.look()
                self._complaint = ""
            except (ShardwrightError, OSError) as e:
                if (complaint := str(e)) != self._complaint:
                    _log.warning("it is not recorded whether this node holds the authority's key", reason=complaint)
                self._complaint = complaint
            except Exception:
                _log.exception("the look at the authority's key failed; a defect")
            await self._clock.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once, and write if the record is wrong. Raises OSError or ShardwrightError if a key is there and cannot be
        used (the record stays as it is), or if the store does not take the change (the next look repeats it)."""
        has_key = await asyncio.to_thread(self._has_key)
        record = corrected(self._mirror.view(), self._node_uid, has_key=has_key)
        if record is not None:
            await commit(self._store, self._mirror, [Put(record)], fence=None, random_text=self._random_text)
            _log.info("recorded whether this node holds the authority's key", holds=has_key)

    def _has_key(self) -> bool:
        try:
            load_signer(self._files)
        except Permanent as e:
            if e.code is Code.AUTHORITY_KEY_ABSENT:
                return False
            raise
        return True
