"""The available settings of a database. Pure; raises Rejected with the wire's codes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from shardwright.api.codes import conflict, invalid, not_acceptable
from shardwright.api.schemas.v1.requests import DatabaseBody
from shardwright.api.services.intent import Look
from shardwright.model.database import AofPolicy, Database, Persistence, ProxyPolicy, ServerKind, SnapshotRule
from shardwright.model.reason import Reason
from shardwright.model.view import ClusterView, Put
from shardwright.plan.explain import Unplaceable, megabytes
from shardwright.plan.ledger import Ledger
from shardwright.plan.placement import place_copy
from shardwright.store import keys

PORT_FIRST: Final = 10_000
PORT_LAST: Final = 19_999
PORT_KEPT_FREE: Final = 10_050
"""A Redis Enterprise component listens on this port; clients expect it to stay free."""
COPY_MEMORY_MIN_BYTES: Final = 4_000_000
"""Minimum per copy. An empty server of either kind takes 1.1 to 1.3 MB, its replication backlog 1 MiB more and a connection
about 13 KB (measured): with less, a few dozen clients leave no room for data. A memory_size of 0 means no limit."""
PASSWORD_CHARACTERS_MAX: Final = 512

EVICTION_POLICIES: Final = (
    "volatile-lru",
    "volatile-ttl",
    "volatile-random",
    "volatile-lfu",
    "allkeys-lru",
    "allkeys-random",
    "allkeys-lfu",
    "noeviction",
)
_NEWER_EVICTION_POLICIES: Final = ("volatile-lrm", "allkeys-lrm")
NOTIFICATION_LETTERS: Final = "KEg$lshzxetdmnA"
"""Letters of ``notify-keyspace-events`` that every server version supports."""
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_STORED_OPTIONS: Final = ("shards_placement", "slave_ha", "slave_ha_priority")


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings: the given ones, otherwise those of the database, otherwise defaults."""

    memory_bytes: int
    has_replica: bool
    persistence: Persistence
    aof_policy: AofPolicy
    snapshot_rules: tuple[SnapshotRule, ...]
    eviction_policy: str
    password: str = field(repr=False)
    is_rack_aware: bool
    is_strict: bool
    proxy_policy: ProxyPolicy
    notify_keyspace_events: str
    options: dict[str, object]


def refuse_unavailable(body: DatabaseBody) -> None:
    """Refuse well-formed requests for unavailable features."""
    if body.sharding or (body.shards_count or 1) != 1:
        raise not_acceptable("invalid_sharding", "Databases with more than one slot group cannot be created yet.")
    if body.oss_cluster or body.oss_sharding:
        raise not_acceptable("invalid_oss_cluster_configuration", "The cluster protocol is not available yet.")
    if body.module_list:
        raise not_acceptable("missing_module", "Modules are not available.")
    for is_wished, what in (
        (body.type not in (None, "redis"), "databases of a type other than redis"),
        (body.tls_mode not in (None, "disabled") or body.ssl, "TLS at endpoints"),
        (body.bigstore, "flash storage"),
        (body.crdt, "Active-Active databases"),
        (body.backup, "scheduled backups"),
        (body.default_user is False, "databases without the default user"),
        (body.avoid_nodes or body.use_nodes, "placement hints"),
    ):
        if is_wished:
            raise not_acceptable("invalid_configuration", f"Not available: {what}.")


def refuse_fixed(old: Database, body: DatabaseBody) -> None:
    """Refuse changes of settings that are fixed at creation. The unchanged value is accepted: clients send whole objects
    back."""
    if body.uid not in (None, old.uid):
        raise not_acceptable("invalid_configuration", "The uid of a database cannot change.")
    if body.port not in (None, 0, old.port):
        raise not_acceptable("port_unavailable", "The port of a database cannot change.")
    if body.server not in (None, old.server_kind.value):
        raise not_acceptable("invalid_version", "The kind of server of a database cannot change.")
    if body.redis_version is not None and not _is_version(old.server_version, body.redis_version):
        raise not_acceptable("invalid_version", "The version of a database's servers cannot change.")


