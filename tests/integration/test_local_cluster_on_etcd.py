"""A local cluster whose records are in a real etcd: moved there by the command, then used while members of the etcd fail."""

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.cluster import DemoCluster, DemoFailed, DemoUnavailable
from shardwright.local.access import sealing_of, store_settings
from shardwright.local.config import read_all
from shardwright.local.creation import UpOptions
from shardwright.local.layout import layout_of
from shardwright.local.stop import find_running
from shardwright.local.up import prepare
from shardwright.store.keys import StoredRecord
from shardwright.store.open import open_store
from testkit.deadlines import Stopwatch, until
from testkit.etcd import EtcdCluster
from testkit.processes import ending_all
from tests.e2e.e2e_harness import own_base
from tests.e2e.e2e_load import Writers, client_of

pytestmark = [pytest.mark.e2e, pytest.mark.proof]

SOURCES = Path(__file__).parents[2] / "src"
FROZEN_S = 60.0
"""How long all members of the etcd stand still."""
LEASE_PASSED_S = 8.0
KILLED_EVERY_S = 5.0
DOWN_S = 1.0
"""How long a killed member stays away."""
KILLS = 8
INSTANTS = 6
INSTANT_S = 0.04
"""Distance of the instants after the start of a step-down at which the etcd stops."""
KEYS = 200


class Cluster(DemoCluster):
    """A cluster that is stopped, moved and started again, or not yet created."""

    def __init__(self, base: str, *, nodes: int = 3, born_on: EtcdCluster | None = None) -> None:
        """``born_on``: the etcd to which it moves before its first start; None: it begins on its file."""
        super().__init__(nodes=nodes, address_base=base, environment={"PYTHONPATH": str(SOURCES)})
        self.layout = layout_of(self.directory)
        self._base = base
        self._nodes = nodes
        self._born_on = born_on

    def __enter__(self) -> "Cluster":
        try:
            if self._born_on is not None:
                self._create_on(self._born_on)
        except BaseException:
            self.__exit__()
            raise
        super().__enter__()
        return self

    def _create_on(self, etcd: EtcdCluster) -> None:
        options = UpOptions(self.directory, nodes=self._nodes, address_base=self._base, endpoint_address=self._base)
        _, lock = prepare(options, {})
        assert lock is not None
        os.close(lock)
        before = self.records()
        self.move(etcd.settings())
        assert self.records() == before

    def __exit__(self, *_: object) -> None:
        with ending_all(self.layout.directory):
            self.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def daemon_logs(self) -> list[str]:
        return [self.layout.daemon_log(uid).read_text() for uid in self.layout.node_uids()]

    def state(self) -> str:
        paths = [self.layout.supervisor_log, *(self.layout.daemon_log(uid) for uid in self.layout.node_uids())]
        return "\n".join(f"{path}:\n{path.read_text()[-3000:]}" for path in paths if path.exists())

    def records(self) -> list[StoredRecord | str]:
        """All records in the store."""

        async def read() -> list[StoredRecord | str]:
            store = await open_store(store_settings(self.layout))
            try:
                return await read_all(store, "", sealing_of(self.layout))
            finally:
                await store.close()

        return asyncio.run(read())

    def primary(self, database: dict[str, Any]) -> int:
        """The node of its primary."""
        shards = self.call("GET", "/v1/shards")
        return next(
            int(s["node_uid"]) for s in shards if int(s["bdb_uid"]) == int(database["uid"]) and s["role"] == "master"
        )

    def primary_patiently(self, database: dict[str, Any]) -> int:
        """The same, while daemons begin."""
        return int(self.attempt(lambda: self.primary(database)))

    def attempt(self, call: Callable[[], Any]) -> Any:
        """The result of a call that fails for a while only because the store, or every API, is unavailable."""
        last: list[str] = []

        def again() -> Any:
            try:
                return call() or "nothing"
            except DemoUnavailable as e:
                last[:] = [str(e)]
                return None

        return until("the API to answer", again, seconds=40, state=lambda: f"{last}\n{self.state()}")

    def act(self, node: int, action: str) -> dict[str, Any]:
        """Carry out an action; the whole record."""
        uid = str(self.attempt(lambda: self.start(node, action)))
        return self.finished(uid)

    def finished(self, uid: str) -> dict[str, Any]:
        """Wait for an action that completes; the whole record."""

        def record() -> dict[str, Any] | None:
            return self.finish(uid, timeout_s=60)

        found: dict[str, Any] = self.attempt(record)
        return found


def answers(database: dict[str, Any]) -> bool:
    """Whether a new connection is served."""
    with suppress(redis.RedisError), client_of(database) as client:
        return bool(client.ping())
    return False


def pauses(record: dict[str, Any]) -> list[float]:
    """The pauses of its handoffs in milliseconds."""
    found = [move["evidence"] for move in record["moves"] if move["evidence"] is not None]
    return [round(evidence["pause_ms"], 1) for evidence in found if evidence["pause_ms"] is not None]


