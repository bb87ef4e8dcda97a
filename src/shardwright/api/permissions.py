"""The permissions of each management role: the table, row by row.

Pure. The routes name a permission, ``deps.require`` asks here. Roles and cells are wire facts and must not be invented.
"""

from typing import Final

from shardwright.model.account import ManagementRole

_NODE_ACTIONS: Final = ("start_node_action", "cancel_node_action")
_CLUSTER_CHANGES: Final = (
    "start_cluster_action",
    "cancel_cluster_action",
    "update_node",
    "update_cluster",
    "add_cluster_module",
    "delete_cluster_module",
    "manage_cluster_modules",
    "config_ocsp",
    "test_ocsp_status",
    "view_ocsp_config",
    "view_ocsp_status",
    "config_sso",
)
_ACCOUNTS: Final = (
    "create_new_user",
    "update_user",
    "delete_user",
    "view_all_users_info",
    "view_user_info",
    "create_role",
    "update_role",
    "delete_role",
    "create_redis_acl",
    "update_redis_acl",
    "delete_redis_acl",
    "config_ldap",
    "view_ldap_config",
    "create_ldap_mapping",
    "update_ldap_mapping",
    "delete_ldap_mapping",
    "view_all_ldap_mappings_info",
    "view_ldap_mapping_info",
    "install_new_license",
    "update_proxy",
)
_DATABASE_CHANGES: Final = (
    "create_bdb",
    "update_bdb",
    "delete_bdb",
    "update_bdb_with_action",
    "update_bdb_alerts",
    "edit_bdb_module",
    "failover_shard",
    "migrate_shard",
    "start_bdb_export",
    "start_bdb_import",
    "start_bdb_recovery",
    "reset_bdb_current_backup_status",
    "reset_bdb_current_export_status",
    "reset_bdb_current_import_status",
    "create_crdb",
    "update_crdb",
    "delete_crdb",
    "flush_crdb",
    "purge_instance",
    "upgrade_crdb",
)
_VIEWS: Final = (
    "view_status_of_all_node_actions",
    "view_status_of_node_action",
    "view_status_of_cluster_action",
    "view_cluster_info",
    "view_cluster_stats",
    "view_cluster_alerts",
    "view_cluster_modules",
    "view_license",
    "view_all_nodes_info",
    "view_node_info",
    "view_all_nodes_stats",
    "view_node_stats",
    "view_all_nodes_alerts",
    "view_node_alerts",
    "view_all_nodes_checks",
    "view_node_check",
    "view_all_bdbs_info",
    "view_bdb_info",
    "view_all_bdb_stats",
    "view_bdb_stats",
    "view_all_bdbs_alerts",
    "view_bdb_alerts",
    "view_bdb_recovery_plan",
    "view_all_shard_stats",
    "view_shard_stats",
    "view_endpoint_stats",
    "view_all_proxies_info",
    "view_proxy_info",
    "view_all_roles_info",
    "view_role_info",
    "view_all_redis_acls_info",
    "view_redis_acl_info",
    "view_sso",
    "view_crdb",
    "view_crdb_list",
    "view_crdb_task",
    "view_crdb_task_list",
)

PERMISSIONS: Final[dict[ManagementRole, frozenset[str]]] = {
    ManagementRole.ADMIN: frozenset(
        _NODE_ACTIONS
        + _CLUSTER_CHANGES
        + _ACCOUNTS
        + _DATABASE_CHANGES
        + _VIEWS
        + ("view_logged_events", "view_redis_pass", "view_debugging_info", "view_cluster_keys", "view_all_metrics")
    ),
    ManagementRole.CLUSTER_MEMBER: frozenset(
        _DATABASE_CHANGES
        + _VIEWS
        + ("view_logged_events", "view_redis_pass", "view_debugging_info", "view_cluster_keys", "view_all_metrics")
    ),
    ManagementRole.CLUSTER_VIEWER: frozenset((*_VIEWS, "view_logged_events", "view_all_metrics")),
    ManagementRole.DB_MEMBER: frozenset(
        _DATABASE_CHANGES + _VIEWS + ("view_logged_events", "view_redis_pass", "view_debugging_info")
    ),
    ManagementRole.DB_VIEWER: frozenset(_VIEWS),
    ManagementRole.USER_MANAGER: frozenset(
        _ACCOUNTS + _VIEWS + ("view_logged_events", "view_redis_pass", "view_debugging_info", "view_cluster_keys")
    ),
    ManagementRole.NONE: frozenset(),
}
"""The whole table. The sources disagree on ``view_bdb_recovery_plan`` for user_manager; here the role has it, like the
others."""

ALL_PERMISSIONS: Final = PERMISSIONS[ManagementRole.ADMIN]
"""An admin has every permission."""


def may(role: ManagementRole, permission: str) -> bool:
    """Whether the role has the permission. A permission that no role has is a bug in the caller."""
    assert permission in ALL_PERMISSIONS, f"no such permission: {permission}"
    return permission in PERMISSIONS[role]
