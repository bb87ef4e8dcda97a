"""Keeps the cluster keys of this node as the change of the key asks for: makes the new one on the leader's node, fetches it
on the others, and drops what nothing needs any more.

``reconcile/key_rotation.py`` decides. A key is on the disk before this daemon uses it, and before the record or the node's
report says that it is here. Must not put a key into the store, a log or an error.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from shardwright.clock import Clock
from shardwright.errors import ShardwrightError
from shardwright.key_file import KeyFile, Keys, new_key
from shardwright.model.ids import KeyUid, NodeUid
from shardwright.model.key_rotation import KeyPhase, KeyRotation
from shardwright.model.view import Put
from shardwright.reconcile.key_rotation import KeysWish, decide_keys
from shardwright.store import keys
from shardwright.store.commit import commit
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import Store
from shardwright.store.seal import SEALED, ClusterKey, uid_in
from shardwright.tasks import Wake

LOOK_S: Final = 30.0
"""Between two looks without a change of the record."""
AGAIN_S: Final = 1.0
"""After a look that has failed, or that left something to do."""

Fetch = Callable[[KeyUid], Awaitable[ClusterKey]]
"""Ask the other nodes for a key. Raises ClusterError if none gives it now."""

_log = structlog.get_logger(__name__)


class ClusterKeys:
    """See the module's text. ``fetch`` None: all nodes share the key file, so what one has written, the others find there.
    ``reach``: called at named points, see ``leader/probe.py``."""

    def __init__(
        self,
        node_uid: NodeUid,
        file: KeyFile,
        store: Store,
        *,
        mirror: Mirror,
        fetch: Fetch | None,
        clock: Clock,
        random_text: Callable[[], str],
        reach: Callable[[str], None],
    ) -> None:
        self._node_uid = node_uid
        self._file = file
        self._store = store
        self._mirror = mirror
        self._fetch = fetch
        self._clock = clock
        self._random_text = random_text
        self._reach = reach
        self._complaint = ""
        self._wake = Wake()

    async def run(self) -> None:
        """Eternal task."""
        unsubscribe = self._mirror.subscribe(self._changed)
        try:
            await self._mirror.ready()
            while True:
                self._wake.clear()
                await self._wake.wait(AGAIN_S if await self._look_safely() else LOOK_S)
        finally:
            unsubscribe()

    def _changed(self, changed: Collection[str]) -> None:
        if keys.KEY_ROTATION in changed:
            self._wake.set()

    async def _look_safely(self) -> bool:
        """Whether to look again soon."""
        try:
            is_left = await self.look()
            self._complaint = ""
            return is_left
        except (ShardwrightError, OSError) as e:
            if (complaint := str(e)) != self._complaint:
                _log.warning("the cluster keys of this node are not as they should be", reason=complaint)
            self._complaint = complaint
        except Exception:
            _log.exception("the look at the cluster keys failed; a defect")
        return True

    async def look(self) -> bool:
        """Look once, and take the next step, if there is one. Returns whether the node's keys are still not final. Raises
        OSError or ShardwrightError; then the step is repeated at the next look."""
        rotation = self._mirror.view().key_rotation
        if rotation is None:
            return False
        sealing = self._mirror.sealing
        wish = decide_keys(rotation, sealing.uids, self._needed(), leads=self._leads())
        if wish == KeysWish(sealing.uids) and await asyncio.to_thread(self._file.read) == sealing.keys:
            return not rotation.has_ended
        new: ClusterKey | None = None
        if wish.makes:
            new = new_key()
        elif wish.fetches is not None and self._fetch is not None:
            new = await self._fetch(wish.fetches)
        # The record may have changed meanwhile.
        rotation, before = self._mirror.view().key_rotation or rotation, sealing.keys
        wanted = partial(_wanted, rotation, self._needed(), before if new is None else (*before, new))
        self._reach(f"keys:{rotation.phase}:before")
        kept = await asyncio.to_thread(self._file.change, wanted)
        sealing.hold(kept)
        self._reach(f"keys:{rotation.phase}:after")
        if wish.makes and new is not None:
            await self._say_made(rotation, new.uid)
        elif new is not None:
            _log.info("this node has fetched a cluster key", key_uid=new.uid)
        if dropped := [key.uid for key in before if key not in kept]:
            _log.info("this node has dropped cluster keys", key_uids=dropped)
        return not rotation.has_ended or kept != before

    def _needed(self) -> frozenset[KeyUid]:
        """The keys with which a value in the store is sealed."""
        found = (uid_in(item.value) for prefix in SEALED for item in self._mirror.range(prefix))
        return frozenset(uid for uid in found if uid is not None)

    def _leads(self) -> bool:
        held = self._mirror.view().leadership
        return held is not None and held.node_uid == self._node_uid

    async def _say_made(self, rotation: KeyRotation, uid: KeyUid) -> None:
        """If the record has changed meanwhile, this fails, and the key is dropped in the end: nothing is sealed with it."""
        if rotation.phase is not KeyPhase.MAKING or self._mirror.view().key_rotation != rotation:
            return
        made = replace(rotation, new=uid, phase=KeyPhase.SPREADING, since=self._clock.now(), reasons=())
        await commit(self._store, self._mirror, [Put(made)], fence=None, random_text=self._random_text)
        _log.info("this node has made a new cluster key", key_uid=uid)


def _wanted(rotation: KeyRotation, needed: frozenset[KeyUid], held: Keys, in_file: Keys) -> Keys:
    """The keys that the file is to have. ``held``: those of this daemon. A key that only the file has was written by another
    daemon, which may know more: it is kept."""
    known = {key.uid: key for key in (*in_file, *held)}
    others = {key.uid for key in in_file} - {key.uid for key in held}
    wish = decide_keys(rotation, tuple(known), needed | others, leads=False)
    return tuple(known[uid] for uid in wish.keys)
