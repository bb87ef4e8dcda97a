"""The settings of a local cluster's daemons, and the records that its tools read from the directory's store."""

from shardwright.daemon_config import DaemonConfig
from shardwright.errors import Refusal, Rejected
from shardwright.local.access import sealing_of, store_settings
from shardwright.local.layout import Layout
from shardwright.model.cluster import Cluster, Node
from shardwright.model.ids import NodeUid
from shardwright.store import keys, records
from shardwright.store.admission import check_store
from shardwright.store.protocol import Store
from shardwright.store.seal import IN_CLEAR, Sealing


async def read_config(store: Store, layout: Layout, node_uid: NodeUid) -> DaemonConfig:
    """The configuration of one node's daemon. Raises Rejected if the cluster or the node has no record, Permanent if the
    daemon must not work on this store."""
    sealing = sealing_of(layout)
    await check_store(store, sealing)
    cluster, node = await read_cluster(store), await read_node(store, node_uid)
    if cluster is None or node is None:
        missing = "no cluster" if cluster is None else f"no node {node_uid}"
        raise Rejected(Refusal.NOT_FOUND, "node_not_found", f"there is {missing} in {layout.directory}")
    return DaemonConfig(
        node_uid=node_uid,
        addresses=(node.address,),
        api_port=cluster.api_port,
        api_certificate=layout.certificate,
        api_key=layout.key,
        store=store_settings(layout),
        sealing=sealing,
        directory=layout.node(node_uid),
        endpoint_directory=layout.node(node_uid),
        run_directory=layout.run_directory(),
        cluster_key=layout.cluster_key,
    )


async def read_cluster(store: Store) -> Cluster | None:
    """The cluster's record; None if the store does not contain a cluster."""
    item = await store.get(keys.CLUSTER)
    record = records.decode(item.key, item.value) if item is not None else None
    return record if isinstance(record, Cluster) else None


async def read_node(store: Store, uid: NodeUid) -> Node | None:
    """A node's record."""
    item = await store.get(f"{keys.NODES}{uid:08d}")
    record = records.decode(item.key, item.value) if item is not None else None
    return record if isinstance(record, Node) else None


async def read_nodes(store: Store) -> list[Node]:
    """All recorded nodes, by uid."""
    return [r for r in await read_all(store, keys.NODES) if isinstance(r, Node)]


async def read_all(store: Store, prefix: str, sealing: Sealing = IN_CLEAR) -> list[keys.StoredRecord | str]:
    """All records under a prefix, in the order of their keys. Raises Permanent if one cannot be read or opened."""
    decoded: list[keys.StoredRecord | str] = []
    start: str | None = None
    while True:
        page = await store.range(prefix, start=start)
        decoded.extend(records.decode(item.key, sealing.open(item.key, item.value)) for item in page.items)
        start = page.next_start
        if start is None:
            return decoded