def checked_name(name: str | None) -> str:
    """Letters, digits and hyphens; begins and ends with a letter or digit; at most 63."""
    if not name:
        raise invalid("missing_db_name", "name: is required.")
    if not _NAME.fullmatch(name):
        text = "name: use letters, digits and hyphens; begin and end with a letter or digit; at most 63 characters."
        raise invalid("name_violation", text)
    return name


def checked_settings(view: ClusterView, body: DatabaseBody, old: Database | None) -> Settings:
    """The settings after the request."""
    persistence, aof_policy, snapshot_rules = _persistence(body, old)
    stored = {key: value for key in _STORED_OPTIONS if (value := getattr(body, key)) is not None}
    if stored.get("shards_placement", "dense") not in ("dense", "sparse"):
        raise invalid("invalid_parameter", "shards_placement: must be dense or sparse.")
    has_replica = body.replication if body.replication is not None else old is not None and old.has_replica
    is_rack_aware = body.rack_aware if body.rack_aware is not None else old is not None and old.is_rack_aware
    is_strict = body.strict if body.strict is not None else _usual_strictness(view, old, has_replica=has_replica)
    return Settings(
        _memory(body, old),
        has_replica,
        persistence,
        aof_policy,
        snapshot_rules,
        _eviction(body, old),
        _password(body, old),
        is_rack_aware,
        is_strict,
        _proxy_policy(view, body, old),
        _notifications(body, old),
        _options(view, {} if old is None else old.options, stored),
    )


def _usual_strictness(view: ClusterView, old: Database | None, *, has_replica: bool) -> bool:
    """As before; for a new database as the kind of the cluster says."""
    if old is not None:
        return old.is_strict
    return has_replica and view.cluster is not None and view.cluster.is_strict_by_default


def _proxy_policy(view: ClusterView, body: DatabaseBody, old: Database | None) -> ProxyPolicy:
    """As given, as before, or for a new database as the policy or else the kind of the cluster says."""
    wished = body.proxy_policy
    if wished is None:
        if old is not None:
            return old.proxy_policy
        usual = ProxyPolicy.SINGLE if view.cluster is None else view.cluster.proxy_policy
        wished = str(view.policy.extra.get("default_non_sharded_proxy_policy") or usual)
    if wished not in set(ProxyPolicy):
        raise invalid("invalid_proxy_policy", f"proxy_policy: must be one of {', '.join(ProxyPolicy)}.")
    return ProxyPolicy(wished)


def _options(view: ClusterView, old: dict[str, object], given: dict[str, object]) -> dict[str, object]:
    """The stored options. An explicit default (clients send whole objects) is not stored."""
    defaults = {"shards_placement": "dense", "slave_ha": view.policy.slave_ha, "slave_ha_priority": 0}
    return {**old, **{key: value for key, value in given.items() if key in old or value != defaults[key]}}


def _memory(body: DatabaseBody, old: Database | None) -> int:
    if body.memory_size is None:
        if old is None:
            raise invalid("missing_memory_size", "memory_size: is required (bytes; 0 means no limit).")
        return old.memory_bytes
    return body.memory_size


def _persistence(body: DatabaseBody, old: Database | None) -> tuple[Persistence, AofPolicy, tuple[SnapshotRule, ...]]:
    persistence = Persistence.DISABLED if old is None else old.persistence
    aof_policy = AofPolicy.EVERY_SECOND if old is None else old.aof_policy
    rules = () if old is None else old.snapshot_rules
    try:
        if body.data_persistence is not None:
            persistence = Persistence(body.data_persistence)
        if body.aof_policy is not None:
            aof_policy = AofPolicy(body.aof_policy)
    except ValueError as e:
        raise invalid("invalid_data_persistence", f"{e}.") from e
    if body.snapshot_policy is not None:
        rules = tuple(SnapshotRule(rule.secs, rule.writes) for rule in body.snapshot_policy)
    if persistence is Persistence.SNAPSHOT and not rules:
        raise invalid("invalid_data_persistence", "data_persistence snapshot needs a snapshot_policy: [{secs, writes}, …].")
    return persistence, aof_policy, rules


