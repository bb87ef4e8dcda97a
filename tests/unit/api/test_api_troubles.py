"""A database in trouble, as the API shows it: availability, the database, its shards, the node's own answer."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from shardwright.api.errors import Unavailable, answer_of
from shardwright.api.schemas.v1 import databases as wire
from shardwright.api.schemas.v1.shards import shard
from shardwright.api.services.availability import check_database, check_local_endpoint
from shardwright.model.codes import Code
from shardwright.model.database import DatabaseTroubles
from shardwright.model.ids import DatabaseUid, NodeUid, ShardUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import ProcessIdentity
from shardwright.model.view import ClusterView
from shardwright.reconcile.troubles import STOPPING, TROUBLES
from shardwright.store import keys, records
from shardwright.store.protocol import StoreError, StoreFull, StoreReplaced, StoreUnavailable
from testkit.builders import cluster

ONE = DatabaseUid(1)


def troubled(*codes: Code) -> ClusterView:
    """A serving database, with recorded troubles of the database and its primary."""
    builder = cluster().with_database(on=((1, 2),))
    reasons = tuple(
        Reason(
            code,
            f"the text of {code}",
            Grade.HARD_LIMIT,
            remedy="mend it",
            shard_uid=ShardUid(1),
            database_uid=ONE,
            node_uid=NodeUid(1),
        )
        for code in codes
    )
    process = ProcessIdentity(7, "boot", 1, "python", "/")
    seen = {uid: replace(seen, endpoint_process=process) for uid, seen in builder.view.node_seen.items()}
    noted = {ONE: DatabaseTroubles(ONE, reasons)} if reasons else {}
    return replace(builder.view, node_seen=seen, troubles=noted)


@pytest.mark.parametrize("code", sorted(TROUBLES))
def test_availability(code: Code) -> None:
    view = troubled(code)
    database = view.databases[ONE]
    if code not in STOPPING:
        check_database(view, database)
        check_local_endpoint(view, database, NodeUid(1))
        return
    expected = "bdb_unavailable_port_unbound" if code is Code.ENDPOINT_CANNOT_LISTEN else "bdb_unavailable"
    checks: tuple[Callable[[], None], ...] = (
        lambda: check_database(view, database),
        lambda: check_local_endpoint(view, database, NodeUid(1)),
    )
    for check in checks:
        with pytest.raises(Unavailable, match=f"The text of {code}. Remedy: mend it.") as refused:
            check()
        assert refused.value.code == expected
        assert answer_of(refused.value).status_code == 503


def test_a_database_and_its_shards_show_the_cause() -> None:
    view = troubled(Code.WRITES_REFUSED)
    shown = wire.database(view.databases[ONE], view, shows_password=False)
    assert [(r["code"], r["remedy"]) for r in shown["reasons"]] == [("writes_refused", "mend it")]
    primary, replica = (shard(view.shards[ShardUid(uid)], view) for uid in (1, 2))
    assert (primary["detailed_status"], [r["code"] for r in primary["reasons"]]) == ("unhealthy", ["writes_refused"])
    assert (replica["detailed_status"], replica["reasons"]) == ("ok", [])


def test_a_healthy_database_shows_no_trouble() -> None:
    view = troubled()
    assert wire.database(view.databases[ONE], view, shows_password=False)["reasons"] == []
    assert shard(view.shards[ShardUid(1)], view)["detailed_status"] == "ok"


def test_recorded_troubles_are_read_back_as_written() -> None:
    noted = troubled(Code.MEMORY_FULL).troubles[ONE]
    key = keys.key_of(noted)
    assert records.decode(key, records.encode(noted)) == noted
    seen = troubled().servers[ShardUid(1)]
    assert records.decode(keys.key_of(seen), records.encode(seen)) == seen


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreUnavailable(Code.STORE_UNAVAILABLE, "secret detail"), "Try again"),
        (StoreFull(Code.STORE_FULL, "the quota is reached"), "the quota is reached. Remedy: compact and defragment"),
        (StoreReplaced(Code.STORE_REPLACED, "another id"), "another id. Remedy: start the daemon again"),
    ],
)
def test_a_store_in_trouble_is_no_bug_of_the_api(error: StoreError, said: str) -> None:
    answer = answer_of(error)
    assert answer.status_code == 503
    assert b'"error_code":"store_unavailable"' in answer.body
    assert said.encode() in answer.body
