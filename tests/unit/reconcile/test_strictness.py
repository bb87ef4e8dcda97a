"""When it is looked whether strict mode is in force everywhere."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from shardwright.model.commands import ProveStrict
from shardwright.model.database import Database, GroupPhase, Role
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.parking import Parking
from shardwright.model.seen import EndpointProcessSeen, EndpointSeen, EndpointState
from shardwright.reconcile.database import decide_database
from testkit.builders import NOW, ClusterBuilder, cluster

ENDPOINT, GROUP = EndpointUid("1:1"), GroupUid("1:1")
LATER = NOW + timedelta(seconds=1)


def strict(**changes: Any) -> ClusterBuilder:
    """A database that was switched to strict mode; nodes 1 and 2 serve it, and all processes answer."""
    builder = cluster(nodes=3).with_database(on=((1, 2),), **{"is_strict": True, **changes})
    builder = builder.with_records(replace(builder.view.endpoints[ENDPOINT], nodes=(NodeUid(1), NodeUid(2))))
    return process(process(process(builder, 1), 2), 3, endpoints=())


def process(builder: ClusterBuilder, node: int, **changes: Any) -> ClusterBuilder:
    seen = EndpointSeen(ENDPOINT, EndpointState.LISTENING, generation=1, is_strict=True)
    found = replace(EndpointProcessSeen(NodeUid(node), LATER, answers=True, endpoints=(seen,)), **changes)
    processes = {**builder.view.endpoint_processes, NodeUid(node): found}
    return ClusterBuilder(replace(builder.view, endpoint_processes=processes))


def looked_at(builder: ClusterBuilder) -> bool:
    database = builder.view.databases[DatabaseUid(1)]
    decision = decide_database(database, builder.view, NOW)
    assert not any(isinstance(w.record, Database) and w.record.is_strict_everywhere for w in decision.writes)
    return ProveStrict(database.uid) in decision.commands


def test_the_servers_are_looked_at_when_every_process_that_may_have_clients_has_shown_the_mode() -> None:
    assert looked_at(strict())


@pytest.mark.parametrize("changes", [{"is_strict": False}, {"is_strict_everywhere": True}])
def test_they_are_looked_at_until_it_is_recorded_and_only_of_a_strict_database(changes: dict[str, bool]) -> None:
    assert not looked_at(strict(**changes))


DEFAULT = EndpointSeen(ENDPOINT, EndpointState.LISTENING, generation=1, is_strict=False)


@pytest.mark.parametrize(
    ("changes", "is_in_force"),
    [
        ({"endpoints": (DEFAULT,)}, False),
        ({"endpoints": (replace(DEFAULT, state=EndpointState.DRAINING),)}, False),
        ({"answers": False, "endpoints": ()}, False),
        ({"answers": False, "endpoints": (), "has_ended": True}, True),
        ({"endpoints": ()}, True),
    ],
    ids=["not told yet", "it still has clients", "silent", "ended", "it does not serve it"],
)
@pytest.mark.parametrize("node", [2, 3], ids=["a node that serves it", "a node to which it is not bound any more"])
def test_a_process_that_may_be_in_default_mode_prevents_it(changes: dict[str, Any], is_in_force: bool, node: int) -> None:
    assert looked_at(process(strict(), node, **changes)) is is_in_force


def test_what_a_process_said_before_the_change_proves_nothing() -> None:
    assert not looked_at(process(strict(), 2, at=NOW))


def test_a_process_that_was_not_asked_yet_prevents_it() -> None:
    builder = strict()
    processes = {uid: seen for uid, seen in builder.view.endpoint_processes.items() if uid != 2}
    assert not looked_at(ClusterBuilder(replace(builder.view, endpoint_processes=processes)))


@pytest.mark.parametrize(
    "builder",
    [
        strict().without_server(1),
        strict().without_server(2),
        strict().with_server(2, role=Role.PRIMARY),
        strict().with_records(replace(strict().view.shards[ShardUid(2)], in_sync_generation=-1)),
        strict().with_records(replace(strict().view.groups[GROUP], phase=GroupPhase.STARTING)),
        strict().with_records(replace(strict().view.groups[GROUP], parking=Parking(ShardUid(1), 1, NOW))),
    ],
    ids=["silent primary", "silent replica", "no replica", "a replica that is not in sync", "starting", "failing over"],
)
def test_without_a_replica_that_may_hold_everything_the_servers_are_not_looked_at(builder: ClusterBuilder) -> None:
    assert not looked_at(builder)
