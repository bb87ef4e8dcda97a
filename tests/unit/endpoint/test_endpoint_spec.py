"""The specification of an endpoint, from the records."""

from dataclasses import replace

import pytest

from shardwright.endpoint.protocol import Target
from shardwright.endpoint.spec import spec_of, target_of
from shardwright.model.database import GroupPhase, ServerSecrets
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.view import ClusterView
from testkit.builders import cluster

GROUP = GroupUid("1:1")
SECRETS = ServerSecrets(DatabaseUid(1), "app", "rep", "obs", "man", "0" * 16)
PAIR = cluster(3).with_database("orders", on=((2, 1),), password="hush", is_strict=True).with_records(SECRETS)
TARGET = Target(ShardUid(1), 1, "127.0.0.2", 20_001, "run-1")


def test_a_specification_contains_the_passwords_of_clients_and_servers() -> None:
    spec = spec_of(PAIR.view, PAIR.view.endpoints[EndpointUid("1:1")], NodeUid(1))
    assert spec is not None
    assert (spec.uid, spec.database_uid, spec.database_name) == ("1:1", 1, "orders")
    assert (spec.address, spec.port) == ("127.0.0.1", 10_001)
    assert (spec.password, spec.application_secret, spec.is_strict) == ("hush", "app", True)
    assert spec.target == TARGET


def test_a_printed_specification_shows_no_secret() -> None:
    spec = spec_of(PAIR.view, PAIR.view.endpoints[EndpointUid("1:1")], NodeUid(1))
    assert "hush" not in repr(spec)
    assert "app" not in repr(spec)


def test_without_its_database_or_its_secrets_an_endpoint_has_no_specification() -> None:
    endpoint = PAIR.view.endpoints[EndpointUid("1:1")]
    assert spec_of(replace(PAIR.view, databases={}), endpoint, NodeUid(1)) is None
    assert spec_of(replace(PAIR.view, secrets={}), endpoint, NodeUid(1)) is None
    assert spec_of(replace(PAIR.view, groups={}), endpoint, NodeUid(1)) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": {}},
        {"shards": {}},
        {"nodes": {}},
        {"groups": {GROUP: replace(PAIR.view.groups[GROUP], phase=GroupPhase.STARTING)}},
        {"groups": {GROUP: replace(PAIR.view.groups[GROUP], primary=None)}},
    ],
)
def test_there_is_no_target_while_no_primary_is_open(changes: dict[str, object]) -> None:
    view: ClusterView = replace(PAIR.view, **changes)  # type: ignore[arg-type]
    assert target_of(view, GROUP) is None


def test_a_target_follows_the_groups_primary_and_generation() -> None:
    assert target_of(PAIR.view, GROUP) == TARGET
    moved = replace(PAIR.view.groups[GROUP], primary=ShardUid(2), generation=7)
    assert target_of(PAIR.with_records(moved).view, GROUP) == Target(ShardUid(2), 7, "127.0.0.1", 20_002, "run-2")
    unseen = target_of(PAIR.without_server(1).view, GROUP)
    assert unseen == replace(TARGET, run_id=""), "an unknown run id is not checked"


def test_the_address_of_a_target_is_that_of_the_shards_node() -> None:
    moved = replace(PAIR.view.shards[ShardUid(1)], node_uid=NodeUid(3), port=5)
    found = target_of(PAIR.with_records(moved).view, GROUP)
    assert found is not None
    assert (found.address, found.port) == ("127.0.0.3", 5)
