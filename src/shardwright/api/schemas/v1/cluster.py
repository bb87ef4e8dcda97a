"""The cluster, its policy, license, statistics and bootstrap state on the wire. Pure.

The tables below contain the wire's option names and their defaults; the default determines an option's type.
"""

from datetime import datetime, timedelta
from typing import Final

from shardwright.api.schemas.v1.actions import reason_json
from shardwright.api.schemas.v1.common import Json, iso
from shardwright.api.schemas.v1.nodes import local_node_info, provisioned_memory, total_memory
from shardwright.api.schemas.v1.shards import shown
from shardwright.model.cluster import Cluster, Policy
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView
from shardwright.plan.upgrade import upgrade_of

_FALSE_ALERTS: Final = (
    "cluster_even_node_count",
    "cluster_flash_overcommit",
    "cluster_inconsistent_rl_sw",
    "cluster_internal_bdb",
    "cluster_multiple_nodes_down",
    "cluster_node_joined",
    "cluster_node_remove_completed",
    "cluster_node_remove_failed",
    "cluster_node_remove_abort_completed",
    "cluster_node_remove_abort_failed",
    "cluster_ocsp_query_failed",
    "cluster_ocsp_status_revoked",
    "cluster_ram_overcommit",
    "cluster_too_few_nodes_for_replication",
    "node_aof_slow_disk_io",
    "node_checks_error",
    "node_failed",
    "node_insufficient_disk_aofrw",
)
_THRESHOLD_ALERTS: Final = {
    "cluster_certs_about_to_expire": "45",
    "cluster_license_about_to_expire": "7",
    "cluster_ca_cert_about_to_expire": "90",
    "node_ephemeral_storage": "70",
    "node_persistent_storage": "70",
    "node_free_flash": "70",
    "node_internal_certs_about_to_expire": "45",
}

ALERT_SETTINGS: Final[Json] = {
    **dict.fromkeys(_FALSE_ALERTS, False),
    "cluster_node_operation_failed": True,
    **{name: {"enabled": True, "threshold": threshold} for name, threshold in _THRESHOLD_ALERTS.items()},
}

CLUSTER_OPTIONS: Final[dict[str, object]] = {
    "alert_settings": ALERT_SETTINGS,
    "availability_lag_tolerance_ms": 100,
    "block_cluster_changes": False,
    "bigstore_driver": "speedb",
    "client_maint_notifications": False,
    "cm_port": 8443,
    "cm_server_version": 1,
    "cm_session_timeout_minutes": 15,
    "cnm_http_port": 8080,
    "cnm_http_workers": 1,
    "cnm_http_max_threads_per_worker": 10,
    "cluster_api_internal_port": 3346,
    "control_cipher_suites": "",
    "control_plane_basic_authentication": True,
    "crdb_coordinator_port": 9081,
    "crdt_supported_featureset_version": 8,
    "crdt_supported_protocol_versions": ["1"],
    "data_cipher_list": "",
    "data_cipher_suites_tls_1_3": [],
    "email_alerts": False,
    "email_from": "",
    "encrypt_pkeys": False,
    "envoy_admin_port": 8002,
    "envoy_max_downstream_connections": 1024,
    "envoy_mgmt_server_port": 8004,
    "gossip_envoy_admin_port": 8006,
    "handle_metrics_redirects": False,
    "handle_redirects": False,
    "http_support": False,
    "mask_bdb_credentials": False,
    "metrics_auth": False,
    "metrics_system": 0,
    "min_control_TLS_version": "1.2",
    "min_data_TLS_version": "1.2",
    "min_sentinel_TLS_version": "1.2",
    "mtls_authorized_subjects": [],
    "mtls_certificate_authentication": False,
    "mtls_client_cert_subject_validation_type": "disabled",
    "multi_commands_opt": "batch",
    "options_method_forbidden": False,
    "password_complexity": False,
    "password_expiration_duration": 0,
    "password_min_length": 8,
    "reserved_ports": [],
    "sentinel_cipher_suites": [],
    "sentinel_tls_mode": "allowed",
    "smtp_host": "",
    "smtp_port": 25,
    "smtp_tls_mode": "none",
    "smtp_use_tls": False,
    "smtp_username": "",
    "state_machine_smart_client_handoffs_delay_ms": 2000,
    "system_reserved_ports": [],
    "upgrade_mode": False,
    "use_external_ipv6": False,
    "use_ipv6": False,
    "wait_command": True,
}
"""All keys of a GET besides the fixed ones."""

CHANGEABLE_OPTIONS: Final = frozenset(
    {
        "cm_session_timeout_minutes",
        "email_alerts",
        "email_from",
        "password_complexity",
        "password_min_length",
        "availability_lag_tolerance_ms",
        "alert_settings",
        "smtp_host",
        "smtp_port",
        "smtp_username",
        "smtp_tls_mode",
        "smtp_use_tls",
        "slave_ha",
        "slave_ha_grace_period",
    }
)
"""The options that ``PUT /v1/cluster`` changes. The others describe how this cluster works: an option that would be stored
without effect is refused."""

