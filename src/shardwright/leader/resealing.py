"""Carries a change of the cluster key through: one step a turn. ``reconcile/key_rotation.py`` decides.

Part of a leadership. Knows nothing between two turns: which values are still sealed with another key is read from the
values, the rest from the record, so a successor goes on where this leader ended. Must not read or write a key file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from shardwright.errors import Permanent
from shardwright.leader.handoff import Commit
from shardwright.leader.probe import Probe, step
from shardwright.model.ids import KeyUid
from shardwright.model.key_rotation import KeyPhase
from shardwright.model.view import ClusterView, Write
from shardwright.reconcile.key_rotation import Unsealed, decide_key_rotation
from shardwright.store import keys
from shardwright.store.commit import Fence, commit
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import ModifiedAt, PutKey, Store, Transaction
from shardwright.store.seal import SEALED, to_seal_again

BATCH: Final = 40
"""Values that are sealed again in one transaction: each takes one of 128 compares."""
BATCH_BYTES: Final = 256 * 1024

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Value:
    """A value that is not sealed with the new key, in clear."""

    key: str
    clear: bytes
    revision: int


class Resealing:
    """See the module's text. ``commit``: commits writes under the leadership."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        *,
        fence: Fence,
        commit: Commit,
        probe: Probe,
        random_text: Callable[[], str],
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._fence = fence
        self._commit = commit
        self._probe = probe
        self._random_text = random_text

    async def advance(self, now: datetime) -> bool:
        """One step, if there is one. Returns whether another may follow at once. Raises Conflict, LostLeadership,
        StoreError."""
        rotation = self._mirror.view().key_rotation
        if rotation is None or rotation.has_ended:
            return False
        if rotation.seals not in self._mirror.sealing.uids:
            return False  # This node led only a moment after its return: it is just fetching the key.
        if rotation.phase is KeyPhase.SEALING:
            values, damaged = self._unsealed(rotation.seals)
            if values:
                async with step(self._probe, "rotate:batch"):
                    await self._seal_again(values, rotation.seals)
                return True
            if not damaged:
                # The history has the same values, sealed with the old key.
                await self._store.compact(self._mirror.revision)
        before = self._mirror.revision
        async with step(self._probe, f"rotate:{rotation.phase}"):
            await self._commit(lambda view: self._decided(view, now))
        return self._mirror.revision != before

    def _decided(self, view: ClusterView, now: datetime) -> list[Write]:
        rotation = view.key_rotation
        unsealed = Unsealed()
        if rotation is not None and rotation.phase is KeyPhase.SEALING:
            values, damaged = self._unsealed(rotation.seals)
            unsealed = Unsealed(len(values), damaged)
        return list(decide_key_rotation(view, now, unsealed).writes)

    def _unsealed(self, uid: KeyUid) -> tuple[list[_Value], tuple[str, ...]]:
        """The values that are to be sealed again, and the keys of those that cannot be opened."""
        items = [item for prefix in SEALED for item in self._mirror.range(prefix)]
        left = set(to_seal_again(items, uid))
        values, damaged = [], []
        for item in items:
            if item.key not in left:
                continue
            try:
                values.append(_Value(item.key, self._mirror.sealing.open(item.key, item.value), item.modify_revision))
            except Permanent:
                damaged.append(item.key)
        return values, tuple(damaged)

    async def _seal_again(self, values: list[_Value], uid: KeyUid) -> None:
        batch: list[_Value] = []
        size = 0
        for value in values[:BATCH]:
            size += len(value.clear)
            if batch and size > BATCH_BYTES:
                break
            batch.append(value)
        seal = self._mirror.sealing.seal
        record = ModifiedAt(keys.KEY_ROTATION, self._mirror.modified_at(keys.KEY_ROTATION))
        again = Transaction(
            (record, *(ModifiedAt(value.key, value.revision) for value in batch)),
            tuple(PutKey(value.key, seal(value.key, value.clear, uid)) for value in batch),
        )
        # Nothing was awaited since the values were read.
        await commit(self._store, self._mirror, [], fence=self._fence, random_text=self._random_text, extra=again)
        _log.info("sealed values again", key_uid=uid, count=len(batch), left=len(values) - len(batch))
