"""All machine codes that give a cause: reasons, troubles and errors, each with its meaning and its smallest remedy.

Pure data. ``docs/reference/codes.md`` is generated from it. ``api/codes.py`` has the codes of REST requests. A code is
stable once released: users' scripts compare it, and stored records contain it.
"""

from shardwright.model.catalogue import Catalogue


class Code(Catalogue):
    """A code, with its meaning and its smallest remedy."""

    # -- a place for a copy or an endpoint ---------------------------------------------------------------------------

    NO_OTHER_NODE = "no_other_node", "There is no other node.", "add a node"
    NODE_IN_MAINTENANCE = (
        "node_in_maintenance",
        "The node is in maintenance.",
        "end its maintenance (`maintenance_off`)",
    )
    NODE_CLOSED = "node_closed", "The node is closed for new shards and endpoints.", "reopen it (`node reopen`)"
    NODE_DECOMMISSIONING = "node_decommissioning", "The node is being removed."
    NODE_DOWN = "node_down", "The node has no running daemon.", "start its daemon"
    NODE_IS_LEAVING = "node_is_leaving", "An action is emptying the node, or is about to."
    NODE_HAS_COPY = "node_has_copy", "The node holds another copy of the slot group.", "add a node"
    RACK_CONFLICT = "rack_conflict", "Another copy of the slot group is in the node's rack.", "add a node in another rack"
    NODE_WITHOUT_RACK = "node_without_rack", "The database is rack-aware, and the node has no rack.", "set the node's rack"
    SHARD_LIMIT = "shard_limit", "The node has reached its shard limit.", "raise its `max_redis_servers`"
    ENDPOINT_LIMIT = "endpoint_limit", "The node has reached its endpoint limit.", "raise its `max_listeners`"
    INSUFFICIENT_MEMORY = (
        "insufficient_memory",
        "The node does not have enough free memory.",
        "add memory, or wait for other moves",
    )
    MEMORY_TIGHT = "memory_tight", "The copies fit, but little memory stays free on the node.", "add memory"

    # -- a copy and its group ----------------------------------------------------------------------------------------

    NO_LIVE_COPY = "no_live_copy", "No copy of the slot group answers.", "start the daemon of a node that has one"
    NO_REPLICA = "no_replica", "The slot group has no live replica on a usable node.", "enable replication of the database"
    NOT_OBSERVED = "not_observed", "The server has not been observed yet."
    REPLICA_NOT_IN_SYNC = "replica_not_in_sync", "The replica is not in sync with its primary yet."
    GROUP_BUSY = "group_busy", "Another move of the slot group is under way."
    GROUP_STARTING = "group_starting", "The slot group is starting and has no primary yet."
    FAILOVER_PENDING = "failover_pending", "The slot group waits for a failover or a restart."
    HEIR_NOT_KNOWN = "heir_not_known", "It is not known yet which replica may be promoted."
    SHARD_LOADING = "shard_loading", "The server is loading its data."
    SHARD_NOT_STARTED = "shard_not_started", "The server does not answer yet."
    START_NOT_REPORTED = "start_not_reported", "The agent has not reported the start of the server yet."
    SHARD_STARTING = "shard_starting", "The new copy's server does not answer yet."
    SHARD_NOT_READY = "shard_not_ready", "The server does not match the database's settings yet."
    SHARD_START_FAILED = (
        "shard_start_failed",
        "The server cannot be started; the text says why.",
        "check the log of its node",
    )
    SHARD_START_TIMEOUT = "shard_start_timeout", "The new copy's server did not answer in time.", "check the log of its node"
    SHARD_FILES_DAMAGED = (
        "shard_files_damaged",
        "The server cannot load its files.",
        "continue with another copy (`db start --from-copy`), or cut the damaged end (`--cut-damaged-tail`)",
    )
    SHARD_LOST = "shard_lost", "The new copy was lost during its creation."
    SHARD_ENDING = "shard_ending", "A server that must end is still running."
    STOPPING = "stopping", "A server on the node is stopping, or cannot be stopped.", "start the daemon of the node"
    COPY_OUT_OF_REACH = "copy_out_of_reach", "The node of a copy has no daemon that could start it.", "start its daemon"
    COPIES_TOO_MANY = "copies_too_many", "The slot group has more copies than its database demands."
    SINGLE_COPY = "single_copy", "The database would have a single copy left.", "enable replication of the database"
    FEWER_COPIES = "fewer_copies", "The database would have fewer copies while the node is off."
    PRIMARY_UNSEEN = "primary_unseen", "The primary has not been observed serving recently."
    SERVER_BUSY = "server_busy", "The server is executing a long command.", "wait, or end it (SCRIPT KILL)"
    SERVER_STUCK = "server_stuck", "The server neither answers nor uses CPU.", "kill its process if it does not recover"

    # -- moves -------------------------------------------------------------------------------------------------------

    MOVE_ENDING = "move_ending", "A move is ending: its changes are being finished or undone."
    RETRY_PENDING = "retry_pending", "The move failed and waits for its next attempt."
    ROLE_CHANGE_FIRST = "role_change_first", "The endpoint moves after the primary role."
    SYNC_NOT_ADVANCING = "sync_not_advancing", "The full sync of the new copy does not advance."
    SYNC_STALLED = "sync_stalled", "The full sync of the new copy stalled for too long.", "check the logs of both servers"
    PERSISTENCE_PENDING = "persistence_pending", "The new copy has not written its own files yet."
    NEW_COPY_NOT_IN_SYNC = "new_copy_not_in_sync", "The new copy lost its link before the old copy could leave."
    DATABASE_DELETED = "database_deleted", "The database has been deleted."
    NODE_GONE = "node_gone", "The node is no longer a member."
    ROLES_CHANGED = "roles_changed", "The roles of the copies have changed."
    ENDPOINT_PASSING = "endpoint_passing", "The endpoint's connections are being passed on; the text names the obstacle."
    ENDPOINT_GONE = "endpoint_gone", "The endpoint no longer has a record."
    ENDPOINT_NOT_READY = "endpoint_not_ready", "The endpoint does not serve according to its record yet."

    # -- handoffs ----------------------------------------------------------------------------------------------------

    HANDOFF_WRONG_PRIMARY = "handoff_wrong_primary", "The shard that is to hand over is not the committed primary."
    HANDOFF_PENDING = "handoff_pending", "Another handoff of the slot group has not finished."
    HANDOFF_UNDONE = "handoff_undone", "The handoff was undone and will be tried again."
    HANDOFF_UNCLEAR = "handoff_unclear", "The outcome of a former leader's handoff is not known yet."
    HANDOFF_UNWANTED = "handoff_unwanted", "The handoff is no longer needed."
    PROMOTION_UNCONFIRMED = "promotion_unconfirmed", "The promotion was sent, but has not been confirmed yet."
    GROUP_CHANGED = "group_changed", "The slot group changed during the preparation of a handoff."
    PRIMARY_UNAVAILABLE = "primary_unavailable", "The primary does not answer."
    PRIMARY_NOT_PRIMARY = "primary_not_primary", "The committed primary does not have the primary role."
    PRIMARY_FENCED = "primary_fenced", "The primary is fenced."
    REPLICA_UNAVAILABLE = "replica_unavailable", "The replica does not answer."
    REPLICA_NOT_ATTACHED = "replica_not_attached", "The candidate is not a replica."
    REPLICA_OF_ANOTHER = "replica_of_another", "The candidate follows another server."
    REPLICA_LINK_DOWN = "replica_link_down", "The replica's link to its primary is down."
    REPLICA_SYNCING = "replica_syncing", "The replica is in its first sync."
    REPLICATION_ID_DIFFERS = "replication_id_differs", "The replica does not share the primary's history."
    REPLICA_EMPTY = "replica_empty", "The replica is empty and the primary is not."
    REPLICA_FENCED = "replica_fenced", "The replica is fenced itself."
    REPLICA_LAGS = "replica_lags", "The replica did not reach the primary's offset in time."
    REPLICA_LAGS_FENCED = "replica_lags_fenced", "The replica did not reach the fenced primary's offset in time."
    FENCE_FAILED = "fence_failed", "The primary could not be fenced."
    CLIENT_COMMAND_BUSY = "client_command_busy", "A client's command has been in flight for a long time.", "wait, or end it"
    ENDPOINT_PROCESS_LATE = "endpoint_process_late", "A live endpoint process did not answer in time."

    # -- actions -----------------------------------------------------------------------------------------------------

    NO_QUORUM = "no_quorum", "Too few daemons would remain for a quorum.", "start a daemon, or add nodes"
    NODE_AWAY = "node_away", "The node does not count towards the quorum.", "start its daemon"
    LAST_NODE = "last_node", "The node is the last one of the cluster.", "add a node, or stop the cluster (`down`)"
    NO_OTHER_LEADER = (
        "no_other_leader",
        "The node leads, and no other daemon is running.",
        "start the daemon of another node",
    )
    LEADERSHIP_NOT_YIELDED = "leadership_not_yielded", "No other daemon has taken the leadership yet."
    SNAPSHOT_NOT_FOUND = "snapshot_not_found", "The node has no such snapshot.", "`node snapshots` lists them"
    NOT_RESTORABLE = "not_restorable", "A change of the action cannot be reversed completely."
    DATABASE_GONE = "database_gone", "The database in the snapshot no longer exists."
    NO_COPIES = "no_copies", "The slot group has no copy that could be moved back."
    REPLICA_GONE = "replica_gone", "The slot group no longer has a replica."
    ROLE_CHANGED = "role_changed", "The primary is not the copy recorded in the snapshot."

    MOVE_FAILED = "move_failed", "A move failed too often; its reasons name the cause."
    INSUFFICIENT_RESOURCES = (
        "insufficient_resources",
        "The other nodes lack room for everything on the node.",
        "add a node or memory",
    )
    UNDO_INCOMPLETE = "undo_incomplete", "Not everything could be moved back."
    MOVE_LIMIT = "move_limit", "The action has reached its limit of parallel moves."
    SYNC_LIMIT = "sync_limit", "The cluster has reached its limit of full syncs.", "raise `max_slave_full_syncs`"
    NODE_ACTION_IN_PROGRESS = (
        "node_action_in_progress",
        "Another action of the node is running.",
        "wait for it, or cancel it",
    )
    REMOVE_IN_PROGRESS = "remove_in_progress", "Another removal is running in the cluster.", "wait for it, or cancel it"
    NO_LEADER = "no_leader", "The cluster currently has no leader.", "start the daemon of any node"

    # -- warnings of a plan ------------------------------------------------------------------------------------------

    SCAN_CURSORS = "scan_cursors", "SCAN cursors are not valid on another server.", "restart the SCAN"
    SCRIPTS_NOT_PASSED_ON = (
        "scripts_not_passed_on",
        "A handoff does not copy the script cache.",
        "use EVAL when EVALSHA fails",
    )
    SYNC_BUFFERS_AT_PRIMARY = "sync_buffers_at_primary", "During a full sync, the primary buffers writes in memory."

    # -- troubles of databases ---------------------------------------------------------------------------------------

    ENDPOINT_CANNOT_LISTEN = "endpoint_cannot_listen", "The endpoint cannot listen.", "end the process that uses the port"
    WRITES_REFUSED = "writes_refused", "The primary refuses writes.", "free disk space, or check its log"
    PERSISTENCE_FAILED = "persistence_failed", "A server cannot write its files.", "free disk space, or check its log"
    MEMORY_FULL = "memory_full", "A server is at its memory limit.", "raise `memory_size`, or delete data"
    CLIENTS_FULL = "clients_full", "A server has reached its connection limit.", "close unused connections"
    REPLICA_NOT_FOLLOWING = "replica_not_following", "A replica does not follow its primary.", "check the logs of both"
    COPY_NOT_RUNNING = "copy_not_running", "A copy is not running.", "check the log of its node"

    # -- errors: servers and endpoint processes ----------------------------------------------------------------------

    SERVER_UNREACHABLE = "server_unreachable", "The server does not accept connections."
    SERVER_NO_ANSWER = "server_no_answer", "The server did not answer; it may have executed the command."
    SERVER_REFUSED = "server_refused", "The server refused a command."
    SERVER_ANSWER_UNREADABLE = "server_answer_unreadable", "The server's answer is invalid."
    SERVER_SESSION_ENDED = "server_session_ended", "A later leader closed the management session."
    SERVER_IS_ANOTHER = "server_is_another", "The answering server is not the recorded one."
    SERVER_RESTARTED = "server_restarted", "The server's process has been replaced."
    SERVER_SAVING = "server_saving", "The server is writing its files."
    SHARD_UNKNOWN = "shard_unknown", "The shard's node or secrets are not on record."
    ENDPOINT_PROCESS_UNKNOWN = "endpoint_process_unknown", "The node has no known endpoint process.", "start its daemon"
    AGENT_SILENT = "agent_silent", "The node's agent does not answer."
    PROCESS_OF_ANOTHER_MACHINE = "process_of_another_machine", "The process runs on another machine."
    ENDPOINT_PROCESS_ENDED = "endpoint_process_ended", "The node's endpoint process has ended."
    ENDPOINT_PROCESS_SILENT = "endpoint_process_silent", "The node's endpoint process did not answer in time."
    ENDPOINT_PROCESS_REFUSED = "endpoint_process_refused", "The node's endpoint process refused a request."
    SERVER_BINARY_MISSING = "server_binary_missing", "The node does not have a server program of that version.", "install it"
    SERVER_BINARY_UNUSABLE = "server_binary_unusable", "The server program cannot be executed.", "see the text"
    PORT_IN_USE = "port_in_use", "The server's port is in use by another process.", "end that process"
    PORT_UNUSABLE = "port_unusable", "The server's address or port is unusable.", "check the node's address"
    NOTHING_TO_CUT = "nothing_to_cut", "The append-only file does not have a damaged end that could be cut."

    # -- errors: store and leadership --------------------------------------------------------------------------------

    STORE_UNAVAILABLE = "store_unavailable", "The store cannot be reached or is locked."
    STORE_BEHIND = "store_behind", "This daemon's copy of the records is behind the store."
    STORE_CLOSED = "store_closed", "The store was closed."
    STORE_COMPACTED = "store_compacted", "The requested part of the store's history has been compacted."
    STORE_LEASE_LOST = "store_lease_lost", "The lease has ended."
    STORE_SCHEMA_TOO_NEW = "store_schema_too_new", "A newer version wrote the store.", "install that version"
    STORE_RECORD_UNREADABLE = "store_record_unreadable", "A record of the store is unreadable."
    STORE_TRANSACTION_TOO_LARGE = "store_transaction_too_large", "The write does not fit into one transaction."
    CONFLICT = "conflict", "Another writer changed one of the records first."
    LOST_LEADERSHIP = "lost_leadership", "The daemon is no longer the leader."

    # -- errors: a daemon and a local cluster ------------------------------------------------------------------------

    API_NOT_STARTED = "api_not_started", "The daemon's API did not start.", "check the log of its node"
    API_PORT_UNAVAILABLE = (
        "api_port_unavailable",
        "The API's port is in use.",
        "end the process that uses it, or choose another port",
    )
    NOT_READY = "not_ready", "The cluster did not become ready in time.", "check the logs of its nodes"
    NOT_STOPPED = "not_stopped", "The cluster did not end in time.", "check the logs of its nodes"
    SUPERVISOR_ENDED = "supervisor_ended", "The process that starts the daemons has ended.", "check its log"
