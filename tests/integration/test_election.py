"""Elections between threads and processes on one store file: one leader at a time, and a frozen leader is harmless."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shardwright.errors import LostLeadership
from shardwright.leader.election import Held, LeaseKeeper, check_term
from shardwright.model.ids import NodeUid
from shardwright.model.leader_change import LeaderChange
from shardwright.store import keys, records
from shardwright.store.protocol import CreatedAt, PutKey, Transaction
from shardwright.store.settings import POLL_SELDOM_S
from shardwright.store.sqlite import SqliteStore
from testkit.deadlines import Stopwatch, until_async
from tests.integration.store_process import presence

SCRIPT = Path(__file__).with_name("store_process.py")
SOURCES = Path(__file__).parents[2] / "src"


async def until(what: Callable[[], bool], *, within_s: float, state: Callable[[], object]) -> float:
    """Wait for a condition; returns the duration in seconds."""
    return await until_async("what is waited for", what, seconds=within_s, state=state)


class Daemons:
    """Lease keepers of several daemons in this process, and the history of their terms."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keepers: dict[int, LeaseKeeper] = {}
        self.told: list[tuple[str, int, int]] = []

    def open_store(self) -> Awaitable[SqliteStore]:
        return SqliteStore.open(self.path, poll_s=POLL_SELDOM_S)

    async def start(self, uid: int) -> LeaseKeeper:
        def gained(held: Held) -> None:
            self.told.append(("gained", uid, held.term))

        keeper = LeaseKeeper(
            self.open_store, presence(uid), on_gained=gained, on_lost=lambda: self.told.append(("lost", uid, 0))
        )
        self.keepers[uid] = keeper
        await keeper.start()
        return keeper

    def leaders(self) -> list[int]:
        return [uid for uid, keeper in self.keepers.items() if keeper.is_leader()]

    async def one_leads(self, *, but: int = 0, within_s: float = 5) -> float:
        def settled() -> bool:
            leaders = self.leaders()
            assert len(leaders) <= 1, leaders
            return len(leaders) == 1 and leaders != [but]

        return await until(settled, within_s=within_s, state=lambda: (self.leaders(), self.told))

    async def stop(self) -> None:
        for keeper in self.keepers.values():
            await keeper.stop()


def run(path: Path, scenario: Callable[[Daemons], Awaitable[None]]) -> None:
    async def main() -> None:
        daemons = Daemons(path)
        try:
            async with asyncio.timeout(40):
                await scenario(daemons)
        finally:
            await daemons.stop()

    asyncio.run(main())


def test_one_daemon_leads_and_a_stopped_leader_has_a_successor_at_once(tmp_path: Path) -> None:
    async def scenario(daemons: Daemons) -> None:
        for uid in (1, 2, 3):
            await daemons.start(uid)
        terms: list[int] = []
        for round_number in range(3):
            await daemons.one_leads()
            (leader,) = daemons.leaders()
            held = daemons.keepers[leader].leadership
            assert held is not None
            terms.append(held.term)
            if round_number == 2:
                break
            watch = Stopwatch()
            stopping = asyncio.ensure_future(daemons.keepers[leader].stop())
            await daemons.one_leads(but=leader)
            print(f"\nfrom the start of a clean stop to the next leader: {watch}")
            assert watch.is_within(1)
            await stopping
            assert not daemons.keepers[leader].is_leader()
        assert terms == [1, 2, 3]

        def gained() -> list[int]:
            return [term for what, _, term in daemons.told if what == "gained"]

        await until(lambda: len(gained()) == 3, within_s=5, state=gained)  # the last callback runs in the loop's next turn
        assert gained() == [1, 2, 3]
        store = await daemons.open_store()
        present = [item.key for item in (await store.range(keys.DAEMONS)).items]
        assert present == [f"{keys.DAEMONS}{uid:08d}" for uid in daemons.leaders()]
        await store.close()

    run(tmp_path / "store.db", scenario)


def test_a_presence_names_its_lease(tmp_path: Path) -> None:
    async def scenario(daemons: Daemons) -> None:
        await daemons.start(1)
        store = await daemons.open_store()
        item = await store.get(f"{keys.DAEMONS}{1:08d}")
        assert item is not None
        record = records.decode(item.key, item.value)
        assert record.lease_id == item.lease  # type: ignore[union-attr]
        await store.close()

    run(tmp_path / "store.db", scenario)


def test_a_yielding_leader_lets_another_one_lead(tmp_path: Path) -> None:
    async def scenario(daemons: Daemons) -> None:
        one = await daemons.start(1)
        await daemons.one_leads()
        # A single daemon that yields leads again at once, in a new term.
        held = one.leadership
        assert held is not None
        await one.yield_leadership()
        again = await one.wait_change(None)
        assert again is not None
        assert again.term == held.term + 1
        await daemons.start(2)
        await one.yield_leadership()
        assert await daemons.one_leads(but=1) < 1
        await daemons.keepers[2].yield_leadership()
        await until(lambda: not daemons.keepers[2].is_leader(), within_s=1, state=daemons.leaders)
        # Both abstain now; after some time one of them takes over again.
        await daemons.one_leads(within_s=6)

    run(tmp_path / "store.db", scenario)


def test_the_daemon_that_an_operator_wants_leads_after_the_leader_has_yielded(tmp_path: Path) -> None:
    async def scenario(daemons: Daemons) -> None:
        one = await daemons.start(1)
        await daemons.one_leads()
        for uid in (2, 3, 4):
            await daemons.start(uid)
        store = await daemons.open_store()
        for wanted in (4, 2, 3):
            (leader,) = daemons.leaders()
            change = LeaderChange(NodeUid(wanted), 0, datetime.now(UTC), "admin@example.com")
            await store.transact(Transaction(operations=(PutKey(keys.LEADER_CHANGE, records.encode(change)),)))
            await daemons.keepers[leader].yield_leadership()
            await daemons.one_leads(but=leader)
            assert daemons.leaders() == [wanted]
        assert not one.is_leader()
        await store.close()

    run(tmp_path / "store.db", scenario)