POLICY_FIELDS: Final[dict[str, str]] = {
    "persistent_node_removal": "persistent_node_removal",
    "default_concurrent_restore_actions": "default_concurrent_restore_actions",
    "evict_node_use_free_memory": "evict_node_use_free_memory",
    "slave_ha": "slave_ha",
    "slave_ha_grace_period": "slave_ha_grace_period_s",
    "max_slave_full_syncs": "max_slave_full_syncs",
    "stuck_server_timeout": "stuck_server_timeout_s",
    "action_retention": "action_retention_s",
    "drain_clients": "drain_clients_s",
    "drain_at_shutdown": "drain_at_shutdown",
}
"""Wire key to field of ``Policy``, for the keys with an effect. The last four are extensions, their times in seconds."""

POLICY_EXTRAS: Final[dict[str, object]] = {
    "acl_pubsub_default": "resetchannels",
    "auto_recovery": False,
    "automatic_node_offload": True,
    "bigstore_migrate_node_threshold": 0,
    "bigstore_migrate_node_threshold_p": 4,
    "bigstore_provision_node_threshold": 0,
    "bigstore_provision_node_threshold_p": 12,
    "data_internode_encryption": False,
    "db_conns_auditing": False,
    "default_non_sharded_proxy_policy": "single",
    "default_oss_cluster": False,
    "default_oss_sharding": False,
    "default_provisioned_redis_version": "",
    "default_recovery_wait_time": -1,
    "default_sharded_proxy_policy": "single",
    "default_shards_placement": "dense",
    "default_tracking_table_max_keys_policy": 1_000_000,
    "endpoint_rebind_propagation_grace_time": 15,
    "expose_hostnames_for_all_suffixes": False,
    "failure_detection_sensitivity": "high",
    "hide_user_data_from_log": False,
    "login_lockout_counter_reset_after": 900,
    "login_lockout_duration": 1800,
    "login_lockout_threshold": 5,
    "master_healthcheck_api_auth": True,
    "max_redis_forks": 0,
    "max_saved_events_per_type": 0,
    "max_simultaneous_backups": 4,
    "metrics_exporter_expose_bdb_name": False,
    "oss_cluster_api_preferred_endpoint_type": "ip",
    "oss_cluster_api_preferred_ip_type": "internal",
    "parallel_shards_upgrade": 0,
    "persistence_cleanup_grace_time": 0,
    "persistence_cleanup_scan_interval": "0 0 * * *",
    "rack_aware": False,
    "redis_migrate_node_threshold": 0,
    "redis_migrate_node_threshold_p": 4,
    "redis_provision_node_threshold": 0,
    "redis_provision_node_threshold_p": 12,
    "redis_upgrade_policy": "major",
    "repl_diskless": True,
    "resp3_default": True,
    "shards_overbooking": False,
    "show_internals": False,
    "slave_ha_bdb_cooldown_period": 7200,
    "slave_ha_cooldown_period": 3600,
    "slow_log_max_len": 1024,
    "witness_disk_update_frequency_divisor": 3,
}
"""Policy keys that are stored and shown, with their defaults. Only ``default_non_sharded_proxy_policy`` has an effect: it
applies to new databases that name no proxy policy; in a cluster of machines its default is ``all-nodes``."""

_PROXY_POLICIES: Final = ("default_non_sharded_proxy_policy", "default_sharded_proxy_policy")
_ONE_OF: Final[dict[str, tuple[str, ...]]] = {
    "failure_detection_sensitivity": ("high", "low"),
    "default_shards_placement": ("dense", "sparse"),
    "default_sharded_proxy_policy": ("single", "all-master-shards", "all-nodes"),
    "default_non_sharded_proxy_policy": ("single", "all-master-shards", "all-nodes"),
    "redis_upgrade_policy": ("major", "latest"),
    "acl_pubsub_default": ("resetchannels", "allchannels"),
    "smtp_tls_mode": ("none", "starttls", "tls"),
}


def problem_with(key: str, value: object, default: object) -> str:
    """Why the value is invalid for that option; empty if it is valid. Types are strict."""
    if type(value) is not type(default):
        return f"{key}: must be {_WORDS.get(type(default), 'another type')}"
    if isinstance(value, bool):
        return ""
    if isinstance(value, int):
        lowest = -1 if default == -1 else 0
        return "" if lowest <= value <= 2**31 - 1 else f"{key}: must be at least {lowest} and at most 2147483647"
    if isinstance(value, str):
        if key in _ONE_OF and value not in _ONE_OF[key]:
            return f"{key}: must be one of {', '.join(_ONE_OF[key])}"
        return "" if len(value) <= 1024 else f"{key}: must have at most 1024 characters"
    return ""


