"""The proxy policy of a database, as the API takes and shows it."""

from dataclasses import replace

import pytest

from shardwright.api.errors import Unavailable
from shardwright.api.schemas.v1.cluster import policy
from shardwright.api.schemas.v1.databases import database
from shardwright.api.services.availability import check_database, check_local_endpoint
from shardwright.errors import Rejected
from shardwright.model.cluster import ClusterKind
from shardwright.model.codes import Code
from shardwright.model.database import DatabaseStatus, DatabaseTroubles, LeavingNode, ProxyPolicy
from shardwright.model.ids import DatabaseUid, EndpointUid, NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import ProcessIdentity
from shardwright.model.view import ClusterView
from testkit.builders import NOW, cluster
from tests.unit.api.api_looks import look_at, view_with_servers
from tests.unit.api.test_api_databases import change, create

ONE, ENDPOINT = DatabaseUid(1), EndpointUid("1:1")


def shared(*leaving: LeavingNode) -> ClusterView:
    builder = cluster(3).with_database(on=((1, 2),), proxy_policy=ProxyPolicy.ALL_NODES)
    endpoint = replace(builder.view.endpoints[ENDPOINT], nodes=tuple(builder.view.nodes), leaving=leaving)
    view = builder.with_records(endpoint).view
    process = ProcessIdentity(7, "boot", 1, "python", "/")
    return replace(view, node_seen={uid: replace(s, endpoint_process=process) for uid, s in view.node_seen.items()})


def barred(view: ClusterView, *nodes: int) -> ClusterView:
    code = Code.ENDPOINT_CANNOT_LISTEN
    reasons = tuple(Reason(code, f"node {uid} cannot listen", Grade.HARD_LIMIT, node_uid=NodeUid(uid)) for uid in nodes)
    return replace(view, troubles={ONE: DatabaseTroubles(ONE, reasons)})


def test_a_database_has_the_policy_that_was_asked_for_or_the_cluster_s() -> None:
    assert create().answer.proxy_policy is ProxyPolicy.SINGLE
    assert create(proxy_policy="all-nodes").answer.proxy_policy is ProxyPolicy.ALL_NODES
    view = view_with_servers(cluster(3))
    extra: dict[str, object] = {"default_non_sharded_proxy_policy": "all-master-shards"}
    seen = look_at(replace(view, policy=replace(view.policy, extra=extra)))
    assert create(seen).answer.proxy_policy is ProxyPolicy.ALL_MASTER_SHARDS
    assert create(seen, proxy_policy="single").answer.proxy_policy is ProxyPolicy.SINGLE


def test_new_databases_of_several_machines_are_served_by_all_nodes_unless_the_policy_says_otherwise() -> None:
    view = view_with_servers(cluster(3))
    assert view.cluster is not None
    machines = replace(view, cluster=replace(view.cluster, kind=ClusterKind.MACHINES))
    assert create(look_at(machines)).answer.proxy_policy is ProxyPolicy.ALL_NODES
    assert create(look_at(machines), proxy_policy="single").answer.proxy_policy is ProxyPolicy.SINGLE
    extra: dict[str, object] = {"default_non_sharded_proxy_policy": "single"}
    chosen = replace(machines, policy=replace(view.policy, extra=extra))
    assert create(look_at(chosen)).answer.proxy_policy is ProxyPolicy.SINGLE
    shown = {
        name: policy(one.policy, one.cluster)["default_non_sharded_proxy_policy"]
        for name, one in (("local", view), ("machines", machines), ("chosen", chosen))
    }
    assert shown == {"local": "single", "machines": "all-nodes", "chosen": "single"}


def test_the_policy_changes_and_an_unknown_one_is_refused() -> None:
    seen = look_at(shared())
    changed = change(seen, proxy_policy="single").answer
    assert (changed.proxy_policy, changed.status) == (ProxyPolicy.SINGLE, DatabaseStatus.ACTIVE_CHANGE_PENDING)
    assert change(seen, proxy_policy="all-nodes").answer.status is DatabaseStatus.ACTIVE
    with pytest.raises(Rejected):
        change(seen, proxy_policy="some")


def test_an_endpoint_shows_every_address_at_which_clients_are_accepted() -> None:
    leaving, closing = LeavingNode(NodeUid(1), NOW), LeavingNode(NodeUid(2), NOW, is_closing=True)
    view = shared(leaving, closing)
    (shown,) = database(view.databases[ONE], view, shows_password=False)["endpoints"]
    assert (shown["addr"], shown["node_uids"]) == (["127.0.0.3", "127.0.0.1"], [3, 1])
    assert (shown["dns_name"], shown["proxy_policy"]) == ("127.0.0.3", "all-nodes")
    assert database(view.databases[ONE], view, shows_password=False)["proxy_policy"] == "all-nodes"


def test_the_addresses_of_a_new_database_are_known_before_it_is_created() -> None:
    view = view_with_servers(cluster(3))
    made = create(proxy_policy="all-nodes").answer
    (shown,) = database(made, view, shows_password=False)["endpoints"]
    assert shown["addr"] == [node.address for node in view.nodes.values()]


def test_a_database_is_available_while_one_of_its_nodes_can_listen() -> None:
    check_database(barred(shared(), 3), shared().databases[ONE])
    check_local_endpoint(barred(shared(), 3), shared().databases[ONE], NodeUid(1))
    with pytest.raises(Unavailable, match="cannot listen"):
        check_local_endpoint(barred(shared(), 3), shared().databases[ONE], NodeUid(3))
    with pytest.raises(Unavailable, match="cannot listen"):
        check_database(barred(shared(), 1, 2, 3), shared().databases[ONE])


def test_a_closing_node_does_not_serve() -> None:
    view = shared(LeavingNode(NodeUid(3), NOW, is_closing=True))
    check_local_endpoint(view, view.databases[ONE], NodeUid(2))
    with pytest.raises(Unavailable, match="does not serve"):
        check_local_endpoint(view, view.databases[ONE], NodeUid(3))