def test_a_lost_lease_ends_the_leadership_and_is_replaced(tmp_path: Path) -> None:
    async def scenario(daemons: Daemons) -> None:
        keeper = await daemons.start(1)
        first = await keeper.wait_change(None)
        assert first is not None
        store = await daemons.open_store()
        await check_term(store, first)
        leader = await store.get(keys.LEADER)
        assert leader is not None
        assert leader.lease is not None
        # As the supervisor does for a daemon that it has reaped.
        await store.revoke(leader.lease)
        second = await keeper.wait_change(first)
        if second is None:
            second = await keeper.wait_change(None)
        assert second is not None
        assert second.term == first.term + 1
        with pytest.raises(LostLeadership):
            await check_term(store, first)
        await check_term(store, second)
        assert len((await store.range(keys.DAEMONS)).items) == 1
        fenced = Transaction((CreatedAt(keys.LEADER, first.revision_created),), (PutKey("a", b""),))
        assert not (await store.transact(fenced)).succeeded
        await until(lambda: ("gained", 1, 2) in daemons.told, within_s=2, state=lambda: daemons.told)
        assert daemons.told == [("gained", 1, 1), ("lost", 1, 0), ("gained", 1, 2)]
        await store.close()

    run(tmp_path / "store.db", scenario)


class HangingClock:
    """A clock that a test advances for its readers, while sleeps are real."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> None:
        raise AssertionError("not asked for")

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def test_no_leader_believes_in_its_leadership_after_the_lease_may_have_expired(tmp_path: Path) -> None:
    async def scenario(daemons: Daemons) -> None:
        clock = HangingClock()
        keeper = LeaseKeeper(daemons.open_store, presence(1), clock=clock)  # type: ignore[arg-type]
        daemons.keepers[1] = keeper
        await keeper.start()
        first = await keeper.wait_change(None)
        assert first is not None
        # Three seconds pass between two renewals, as if the thread had hung.
        clock.ahead_s = 3.0
        assert not keeper.is_leader()
        # When the thread renews its lease, which has not ended, the old term does not continue.
        await until(keeper.is_leader, within_s=5, state=lambda: keeper.leadership)
        second = keeper.leadership
        assert second is not None
        assert second.term == first.term + 1

    run(tmp_path / "store.db", scenario)


class Subject:
    """A daemon in its own process."""

    def __init__(self, path: Path, uid: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "lead", str(path), str(uid)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
        )
        self.lines: list[str] = []

    async def line(self, beginning: str) -> str:
        """Wait for a line with this beginning."""
        assert self.process.stdout is not None
        while True:
            async with asyncio.timeout(15):
                read = (await asyncio.to_thread(self.process.stdout.readline)).strip()
            self.lines.append(read)
            if read.startswith(beginning):
                return read
            assert read, self.lines

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


LOCKED_S = 0.1
"""Longer than a commit takes, and short beside a lease: a process may have to be frozen several times."""


def is_writable(path: Path) -> bool:
    """Whether no process holds the store's lock for longer than a commit takes."""
    connection = sqlite3.connect(path, timeout=LOCKED_S, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
        return True
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()


def has_stopped(pid: int) -> bool:
    """Whether every thread has stopped: after the signal, a thread that waits for the disk may still continue for a
    moment."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(state in "Tt" for state in states)


async def freeze(process: "subprocess.Popen[str]", path: Path) -> None:
    """A process that is frozen during a transaction holds the store's lock; the supervisor would have to end it."""
    while True:
        process.send_signal(signal.SIGSTOP)
        await until(lambda: has_stopped(process.pid), within_s=10, state=lambda: process.pid)
        if is_writable(path):
            return
        print("\nfrozen while it held the lock; repeating")
        process.send_signal(signal.SIGCONT)
        # Otherwise the next signal finds it in the same transaction, until its lease has ended.
        await until(lambda: is_writable(path), within_s=10, state=lambda: process.pid)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_leader_that_dies_or_freezes_is_replaced_and_is_harmless(tmp_path: Path, sign: signal.Signals) -> None:
    path = tmp_path / "store.db"

    async def scenario(daemons: Daemons) -> None:
        subject = Subject(path, 9)
        try:
            await subject.line("leads 1")
            for uid in (1, 2):
                await daemons.start(uid)
            assert daemons.leaders() == []
            if sign == signal.SIGSTOP:
                await freeze(subject.process, path)
            else:
                subject.process.kill()
            store = await daemons.open_store()
            # On an overloaded machine, it may have led more than once by now.
            last = await store.get(keys.TERM)
            assert last is not None
            term = int(last.value)
            taken_s = await daemons.one_leads(within_s=8)
            print(f"\ntakeover after {sign.name}: {taken_s:.2f} s")
            assert taken_s < 4.5
            (leader,) = daemons.leaders()
            held = daemons.keepers[leader].leadership
            assert held is not None
            assert held.term == term + 1
            if sign == signal.SIGKILL:
                await store.close()
                return
            before = await store.get(keys.REMOVE_LOCK)
            assert before is not None
            subject.process.send_signal(signal.SIGCONT)
            # Its first fenced write fails, and it knows from its clock beforehand.
            assert await subject.line(f"lost {term}") == f"lost {term} LostLeadership False"
            assert await store.get(keys.REMOVE_LOCK) == before
            assert daemons.leaders() == [leader]
            await check_term(store, held)
            await store.close()
        finally:
            subject.end()

    run(path, scenario)
