"""The clients of a daemon follow the members of the store: while they run, and at the next start. Canned members, and a real
etcd that grows."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
import uvloop

from shardwright.agent.store_endpoints import StoreEndpoints
from shardwright.key_file import ensure_sealing
from shardwright.learned_file import Learning
from shardwright.machine.files import make_private_directory
from shardwright.model.cluster import Node
from shardwright.model.ids import NodeUid
from shardwright.model.store_member import StoreRole
from shardwright.node.founding import Place, members_store, settings_of
from shardwright.node.known_store import known_store, learning_of
from shardwright.node.settings import Directories, NodeSettings
from shardwright.node.store_wait import wait_for_store
from shardwright.store import keys, records
from shardwright.store.endpoints import EndpointBook, Learned
from shardwright.store.etcd import EtcdStore
from shardwright.store.etcd_members import EtcdMembers
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import PutKey, Store, StoreReplaced, StoreUnavailable, Transaction
from shardwright.store.settings import EtcdSettings
from shardwright.tasks import spawn
from testkit.builders import cluster
from testkit.deadlines import until_async
from testkit.etcd import EtcdCluster
from tests.integration.canned_gateway import CUT, HEADER, CannedGateway, answer, gateway, stream
from tests.integration.etcd_harness import IMPATIENT, put
from tests.integration.test_etcd_members import added, eventually, promoted, removed

RANGE, WATCH, LIST = "/v3/kv/range", "/v3/watch", "/v3/cluster/member/list"


# -- one client, and members that answer as the test says --------------------------------------------------------------


def healthy(path: str, _: object) -> bytes:
    return stream({"result": {"header": HEADER, "created": True}}) if path == WATCH else answer({"header": HEADER})


def dead(_: str, __: object) -> bytes:
    return CUT


def on_two(scenario: Callable[[EtcdStore, EndpointBook, CannedGateway, CannedGateway], Awaitable[None]]) -> None:
    """A store that is open at the first of two healthy members, and knows no other."""

    async def main() -> None:
        async with asyncio.timeout(30), gateway(healthy) as first, gateway(healthy) as second:
            settings = EtcdSettings((first.url,))
            book = EndpointBook(settings)
            store = await EtcdStore.open(settings, book)
            try:
                await scenario(store, book, first, second)
            finally:
                await store.close()

    uvloop.run(main())


def test_a_running_client_asks_a_member_that_was_added_later() -> None:
    async def scenario(store: EtcdStore, book: EndpointBook, first: CannedGateway, second: CannedGateway) -> None:
        book.replace((second.url, first.url))
        await store.get("a")
        assert not second.received, "the present one is asked until it does not answer"
        first.reply = dead
        await store.get("a")
        assert second.received[RANGE] == 1

    on_two(scenario)


def test_a_member_that_was_removed_is_left_with_all_traffic() -> None:
    async def scenario(store: EtcdStore, book: EndpointBook, first: CannedGateway, second: CannedGateway) -> None:
        watch = store.watch("", from_revision=6)
        reading = asyncio.ensure_future(anext(aiter(watch)))
        await until_async("the watch is open", lambda: first.received[WATCH], seconds=10)
        before = first.received.total()
        book.replace((second.url,))
        await store.get("a")
        assert (first.received.total() - before, second.received[RANGE]) == (0, 1)
        with pytest.raises(StoreUnavailable, match="not a member any more"):
            await reading

    on_two(scenario)


def test_another_etcd_at_a_learned_address_is_not_believed() -> None:
    async def scenario(store: EtcdStore, book: EndpointBook, first: CannedGateway, second: CannedGateway) -> None:
        second.cluster_id = "8"
        book.replace((second.url,))
        with pytest.raises(StoreReplaced):
            await store.get("a")
        assert not second.received[RANGE], "it was asked nothing but who it is"
        # A client that is opened later believes no other etcd than the first one did.
        members = EtcdMembers(EtcdSettings((first.url,)), book)
        with pytest.raises(StoreReplaced):
            await members.members()
        await members.close()
        assert (book.identity.cluster_id, second.received[LIST]) == ("7", 0)

    on_two(scenario)


# -- a real etcd -------------------------------------------------------------------------------------------------------


def node_on(etcd: EtcdCluster, directory: Path) -> NodeSettings:
    """The settings of a node that knows the first member only, with the files of the etcd's client."""
    assert etcd.client is not None
    own = Directories(directory / "etc", directory / "lib", directory / "run", directory / "log")
    for path in (own.configuration, own.state):
        make_private_directory(path)
    place = Place((ip_address("127.0.0.9"),), directories=own)
    settings = settings_of(NodeUid(1), place, members_store(place, (etcd.members[0].client_url,)))
    store = settings.store
    for source, target in (
        (etcd.client.authority, store.authority),
        (etcd.client.certificate, store.certificate),
        (etcd.client.key, store.key),
    ):
        assert target is not None
        shutil.copy2(source, target)
    return settings


