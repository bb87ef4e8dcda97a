"""The catalog of error codes of the API itself: code, HTTP status, meaning.

Pure data. The helpers below raise them, ``errors.py`` turns them into answers, ``docs/generate.py`` prints them. A code is
stable once released. Every code used in the package must be listed here (a test checks this).
"""

from typing import Final

from shardwright.errors import Refusal, Rejected

CODES: Final[dict[str, str]] = {
    "invalid_request": "The request is invalid: bad JSON, a wrong type, a value out of its range.",
    "invalid_action": "An action with that name does not exist.",
    "invalid_parameter": "A parameter has a wrong type or value.",
    "unknown_parameter": "A request that would change something has an unknown query parameter; nothing was changed.",
    "conflicting_parameters": "Mutually exclusive parameters were given together.",
    "body_too_large": "The body is larger than 1 MiB.",
    "uri_too_long": "The URI is longer than 2,048 characters.",
    "request_timeout": "The body did not arrive in time.",
    "unsupported_api_version": "The header x-api-version names an unsupported version.",
    "unauthenticated": "Credentials are missing or wrong.",
    "forbidden": "The user's role lacks the permission.",
    "unauthorized_action": "The role has the permission, but not on this account.",
    "not_found": "The path does not exist.",
    "method_not_allowed": "The path does not allow the method; the header Allow lists the allowed methods.",
    "internal_error": "A bug. The log of the answering node has the details.",
    "store_unavailable": "The cluster's store cannot be reached or is locked; try again.",
    "not_ready": "The node has not read the cluster's state yet; try again.",
    "node_stopping": "The node's daemon stopped before it could answer; ask another node for the result of the change.",
    "too_many_connections": "The node has reached its connection limit; try again, or use another node.",
    "malformed_http": "The data is not an HTTP request.",
    "config_edit_conflict": "Other clients changed the same records at the same time; try again.",
    "request_too_large_to_store": "The change does not fit into one transaction of the store.",
    "node_not_found": "The node does not exist.",
    "action_not_found": "The action does not exist, or its last result was deleted.",
    "node_action_in_progress": "A node action is already running on the node.",
    "action_ended": "The action has ended: its result can be deleted, but the action can no longer be undone.",
    "plan_outdated": "The cluster has changed since the plan was made; the plan would now be different.",
    "remove_in_progress": "Another removal is running in the cluster.",
    "node_already_populated": "The node has shards or endpoints: evacuate it instead of closing it.",
    "node_not_offline": "The address of a running node cannot change.",
    "node_not_off": "The node cannot be declared off: its daemon runs, or one of its servers answers.",
    "one_machine": "The nodes of a local cluster share one machine: none of them can be declared off.",
    "node_already_has_rack_id": "The rack of a node cannot change while it holds shards.",
    "invalid_address": "The address is not a free loopback address.",
    "leader_not_available": "The node cannot lead: it has no running daemon, or it is being removed.",
    "leader_not_changed": "The requested daemon did not become the leader; the message says why.",
    "cluster_key_absent": "The cluster has no cluster key that could be replaced, or not all daemons can use one.",
    "key_rotation_stays": "A change of the cluster key is not undone, and its result is not deleted.",
    "snapshot_not_found": "The node has no such snapshot.",
    "snapshot_exists": "A snapshot with that name already exists.",
    "maintenance_snapshot": "A maintenance snapshot cannot be deleted manually; maintenance_off deletes it.",
    "invalid_snapshot_name": "The snapshot's name has a forbidden character or begins with maintenance_mode_.",
    "db_not_found": "The database does not exist.",
    "db_busy": "The database is being created, changed, moved or deleted.",
    "db_not_waiting": "The database serves, or its wait ends by itself.",
    "copy_not_loaded": "The copy to continue with is not loaded.",
    "copy_not_damaged": "The copy does not have an append-only file with a damaged end.",
    "missing_db_name": "A database needs a name.",
    "missing_memory_size": "A database needs a memory_size.",
    "memory_size_too_small": "The memory_size is too small for the copies; the description names the minimum.",
    "name_violation": "The name is malformed or taken.",
    "uid_exists": "The uid is or was in use.",
    "port_unavailable": "The port is taken, reserved or out of range.",
    "invalid_data_persistence": "The persistence settings are incomplete or contradictory.",
    "eviction_policy_violation": "The eviction policy is not available.",
    "invalid_sharding": "Only databases with one shard (and its replica) can be created.",
    "invalid_oss_cluster_configuration": "The cluster protocol is not available.",
    "invalid_proxy_policy": "The proxy policy must be single, all-nodes or all-master-shards.",
    "invalid_version": "No node has a server program of that kind and version.",
    "invalid_configuration": "The combination of settings is not available.",
    "missing_module": "Modules are not available.",
    "not_rack_aware": "Rack awareness needs nodes in two racks.",
    "rack_awareness_violation": "The copies of the database share a rack.",
    "strict_needs_replication": "Strict mode needs a replica.",
    "insufficient_resources": "The nodes lack room for it; the description names the missing resources.",
    "local_cluster": "The cluster is a local one: machines cannot join it, and it has no virtual addresses.",
    "already_bootstrapped": "The answering node is a member of a cluster already.",
    "join_token_unknown": "The join token is not one of this cluster.",
    "join_token_used": "The join token was used by another machine.",
    "join_token_expired": "The join token has expired.",
    "join_request_invalid": "The request to join is incomplete or contradictory.",
    "certificate_request_invalid": "The certificate request in it cannot be used.",
    "machine_is_member": "The machine is a node of the cluster already.",
    "address_in_use": "An address of the newcomer belongs to another node, or is a virtual address.",
    "clock_off": "The newcomer's clock is more than five minutes off.",
    "newcomer_too_new": "The newcomer's version is newer than the cluster's.",
    "server_binary_missing": "The newcomer lacks a server program that the cluster's databases need.",
    "no_route_back": "The answering node cannot connect to a port of the newcomer; the description names it.",
    "authority_key_absent": "The answering node cannot sign certificates; the answer names the node that can.",
    "store_learner_pending": "Another new member of the store is catching up or has not started; the answer names its node.",
    "too_many_attempts": "The client has sent too many wrong join tokens; wait a minute.",
    "too_many_tokens": "There are too many unused join tokens; they expire after 24 hours.",
    "virtual_address_not_found": "The virtual address does not exist.",
    "virtual_address_exists": "The virtual address exists with other settings, or is being removed.",
    "virtual_address_taken": "The address belongs to a node.",
    "virtual_address_impossible": "No node can add the address: an interface or the capabilities are missing.",
    "shard_not_exist": "The shard does not exist.",
    "bdb_unavailable": "The database does not serve.",
    "bdb_unavailable_shard_unreachable": "The primary of the database does not answer.",
    "bdb_unavailable_port_unbound": "No node serves the database's endpoint.",
    "bdb_endpoint_unavailable": "This node does not serve the database's endpoint.",
    "endpoint_leaving": "This node accepts no new clients of the database: it does not serve it, or is about to stop.",
    "user_not_exist": "The user does not exist.",
    "role_not_exist": "The role does not exist.",
    "email_already_exists": "The e-mail address is taken.",
    "invalid_email": "The user name must be an e-mail address.",
    "email_change_not_allowed": "The e-mail address is the login name and cannot change.",
    "password_not_complex": "The password violates the cluster's password rules.",
    "new_password_same_as_current": "The new password equals the current one.",
    "wrong_password": "The current password is wrong.",
    "change_last_admin_role_not_allowed": "The change would leave the cluster without an admin.",
    "certificates_not_replaceable": "The cluster issues and renews its certificates itself.",
    "license_not_needed": "Shardwright is free software: it does not need a license.",
}
"""All codes, in the order of the documentation page."""


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
    """406: well-formed, but not available."""
    return Rejected(Refusal.NOT_ACCEPTABLE, code, text, remedy=remedy)


def forbidden(code: str, text: str) -> Rejected:
    """403."""
    return Rejected(Refusal.FORBIDDEN, code, text)
