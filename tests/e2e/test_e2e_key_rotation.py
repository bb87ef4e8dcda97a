"""The key of a local cluster is changed under load, while the leader dies: its daemons share one key file."""

import json
import sqlite3
import stat
from collections.abc import Iterator

import pytest

from shardwright.key_file import KeyFile
from shardwright.store.seal import SEALED, uid_in
from tests.e2e.e2e_harness import TestCluster, own_base
from tests.e2e.e2e_load import Writers

pytestmark = [pytest.mark.e2e, pytest.mark.proof]


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with TestCluster(own_base(7), tmp_path_factory.mktemp("faults")) as made:
        yield made


def sealed_with(cluster: TestCluster) -> set[str | None]:
    """The keys with which the store's secrets are sealed, as its file says; None: something is in clear."""
    connection = sqlite3.connect(f"file:{cluster.layout.store}?mode=ro", uri=True, timeout=5)
    try:
        rows = connection.execute("SELECT key, value FROM items").fetchall()
    finally:
        connection.close()
    return {uid_in(value) for key, value in rows if key.startswith(tuple(SEALED))}


def test_the_key_of_a_local_cluster_is_changed_under_load(cluster: TestCluster) -> None:
    file = KeyFile(cluster.layout.cluster_key)
    (old,) = file.read()
    database = cluster.database("orders", replication=True)
    assert sealed_with(cluster) == {old.uid}
    with Writers(database) as writers:
        writers.wait_for_progress()
        died = cluster.arm("rotate:batch:after")
        answer = json.loads(cluster.command("cluster", "rotate-key", "--wait", "--timeout", "1m", "--json"))
        assert died.exists(), "the leader died after it had sealed a batch"
        writers.wait_for_progress()
        writers.check().assert_unnoticed()
    (new,) = file.read()
    assert (answer["status"], answer["key_id"], answer["former_key_id"]) == ("completed", new.uid, old.uid)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert sealed_with(cluster) == {new.uid}
    # What is made and changed from now on, and what a daemon reads when it starts.
    cluster.replace_supervisor()
    cluster.database("later")
    assert sealed_with(cluster) == {new.uid}
    assert "CLUSTER KEY" not in cluster.command("status")
