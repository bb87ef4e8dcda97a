"""Whether a new database is strict."""

from dataclasses import replace

import pytest

from shardwright.model.cluster import ClusterKind
from testkit.builders import cluster
from tests.unit.api.api_looks import look_at, view_with_servers
from tests.unit.api.test_api_databases import change, create


@pytest.mark.parametrize(
    ("kind", "body", "is_strict"),
    [
        (ClusterKind.MACHINES, {"replication": True}, True),
        (ClusterKind.MACHINES, {"replication": True, "strict": False}, False),
        (ClusterKind.MACHINES, {}, False),
        (ClusterKind.LOCAL, {"replication": True}, False),
        (ClusterKind.LOCAL, {"replication": True, "strict": True}, True),
    ],
)
def test_a_new_database_with_a_replica_is_strict_on_several_machines(
    kind: ClusterKind, body: dict[str, bool], is_strict: bool
) -> None:
    view = view_with_servers(cluster(nodes=3))
    assert view.cluster is not None
    made = create(look_at(replace(view, cluster=replace(view.cluster, kind=kind))), **body).answer
    assert (made.is_strict, made.is_strict_everywhere) == (is_strict, is_strict)


def test_a_database_that_gets_a_replica_later_keeps_its_mode() -> None:
    """Until the replica is in sync, no write of a strict database could be answered."""
    view = view_with_servers(cluster(nodes=3).with_database(on=((1,),)))
    assert view.cluster is not None
    machines = replace(view, cluster=replace(view.cluster, kind=ClusterKind.MACHINES))
    changed = change(look_at(machines), replication=True).answer
    assert (changed.has_replica, changed.is_strict) == (True, False)