def own_first(settings: NodeSettings, url: str) -> Learning:
    """As if the member at this address were the node's own: the tests' members differ in their ports."""
    learning = learning_of(settings)
    assert learning is not None
    return replace(learning, own=(url,))


@asynccontextmanager
async def daemon(known: EtcdSettings, learning: Learning) -> AsyncIterator[tuple[EtcdStore, EtcdMembers, EndpointBook]]:
    """The part of a daemon that follows the members, with the limits of one."""
    settings = replace(known, limits=IMPATIENT)
    book = EndpointBook(settings)
    store, members = await EtcdStore.open(settings, book), EtcdMembers(settings, book)
    mirror = Mirror(store)
    followed = StoreEndpoints(learning, members, book, mirror=mirror)
    tasks = [spawn("mirror", mirror.run()), spawn("store endpoints", followed.run())]
    try:
        yield store, members, book
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await members.close()
        await store.close()


async def note(store: Store, uid: int, role: StoreRole) -> None:
    """Write a node's role on its record, as the leader does."""
    node: Node = replace(cluster(nodes=uid).view.nodes[NodeUid(uid)], store_role=role)
    await store.transact(Transaction(operations=(PutKey(keys.key_of(node), records.encode(node)),)))


def on_one_that_grows(tmp_path: Path, scenario: Callable[[EtcdCluster], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(240), EtcdCluster(tmp_path / "etcd", tls=True) as etcd:
            await scenario(etcd)

    uvloop.run(main())


@pytest.mark.proof
def test_a_store_that_was_opened_with_the_first_member_goes_on_without_it(tmp_path: Path) -> None:
    async def grow(etcd: EtcdCluster, store: EtcdStore, members: EtcdMembers) -> None:
        await note(store, 1, StoreRole.VOTER)
        for uid in (2, 3):
            newcomer = etcd.newcomer(f"node-{uid}")
            learner = await added(members, newcomer)
            await etcd.start(newcomer)
            await promoted(members, learner)
            await note(store, uid, StoreRole.VOTER)

    async def scenario(etcd: EtcdCluster) -> None:
        settings = node_on(etcd, tmp_path / "node")
        first = etcd.members[0]
        learning = own_first(settings, first.client_url)
        known = known_store(settings)
        assert known.endpoints == (first.client_url,)
        async with daemon(known, learning) as (store, members, book):
            await grow(etcd, store, members)
            urls = [first.client_url, *sorted(member.client_url for member in etcd.members[1:])]
            await until_async(
                "all three are known",
                lambda: list(map(str, book.endpoints)) == urls,
                seconds=60,
                state=lambda: book.endpoints,
            )
            await until_async(
                "all three are kept",
                lambda: learning.file.read() == Learned(store.cluster_id, tuple(urls)),
                seconds=20,
                state=learning.file.read,
            )
            first.kill()
            await eventually("the same client writes", lambda: is_written(store, "a"))
            assert await members.members(), "and so does every other one"
        # Another start, with only the first member in the settings and the file.
        known = known_store(settings)
        assert known.endpoints == tuple(urls)
        async with daemon(known, learning) as (store, members, book):
            assert await is_written(store, "b")
            gone = next(m for m in await members.members() if m.name == first.name)
            await removed(members, gone)
            await note(store, 1, StoreRole.NONE)
            rest = tuple(urls[1:])
            await until_async(
                "the removed member is forgotten",
                lambda: learning.file.read() == Learned(store.cluster_id, rest),
                seconds=60,
                state=learning.file.read,
            )
            assert list(map(str, book.endpoints)) == [*rest, first.client_url], "the settings still name it"

    on_one_that_grows(tmp_path, scenario)


async def is_written(store: Store, key: str) -> bool:
    try:
        return (await store.transact(put(key))).succeeded
    except StoreUnavailable:
        return False


@pytest.mark.proof
def test_what_was_learned_of_another_etcd_is_forgotten_at_the_start(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        settings = node_on(etcd, tmp_path / "node")
        learning = own_first(settings, etcd.members[0].client_url)
        learning.file.write(Learned("7", (etcd.members[0].client_url,)))
        with pytest.raises(StoreReplaced):
            await EtcdStore.open(known_store(settings))
        said: list[str] = []
        sealing = ensure_sealing(settings.directories.cluster_key)
        waiting = asyncio.ensure_future(wait_for_store(settings, sealing, say=said.append))
        try:
            await until_async(
                "the settings alone count",
                lambda: any("contains no cluster" in text for text in said),
                seconds=30,
                state=lambda: said,
            )
            assert "cluster id" in said[0], said
            assert learning.file.read() is None
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    on_one_that_grows(tmp_path, scenario)
