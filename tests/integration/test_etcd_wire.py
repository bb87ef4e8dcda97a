"""The rules of the way to etcd, against members that answer as a test says: what is sent once, what is repeated where, and
what moves."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import uvloop

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.ids import LeaseId
from shardwright.store.etcd import EtcdStore
from shardwright.store.protocol import (
    Compacted,
    KeyValue,
    LeaseLost,
    PutKey,
    StoreError,
    StoreFull,
    StoreReplaced,
    StoreUnavailable,
    Transaction,
    WatchBatch,
)
from shardwright.store.settings import EtcdSettings
from testkit.deadlines import Stopwatch, until_async
from tests.integration.canned_gateway import CUT, HEADER, SILENT, CannedGateway, answer, gateway, refusal, stream

RANGE, TRANSACTION, WATCH = "/v3/kv/range", "/v3/kv/txn", "/v3/watch"
EMPTY = answer({"header": HEADER})
DONE = answer({"header": HEADER, "succeeded": True})
PUT = Transaction(operations=(PutKey("a", b"1"),))


def normal(path: str, message: dict[str, Any]) -> bytes:
    """What a healthy, empty etcd answers."""
    if path == WATCH:
        return stream({"result": {"header": HEADER, "created": True}})
    return DONE if path == TRANSACTION else EMPTY


def but(path: str, data: bytes) -> Callable[[str, dict[str, Any]], bytes]:
    """The same, except for one path."""
    return lambda asked, message: data if asked == path else normal(asked, message)


def on_two(scenario: Callable[[EtcdStore, CannedGateway, CannedGateway], Awaitable[None]]) -> None:
    """A store that is open at the first of two healthy members."""

    async def main() -> None:
        async with asyncio.timeout(30), gateway(normal) as first, gateway(normal) as second:
            store = await EtcdStore.open(EtcdSettings((first.url, second.url)))
            try:
                assert not second.received
                await scenario(store, first, second)
            finally:
                await store.close()

    uvloop.run(main())


# -- what is sent once, and what is repeated ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [SILENT, CUT, refusal(14, "etcdserver: request timed out"), b"SSH-2.0\r\n\r\n", answer({})[:40]]
)
def test_a_transaction_without_an_answer_is_not_sent_again(data: bytes) -> None:
    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        first.reply = but(TRANSACTION, data)
        watch = Stopwatch()
        with pytest.raises(StoreUnavailable):
            await store.transact(PUT)
        assert watch.is_within(1.2, clock_s=0.7), watch
        assert (first.received[TRANSACTION], second.received[TRANSACTION]) == (1, 0)
        # The next one goes to the next member.
        assert (await store.transact(PUT)).succeeded
        assert (first.received[TRANSACTION], second.received[TRANSACTION]) == (1, 1)

    on_two(scenario)


@pytest.mark.parametrize(
    ("path", "call"),
    [
        (RANGE, lambda store: store.get("a")),
        (RANGE, lambda store: store.range("")),
        (RANGE, lambda store: store.revision()),
        ("/v3/lease/revoke", lambda store: store.revoke(LeaseId(7))),
    ],
)
@pytest.mark.parametrize(
    "data", [SILENT, CUT, refusal(14, "etcdserver: no leader"), refusal(8, "etcdserver: too many requests")]
)
def test_what_may_be_repeated_goes_to_the_next_member(
    path: str, call: Callable[[EtcdStore], Awaitable[object]], data: bytes
) -> None:
    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        before = first.received[path]
        first.reply = but(path, data)
        await call(store)
        assert (first.received[path] - before, second.received[path]) == (1, 1)

    on_two(scenario)


def test_a_renewal_is_repeated_and_tells_whether_the_lease_lives() -> None:
    keepalive = "/v3/lease/keepalive"

    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        first.reply = but(keepalive, SILENT)
        second.reply = but(keepalive, answer({"result": {"header": HEADER, "ID": "7", "TTL": "3"}}))
        await store.renew(LeaseId(7))
        assert (first.received[keepalive], second.received[keepalive]) == (1, 1)
        second.reply = but(keepalive, answer({"result": {"header": HEADER, "ID": "7"}}))
        with pytest.raises(LeaseLost):
            await store.renew(LeaseId(7))

    on_two(scenario)


@pytest.mark.parametrize("status", [200, 503])
def test_a_member_that_cannot_renew_is_left(status: int) -> None:
    """The errors of etcd's streams have a form of their own, before and after their beginning."""
    keepalive = "/v3/lease/keepalive"

    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        error = {"grpc_code": 14, "http_code": 503, "message": "etcdserver: request timed out"}
        first.reply = but(keepalive, answer({"error": error}, status))
        second.reply = but(keepalive, answer({"result": {"header": HEADER, "ID": "7", "TTL": "3"}}))
        await store.renew(LeaseId(7))
        assert (first.received[keepalive], second.received[keepalive]) == (1, 1)

    on_two(scenario)