def _eviction(body: DatabaseBody, old: Database | None) -> str:
    wished = body.eviction_policy
    if wished is None:
        return "volatile-lru" if old is None else old.eviction_policy
    if wished in _NEWER_EVICTION_POLICIES:
        raise not_acceptable("eviction_policy_violation", f"No available server has the eviction policy {wished}.")
    if wished not in EVICTION_POLICIES:
        raise invalid("eviction_policy_violation", f"eviction_policy: must be one of {', '.join(EVICTION_POLICIES)}.")
    return wished


def _notifications(body: DatabaseBody, old: Database | None) -> str:
    wished = body.notify_keyspace_events
    if wished is None:
        return "" if old is None else old.notify_keyspace_events
    letters = dict.fromkeys(wished)
    if not letters.keys() <= set(NOTIFICATION_LETTERS):
        text = f"notify_keyspace_events: use letters of {NOTIFICATION_LETTERS}, or an empty string for none."
        raise invalid("invalid_parameter", text)
    if letters and (letters.keys().isdisjoint("KE") or letters.keys() <= set("KE")):
        text = "notify_keyspace_events: needs a channel (K, E) and an event class (A: all); otherwise nothing is published."
        raise invalid("invalid_parameter", text)
    return "".join(letters)


def _password(body: DatabaseBody, old: Database | None) -> str:
    wished = body.authentication_redis_pass
    if wished is None:
        return "" if old is None else old.password
    if len(wished) > PASSWORD_CHARACTERS_MAX or not wished.isprintable():
        text = f"authentication_redis_pass: must have at most {PASSWORD_CHARACTERS_MAX} printable characters."
        raise invalid("invalid_parameter", text)
    return wished


def chosen_port(seen: Look, wished: int | None) -> int:
    """The given port if it is available, otherwise the lowest free one. 0 means: choose."""
    view = seen.view
    taken = {database.port for database in view.databases.values()} | {PORT_KEPT_FREE}
    if view.cluster is not None:
        taken.add(view.cluster.api_port)  # endpoints may share an address with the API
    if wished:
        if not PORT_FIRST <= wished <= PORT_LAST or wished == PORT_KEPT_FREE:
            text = f"port: must be {PORT_FIRST} to {PORT_LAST}, except {PORT_KEPT_FREE}; omit it to get a free port."
            raise not_acceptable("port_unavailable", text)
        if wished in taken or seen.bare(keys.port_key(wished)) is not None:
            raise conflict("port_unavailable", f"Port {wished} is taken.")
        return wished
    for port in range(PORT_FIRST, PORT_LAST + 1):
        if port not in taken and seen.bare(keys.port_key(port)) is None:
            return port
    raise not_acceptable("port_unavailable", "No port is free.")


def chosen_server(view: ClusterView, body: DatabaseBody) -> tuple[ServerKind, str]:
    """Kind and version that every copy will run permanently: as requested, otherwise as chosen at the cluster's
    creation."""
    default = ServerKind.VALKEY.value if view.cluster is None else view.cluster.server_kind
    try:
        kind = ServerKind(body.server or default)
    except ValueError as e:
        raise not_acceptable("invalid_version", f"server: {body.server!r} is neither valkey nor redis.") from e
    found = {version for seen in view.node_seen.values() for k, version in seen.servers if k == kind.value}
    recorded = "" if view.cluster is None else view.cluster.server_version
    has_reports = any(seen.servers for seen in view.node_seen.values())
    if kind.value == default and recorded and (recorded in found or not has_reports):
        found = {recorded}
    fitting = {v for v in found if _is_version(v, body.redis_version)}
    if not fitting:
        wished = f"{kind} {body.redis_version or ''}".strip()
        have = ", ".join(sorted({f"{k} {v}" for s in view.node_seen.values() for k, v in s.servers})) or "none"
        raise not_acceptable("invalid_version", f"No node has the server program {wished}. Available: {have}.")
    return kind, max(fitting, key=_numbers)


def encrypts(view: ClusterView, kind: ServerKind, version: str) -> bool:
    """Whether the servers of a new database encrypt their connections: in a cluster of machines, if every node that has this
    version can. On one machine, nothing leaves it."""
    if view.cluster is None or not view.cluster.is_of_machines:
        return False
    wanted = (kind.value, version)
    having = [seen for uid, seen in view.node_seen.items() if uid in view.nodes and wanted in seen.servers]
    return bool(having) and all(wanted in seen.tls_servers for seen in having)


