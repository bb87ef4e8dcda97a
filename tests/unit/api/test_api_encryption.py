"""Whether the servers of a new database encrypt their connections."""

from dataclasses import replace

from shardwright.model.cluster import ClusterKind
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView
from testkit.builders import cluster
from tests.unit.api.api_looks import look_at, view_with_servers
from tests.unit.api.test_api_databases import create


def test_the_servers_of_a_new_database_encrypt_if_every_node_with_them_can() -> None:
    view = view_with_servers(cluster(3))
    assert view.cluster is not None
    redis, valkey = ("redis", "7.2.4"), ("valkey", "9.1.2")
    machines = replace(view, cluster=replace(view.cluster, kind=ClusterKind.MACHINES))

    def encrypts(of: ClusterView, **tls_servers: tuple[tuple[str, str], ...]) -> bool:
        given = {NodeUid(int(name[1:])): found for name, found in tls_servers.items()}
        seen = {uid: replace(one, tls_servers=given.get(uid, ())) for uid, one in of.node_seen.items()}
        return create(look_at(replace(of, node_seen=seen)), server="redis", redis_version="7.2").answer.uses_tls

    assert encrypts(machines, n1=(redis,), n2=(redis,), n3=(redis, valkey))
    assert not encrypts(machines, n1=(redis,), n2=(redis,), n3=(valkey,)), "its copies could not be on node 3"
    assert not encrypts(machines)
    assert not encrypts(view, n1=(redis,), n2=(redis,), n3=(redis,)), "nothing leaves the machine"
    without = {uid: seen if uid != 3 else replace(seen, servers=(valkey,)) for uid, seen in machines.node_seen.items()}
    assert encrypts(replace(machines, node_seen=without), n1=(redis,), n2=(redis,))
