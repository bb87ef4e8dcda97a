"""When strict mode counts as in force everywhere."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from shardwright.model.database import Database
from shardwright.model.ids import DatabaseUid, EndpointUid, NodeUid
from shardwright.model.seen import EndpointProcessSeen, EndpointSeen, EndpointState
from shardwright.reconcile.database import decide_database
from testkit.builders import NOW, ClusterBuilder, cluster

ENDPOINT = EndpointUid("1:1")
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


def noted(builder: ClusterBuilder) -> bool:
    database = builder.view.databases[DatabaseUid(1)]
    records = [w.record for w in decide_database(database, builder.view, NOW).writes]
    return any(isinstance(record, Database) and record.is_strict_everywhere for record in records)


def test_it_is_recorded_when_every_process_that_may_have_clients_has_shown_it() -> None:
    assert noted(strict())


@pytest.mark.parametrize("changes", [{"is_strict": False}, {"is_strict_everywhere": True}])
def test_it_is_recorded_once_and_only_of_a_strict_database(changes: dict[str, bool]) -> None:
    assert not noted(strict(**changes))


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
    assert noted(process(strict(), node, **changes)) is is_in_force


def test_what_a_process_said_before_the_change_proves_nothing() -> None:
    assert not noted(process(strict(), 2, at=NOW))


def test_a_process_that_was_not_asked_yet_prevents_it() -> None:
    builder = strict()
    processes = {uid: seen for uid, seen in builder.view.endpoint_processes.items() if uid != 2}
    assert not noted(ClusterBuilder(replace(builder.view, endpoint_processes=processes)))
