"""A store of an earlier version opens in this version, and all of its records are readable."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from shardwright.errors import Permanent
from shardwright.model.database import DatabaseStatus, GroupPhase, ProxyPolicy
from shardwright.model.event import Event, EventKind
from shardwright.model.move import HandoffMove, Move, MoveState, Rebind, Relocation
from shardwright.model.version import FIRST_CLUSTER_VERSION
from shardwright.store import keys, records
from shardwright.store.mirror import Mirror
from shardwright.store.seal import IN_CLEAR, KEY_BYTES, ClusterKey, Sealing
from shardwright.store.sqlite import SqliteStore

DATA = Path(__file__).parents[2] / "data"

OLD_MOVE = {
    "uid": "a-1", "action_uid": "a", "state": "handoff", "database_uid": 1, "created_at": "2026-11-28T13:59:29.8Z",
    "group_uid": "1:1", "shard_uid": 1, "new_shard_uid": 2, "endpoint_uid": None, "from_node": 1, "to_node": 2,
    "hands_over": True, "is_cancel_wanted": False, "started_at": None, "sync_began_at": None, "ended_at": None,
    "state_since": "2026-11-28T13:59:30Z", "bytes_total": 0, "bytes_done": 0, "attempts": 1, "not_before": None,
    "evidence": None, "reasons": [], "has_left": False, "is_undo": False, "ready_at": None, "left_at": None,
}  # fmt: skip
"""Every key that a move of any kind once had."""


@pytest.mark.parametrize(
    ("fields", "kind", "subject"),
    [
        ({"kind": "handoff"}, HandoffMove, 1),
        ({"kind": "relocate"}, Relocation, 1),
        (
            {"kind": "rebind", "endpoint_uid": "1:1", "group_uid": None, "shard_uid": None, "new_shard_uid": None},
            Rebind,
            "1:1",
        ),
    ],
)
def test_a_move_that_had_the_keys_of_all_kinds_is_a_move_of_its_own_kind(
    fields: dict[str, object], kind: type[Move], subject: int | str
) -> None:
    found = records.decode("moves/a-1", json.dumps({**OLD_MOVE, **fields}).encode())
    assert isinstance(found, HandoffMove | Relocation | Rebind)
    assert (type(found), found.subject, found.state) == (kind, subject, MoveState.HANDOFF)
    written = json.loads(records.encode(found))
    assert written["kind"] == fields["kind"]
    assert written.keys() <= {"kind", *OLD_MOVE}
    assert records.decode("moves/a-1", records.encode(found)) == found


@pytest.mark.parametrize("fields", [{"kind": "handoff", "state": "syncing"}, {"kind": "rebind"}, {"kind": "ferry"}])
def test_a_move_that_cannot_be_is_unreadable(fields: dict[str, object]) -> None:
    with pytest.raises(Permanent, match="cannot be read"):
        records.decode("moves/a-1", json.dumps({**OLD_MOVE, **fields}).encode())


@pytest.mark.parametrize("sealing", [IN_CLEAR, Sealing([ClusterKey.of(bytes(KEY_BYTES))], bytes)], ids=["no key", "a key"])
def test_a_store_of_november_2026(tmp_path: Path, sealing: Sealing) -> None:
    """Three nodes, one in maintenance; a replicated database and one in memory; two actions with their moves."""

    async def scenario() -> None:
        path = tmp_path / "store.db"
        shutil.copy(DATA / "store-2026-11-28.db", path)
        store = await SqliteStore.open(path)
        mirror = Mirror(store, sealing=sealing)
        task = asyncio.ensure_future(mirror.run())
        try:
            await mirror.ready()
            view = mirror.view()
            assert sorted(view.nodes) == [1, 2, 3]
            assert view.cluster is not None
            assert view.cluster.cluster_version == FIRST_CLUSTER_VERSION
            assert all(d.application for d in view.secrets.values()), "secrets in clear are read"
            assert {d.name: d.status for d in view.databases.values()} == dict.fromkeys(
                ("orders", "cache"), DatabaseStatus.ACTIVE
            )
            assert {d.proxy_policy for d in view.databases.values()} == {ProxyPolicy.SINGLE}
            assert [e.bound_nodes for e in view.endpoints.values()] == [e.nodes for e in view.endpoints.values()]
            assert all(g.phase is GroupPhase.SERVING and g.primary in view.shards for g in view.groups.values())
            assert sorted(a.name for a in view.actions.values()) == ["maintenance_on", "step_down"]
            assert all(m.state.is_terminal for m in view.moves.values())
            kinds = [type(view.moves[uid]) for uid in sorted(view.moves)]
            assert kinds == [HandoffMove, Rebind, HandoffMove, Relocation, Rebind]
            told = [e.kind for e in mirror.records(keys.EVENTS) if isinstance(e, Event)]
            assert EventKind.NODE_MAINTENANCE_ON_COMPLETED in told
            assert all(kind in EventKind.__members__.values() for kind in told)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store.close()

    asyncio.run(scenario())