# -- one member ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def single(tmp_path: Path) -> Iterator[EtcdCluster]:
    made = EtcdCluster(tmp_path / "etcd")
    asyncio.run(made.__aenter__())
    yield made
    asyncio.run(made.stop(*made.members))


def test_a_cluster_moves_serves_and_is_purged(single: EtcdCluster, loopback_base: Callable[[], str]) -> None:
    with Cluster(loopback_base(), born_on=single) as cluster:
        assert not cluster.layout.store.exists()
        assert json.loads(cluster.layout.store_place.read_text())["endpoints"] == [single.members[0].client_url]
        with pytest.raises(DemoFailed, match="busy"):
            cluster.move(single.settings())
        database = cluster.create_database(name="orders", memory_size=64 << 20, replication=True)
        primary = cluster.primary(database)
        record = cluster.act(primary, "enslave_node")
        print(f"step-down: pauses {pauses(record)} ms")
        assert cluster.primary(database) != primary
        leases = single.control("lease", "list").split()[3:]
        granted = [single.control("lease", "timetolive", lease) for lease in leases]
        assert len(granted) == 3, granted
        assert all("TTL(6s)" in line for line in granted), granted
        cluster.down("--purge")
        assert not cluster.directory.exists()
        assert single.control("get", "", "--prefix", "--keys-only").strip() == ""


def test_daemons_of_a_restored_etcd_end_and_begin_again(
    single: EtcdCluster, loopback_base: Callable[[], str], tmp_path: Path
) -> None:
    (member,) = single.members
    with Cluster(loopback_base(), born_on=single) as cluster:
        database = cluster.create_database(name="orders", memory_size=64 << 20, replication=True)
        with Writers(database) as writers:
            single.control("snapshot", "save", str(tmp_path / "snapshot"))
            asyncio.run(single.stop(member))
            member.directory.rename(tmp_path / "old")
            single.restore(member, tmp_path / "snapshot")
            asyncio.run(single.start(member))
            words = "the daemon ends, because its store was replaced"
            until("all daemons to end", lambda: all(words in log for log in cluster.daemon_logs()), state=cluster.state)
            assert all("store_replaced" in log for log in cluster.daemon_logs())
            # Again: the API of a daemon that is about to end answers too.
            until(
                "all daemons to begin",
                lambda: all("the daemon runs" in log.rpartition(words)[2] for log in cluster.daemon_logs()),
                state=cluster.state,
            )
            until(
                "the supervisor to open the store again",
                lambda: "is opened again" in cluster.layout.supervisor_log.read_text(),
                state=cluster.state,
            )
            cluster.act(cluster.primary_patiently(database), "enslave_node")
            writers.check().assert_unnoticed()


# -- three members ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    made = EtcdCluster(tmp_path_factory.mktemp("etcd") / "etcd", count=3, tls=True)
    asyncio.run(made.__aenter__())
    yield made
    for member in made.members:
        if member.process is not None:
            member.thaw()
    asyncio.run(made.stop(*made.members))


@pytest.fixture(scope="module")
def moved(etcd: EtcdCluster) -> Iterator[tuple[Cluster, dict[str, Any]]]:
    """A cluster that runs on the etcd, and its database, which was filled before the move."""
    with Cluster(own_base(40)) as cluster:
        database = cluster.create_database(name="orders", memory_size=64 << 20, replication=True, data_persistence="aof")
        client = client_of(database)
        for n in range(KEYS):
            assert client.set(f"key:{n}", n)
        client.close()
        on_file = [pauses(cluster.finish(cluster.start(cluster.primary(database), "enslave_node"))) for _ in range(5)]
        print(f"pauses of step-downs on a file: {on_file} ms")
        cluster.down()
        before = cluster.records()
        cluster.move(etcd.settings())
        assert cluster.records() == before
        cluster.up()
        until("the database to serve", lambda: answers(database), state=cluster.state)
        yield cluster, database


def test_data_and_records_are_there(moved: tuple[Cluster, dict[str, Any]]) -> None:
    cluster, database = moved
    with client_of(database) as client:
        assert [client.get(f"key:{n}") for n in range(KEYS)] == [str(n) for n in range(KEYS)]
    assert [b["name"] for b in cluster.call("GET", "/v1/bdbs")] == ["orders"]
    assert not cluster.layout.store.exists()


def test_clients_notice_no_action(moved: tuple[Cluster, dict[str, Any]]) -> None:
    cluster, database = moved
    with Writers(database) as writers:
        found = [pauses(cluster.act(cluster.primary(database), "enslave_node")) for _ in range(5)]
        node = cluster.primary(database)
        found += [pauses(cluster.act(node, action)) for action in ("maintenance_on", "maintenance_off")]
        tally = writers.check().assert_unnoticed()
    print(f"pauses of five step-downs and a maintenance on etcd: {found} ms; slowest write {tally.slowest_ms:.0f} ms")


