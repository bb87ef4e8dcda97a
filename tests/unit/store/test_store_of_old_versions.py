"""A store of an earlier version opens in this version, and all of its records are readable."""

import asyncio
import shutil
from pathlib import Path

from shardwright.model.database import DatabaseStatus, GroupPhase
from shardwright.model.event import Event, EventKind
from shardwright.store import keys
from shardwright.store.mirror import Mirror
from shardwright.store.sqlite import SqliteStore

DATA = Path(__file__).parents[2] / "data"


def test_a_store_of_november_2026(tmp_path: Path) -> None:
    """Three nodes, one in maintenance; a replicated database and one in memory; two actions with their moves."""

    async def scenario() -> None:
        path = tmp_path / "store.db"
        shutil.copy(DATA / "store-2026-11-28.db", path)
        store = await SqliteStore.open(path)
        mirror = Mirror(store)
        task = asyncio.ensure_future(mirror.run())
        try:
            await mirror.ready()
            view = mirror.view()
            assert sorted(view.nodes) == [1, 2, 3]
            assert {d.name: d.status for d in view.databases.values()} == dict.fromkeys(
                ("orders", "cache"), DatabaseStatus.ACTIVE
            )
            assert all(g.phase is GroupPhase.SERVING and g.primary in view.shards for g in view.groups.values())
            assert sorted(a.name for a in view.actions.values()) == ["maintenance_on", "step_down"]
            assert all(m.state.is_terminal for m in view.moves.values())
            assert len(view.moves) == 5
            told = [e.kind for e in mirror.records(keys.EVENTS) if isinstance(e, Event)]
            assert EventKind.NODE_MAINTENANCE_ON_COMPLETED in told
            assert all(kind in EventKind.__members__.values() for kind in told)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store.close()

    asyncio.run(scenario())
