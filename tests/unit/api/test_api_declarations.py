"""Declaring a node off: what is refused, what is recorded."""

from dataclasses import replace
from typing import Any

import pytest

from shardwright.api.schemas.v1.nodes import node as shown
from shardwright.api.schemas.v1.requests import DeclareOffBody
from shardwright.api.services import declarations
from shardwright.errors import Rejected
from shardwright.model.cluster import ClusterKind, DeclaredOff
from shardwright.model.event import EventKind, Severity
from shardwright.model.ids import NodeUid
from shardwright.model.seen import Health, NodeSeen, ProcessIdentity
from shardwright.store.protocol import ModifiedAt
from testkit.builders import NOW, ClusterBuilder, cluster
from tests.unit.api.api_looks import events_of, look_at

ONE = NodeUid(1)
CONFIRMED = DeclareOffBody(address="127.0.0.1")


def silent(kind: ClusterKind = ClusterKind.MACHINES) -> ClusterBuilder:
    """Node 1 is away, and its primary does not answer."""
    builder = cluster(nodes=3).with_database(on=((1, 2),)).without_daemon(1).with_server(1, health=Health.TIMEOUT)
    assert builder.view.cluster is not None
    seen = NodeSeen(ONE, NOW, daemon=ProcessIdentity(1, "boot-7", 1, "", ""))
    view = builder.with_records(replace(builder.view.cluster, kind=kind)).view
    return ClusterBuilder(replace(view, node_seen={**view.node_seen, ONE: seen}))


def test_the_word_is_recorded_with_its_time_its_author_and_the_boot() -> None:
    intent = declarations.declare_off(look_at(silent().view), ONE, CONFIRMED)
    assert intent.answer.declared_off == DeclaredOff(NOW, "admin@example.com", "boot-7")
    assert ModifiedAt("daemons/00000001", 0) in intent.compares, "a daemon that registers meanwhile refutes the word"
    (event,) = events_of(intent)
    assert (event.kind, event.severity, event.by) == (EventKind.NODE_DECLARED_OFF, Severity.WARNING, "admin@example.com")
    answer = shown(intent.answer, silent().with_records(intent.answer).view)
    assert answer["declared_off"] == {"at": "2026-01-02T03:04:05Z", "by": "admin@example.com"}


def test_repeating_it_changes_nothing() -> None:
    word = DeclaredOff(NOW, "another@example.com", "boot-7")
    intent = declarations.declare_off(look_at(silent().with_node_changed(1, declared_off=word).view), ONE, CONFIRMED)
    assert intent.answer.declared_off == word
    assert intent.writes == ()


@pytest.mark.parametrize(
    ("builder", "node", "body", "code"),
    [
        (silent(), 9, CONFIRMED, "node_not_found"),
        (silent(ClusterKind.LOCAL), 1, CONFIRMED, "one_machine"),
        (silent(), 1, DeclareOffBody(address="127.0.0.2"), "invalid_parameter"),
        (silent().with_daemon(1), 1, CONFIRMED, "node_not_off"),
        (silent().with_server(1, health=Health.OK), 1, CONFIRMED, "node_not_off"),
        (silent().with_server(1, health=Health.LOADING), 1, CONFIRMED, "node_not_off"),
    ],
)
def test_it_is_refused(builder: ClusterBuilder, node: int, body: Any, code: str) -> None:
    with pytest.raises(Rejected) as refused:
        declarations.declare_off(look_at(builder.view), NodeUid(node), body)
    assert refused.value.code == code


def test_it_can_be_withdrawn() -> None:
    word = DeclaredOff(NOW, "admin@example.com", "boot-7")
    intent = declarations.withdraw(look_at(silent().with_node_changed(1, declared_off=word).view), ONE)
    assert intent.answer.declared_off is None
    assert [e.kind for e in events_of(intent)] == [EventKind.NODE_DECLARATION_ENDED]
    assert declarations.withdraw(look_at(silent().view), ONE).writes == ()