def test_clients_do_not_notice_the_end_of_the_etcds_leader(moved: tuple[Cluster, dict[str, Any]], etcd: EtcdCluster) -> None:
    cluster, database = moved
    with Writers(database) as writers:
        leader = etcd.leader()
        uid = cluster.start(cluster.primary(database), "maintenance_on")
        watch = Stopwatch()
        leader.kill()
        record = cluster.finished(uid)
        print(f"maintenance_on, with the end of the etcd's leader: {watch}; pauses {pauses(record)} ms")
        asyncio.run(etcd.start(leader))
        cluster.act(int(record["node_uid"]), "maintenance_off")
        writers.check().assert_unnoticed()


class LeaderKiller(threading.Thread):
    """Kills the member that leads an etcd, again and again, and starts it again. Use it as a context."""

    def __init__(self, etcd: EtcdCluster) -> None:
        super().__init__(name="kills leaders of etcd")
        self.kills = 0
        self._etcd = etcd
        self._ends = threading.Event()
        self._failure: BaseException | None = None

    def __enter__(self) -> "LeaderKiller":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self.join()
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        try:
            while not self._ends.wait(KILLED_EVERY_S - DOWN_S):
                leader = self._etcd.leader()
                leader.kill()
                self.kills += 1
                time.sleep(DOWN_S)
                asyncio.run(self._etcd.start(leader))
        except BaseException as e:
            self._failure = e


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[EtcdCluster]:
    made = EtcdCluster(tmp_path / "etcd", count=3, tls=True)
    asyncio.run(made.__aenter__())
    yield made
    asyncio.run(made.stop(*made.members))


def test_clients_do_not_notice_that_the_etcds_leader_is_killed_every_five_seconds(busy: EtcdCluster) -> None:
    with Cluster(own_base(41), nodes=4) as cluster:
        cluster.down()
        cluster.move(busy.settings())
        cluster.up()
        database = cluster.create_database(name="orders", memory_size=64 << 20, replication=True)
        with Writers(database) as writers, LeaderKiller(busy) as killer:
            while killer.kills < KILLS:
                cluster.act(cluster.primary_patiently(database), "enslave_node")
                node = cluster.primary_patiently(database)
                for action in ("maintenance_on", "maintenance_off"):
                    cluster.act(node, action)
            cluster.act(cluster.primary_patiently(database), "remove")
            tally = writers.check().assert_unnoticed()
    print(f"{killer.kills} leaders killed; slowest write {tally.slowest_ms:.0f} ms")


def test_a_database_serves_without_its_etcd_and_actions_wait(
    moved: tuple[Cluster, dict[str, Any]], etcd: EtcdCluster
) -> None:
    cluster, database = moved
    with Writers(database) as writers:
        before = cluster.primary(database)
        running = find_running(cluster.layout)
        begun = cluster.start(before, "maintenance_on")
        for member in etcd.members:
            member.freeze()
        ends_at = time.monotonic() + FROZEN_S
        with pytest.raises(DemoUnavailable, match=r"503.*store_unavailable"):
            cluster.call("GET", f"/v1/actions/{begun}")
        with pytest.raises(DemoUnavailable, match=r"503.*store_unavailable"):
            cluster.start(before, "enslave_node")
        while time.monotonic() < ends_at:
            writers.wait_for_progress()
        writers.check().assert_unnoticed()
        assert find_running(cluster.layout).daemons == running.daemons, "no daemon ends because its store is away"
        for member in etcd.members:
            member.thaw()
        watch = Stopwatch()
        record = cluster.finished(begun)
        print(f"the action ended {watch} after the etcd was back; pauses {pauses(record)} ms")
        assert cluster.primary(database) != before
        cluster.act(before, "maintenance_off")
        tally = writers.check().assert_unnoticed()
    print(f"slowest write {tally.slowest_ms:.0f} ms")


def test_an_etcd_that_stops_during_a_step_down_is_not_noticed(
    moved: tuple[Cluster, dict[str, Any]], etcd: EtcdCluster
) -> None:
    cluster, database = moved
    with Writers(database) as writers:
        for round_ in range(INSTANTS):
            before = cluster.primary_patiently(database)
            uid = cluster.start(before, "enslave_node")
            time.sleep(round_ * INSTANT_S)
            for member in etcd.members:
                member.freeze()
            # Longer than the lease: the leadership ends meanwhile.
            time.sleep(LEASE_PASSED_S)
            for member in etcd.members:
                member.thaw()
            record = cluster.finished(uid)
            tally = writers.check().assert_unnoticed()
            print(f"stopped after {round_ * INSTANT_S * 1000:.0f} ms: pauses {pauses(record)}, {tally.slowest_ms:.0f} ms")
            assert cluster.primary_patiently(database) != before
