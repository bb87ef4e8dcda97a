"""The first records of a cluster of machines: written by ``init``, committed once by the daemon."""

import asyncio
import base64
import json
import os
import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shardwright.clock import SystemClock
from shardwright.errors import Permanent
from shardwright.key_file import ensure_sealing
from shardwright.model.account import ManagementRole, User
from shardwright.model.cluster import Cluster, Counters, Node, Policy
from shardwright.model.codes import Code
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import NodeUid, UserUid
from shardwright.model.version import CLUSTER_VERSION
from shardwright.node.founding_file import (
    StoreAnswer,
    commit_founding,
    found_cluster,
    founding_of,
    read_founding,
    text_of,
    write_founding,
)
from shardwright.store import keys
from shardwright.store.keys import StoredRecord
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import DeleteKey, Transaction
from shardwright.store.seal import Sealing
from shardwright.tasks import spawn

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
USER = User(UserUid(1), "Admin@example.com", "admin", ManagementRole.ADMIN, "the-hash", NOW, NOW)
RECORDS: list[StoredRecord] = [
    Cluster("c", NOW, "10.0.0.1", 9443, cluster_version=CLUSTER_VERSION),
    Policy(slave_ha=False),
    Counters(next_node=2, next_user=2),
    Node(NodeUid(1), "10.0.0.1", NOW),
    USER,
    Event(NOW, EventKind.CLUSTER_CREATED, Severity.INFO, "a cluster was created"),
]


@pytest.fixture
def sealing(tmp_path: Path) -> Sealing:
    return ensure_sealing(tmp_path / "cluster.key")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "founding.json"


def test_the_file_is_private_and_holds_no_usable_secret(path: Path, sealing: Sealing) -> None:
    write_founding(path, RECORDS, sealing)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    values = [base64.b64decode(item["value"]) for item in json.loads(path.read_text())["items"]]
    assert not any(b"the-hash" in value for value in values)
    found = read_founding(path)
    assert found is not None
    assert founding_of(text_of(found)) == found


def test_the_records_are_committed_once_and_the_file_goes(path: Path, sealing: Sealing) -> None:
    async def scenario() -> None:
        store = MemoryStore(SystemClock())
        cluster_id = write_founding(path, RECORDS, sealing)
        kept = copy_of(path)
        assert await found_cluster(path, store) is StoreAnswer.COMMITTED
        assert not is_there(path)
        mirror = Mirror(store, sealing=sealing)
        task = spawn("mirror", mirror.run())
        await mirror.ready()
        view = mirror.view()
        assert (view.cluster, view.policy, view.counters) == (RECORDS[0], RECORDS[1], RECORDS[2])
        assert view.nodes == {NodeUid(1): RECORDS[3]}
        assert view.users == {USER.uid: USER}
        assert mirror.bare(keys.email_key(USER.email)) == "1"
        assert mirror.bare(keys.CLUSTER_ID) == cluster_id
        assert mirror.records(keys.EVENTS) == [RECORDS[5]]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # The answer was lost, or the daemon died before it could delete the file.
        os.link(kept, path)
        revision = await store.revision()
        assert await found_cluster(path, store) is StoreAnswer.WAS_COMMITTED
        assert await store.revision() == revision
        assert not is_there(path)
        assert await found_cluster(path, store) is None

    asyncio.run(scenario())


def test_another_cluster_is_not_touched(path: Path, tmp_path: Path, sealing: Sealing) -> None:
    async def scenario() -> None:
        store = MemoryStore(SystemClock())
        write_founding(tmp_path / "other.json", RECORDS, sealing)
        await found_cluster(tmp_path / "other.json", store)
        write_founding(path, RECORDS, sealing)
        revision = await store.revision()
        with pytest.raises(Permanent) as refused:
            await found_cluster(path, store)
        assert refused.value.code is Code.STORE_HOLDS_ANOTHER_CLUSTER
        assert await store.revision() == revision
        assert is_there(path), "only a person decides which cluster is meant"

    asyncio.run(scenario())


def test_a_cluster_without_an_id_is_another_one(path: Path, sealing: Sealing) -> None:
    async def scenario() -> None:
        store = MemoryStore(SystemClock())
        write_founding(path, RECORDS, sealing)
        founding = read_founding(path)
        assert founding is not None
        await commit_founding(store, founding)
        await store.transact(delete(keys.CLUSTER_ID))
        with pytest.raises(Permanent):
            await commit_founding(store, founding)

    asyncio.run(scenario())


def is_there(path: Path) -> bool:
    return path.exists()


def copy_of(path: Path) -> Path:
    return Path(shutil.copy2(path, path.with_suffix(".kept")))


def delete(key: str) -> Transaction:
    return Transaction((), (DeleteKey(key),))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"cluster_id": "a", "items": [{"key": "cluster", "value": "%%%"}]}',
        '{"cluster_id": "a", "items": [{"key": "policy", "value": ""}]}',
        '{"cluster_id": "a", "items": [{"key": "cluster", "value": ""}]}',
        '{"cluster_id": "a", "items": [{"key": "cluster", "value": ""}, {"key": "cluster_id", "value": "Yg=="}]}',
        '{"cluster_id": 1, "items": []}',
    ],
)
def test_a_damaged_file_is_refused_without_quoting_it(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(Permanent) as refused:
        read_founding(path)
    assert refused.value.code is Code.FOUNDING_FILE_UNUSABLE
    assert "%%%" not in refused.value.text


def test_no_file_is_no_founding(path: Path) -> None:
    assert read_founding(path) is None