def _is_version(version: str, wished: str | None) -> bool:
    return not wished or version == wished or version.startswith(f"{wished}.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def refuse_small_memory(old: Database | None, new: Database) -> None:
    """Servers with less memory hold no data. A database that is already that small may be changed in other ways."""
    if not 0 < new.shard_memory_bytes < COPY_MEMORY_MIN_BYTES or (old and old.shard_memory_bytes == new.shard_memory_bytes):
        return
    copies = new.copies * new.shards_count
    least = copies * COPY_MEMORY_MIN_BYTES
    text = (
        f"memory_size: must be at least {least} bytes ({COPY_MEMORY_MIN_BYTES} for each of {copies} copies), or 0: no limit."
    )
    raise invalid(
        "memory_size_too_small", text if copies > 1 else f"memory_size: must be at least {least} bytes, or 0: no limit."
    )


def refuse_strict_without_replica(old: Database | None, new: Database) -> None:
    """Strict mode answers a write only once a replica has it: without a replica, no write would ever be answered."""
    if not new.is_strict:
        return
    if not new.has_replica:
        text = "strict needs replication: without a replica, no write can be answered."
        remedy = "Set replication to true, or set strict to false."
        raise not_acceptable("strict_needs_replication", text, remedy=remedy)
    if old is not None and not old.has_replica:
        text = "strict cannot be switched on together with replication: until the replica is in sync, writes would fail."
        raise not_acceptable("strict_needs_replication", text, remedy="Set replication to true first, then strict.")


def refuse_without_racks(view: ClusterView, database: Database) -> None:
    """Rack awareness of replicated databases needs two racks."""
    if database.is_rack_aware and database.has_replica:
        racks = {node.rack for node in view.nodes.values() if node.rack}
        if len(racks) < 2:
            raise not_acceptable("not_rack_aware", "rack_aware needs nodes in at least two racks.")


def refuse_shared_rack(view: ClusterView, old: Database, new: Database) -> None:
    """Rack awareness cannot be enabled for copies that share a rack: nothing would move them."""
    if not new.is_rack_aware or old.is_rack_aware:
        return
    for group in view.groups_of(old.uid):
        racks = [view.nodes[s.node_uid].rack for s in view.shards_of_group(group.uid) if s.node_uid in view.nodes]
        if len(set(racks)) < len(racks):
            raise not_acceptable("rack_awareness_violation", f"Copies of database {old.uid} share a rack.")


def refuse_without_room(view: ClusterView, old: Database, new: Database) -> None:
    """More memory or another copy must fit onto the nodes in their present state."""
    _refuse_growth(view, old, new)
    if not new.has_replica or old.has_replica:
        return
    changed = view.with_writes([Put(new)])
    for group in view.groups_of(old.uid):
        placed = place_copy(changed, group, database=new)
        if isinstance(placed, Unplaceable):
            raise not_acceptable("insufficient_resources", f"There is no room for a replica. {sentence(placed.reasons)}")


def _refuse_growth(view: ClusterView, old: Database, new: Database) -> None:
    before, after = old.shard_memory_bytes, new.shard_memory_bytes
    if after <= before or before == 0:
        return  # without a limit nothing grows: the usage stays the same
    available = {uid: load.available_bytes for uid, load in Ledger(view).loads.items()}
    for shard in sorted((s for s in view.shards.values() if s.database_uid == old.uid), key=lambda s: s.uid):
        if shard.node_uid not in available:
            continue
        available[shard.node_uid] -= after - before
        if (missing := -available[shard.node_uid]) > 0:
            text = f"Node {shard.node_uid} lacks {megabytes(missing)} for the growth of shard {shard.uid}."
            raise not_acceptable("insufficient_resources", text)


def sentence(reasons: Sequence[Reason]) -> str:
    """Reasons as one text, each with its remedy."""
    return " ".join(_sentence(reason) for reason in reasons) or "There is no room."


def _sentence(reason: Reason) -> str:
    remedy = f" ({reason.remedy})" if reason.remedy else ""
    return f"{reason.text[:1].upper()}{reason.text[1:].rstrip('.')}{remedy}."