_WORDS: Final[dict[type, str]] = {
    bool: "a boolean",
    int: "an integer",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def cluster(record: Cluster, view: ClusterView) -> Json:
    """The cluster object. Internal options without a wire key are left out."""
    changed = {key: value for key, value in record.options.items() if key in CLUSTER_OPTIONS}
    racks = {node.rack for node in view.nodes.values() if node.rack}
    alerts = record.options.get("alert_settings")
    return {
        **CLUSTER_OPTIONS,
        **changed,
        "alert_settings": {**ALERT_SETTINGS, **alerts} if isinstance(alerts, dict) else ALERT_SETTINGS,
        "name": record.name,
        "created_time": iso(record.created_at),
        "cnm_https_port": record.api_port,
        "rack_aware": len(racks) > 1,
        "slave_ha": view.policy.slave_ha,
        "slave_ha_grace_period": view.policy.slave_ha_grace_period_s,
        "slave_ha_cooldown_period": 3600,
        "slave_ha_bdb_cooldown_period": 7200,
        "password_hashing_algorithm": "argon2id",
        "upgrade_in_progress": upgrade_of(view) is not None,
        "endpoint_address": record.endpoint_address,
        "leader": _leader(view),
        "cluster_version": record.cluster_version,
        "upgrade": _upgrade(view),
    }


def _upgrade(view: ClusterView) -> Json | None:
    """The upgrade that is under way, and what it waits for; None if there is none. An extra key."""
    found = upgrade_of(view)
    if found is None:
        return None
    return {
        "version": found.version,
        "cluster_version": found.cluster_version,
        "reasons": [reason_json(reason) for reason in found.reasons],
    }


def _leader(view: ClusterView) -> Json | None:
    """The leader; None without one. An extra key: the wire only has a node's role."""
    held = view.leadership
    if held is None:
        return None
    daemon = view.daemons.get(held.node_uid)
    node = view.nodes.get(held.node_uid)
    return {
        "node_uid": held.node_uid,
        "term": held.term,
        "pid": None if daemon is None else daemon.pid,
        "addr": None if node is None else node.address,
    }


def policy(record: Policy, cluster: Cluster | None) -> Json:
    """The policy object. ``cluster``: its kind has a default of its own."""
    own = {key: getattr(record, field) for key, field in POLICY_FIELDS.items()}
    usual = {} if cluster is None else dict.fromkeys(_PROXY_POLICIES, cluster.proxy_policy.value)
    return {**POLICY_EXTRAS, **usual, **{k: v for k, v in record.extra.items() if k in POLICY_EXTRAS}, **own}


def license_object(view: ClusterView, now: datetime) -> Json:
    """Free software needs no license, but clients read the limit and the date."""
    created = now if view.cluster is None else view.cluster.created_at
    return {
        "license": "",
        "key": "",
        "cluster_name": None if view.cluster is None else view.cluster.name,
        "owner": None,
        "expired": False,
        "activation_date": iso(created),
        "expiration_date": "2099-12-31T23:59:59Z",
        "features": [],
        "shards_limit": 1_000_000,
        "ram_shards_limit": 1_000_000,
        "flash_shards_limit": 0,
        "ram_shards_in_use": len(shown(view)),
        "flash_shards_in_use": 0,
    }


def bootstrap(view: ClusterView, node_uid: NodeUid) -> Json:
    """Bootstrap state of this node: it is a member, otherwise it would not answer."""
    record = view.nodes.get(node_uid)
    created = "" if record is None else iso(record.created_at)
    return {
        "bootstrap_status": {"state": "completed", "start_time": created, "end_time": created},
        "local_node_info": {} if record is None else local_node_info(record, view),
    }


def statistics(view: ClusterView, now: datetime) -> Json:
    """The latest statistics of the cluster; every metric is a float."""
    total = float(sum(total_memory(node, view) for node in view.nodes.values()))
    used = float(sum(provisioned_memory(uid, view) for uid in view.nodes))
    free = float(sum(figures.memory_free_bytes for figures in view.figures.values()))
    disk = float(sum(figures.disk_free_bytes for figures in view.figures.values()))
    return {
        "interval": "1sec",
        "stime": iso(now - timedelta(seconds=1)),
        "etime": iso(now),
        "available_memory": min(free, total),
        "free_memory": min(free, total),
        "provisional_memory": max(0.0, total - used),
        "persistent_storage_avail": disk,
        "persistent_storage_free": disk,
        "ephemeral_storage_avail": disk,
        "ephemeral_storage_free": disk,
    }


def proxies(view: ClusterView) -> list[Json]:
    """One proxy per node: its endpoint process."""
    return [
        {
            "uid": uid,
            "threads": 1,
            "max_threads": 1,
            "dynamic_threads_scaling": False,
            "conns": 500_000,
            "backlog": 1024,
            "client_keepidle": 180,
            "client_keepintvl": 30,
            "client_keepcnt": 6,
            "max_listeners": 1024,
            "max_servers": 4096,
            "log_level": "info",
        }
        for uid in sorted(view.nodes)
    ]
