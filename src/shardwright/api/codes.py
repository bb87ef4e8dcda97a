"""The catalogue of error codes that the API itself gives: code, HTTP status, meaning.

Pure data. Raised through the helpers below, turned into answers by ``errors.py``, printed by ``docs/generate.py``. A code
is stable once released; every code used in the package must stand here (a test checks it).
"""

from typing import Final

from shardwright.errors import Refusal, Rejected

CODES: Final[dict[str, str]] = {
    "invalid_request": "The request cannot be understood: bad JSON, a wrong type, a value out of its range.",
    "invalid_action": "There is no node action of that name.",
    "invalid_parameter": "A parameter has a wrong type or value.",
    "unknown_parameter": "A changing call was given a query parameter that it does not know; nothing was done.",
    "conflicting_parameters": "Parameters that exclude each other were given together.",
    "body_too_large": "The body is larger than 1 MiB.",
    "uri_too_long": "The address is longer than 2,048 characters.",
    "request_timeout": "The body did not arrive in time.",
    "unsupported_api_version": "The header x-api-version names a version that is not served.",
    "unauthenticated": "Credentials are missing or wrong.",
    "forbidden": "The user's role lacks the permission.",
    "unauthorized_action": "The role has the permission, but not on this account.",
    "not_found": "There is no such path.",
    "method_not_allowed": "The path exists, the method is not allowed on it; the header Allow lists those that are.",
    "internal_error": "A bug. The log of the node that answered has the details.",
    "store_unavailable": "The cluster's store cannot be reached or is locked; try again.",
    "not_ready": "The node has not read the cluster's state yet; try again.",
    "node_stopping": "The node's daemon stopped before it could answer; ask another node what became of a change.",
    "too_many_connections": "The node has as many connections as it serves; try again, or ask another node.",
    "malformed_http": "What came is no HTTP request.",
    "config_edit_conflict": "Others kept changing the same records; try again.",
    "request_too_large_to_store": "What was asked does not fit into one transaction of the store.",
    "node_not_found": "There is no such node.",
    "action_not_found": "There is no such action, or its last result was forgotten.",
    "node_action_in_progress": "A node action is already live on the node.",
    "action_ended": "The action has ended: it can be forgotten, but not undone any more.",
    "plan_outdated": "The cluster is no longer as the plan found it; the plan would be another one now.",
    "remove_in_progress": "Another removal is live in the cluster.",
    "node_already_populated": "Shards or endpoints are on the node: evacuate it instead of closing it.",
    "node_not_offline": "The address of a running node cannot change.",
    "node_already_has_rack_id": "The rack of a node cannot change while it holds shards.",
    "invalid_address": "The address is not a free loopback address.",
    "snapshot_not_found": "There is no such snapshot of the node.",
    "snapshot_exists": "A snapshot of that name exists.",
    "maintenance_snapshot": "A maintenance snapshot cannot be deleted by hand; maintenance_off deletes it.",
    "invalid_snapshot_name": "The snapshot's name has a forbidden character or begins with maintenance_mode_.",
    "db_not_found": "There is no such database.",
    "db_busy": "The database is being created, changed, moved or deleted.",
    "db_not_waiting": "The database serves, or waits for nothing that does not pass by itself.",
    "copy_not_loaded": "The copy to go on with is not loaded.",
    "copy_not_damaged": "The copy has no append-only file whose damaged end could be cut.",
    "missing_db_name": "A database needs a name.",
    "missing_memory_size": "A database needs a memory_size.",
    "memory_size_too_small": "The memory_size leaves the copies no room for data; the description names the least size.",
    "name_violation": "The name is malformed or taken.",
    "uid_exists": "The uid is or was in use.",
    "port_unavailable": "The port is taken, reserved or out of range.",
    "invalid_data_persistence": "The persistence settings are incomplete or contradictory.",
    "eviction_policy_violation": "The eviction policy is not available.",
    "invalid_sharding": "Only databases with one shard (and its replica) can be created.",
    "invalid_oss_cluster_configuration": "The cluster protocol is not available.",
    "invalid_proxy_policy": "Only the proxy policy single is available.",
    "invalid_version": "No node has a server program of that kind and version.",
    "invalid_configuration": "The combination cannot be had.",
    "missing_module": "Modules are not available.",
    "not_rack_aware": "Rack awareness needs nodes in two racks.",
    "rack_awareness_violation": "The copies of the database share a rack.",
    "strict_needs_replication": "Strict mode needs a replica.",
    "insufficient_resources": "The nodes have no room for it; the description says what is missing where.",
    "shard_not_exist": "There is no such shard.",
    "bdb_unavailable": "The database does not serve.",
    "bdb_unavailable_shard_unreachable": "The primary of the database does not answer.",
    "bdb_unavailable_port_unbound": "No node serves the database's endpoint.",
    "bdb_endpoint_unavailable": "This node does not serve the database's endpoint.",
    "user_not_exist": "There is no such user.",
    "role_not_exist": "There is no such role.",
    "email_already_exists": "The e-mail address is taken.",
    "invalid_email": "The user name must be an e-mail address.",
    "email_change_not_allowed": "The e-mail address is the login name and cannot change.",
    "password_not_complex": "The password breaks the cluster's password rules.",
    "new_password_same_as_current": "The new password equals the current one.",
    "wrong_password": "The current password is wrong.",
    "change_last_admin_role_not_allowed": "The cluster would be left without an admin.",
    "license_not_needed": "Shardwright is free software: there is no licence to install.",
}
"""Every code, in the order of the documentation page."""


def invalid(code: str, text: str, *, remedy: str = "") -> Rejected:
    """400: malformed."""
    return Rejected(Refusal.INVALID, code, text, remedy=remedy)


def not_found(code: str, text: str) -> Rejected:
    """404."""
    return Rejected(Refusal.NOT_FOUND, code, text)


def conflict(code: str, text: str, *, remedy: str = "") -> Rejected:
    """409: busy or taken."""
    return Rejected(Refusal.CONFLICT, code, text, remedy=remedy)


def not_acceptable(code: str, text: str, *, remedy: str = "") -> Rejected:
    """406: well-formed, but cannot be had."""
    return Rejected(Refusal.NOT_ACCEPTABLE, code, text, remedy=remedy)


def forbidden(code: str, text: str) -> Rejected:
    """403."""
    return Rejected(Refusal.FORBIDDEN, code, text)
