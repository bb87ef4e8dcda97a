"""The append-only event log: actor, event, cause."""

from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from enum import StrEnum

from shardwright.model.catalogue import Catalogue
from shardwright.model.ids import ActionUid, DatabaseUid, NodeUid


class Severity(StrEnum):
    """How urgent an event is for an operator."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class EventKind(Catalogue):
    """The kind of an event, with its meaning. The names of requests, actions and databases come from the wire; the others
    are Shardwright's own. A kind is stable once released: stored events contain it."""

    NODE_ADD_REQUEST = "node_add_request", "The addition of a node was requested."
    JOIN_TOKEN_CREATED = "join_token_created", "A token that admits a new machine was made."
    CLUSTER_NODE_JOINED = "cluster_node_joined", "A machine joined the cluster as a node."
    NODE_CHANGE_REQUEST = "node_change_request", "A node's settings were changed."
    NODE_DECLARED_OFF = "node_declared_off", "An administrator or a fencing hook said that a node's machine is off."
    NODE_FENCING_FAILED = "node_fencing_failed", "No fencing hook confirmed that a silent node's machine is off."
    NODE_DECLARATION_ENDED = (
        "node_declaration_ended",
        "The word that a node's machine is off was withdrawn, or the node's daemon runs again.",
    )
    NODE_SNAPSHOT_CREATED = "node_snapshot_created", "A snapshot of a node was taken."
    NODE_SNAPSHOT_DELETED = "node_snapshot_deleted", "A snapshot of a node was deleted."
    NODE_REMOVE_REQUEST = "node_remove_request", "The removal of a node was requested."
    NODE_ABORT_REMOVE_REQUEST = "node_abort_remove_request", "The cancellation of a removal was requested."
    MAINTENANCE_ON_REQUEST = "maintenance_on_request", "The maintenance of a node was requested."
    MAINTENANCE_ON_CANCEL_REQUEST = "maintenance_on_cancel_request", "The cancellation of a `maintenance_on` was requested."
    MAINTENANCE_OFF_REQUEST = "maintenance_off_request", "The end of a node's maintenance was requested."
    MAINTENANCE_OFF_CANCEL_REQUEST = (
        "maintenance_off_cancel_request",
        "The cancellation of a `maintenance_off` was requested.",
    )
    STEP_DOWN_REQUEST = "step_down_request", "The step-down of a node was requested."
    STEP_DOWN_CANCEL_REQUEST = "step_down_cancel_request", "The cancellation of a step-down was requested."
    NODE_ACTION_STARTED = "node_action_started", "A node action began."
    NODE_ACTION_PLAN_CHANGED = "node_action_plan_changed", "An action deviates from its accepted plan."
    NODE_ACTION_FORGOTTEN = "node_action_forgotten", "The result of an action was deleted on request."
    CLUSTER_NODE_REMOVE_COMPLETED = "cluster_node_remove_completed", "A removal completed."
    CLUSTER_NODE_REMOVE_FAILED = "cluster_node_remove_failed", "A removal failed."
    CLUSTER_NODE_REMOVE_ABORT_COMPLETED = "cluster_node_remove_abort_completed", "A removal was cancelled."
    CLUSTER_NODE_OPERATION_FAILED = "cluster_node_operation_failed", "Another node action failed or was cancelled."
    NODE_MAINTENANCE_ON_COMPLETED = "node_maintenance_on_completed", "A node is in maintenance and empty."
    NODE_MAINTENANCE_OFF_COMPLETED = "node_maintenance_off_completed", "A node has its shards, roles and endpoints back."
    NODE_STEP_DOWN_COMPLETED = "node_step_down_completed", "A node no longer has a primary or an endpoint."
    BDB_CREATE_REQUEST = "bdb_create_request", "The creation of a database was requested."
    BDB_UPDATE_REQUEST = "bdb_update_request", "A change of a database was requested."
    BDB_DELETE_REQUEST = "bdb_delete_request", "The deletion of a database was requested."
    BDB_CREATED = "bdb_created", "A database serves for the first time."
    BDB_UPDATED = "bdb_updated", "A change of a database is complete."
    BDB_DELETED = "bdb_deleted", "A database was deleted."
    BDB_CREATION_FAILED = "bdb_creation_failed", "A database could not be created."
    BDB_CREATION_MOVED = "bdb_creation_moved", "The creation of a database continues on other nodes."
    BDB_START_FROM_COPY_REQUEST = "bdb_start_from_copy_request", "An operator decided to continue with one copy."
    BDB_TROUBLE_BEGAN = "bdb_trouble_began", "A trouble of a database began."
    BDB_TROUBLE_ENDED = "bdb_trouble_ended", "A trouble of a database ended."
    HANDOFF = "handoff", "A primary role was handed over as planned; the event contains the evidence."
    HANDOFF_UNVERIFIED = (
        "handoff_unverified",
        "A primary role was handed over, but the evidence does not prove that nothing was lost.",
    )
    HANDOFF_RECOVERY = "handoff_recovery", "A new leader finished or undid a former leader's handoff."
    FAILOVER = "failover", "A replica took over from a primary that had ended or was out of reach."
    FAILOVER_BEGUN = (
        "failover_begun",
        "The primary of a database is out of reach; its other copies are detached from it.",
    )
    FAILOVER_WITHDRAWN = "failover_withdrawn", "The primary answered again before another copy had taken over."
    GROUP_WAITS = "group_waits", "A starting slot group waits for something that does not pass by itself."
    GROUP_STARTED_FROM_COPY = "group_started_from_copy", "A slot group continues with the copy that an operator chose."
    GROUP_START_FAILED = "group_start_failed", "The chosen copy cannot be started."
    GROUP_FOUND = "group_found", "After a restore, a slot group continues with the copy that leads."
    GROUP_START_OVER = "group_start_over", "A slot group has no live in-sync copy: its copies are started and compared."
    SHARD_RESTART = "shard_restart", "A server is restarted."
    SHARD_FILES_PUT_ASIDE = "shard_files_put_aside", "A replica with damaged files gets a new full copy from its primary."
    SHARD_FILES_CUT = "shard_files_cut", "A server starts without the damaged end of its file."
    REPLICA_REBUILD = "replica_rebuild", "A lost copy is rebuilt on another node."
    REPLICA_REBUILD_WITHDRAWN = "replica_rebuild_withdrawn", "A rebuild is no longer needed."
    ENDPOINT_REBIND = "endpoint_rebind", "An endpoint of a dead node moves to another node."
    CLIENTS_ENDED = "clients_ended", "Client connections that could not be passed on were closed."
    PRESENCE_STORM = (
        "presence_storm",
        "Most daemons lost their leases at the same time; no node counts as away because of it.",
    )
    VIRTUAL_ADDRESS_ADDED = "virtual_address_added", "A virtual address was added."
    VIRTUAL_ADDRESS_MOVED = "virtual_address_moved", "A node gets a virtual address; the text says why."
    VIRTUAL_ADDRESS_REMOVE_REQUEST = "virtual_address_remove_request", "The removal of a virtual address was requested."
    VIRTUAL_ADDRESS_REMOVED = "virtual_address_removed", "A virtual address was removed: no node has it any more."
    STORE_MEMBER_ADDED = "store_member_added", "A node runs a new member of the store, which does not vote yet."
    STORE_MEMBER_PROMOTED = "store_member_promoted", "A node's member of the store votes."
    STORE_MEMBER_REMOVED = "store_member_removed", "A node's member of the store was removed."
    LEADER_CHANGE_REQUEST = "leader_change_request", "Another leader was requested, or the request was withdrawn."
    LEADER_CHANGED = "leader_changed", "The requested daemon leads."
    LEADER_CHANGE_FAILED = "leader_change_failed", "The requested daemon did not become the leader."
    CLUSTER_RESTORED = "cluster_restored", "The cluster's records were restored from a backup."
    NODE_SURVEYED = "node_surveyed", "After a restore, a node's machine said what runs there, and the records follow it."
    BACKUP_FAILED = "backup_failed", "A node could not write a backup of the cluster's state."
    CLUSTER_CREATED = "cluster_created", "The cluster was created."
    KEY_ROTATION_REQUEST = "key_rotation_request", "A change of the cluster key was requested."
    KEY_ROTATION_SEALED = "key_rotation_sealed", "Every secret in the store is sealed with the new cluster key."
    KEY_ROTATION_COMPLETED = "key_rotation_completed", "Every node has the new cluster key, and no other."
    CERTIFICATE_RENEWED = "certificate_renewed", "The cluster's authority signed a new certificate for a node."
    UPGRADE_PREPARED = (
        "upgrade_prepared",
        "A daemon of a newer version runs for the first time. The cluster's state was backed up before its records change.",
    )
    CLUSTER_VERSION_RAISED = "cluster_version_raised", "All daemons are of a newer version, and the records may use it."
    CLUSTER_OPTIONS_CHANGED = "cluster_options_changed", "Options of the cluster were changed."
    CLUSTER_POLICY_CHANGED = "cluster_policy_changed", "The policy was changed."
    USER_CREATED = "user_created", "A user was created."
    USER_CHANGED = "user_changed", "A user was changed."
    USER_DELETED = "user_deleted", "A user was deleted."
    USER_PASSWORD_CHANGED = "user_password_changed", "A password was changed."


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log."""

    at: datetime
    kind: EventKind
    severity: Severity
    text: str
    _: KW_ONLY
    node_uid: NodeUid | None = None
    database_uid: DatabaseUid | None = None
    action_uid: ActionUid | None = None
    by: str = ""
    """E-mail address of the requesting user; empty: the cluster itself."""
    extra: dict[str, object] = field(default_factory=dict)
