"""Where the leader finds servers, and how endpoints are told of them."""

from dataclasses import replace

import pytest

from shardwright.endpoint.protocol import Target
from shardwright.endpoint.spec import target_of
from shardwright.errors import Transient
from shardwright.leader.targets import endpoint_target
from shardwright.model.database import ServerSecrets
from shardwright.model.ids import DatabaseUid, GroupUid, ShardUid
from shardwright.server.targets import server_target
from testkit.builders import cluster

SECRETS = ServerSecrets(DatabaseUid(1), "app", "rep", "obs", "man", "0" * 16)
PAIR = cluster(3).with_database(on=((2, 1),)).with_records(SECRETS)
SHARD = PAIR.view.shards[ShardUid(1)]


def test_a_server_is_reached_at_its_nodes_address_as_the_incarnation_that_is_recorded() -> None:
    target = server_target(PAIR.view, replace(SHARD, incarnation=4))
    assert (target.shard_uid, target.incarnation, target.address, target.port) == (1, 4, "127.0.0.2", 20_001)
    assert target.secrets == SECRETS
    assert "man" not in repr(target)


def test_a_server_whose_node_or_secrets_are_not_recorded_is_tried_again_later() -> None:
    for view in (replace(PAIR.view, nodes={}), replace(PAIR.view, secrets={})):
        with pytest.raises(Transient, match="are not recorded"):
            server_target(view, SHARD)


def test_the_leader_names_a_primary_as_a_specification_does() -> None:
    target = endpoint_target(PAIR.view, SHARD, generation=1)
    assert target == Target(ShardUid(1), 1, "127.0.0.2", 20_001, "run-1")
    assert target == target_of(PAIR.view, GroupUid("1:1"))
    unseen = PAIR.without_server(1).view
    assert endpoint_target(unseen, SHARD, generation=5) == replace(target, generation=5, run_id="")
