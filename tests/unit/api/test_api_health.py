"""What a node says to a balancer that asks whether it takes new clients of a database."""

from dataclasses import replace
from typing import Any

import pytest

from shardwright.api.routes.health import is_public
from shardwright.api.services.availability import Readiness, readiness
from shardwright.model.codes import Code
from shardwright.model.database import DatabaseTroubles, LeavingNode
from shardwright.model.ids import DatabaseUid, EndpointUid, NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import ProcessIdentity
from shardwright.model.view import ClusterView
from testkit.builders import NOW, cluster

ONE, NODE = DatabaseUid(1), NodeUid(1)


def view(*, process: bool = True, trouble: int | None = None, leaving: bool = False, **node: Any) -> ClusterView:
    """Nodes 1 and 2 serve the database. ``trouble``: a node that cannot listen."""
    builder = cluster(nodes=3).with_database(on=((1, 2),)).with_node_changed(1, **node)
    endpoint = replace(builder.view.endpoints[EndpointUid("1:1")], nodes=(NODE, NodeUid(2)))
    if leaving:
        endpoint = replace(endpoint, leaving=(LeavingNode(NODE, NOW),))
    builder = builder.with_records(endpoint)
    if trouble is not None:
        reason = Reason(Code.ENDPOINT_CANNOT_LISTEN, "it is taken", Grade.HARD_LIMIT, node_uid=NodeUid(trouble))
        builder = builder.with_records(DatabaseTroubles(ONE, (reason,)))
    identity = ProcessIdentity(7, "boot", 1, "python", "/") if process else None
    seen = {uid: replace(found, endpoint_process=identity) for uid, found in builder.view.node_seen.items()}
    return replace(builder.view, node_seen=seen)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (view(), Readiness.READY),
        (view(leaving=True), Readiness.LEAVING),
        (view(is_quorum_only=True), Readiness.LEAVING),
        (view(is_decommissioning=True), Readiness.LEAVING),
        (view(is_closed=True), Readiness.READY),
        (view(process=False), Readiness.FAILED),
        (view(trouble=1), Readiness.FAILED),
        (view(trouble=2), Readiness.READY),
        (ClusterView(), Readiness.LEAVING),
    ],
    ids=["serves", "drains", "in maintenance", "being removed", "closed", "no process", "port taken", "of another", "empty"],
)
def test_whether_new_clients_are_accepted(seen: ClusterView, expected: Readiness) -> None:
    assert readiness(seen, ONE, NODE) is expected


def test_a_node_that_does_not_serve_the_database_takes_no_clients() -> None:
    assert readiness(view(), ONE, NodeUid(3)) is Readiness.LEAVING
    assert readiness(view(), DatabaseUid(9), NODE) is Readiness.LEAVING


def test_a_lost_primary_takes_no_node_out() -> None:
    """Every node would be taken out, and clients would be refused instead of waiting."""
    assert readiness(replace(view(), servers={}), ONE, NODE) is Readiness.READY


def test_only_this_question_needs_no_credentials() -> None:
    assert is_public("GET", "/v1/local/bdbs/1/endpoint/ready")
    for method, path in (
        ("POST", "/v1/local/bdbs/1/endpoint/ready"),
        ("GET", "/v1/local/bdbs/1/endpoint/availability"),
        ("GET", "/v1/local/bdbs/1/endpoint/ready/"),
        ("GET", "/v1/local/bdbs/x/endpoint/ready"),
        ("GET", "/v1/local/bdbs/1/../1/endpoint/ready"),
    ):
        assert not is_public(method, path)
