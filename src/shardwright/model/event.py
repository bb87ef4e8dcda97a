"""The append-only log of what happened: who, what, why."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from shardwright.model.ids import ActionUid, DatabaseUid, NodeUid


class Severity(StrEnum):
    """How much an operator should care."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class EventKind(StrEnum):
    """What an event is about, with its meaning. The names of requests, actions and databases are the wire's (rest-api.md
    4.11); the rest are ours. A kind is stable once released: stored events hold it."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> "EventKind":
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    @classmethod
    def _missing_(cls, value: object) -> "EventKind | None":
        """One that a newer version has written is kept as it is."""
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_, member._value_ = value.upper(), value
        member.meaning = ""
        return member

    @classmethod
    def of(cls, value: str) -> "EventKind":
        """The kind of that name. Raises KeyError: there is none."""
        return cls.__members__[value.upper()]

    NODE_ADD_REQUEST = "node_add_request", "A node was asked for."
    NODE_CHANGE_REQUEST = "node_change_request", "A node's settings were changed."
    NODE_SNAPSHOT_CREATED = "node_snapshot_created", "A snapshot of a node was taken."
    NODE_SNAPSHOT_DELETED = "node_snapshot_deleted", "A snapshot of a node was deleted."
    NODE_REMOVE_REQUEST = "node_remove_request", "The removal of a node was asked for."
    NODE_ABORT_REMOVE_REQUEST = "node_abort_remove_request", "The end of a removal was asked for."
    MAINTENANCE_ON_REQUEST = "maintenance_on_request", "Maintenance of a node was asked for."
    MAINTENANCE_ON_CANCEL_REQUEST = "maintenance_on_cancel_request", "The end of a `maintenance_on` was asked for."
    MAINTENANCE_OFF_REQUEST = "maintenance_off_request", "The end of a node's maintenance was asked for."
    MAINTENANCE_OFF_CANCEL_REQUEST = "maintenance_off_cancel_request", "The end of a `maintenance_off` was asked for."
    STEP_DOWN_REQUEST = "step_down_request", "A node was asked to give up its primaries and endpoints."
    STEP_DOWN_CANCEL_REQUEST = "step_down_cancel_request", "The end of a step-down was asked for."
    NODE_ACTION_STARTED = "node_action_started", "A node action began."
    NODE_ACTION_PLAN_CHANGED = "node_action_plan_changed", "An action goes on otherwise than its accepted plan said."
    NODE_ACTION_FORGOTTEN = "node_action_forgotten", "The result of an action was forgotten on request."
    CLUSTER_NODE_REMOVE_COMPLETED = "cluster_node_remove_completed", "A removal completed."
    CLUSTER_NODE_REMOVE_FAILED = "cluster_node_remove_failed", "A removal failed."
    CLUSTER_NODE_REMOVE_ABORT_COMPLETED = "cluster_node_remove_abort_completed", "A removal was cancelled."
    CLUSTER_NODE_OPERATION_FAILED = "cluster_node_operation_failed", "Another node action failed or was cancelled."
    NODE_MAINTENANCE_ON_COMPLETED = "node_maintenance_on_completed", "A node is in maintenance and empty."
    NODE_MAINTENANCE_OFF_COMPLETED = "node_maintenance_off_completed", "A node has back what left it."
    NODE_STEP_DOWN_COMPLETED = "node_step_down_completed", "A node has no primary and no endpoint any more."
    BDB_CREATE_REQUEST = "bdb_create_request", "A database was asked for."
    BDB_UPDATE_REQUEST = "bdb_update_request", "A change of a database was asked for."
    BDB_DELETE_REQUEST = "bdb_delete_request", "The deletion of a database was asked for."
    BDB_CREATED = "bdb_created", "A database serves for the first time."
    BDB_UPDATED = "bdb_updated", "A change of a database is complete."
    BDB_DELETED = "bdb_deleted", "A database was deleted."
    BDB_CREATION_FAILED = "bdb_creation_failed", "A database could not be created."
    BDB_CREATION_MOVED = "bdb_creation_moved", "A database that is being created goes to another node."
    BDB_START_FROM_COPY_REQUEST = "bdb_start_from_copy_request", "An operator decided to go on with one copy."
    BDB_TROUBLE_BEGAN = "bdb_trouble_began", "A trouble of a database began."
    BDB_TROUBLE_ENDED = "bdb_trouble_ended", "A trouble of a database ended."
    HANDOFF = "handoff", "A primary role passed in a planned action; with its evidence."
    HANDOFF_UNVERIFIED = "handoff_unverified", "The same, and its evidence does not prove it."
    HANDOFF_RECOVERY = "handoff_recovery", "A new leader finished or undid a former leader's handoff."
    FAILOVER = "failover", "A replica took over from a primary whose process had ended."
    GROUP_WAITS = "group_waits", "A starting slot group waits for what does not pass by itself."
    GROUP_STARTED_FROM_COPY = "group_started_from_copy", "A slot group went on with the copy that an operator chose."
    GROUP_START_FAILED = "group_start_failed", "The chosen copy cannot be started."
    GROUP_START_OVER = "group_start_over", "A slot group has no live copy in sync: its copies are started and compared."
    SHARD_RESTART = "shard_restart", "A server is started again."
    SHARD_FILES_PUT_ASIDE = "shard_files_put_aside", "A replica with damaged files is filled again by its primary."
    SHARD_FILES_CUT = "shard_files_cut", "A server starts without the damaged end of its file."
    REPLICA_REBUILD = "replica_rebuild", "A lost copy is rebuilt on another node."
    REPLICA_REBUILD_WITHDRAWN = "replica_rebuild_withdrawn", "A rebuild is not needed any more."
    ENDPOINT_REBIND = "endpoint_rebind", "An endpoint of a dead node is bound to another one."
    CLIENTS_ENDED = "clients_ended", "Clients whose connection could not be passed on."
    CLUSTER_CREATED = "cluster_created", "The cluster was created."
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
    node_uid: NodeUid | None = None
    database_uid: DatabaseUid | None = None
    action_uid: ActionUid | None = None
    by: str = ""
    """E-mail of the user who asked, or empty for the cluster itself."""
    extra: dict[str, object] = field(default_factory=dict)
