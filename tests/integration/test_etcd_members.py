"""The members of a real etcd are listed, added, promoted and removed, whoever of them fails meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from shardwright.errors import Permanent, Transient
from shardwright.model.codes import Code
from shardwright.model.store_member import StoreMember
from shardwright.store.etcd_members import EtcdMembers
from shardwright.store.members import Members
from shardwright.store.open import open_members
from shardwright.store.protocol import StoreUnavailable
from testkit.deadlines import Stopwatch
from testkit.etcd import PATIENT, EtcdCluster, Member
from tests.integration.etcd_harness import IMPATIENT, on_one, on_three, opened, put

pytestmark = pytest.mark.proof

T = TypeVar("T")


@asynccontextmanager
async def members_of(etcd: EtcdCluster, first: int = 0, *, is_patient: bool = True) -> AsyncIterator[Members]:
    members = open_members(etcd.settings(first, limits=PATIENT if is_patient else IMPATIENT))
    assert members is not None
    try:
        yield members
    finally:
        await members.close()


async def eventually(what: str, ask: Callable[[], Awaitable[T]], *, seconds: float = 30.0) -> T:
    """Ask until the answer is true. etcd refuses changes as long as a member has run for less than 5 s, and answers nothing
    in time while a new voter on a late machine keeps it from its quorum."""
    watch = Stopwatch()
    refused = ""
    while True:
        try:
            if answer := await ask():
                return answer
        except Transient as e:
            if e.code not in (Code.STORE_MEMBERS_UNREADY, Code.STORE_UNAVAILABLE):
                raise
            refused = e.text
        assert watch.is_within(seconds), f"{what}: not within {seconds:g} s ({watch}); refused: {refused}"
        await asyncio.sleep(0.02)


async def added(members: Members, member: Member) -> StoreMember:
    return await eventually(f"{member.name} is added", lambda: members.add_learner(member.peer_url))


async def promoted(members: Members, member: StoreMember) -> None:
    await eventually(f"{member.id:x} is promoted", lambda: members.promote(member.id))


async def removed(members: Members, member: StoreMember) -> None:
    async def remove() -> bool:
        await members.remove(member.id)
        return True

    await eventually(f"{member.id:x} is removed", remove)


async def named(members: Members, name: str) -> StoreMember:
    return next(member for member in await members.members() if member.name == name)


def test_one_member_becomes_three_and_one_again(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        async with members_of(etcd) as members, opened(etcd) as store:
            (only,) = await members.members()
            first = etcd.members[0]
            assert (only.name, only.peer_urls, only.client_urls) == ("m0", (first.peer_url,), (first.client_url,))
            assert not only.is_learner
            for name in ("m1", "m2"):
                newcomer = etcd.newcomer(name)
                learner = await added(members, newcomer)
                assert (learner.name, learner.client_urls, learner.is_learner) == ("", (), True)
                assert await members.promote(learner.id) is False, "it has not even started"
                await etcd.start(newcomer)
                await promoted(members, learner)
                await promoted(members, learner)  # It votes already.
            found = await members.members()
            assert sorted(member.name for member in found) == ["m0", "m1", "m2"]
            assert not any(member.is_learner for member in found)
            revision = (await store.transact(put("a"))).revision
        # A member that is removed ends, so the client asks the one that stays.
        async with members_of(etcd, 2) as members:
            for name in ("m0", "m1"):
                gone = await named(members, name)
                await removed(members, gone)
                await members.remove(gone.id)
                with pytest.raises(Permanent) as unknown:
                    await members.promote(gone.id)
                assert unknown.value.code is Code.STORE_MEMBER_GONE
            async with opened(etcd, 2) as last:
                found_key = await last.get("a")
                assert found_key is not None
                assert found_key.modify_revision == revision

    on_one(tmp_path, scenario)


def test_a_learner_is_added_once_and_alone(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        async with members_of(etcd) as members:
            newcomer, another = etcd.newcomer("m3"), etcd.newcomer("m4")
            learner = await added(members, newcomer)
            assert await members.add_learner(newcomer.peer_url) == learner
            # As if the list had been asked before another daemon added it.
            blind = EtcdMembersWithOldList(etcd.settings(1))
            assert await blind.add_learner(newcomer.peer_url) == learner
            await blind.close()
            with pytest.raises(Transient) as pending:
                await members.add_learner(another.peer_url)
            assert pending.value.code is Code.STORE_LEARNER_PENDING
            await members.remove(learner.id)
            assert len(await members.members()) == 3

    on_three(tmp_path, scenario)


class EtcdMembersWithOldList(EtcdMembers):
    """Its first list is empty."""

    is_first = True

    async def members(self) -> tuple[StoreMember, ...]:
        if self.is_first:
            self.is_first = False
            return ()
        return await super().members()


def test_a_learner_that_starts_is_seen_and_promoted(tmp_path: Path) -> None:
    """With the data of three members, and certificates."""

    async def scenario(etcd: EtcdCluster) -> None:
        async with members_of(etcd) as members, opened(etcd) as store:
            for n in range(50):
                await store.transact(put(f"key/{n}", bytes(10_000)))
            newcomer = etcd.newcomer("m3")
            learner = await added(members, newcomer)
            states = {state.member.id: state for state in await members.states()}
            assert not states[learner.id].is_reached
            await etcd.start(newcomer)
            await promoted(members, learner)
            assert (await named(members, "m3")).client_urls == (newcomer.client_url,)
            states = {state.member.id: state for state in await members.states()}
            assert all(state.is_reached for state in states.values()), states
            assert [state.member.name for state in states.values() if state.is_leader] == [etcd.leader().name]

    on_three(tmp_path, scenario)


def test_the_leader_of_etcd_is_removed_through_itself(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        leader = etcd.leader()
        async with members_of(etcd, etcd.members.index(leader)) as members:
            gone = await named(members, leader.name)
            await removed(members, gone)
            await members.remove(gone.id)
            assert gone.name not in [member.name for member in await members.members()]
            rest = next(n for n, member in enumerate(etcd.members) if member is not leader)
            async with opened(etcd, rest) as store:
                assert (await store.transact(put("a"))).succeeded

    on_three(tmp_path, scenario)


def test_a_dead_member_is_seen_and_removed(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        dead = next(member for member in etcd.members if member is not etcd.leader())
        dead.kill()
        first = next(n for n, member in enumerate(etcd.members) if member is not dead)
        async with members_of(etcd, first) as members:
            states = await members.states()
            assert [state.member.name for state in states if not state.is_reached] == [dead.name]
            await removed(members, await named(members, dead.name))
            assert len(await members.members()) == 2

    on_three(tmp_path, scenario)


def test_what_would_cost_the_quorum_is_refused(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        leader = etcd.leader()
        dead, alive = (member for member in etcd.members if member is not leader)
        async with members_of(etcd, etcd.members.index(leader)) as members:
            healthy = await named(members, alive.name)
            dead.kill()

            async def is_silent() -> bool:
                # The leader notices the end of the connection a little later.
                states = await members.states()
                return [s.member.name for s in states if not s.is_reached] == [dead.name]

            await eventually("the dead one is silent", is_silent)
            with pytest.raises(Transient) as needed:
                await members.remove(healthy.id)
            assert needed.value.code is Code.STORE_MEMBERS_UNREADY
            assert len(await members.members()) == 3

    on_three(tmp_path, scenario)


def test_without_a_quorum_every_change_fails_and_says_so(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        one, two, rest = etcd.members
        async with members_of(etcd, 2, is_patient=False) as members:
            found = await named(members, one.name)
            one.kill()
            two.kill()

            async def cannot_be_listed() -> bool:
                try:
                    await members.states()
                except StoreUnavailable:
                    return True
                return False

            await eventually("the rest does not speak for all", cannot_be_listed)
            with pytest.raises(StoreUnavailable):
                await members.remove(found.id)
            with pytest.raises((StoreUnavailable, Transient)):
                await members.add_learner(etcd.newcomer("m3").peer_url)
            etcd.members.pop()
            await etcd.start(one, two)
            await removed(members, found)
            assert rest.process is not None

    on_three(tmp_path, scenario)