def test_a_transaction_may_connect_elsewhere_because_nothing_was_sent() -> None:
    async def main() -> None:
        async with gateway(normal) as gone:
            pass
        async with asyncio.timeout(30), gateway(normal) as second:
            store = await EtcdStore.open(EtcdSettings((gone.url, second.url)))
            assert (await store.transact(PUT)).succeeded
            assert second.received[TRANSACTION] == 1
            await store.close()

    uvloop.run(main())


def test_when_no_member_answers_a_read_ends_in_time() -> None:
    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        first.reply = second.reply = but(RANGE, SILENT)
        watch = Stopwatch()
        with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.7 s"):
            await store.get("a")
        assert watch.is_within(4.0, clock_s=2.8), watch

    on_two(scenario)


def test_a_page_that_does_not_come_in_time_is_asked_for_in_smaller_parts() -> None:
    limits: list[int] = []

    def slow(path: str, message: dict[str, Any]) -> bytes:
        if path != RANGE:
            return normal(path, message)
        limits.append(message["limit"])
        return EMPTY if message["limit"] < 10 else SILENT

    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        first.reply = second.reply = slow
        assert (await store.range("")).items == ()
        assert limits == [100, 25, 5]

    on_two(scenario)


# -- connections -------------------------------------------------------------------------------------------------------


def test_a_connection_is_kept_and_stays_in_step() -> None:
    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        first.reply = but(TRANSACTION, refusal(5, "etcdserver: requested lease not found"))
        for n in range(20):
            with pytest.raises(LeaseLost):
                await store.transact(Transaction(operations=(PutKey("a", b"", LeaseId(n + 1)),)))
            assert await store.get("a") is None
        assert first.connections == 1
        await asyncio.gather(*(store.revision() for _ in range(100)))
        assert first.connections <= 16

    on_two(scenario)


def test_who_gives_up_a_call_does_not_spoil_a_connection() -> None:
    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        first.reply = but(TRANSACTION, SILENT)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await store.transact(PUT)
        first.reply = normal
        assert (await store.transact(PUT)).succeeded
        assert not second.received, "giving up says nothing of the member"

    on_two(scenario)


def test_closing_ends_calls_and_watches() -> None:
    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        first.reply = but(RANGE, SILENT)
        call = asyncio.ensure_future(store.get("a"))
        batches = store.watch("x", from_revision=6)
        watching = asyncio.ensure_future(anext(batches))
        await until_async("the watch is asked for", lambda: first.received[WATCH], seconds=5)
        await store.close()
        for ended in await asyncio.gather(call, watching, return_exceptions=True):
            assert isinstance(ended, StoreUnavailable)
            assert ended.code is Code.STORE_CLOSED
        with pytest.raises(StoreUnavailable):
            await store.transact(PUT)

    on_two(scenario)


# -- watches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "no_leader",
    [
        refusal(14, "etcdserver: no leader"),
        answer({"error": {"grpc_code": 14, "http_code": 503, "message": "etcdserver: no leader"}}, 503),
        stream({"error": {"grpc_code": 14, "http_code": 503, "message": "etcdserver: no leader"}}),
    ],
)
def test_a_watch_needs_a_member_that_knows_a_leader(no_leader: bytes) -> None:
    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        first.reply = but(WATCH, no_leader)
        event = {"kv": {"key": "c2hhcmR3cmlnaHQvYQ==", "create_revision": "6", "mod_revision": "6", "value": "MQ=="}}
        created = {"result": {"header": HEADER, "created": True}}
        second.reply = but(WATCH, stream(created, {"result": {"header": HEADER, "events": [event]}}))
        batches = store.watch("", from_revision=6)
        batch = await anext(batches)
        assert batch == WatchBatch(6, batch.changes)
        assert batch.changes[0].current == KeyValue("a", b"1", 6, 6)
        assert (first.needing_leader, second.needing_leader) == (1, 1)

    on_two(scenario)


