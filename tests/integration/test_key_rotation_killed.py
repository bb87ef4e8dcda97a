"""The cluster key is changed by several daemons, one of which dies at each point in turn: nothing is ever unreadable, and in
the end only the new key opens anything."""

import asyncio
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shardwright.errors import Transient
from shardwright.model.codes import Code
from shardwright.model.event import Event
from shardwright.model.ids import KeyUid, NodeUid
from shardwright.model.key_rotation import KeyPhase, KeyRotation
from shardwright.store import keys, records
from shardwright.store.commit import Conflict
from shardwright.store.protocol import Compacted, PutKey, Transaction
from tests.integration.key_rotation_harness import VALUES, Faults, Rotating, add_user, opened

ONE, TWO, THREE = NodeUid(1), NodeUid(2), NodeUid(3)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(120):
            await scenario()

    asyncio.run(whole())


async def check_end(rotating: Rotating, rotation: KeyRotation) -> None:
    values = rotating.values()
    assert len(values) >= VALUES
    assert rotation.new is not None
    for file in rotating.files.values():
        held = file.read()
        assert [key.uid for key in held] == [rotation.new]
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
        assert opened(held[0], values) == len(values)
    assert opened(rotating.first, values) == 0, "the old key opens nothing"


def test_a_change_from_beginning_to_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Rotating(tmp_path) as rotating:
            before = await rotating.store.revision()
            rotation = await rotating.finish()
            await check_end(rotating, rotation)
            batches = [point for point in rotating.faults.reached if point == "rotate:batch:after"]
            assert len(batches) == 3, "not all values in one transaction"
            mirror = rotating.daemons[ONE].mirror
            kinds = [event.kind for event in mirror.records(keys.EVENTS) if isinstance(event, Event)]
            assert kinds == ["key_rotation_sealed", "key_rotation_completed"]
            with pytest.raises(Compacted):
                async for _ in rotating.store.watch("", from_revision=before):
                    pass

    run(scenario)


def points(directory: Path) -> int:
    """How many points there are."""
    count = 0

    async def scenario() -> None:
        nonlocal count
        async with Rotating(directory) as rotating:
            await rotating.finish()
            count = len(rotating.faults.reached)

    run(scenario)
    return count


@pytest.mark.parametrize("shared", [False, True], ids=["machines", "local"])
def test_a_daemon_may_die_at_any_point(tmp_path: Path, *, shared: bool) -> None:
    (tmp_path / "all points").mkdir()
    count = points(tmp_path / "all points")
    assert count > 20

    async def scenario(number: int) -> None:
        place = tmp_path / str(number)
        place.mkdir()
        async with Rotating(place, faults=Faults(number), shared=shared) as rotating:
            await check_end(rotating, await rotating.finish())

    for number in range(1, count + 1):
        run(lambda number=number: scenario(number))  # type: ignore[misc]


def test_a_node_that_is_away_gets_the_key_when_it_returns(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Rotating(tmp_path) as rotating:
            await rotating.stop(THREE)
            for _ in range(20):
                await rotating.turn()
            rotation = rotating.rotation()
            assert rotation.phase is KeyPhase.DROPPING, rotating.state()
            assert rotating.files[THREE].read() == (rotating.first,), "it is off"
            assert opened(rotating.first, rotating.values()) == 0
            await rotating.start(THREE)
            await check_end(rotating, await rotating.finish())

    run(scenario)


def test_secrets_that_are_written_meanwhile_are_sealed_with_the_key_of_the_record(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Rotating(tmp_path) as rotating:
            number = VALUES
            while not rotating.rotation().has_ended:
                number += 1
                for _ in range(8):
                    try:
                        await add_user(rotating, TWO, number)
                        break
                    except Conflict:
                        continue
                await rotating.turn()
            assert len(rotating.values()) == number
            await check_end(rotating, rotating.rotation())

    run(scenario)


def test_a_daemon_without_the_key_that_seals_writes_no_secret(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Rotating(tmp_path) as rotating:
            await rotating.finish()
            unknown = replace(rotating.rotation(), new=KeyUid("ab" * 8))
            await rotating.store.transact(Transaction((), (PutKey(keys.KEY_ROTATION, records.encode(unknown)),)))
            await rotating.daemons[TWO].mirror.fresh()
            with pytest.raises(Transient) as refused:
                await add_user(rotating, TWO, 5000)
            assert refused.value.code is Code.CLUSTER_KEY_AWAITED

    run(scenario)


def test_a_key_that_was_put_back_into_a_file_is_dropped_again_and_a_needed_one_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Rotating(tmp_path) as rotating:
            await rotating.finish()
            file = rotating.files[TWO]
            (new,) = file.read()
            file.change(lambda found: (rotating.first, *found))
            await rotating.daemons[TWO].keys.look()
            await rotating.daemons[TWO].keys.look()
            assert file.read() == (new,)
            file.path.unlink()
            await rotating.daemons[TWO].keys.look()
            assert file.read() == (new,), "a file that is lost while the daemon runs comes back"

    run(scenario)
