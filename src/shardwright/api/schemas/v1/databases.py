"""Databases on the wire (``/v1/bdbs``) and the state machines that change them. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, NotRequired

from typing_extensions import TypedDict

from shardwright.api.schemas.v1.actions import ActionV2Answer, ReasonAnswer, reason_json
from shardwright.api.schemas.v1.common import Json, iso
from shardwright.api.schemas.v1.shards import shown
from shardwright.api.schemas.v1.waiting import WaitingAnswer, waiting_json
from shardwright.model.database import Database, DatabaseStatus, Endpoint, Persistence, ProxyPolicy
from shardwright.model.event import Event, EventKind
from shardwright.model.ids import ActionUid, DatabaseUid
from shardwright.model.serving import accepting_nodes, addresses_of, own_address, policy_of, serving_nodes
from shardwright.model.view import ClusterView
from shardwright.plan.waiting import waiting_of
from shardwright.reconcile.machine_loss import machine_loss_of


class SnapshotRuleAnswer(TypedDict):
    """One save rule."""

    secs: int
    writes: int


class EndpointAnswer(TypedDict):
    """The address of the database for clients. ``node_uids`` is an extension: the nodes that serve it now."""

    uid: str
    dns_name: str
    port: int
    addr: list[str]
    addr_type: str
    proxy_policy: str
    oss_cluster_api_preferred_ip_type: str
    oss_cluster_api_preferred_endpoint_type: str
    exclude_proxies: list[int]
    include_proxies: list[int]
    node_uids: list[int]


class BackgroundOperation(TypedDict):
    """Deprecated in Redis Enterprise, but clients still read it."""

    status: str


class RegexRule(TypedDict):
    """A sharding rule; always absent."""

    regex: str


class MachineLossAnswer(TypedDict):
    """``outcome``: ``nothing_lost``; ``latest_lost``: the copy that takes over may lack the writes of the last moments;
    ``waits``: for the machine, or until it is declared off."""

    outcome: str
    text: str


class IdleKeys(TypedDict):
    """Keys without a use in Shardwright; they have the values of an idle Redis Enterprise database."""

    type: str
    sharding: bool
    shard_key_regex: list[RegexRule]
    oss_cluster: bool
    oss_cluster_api_preferred_ip_type: str
    oss_cluster_api_preferred_endpoint_type: str
    oss_sharding: bool
    hash_slots_policy: str
    default_user: bool
    tls_mode: str
    ssl: bool
    enforce_client_authentication: str
    avoid_nodes: list[str]
    use_nodes: list[str]
    auto_upgrade: bool
    internal: bool
    backup: bool
    bigstore: bool
    bigstore_ram_size: int
    crdt: bool
    crdt_sync: str
    sync: str
    sync_sources: list[str]
    replica_sources: list[str]
    maxclients: int
    max_connections: int
    conns: int
    conns_type: str
    max_aof_file_size: int
    max_aof_load_time: int
    recovery_wait_time: int
    roles_permissions: list[dict[str, int]]
    module_list: list[dict[str, str]]
    tags: list[str]
    background_op: list[BackgroundOperation]
    backup_progress: float
    import_progress: float
    export_progress: float
    backup_status: str
    import_status: str
    export_status: str
    backup_failure_reason: str
    import_failure_reason: str
    export_failure_reason: str
    wait_command: bool
    resp3: bool
    mkms: bool
    implicit_shard_key: bool
    multi_commands_opt: str
    disabled_commands: str
    dataset_import_sources: list[str]
    topology_epoch: int
    throughput_ingress: int


class DatabaseAnswer(IdleKeys):
    """A database. Extensions: ``server``, ``strict``, ``server_tls`` (whether its servers encrypt their connections),
    ``notify_keyspace_events``, ``failure_reason``, ``waiting``, ``reasons`` (faults of the database), ``machine_loss``
    (what the loss of its primary's machine would mean now; absent in a local cluster, and of one that does not serve)."""

    uid: int
    name: str
    status: str
    memory_size: int
    port: int
    created_time: str
    last_changed_time: str
    version: str
    redis_version: str
    server: str
    replication: bool
    shards_count: int
    shard_list: list[int]
    shards_placement: str
    rack_aware: bool
    strict: bool
    server_tls: bool
    proxy_policy: str
    data_persistence: str
    aof_policy: str
    snapshot_policy: list[SnapshotRuleAnswer]
    eviction_policy: str
    notify_keyspace_events: str
    authentication_redis_pass: NotRequired[str]
    slave_ha: bool
    slave_ha_priority: int
    action_uid: NotRequired[str]
    failure_reason: NotRequired[str]
    waiting: NotRequired[list[WaitingAnswer]]
    machine_loss: NotRequired[MachineLossAnswer]
    reasons: list[ReasonAnswer]
    endpoints: list[EndpointAnswer]


class StateMachineAnswer(TypedDict):
    """A creation, change or deletion of a database, in ``/v1/actions``."""

    action_uid: str
    name: str
    object_name: str
    status: str
    progress: float
    heartbeat: int
    state: str
    error: NotRequired[str]


CREATE_EVENT = EventKind.BDB_CREATE_REQUEST
UPDATE_EVENT = EventKind.BDB_UPDATE_REQUEST
DELETE_EVENT = EventKind.BDB_DELETE_REQUEST
_MACHINES = {CREATE_EVENT: "SMCreateBDB", UPDATE_EVENT: "SMUpdateBDB", DELETE_EVENT: "SMDeleteBDB"}


_IDLE: Final[IdleKeys] = {
    "type": "redis",
    "sharding": False,
    "shard_key_regex": [],
    "oss_cluster": False,
    "oss_cluster_api_preferred_ip_type": "internal",
    "oss_cluster_api_preferred_endpoint_type": "ip",
    "oss_sharding": False,
    "hash_slots_policy": "16k",
    "default_user": True,
    "tls_mode": "disabled",
    "ssl": False,
    "enforce_client_authentication": "disabled",
    "avoid_nodes": [],
    "use_nodes": [],
    "auto_upgrade": False,
    "internal": False,
    "backup": False,
    "bigstore": False,
    "bigstore_ram_size": 0,
    "crdt": False,
    "crdt_sync": "disabled",
    "sync": "disabled",
    "sync_sources": [],
    "replica_sources": [],
    "maxclients": 10_000,
    "max_connections": 0,
    "conns": 5,
    "conns_type": "per-thread",
    "max_aof_file_size": 322_122_547_200,
    "max_aof_load_time": 3600,
    "recovery_wait_time": -1,
    "roles_permissions": [],
    "module_list": [],
    "tags": [],
    "background_op": [{"status": "idle"}],
    "backup_progress": 0.0,
    "import_progress": 0.0,
    "export_progress": 0.0,
    "backup_status": "",
    "import_status": "",
    "export_status": "",
    "backup_failure_reason": "",
    "import_failure_reason": "",
    "export_failure_reason": "",
    "wait_command": True,
    "resp3": True,
    "mkms": True,
    "implicit_shard_key": False,
    "multi_commands_opt": "batch",
    "disabled_commands": "",
    "dataset_import_sources": [],
    "topology_epoch": 1,
    "throughput_ingress": 0,
}


def database(record: Database, view: ClusterView, *, shows_password: bool) -> DatabaseAnswer:
    """The database. Without ``shows_password`` the password's key is left out."""
    answer: DatabaseAnswer = {
        "uid": record.uid,
        "name": record.name,
        "status": record.status.value,
        "memory_size": record.memory_bytes,
        "port": record.port if record.port_was_given else 0,
        "created_time": iso(record.created_at),
        "last_changed_time": iso(record.changed_at),
        "version": record.server_version,
        "redis_version": ".".join(record.server_version.split(".")[:2]),
        "server": record.server_kind.value,
        "replication": record.has_replica,
        "shards_count": record.shards_count,
        "shard_list": [s.uid for s in shown(view, database_uid=record.uid)],
        "shards_placement": str(record.options.get("shards_placement", "dense")),
        "rack_aware": record.is_rack_aware,
        "strict": record.is_strict,
        "server_tls": record.uses_tls,
        "proxy_policy": record.proxy_policy.value,
        "data_persistence": record.persistence.value,
        "aof_policy": record.aof_policy.value,
        "snapshot_policy": [{"secs": r.seconds, "writes": r.writes} for r in record.snapshot_rules]
        if record.persistence is Persistence.SNAPSHOT
        else [],
        "eviction_policy": record.eviction_policy,
        "notify_keyspace_events": record.notify_keyspace_events,
        "slave_ha": view.policy.slave_ha if record.is_rebuilt is None else record.is_rebuilt,
        "slave_ha_priority": record.rebuild_priority,
        "reasons": [reason_json(r) for r in troubles.reasons] if (troubles := view.troubles.get(record.uid)) else [],
        "endpoints": [_endpoint(e, view) for e in view.endpoints_of(record.uid)] or [_expected_endpoint(record, view)],
        **_IDLE,  # type: ignore[typeddict-item]  # it has none of the keys that are not required
    }
    if shows_password:
        answer["authentication_redis_pass"] = record.password
    if record.action_uid is not None and record.status is not DatabaseStatus.ACTIVE:
        answer["action_uid"] = record.action_uid
    if record.failure:
        answer["failure_reason"] = record.failure
    if waiting := waiting_of(view, record):
        answer["waiting"] = waiting_json(waiting)
    if (loss := machine_loss_of(record, view)) is not None:
        answer["machine_loss"] = {"outcome": loss.outcome.value, "text": loss.text}
    return answer


def _endpoint(endpoint: Endpoint, view: ClusterView) -> EndpointAnswer:
    """``node_uids`` are in the order of ``addr``. A node that is about to disconnect its last clients is in neither."""
    addresses = addresses_of(endpoint, view)
    return _endpoint_json(endpoint.uid, addresses, endpoint.port, accepting_nodes(endpoint), policy_of(endpoint, view))


def _expected_endpoint(record: Database, view: ClusterView) -> EndpointAnswer:
    """The endpoint that the leader will create: clients read the address from the answer to their POST."""
    addresses = ["" if view.cluster is None else view.cluster.endpoint_address]
    if record.proxy_policy is ProxyPolicy.ALL_NODES:
        addresses = [own_address(view.nodes[uid]) for uid in serving_nodes(record, view)] or addresses
    return _endpoint_json(f"{record.uid}:1", addresses, record.port, [], record.proxy_policy)


def _endpoint_json(
    uid: str, addresses: Sequence[str], port: int, nodes: Iterable[int], policy: ProxyPolicy
) -> EndpointAnswer:
    return {
        "uid": uid,
        "dns_name": addresses[0],  # an address resolves everywhere; Shardwright has no names of its own yet
        "port": port,
        "addr": list(addresses),
        "addr_type": "external",
        "proxy_policy": policy.value,
        "oss_cluster_api_preferred_ip_type": "internal",
        "oss_cluster_api_preferred_endpoint_type": "ip",
        "exclude_proxies": [],
        "include_proxies": [],
        "node_uids": list(nodes),
    }


def state_machines(events: Iterable[Event], view: ClusterView, now: datetime) -> list[StateMachineAnswer]:
    """Every creation, change and deletion requested within the retention time, oldest first, from the event log: their
    state follows from the database's, so it has no other record."""
    found: list[StateMachineAnswer] = []
    for event in events:
        if event.kind not in _MACHINES or event.action_uid is None or event.database_uid is None:
            continue
        if (now - event.at).total_seconds() <= view.policy.action_retention_s:
            found.append(_machine(event, event.action_uid, event.database_uid, view))
    return found


def _machine(event: Event, uid: ActionUid, database_uid: DatabaseUid, view: ClusterView) -> StateMachineAnswer:
    record = view.databases.get(database_uid)
    is_current = record is not None and record.action_uid == uid and record.status is not DatabaseStatus.ACTIVE
    status, error = "completed", ""
    if record is not None and is_current:
        has_failed = record.status is DatabaseStatus.CREATION_FAILED
        status, error = ("failed", record.failure) if has_failed else ("active", "")
    answer: StateMachineAnswer = {
        "action_uid": uid,
        "name": _MACHINES[event.kind],
        "object_name": f"bdb:{database_uid}",
        "status": status,
        "progress": 100.0 if status == "completed" else 0.0,
        "heartbeat": int(event.at.timestamp()),
        "state": "" if record is None else record.status.value,
    }
    if error:
        answer["error"] = error
    return answer


def state_machine_v2(machine: StateMachineAnswer) -> ActionV2Answer:
    """The state machine in the format of ``/v2/actions``."""
    info: Json = {"object_type": "bdb", "object_uid": machine["object_name"].partition(":")[2]}
    if "error" in machine:
        info["error"] = machine["error"]
    return {
        "action_type": "state-machine",
        "action_uid": machine["action_uid"],
        "creation_time": machine["heartbeat"],
        "name": machine["name"],
        "progress": machine["progress"],
        "status": "running" if machine["status"] == "active" else machine["status"],
        "additional_info": info,
    }
