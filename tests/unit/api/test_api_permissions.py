"""The permission table: its counts and its important cells."""

import pytest

from shardwright.api.permissions import ALL_PERMISSIONS, PERMISSIONS, may
from shardwright.model.account import ManagementRole as R

COUNTS = {R.ADMIN: 96, R.CLUSTER_MEMBER: 62, R.DB_MEMBER: 60, R.CLUSTER_VIEWER: 39, R.DB_VIEWER: 37, R.NONE: 0}

CELLS = {
    "start_node_action": {R.ADMIN},
    "cancel_node_action": {R.ADMIN},
    "update_node": {R.ADMIN},
    "update_cluster": {R.ADMIN},
    "config_ocsp": {R.ADMIN},
    "create_new_user": {R.ADMIN, R.USER_MANAGER},
    "view_all_users_info": {R.ADMIN, R.USER_MANAGER},
    "install_new_license": {R.ADMIN, R.USER_MANAGER},
    "create_bdb": {R.ADMIN, R.CLUSTER_MEMBER, R.DB_MEMBER},
    "migrate_shard": {R.ADMIN, R.CLUSTER_MEMBER, R.DB_MEMBER},
    "view_status_of_node_action": set(R) - {R.NONE},
    "view_all_nodes_info": set(R) - {R.NONE},
    "view_logged_events": set(R) - {R.NONE, R.DB_VIEWER},
    "view_redis_pass": {R.ADMIN, R.CLUSTER_MEMBER, R.DB_MEMBER, R.USER_MANAGER},
    "view_cluster_keys": {R.ADMIN, R.CLUSTER_MEMBER, R.USER_MANAGER},
    "view_all_metrics": {R.ADMIN, R.CLUSTER_MEMBER, R.CLUSTER_VIEWER},
}


@pytest.mark.parametrize("role", COUNTS)
def test_number_of_permissions(role: R) -> None:
    assert len(PERMISSIONS[role]) == COUNTS[role]


@pytest.mark.parametrize("permission", CELLS)
def test_permissions_of_roles(permission: str) -> None:
    assert {role for role in R if may(role, permission)} == CELLS[permission]


def test_the_table_is_total_and_admin_may_everything() -> None:
    assert set(PERMISSIONS) == set(R)
    assert set().union(*PERMISSIONS.values()) == ALL_PERMISSIONS


def test_an_unknown_permission_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        may(R.ADMIN, "fly")
