"""Where the leader finds servers, and how endpoints are told of them."""

from dataclasses import replace

import pytest

from shardwright.api.schemas.v1.shards import shard as shown
from shardwright.endpoint.protocol import Target
from shardwright.endpoint.spec import target_of
from shardwright.errors import Transient
from shardwright.leader.fitting import attachment
from shardwright.leader.targets import endpoint_target
from shardwright.model.commands import Attach
from shardwright.model.database import ServerSecrets
from shardwright.model.ids import DatabaseUid, GroupUid, NodeUid, ShardUid
from shardwright.model.serving import own_address
from shardwright.reconcile.group import decide_group
from shardwright.server.targets import server_target
from testkit.builders import NOW, cluster

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


def test_everything_that_speaks_to_a_server_uses_the_network_of_the_servers() -> None:
    apart = cluster(3)
    for uid in apart.view.nodes:
        apart = apart.with_node_changed(uid, address=f"192.0.2.{uid}", server_address=f"10.0.0.{uid}")
    pair = apart.with_database(on=((2, 1),)).with_records(SECRETS)
    view, now = pair.view, NOW
    assert server_target(view, SHARD).address == "10.0.0.2"
    assert target_of(view, GroupUid("1:1")) == endpoint_target(view, SHARD, generation=1)
    assert endpoint_target(view, SHARD, generation=1).address == "10.0.0.2"
    found = attachment(Attach(ShardUid(2), ShardUid(1)), view)
    assert found is not None
    assert found.address == "10.0.0.2"
    attach = Attach(ShardUid(2), ShardUid(1))
    assert attach not in decide_group(view.groups[GroupUid("1:1")], view, now).commands
    moved = pair.with_node_changed(2, server_address="10.0.0.9").view
    assert attach in decide_group(view.groups[GroupUid("1:1")], moved, now).commands
    assert shown(view.shards[ShardUid(1)], view)["addr"] == "10.0.0.2"
    assert own_address(view.nodes[NodeUid(2)]) == "192.0.2.2", "clients do not use it"


def test_every_target_of_a_server_says_whether_it_encrypts() -> None:
    for uses_tls in (False, True):
        view = PAIR.with_database_changed(1, uses_tls=uses_tls).view
        found = target_of(view, GroupUid("1:1"))
        assert found is not None
        assert found == endpoint_target(view, SHARD, generation=1)
        assert (server_target(view, SHARD).uses_tls, found.uses_tls) == (uses_tls, uses_tls)
    gone = replace(PAIR.view, databases={})
    assert (server_target(gone, SHARD).uses_tls, endpoint_target(gone, SHARD, generation=1).uses_tls) == (False, False)