def test_a_watch_moves_with_all_other_traffic() -> None:
    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        watching = asyncio.ensure_future(anext(store.watch("x", from_revision=6)))
        await until_async("the watch is asked for", lambda: first.received[WATCH], seconds=5)
        first.reply = but(TRANSACTION, SILENT)
        with pytest.raises(StoreUnavailable):
            await store.transact(PUT)
        with pytest.raises(StoreUnavailable, match="was left"):
            await watching
        assert await store.get("a") is None
        assert second.received[RANGE] == 1

    on_two(scenario)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ({"result": {"header": HEADER, "canceled": True}}, StoreUnavailable),
        ({"result": {"header": HEADER, "canceled": True, "compact_revision": "9"}}, Compacted),
        ({"error": {"grpc_code": 14, "message": "etcdserver: no leader"}}, StoreUnavailable),
        ({"result": {"header": {**HEADER, "cluster_id": "8"}}}, StoreReplaced),
    ],
)
def test_a_watch_that_etcd_ends(message: dict[str, Any], kind: type[StoreError]) -> None:
    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        first.reply = but(WATCH, stream({"result": {"header": HEADER, "created": True}}, message))
        with pytest.raises(kind):
            await anext(store.watch("", from_revision=6))

    on_two(scenario)


def test_a_revision_that_exists_and_does_not_come_ends_a_watch_of_all_keys() -> None:
    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        # The store has revision 5, and the watch of revision 5 stays silent: two looks, a second each.
        with pytest.raises(Compacted, match="did not show"):
            await anext(store.watch("", from_revision=5))
        assert not second.received

    on_two(scenario)


# -- what etcd refuses, and which etcd it is ---------------------------------------------------------------------------


def test_a_full_etcd_is_not_asked_again() -> None:
    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        full = refusal(8, "etcdserver: mvcc: database space exceeded")
        first.reply = lambda path, message: full
        with pytest.raises(StoreFull, match="quota"):
            await store.transact(PUT)
        with pytest.raises(StoreFull, match="quota"):
            await store.grant(timedelta(seconds=5))
        assert first.received[TRANSACTION] == first.received["/v3/lease/grant"] == 1
        assert not second.received

    on_two(scenario)


def test_a_compaction_that_is_done_already_is_no_error() -> None:
    compaction = "/v3/kv/compaction"

    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        first.reply = but(compaction, refusal(11, "etcdserver: mvcc: required revision has been compacted"))
        await store.compact(4)
        await store.compact(10**9)
        assert first.received[compaction] == 2
        await store.compact(1)
        assert first.received[compaction] == 2, "nothing is before the first revision"

    on_two(scenario)


def test_no_transaction_reaches_another_etcd_than_the_first() -> None:
    async def scenario(store: EtcdStore, first: CannedGateway, second: CannedGateway) -> None:
        second.cluster_id = "8"
        first.reply = but(TRANSACTION, CUT)
        with pytest.raises(StoreUnavailable):
            await store.transact(PUT)
        for _ in range(2):
            with pytest.raises(StoreReplaced):
                await store.transact(PUT)
        assert second.received[TRANSACTION] == 0

    on_two(scenario)


def test_an_unsuitable_version_is_refused_and_never_used() -> None:
    async def main() -> None:
        async with asyncio.timeout(30), gateway(normal) as member:
            member.version = "3.5.1"
            with pytest.raises(Permanent) as refused:
                await EtcdStore.open(EtcdSettings((member.url,)))
            assert refused.value.code is Code.STORE_VERSION_UNSUITABLE
            assert not member.received[RANGE]

    uvloop.run(main())


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(Permanent) as refused:
        uvloop.run(EtcdStore.open(EtcdSettings(("https://127.0.0.1:1",))))
    assert refused.value.code is Code.STORE_SETTINGS_INVALID
