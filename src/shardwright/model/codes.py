"""Every machine code by which the cluster says why: reasons, troubles and errors, each with its meaning and its smallest
remedy.

Pure data. ``docs/reference/codes.md`` is generated from it. Codes of REST requests are in ``api/codes.py``. A code is stable
once released: users' scripts compare it, and stored records hold it.
"""

from enum import StrEnum


class Code(StrEnum):
    """A code. ``meaning`` is a sentence for people; ``remedy`` the smallest thing that helps, empty: it passes by itself, or
    nothing is to be done."""

    meaning: str
    remedy: str

    def __new__(cls, value: str, meaning: str, remedy: str = "") -> "Code":
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning, member.remedy = meaning, remedy
        return member

    @classmethod
    def _missing_(cls, value: object) -> "Code | None":
        """One that a newer version has written is kept as it is."""
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_, member._value_ = value.upper(), value
        member.meaning = member.remedy = ""
        return member

    @classmethod
    def of(cls, value: str) -> "Code":
        """The code of that name. Raises KeyError: there is none."""
        return cls.__members__[value.upper()]

    # -- a place for a copy or an endpoint ---------------------------------------------------------------------------

    NO_OTHER_NODE = "no_other_node", "There is no other node.", "add a node"
    NODE_IN_MAINTENANCE = (
        "node_in_maintenance",
        "The node is in maintenance.",
        "take it out of maintenance (`maintenance_off`)",
    )
    NODE_CLOSED = "node_closed", "The node takes nothing new: its removal was asked for.", "reopen it (`node update`)"
    NODE_DECOMMISSIONING = "node_decommissioning", "The node is being removed."
    NODE_DOWN = "node_down", "The node has no running daemon.", "start its daemon"
    NODE_IS_LEAVING = "node_is_leaving", "The node is the one to be emptied, or is being emptied."
    NODE_HAS_COPY = "node_has_copy", "The node holds another copy of the slot group.", "add a node"
    RACK_CONFLICT = "rack_conflict", "Another copy of the slot group is in the node's rack.", "add a node in another rack"
    NODE_WITHOUT_RACK = "node_without_rack", "The database spreads over racks, the node has none.", "set the node's rack"
    SHARD_LIMIT = "shard_limit", "The node has as many shards as it may.", "raise `shards_max` of the node"
    ENDPOINT_LIMIT = "endpoint_limit", "The node has as many endpoints as it may.", "raise `endpoints_max` of the node"
    INSUFFICIENT_MEMORY = (
        "insufficient_memory",
        "The node has not enough free memory.",
        "add memory, or wait for other moves",
    )
    MEMORY_TIGHT = "memory_tight", "It fits, and leaves little memory free on the node.", "add memory"

    # -- a copy and its group ----------------------------------------------------------------------------------------

    NO_LIVE_COPY = "no_live_copy", "No copy of the slot group answers.", "start the daemon of the node that has one"
    NO_REPLICA = "no_replica", "The slot group has no live replica on a usable node.", "give the database a replica"
    NOT_OBSERVED = "not_observed", "The server was not seen yet."
    REPLICA_NOT_IN_SYNC = "replica_not_in_sync", "The replica does not hold yet what the primary holds."
    GROUP_BUSY = "group_busy", "Another move of the slot group is under way."
    GROUP_STARTING = "group_starting", "The slot group is being started and has no primary yet."
    FAILOVER_PENDING = "failover_pending", "The slot group waits for a failover or a start."
    HEIR_NOT_KNOWN = "heir_not_known", "It is not known yet which replica may take over."
    SHARD_LOADING = "shard_loading", "The server loads its data."
    SHARD_NOT_STARTED = "shard_not_started", "The server does not answer yet."
    SHARD_STARTING = "shard_starting", "The new copy's server does not answer yet."
    SHARD_NOT_READY = "shard_not_ready", "The server is not as the database wants it yet."
    SHARD_START_FAILED = "shard_start_failed", "The server cannot be started; the text says why.", "see the log of its node"
    SHARD_START_TIMEOUT = "shard_start_timeout", "The new copy's server did not answer in time.", "see the log of its node"
    SHARD_FILES_DAMAGED = (
        "shard_files_damaged",
        "The server cannot load its files.",
        "go on with another copy (`db start --from-copy`), or cut the damaged end (`--cut-damaged-tail`)",
    )
    SHARD_LOST = "shard_lost", "The new copy was lost while it was being made."
    SHARD_ENDING = "shard_ending", "A server that is to end still runs."
    STOPPING = "stopping", "A server on the node is being stopped, or cannot be.", "start the daemon of the node"
    COPY_OUT_OF_REACH = "copy_out_of_reach", "A copy's node has no daemon that could start it.", "start its daemon"
    COPIES_TOO_MANY = "copies_too_many", "The slot group has more copies than are wanted."
    SINGLE_COPY = "single_copy", "The database would have a single copy left.", "give the database a replica"
    FEWER_COPIES = "fewer_copies", "The database would have fewer copies while the node is off."
    PRIMARY_UNSEEN = "primary_unseen", "The primary was not seen to serve a moment ago."
    SERVER_BUSY = "server_busy", "The server works on a long command.", "wait for it, or end it (SCRIPT KILL)"
    SERVER_STUCK = "server_stuck", "The server neither answers nor uses CPU.", "end its process if it does not come back"

    # -- moves -------------------------------------------------------------------------------------------------------

    MOVE_ENDING = "move_ending", "A move is ending: what it began is finished or undone."
    RETRY_PENDING = "retry_pending", "The move failed, and waits before it is tried again."
    ROLE_CHANGE_FIRST = "role_change_first", "The endpoint follows once the primary role has passed."
    SYNC_NOT_ADVANCING = "sync_not_advancing", "The full sync of the new copy does not advance."
    SYNC_STALLED = "sync_stalled", "The full sync of the new copy stood still for too long.", "see the logs of both servers"
    PERSISTENCE_PENDING = "persistence_pending", "The new copy has not written its own files yet."
    NEW_COPY_NOT_IN_SYNC = "new_copy_not_in_sync", "The new copy lost its link before the old one could go."
    DATABASE_DELETED = "database_deleted", "The database was deleted meanwhile."
    NODE_GONE = "node_gone", "The node is no member any more."
    ROLES_CHANGED = "roles_changed", "The roles of the copies changed meanwhile."
    ENDPOINT_PASSING = "endpoint_passing", "The endpoint's connections are being passed on; the text says to whom it is due."
    ENDPOINT_GONE = "endpoint_gone", "The endpoint is not recorded any more."
    ENDPOINT_NOT_READY = "endpoint_not_ready", "The endpoint does not serve as recorded yet."

    # -- handoffs ----------------------------------------------------------------------------------------------------

    HANDOFF_WRONG_PRIMARY = "handoff_wrong_primary", "The shard to hand over is not the committed primary."
    HANDOFF_PENDING = "handoff_pending", "Another handoff of the slot group is not finished."
    HANDOFF_UNDONE = "handoff_undone", "The handoff was undone; it is tried again."
    HANDOFF_UNCLEAR = "handoff_unclear", "What became of a former leader's handoff cannot be known yet."
    HANDOFF_UNWANTED = "handoff_unwanted", "The handoff is not wanted any more."
    PROMOTION_UNCONFIRMED = "promotion_unconfirmed", "The promotion was sent, and its effect was not seen yet."
    GROUP_CHANGED = "group_changed", "The slot group changed while a handoff was prepared."
    PRIMARY_UNAVAILABLE = "primary_unavailable", "The primary does not answer."
    PRIMARY_NOT_PRIMARY = "primary_not_primary", "The committed primary is not in that role."
    PRIMARY_FENCED = "primary_fenced", "The primary is fenced."
    REPLICA_UNAVAILABLE = "replica_unavailable", "The replica does not answer."
    REPLICA_NOT_ATTACHED = "replica_not_attached", "The candidate is not a replica."
    REPLICA_OF_ANOTHER = "replica_of_another", "The candidate follows another server."
    REPLICA_LINK_DOWN = "replica_link_down", "The replica's link to its primary is down."
    REPLICA_SYNCING = "replica_syncing", "The replica is in its first sync."
    REPLICATION_ID_DIFFERS = "replication_id_differs", "The replica does not share the primary's history."
    REPLICA_EMPTY = "replica_empty", "The replica is empty and the primary is not."
    REPLICA_FENCED = "replica_fenced", "The replica has a fence of its own."
    REPLICA_LAGS = "replica_lags", "The replica does not reach the primary's offset in time."
    REPLICA_LAGS_FENCED = "replica_lags_fenced", "The replica did not reach the fenced primary's offset in time."
    FENCE_FAILED = "fence_failed", "The primary could not be fenced."
    CLIENT_COMMAND_BUSY = "client_command_busy", "A client's command is in flight for long.", "wait for it, or end it"
    ENDPOINT_PROCESS_LATE = "endpoint_process_late", "An endpoint process that lives did not answer in time."

    # -- actions -----------------------------------------------------------------------------------------------------

    NO_QUORUM = "no_quorum", "Too few daemons would be left.", "start a daemon, or add nodes"
    NODE_AWAY = "node_away", "The node does not count towards the quorum.", "start its daemon"
    LAST_NODE = "last_node", "It is the last node of the cluster.", "add a node, or end the cluster (`down`)"
    NO_OTHER_LEADER = "no_other_leader", "The node leads, and no other daemon runs.", "start the daemon of another node"
    LEADERSHIP_NOT_YIELDED = "leadership_not_yielded", "No other daemon has taken the leadership yet."
    SNAPSHOT_NOT_FOUND = "snapshot_not_found", "There is no such snapshot of the node.", "`node snapshots` lists them"
    NOT_RESTORABLE = "not_restorable", "What the action changed cannot be undone as it was."
    DATABASE_GONE = "database_gone", "The database of the snapshot is gone."
    NO_COPIES = "no_copies", "The slot group has no copy that could come back."
    REPLICA_GONE = "replica_gone", "The slot group has no replica any more."
    ROLE_CHANGED = "role_changed", "Another copy leads than in the snapshot."

    MOVE_FAILED = "move_failed", "A move failed too often; its reasons say why."
    INSUFFICIENT_RESOURCES = "insufficient_resources", "What leaves the node finds no place.", "add a node or memory"
    UNDO_INCOMPLETE = "undo_incomplete", "Not everything could be put back where it was."
    MOVE_LIMIT = "move_limit", "The action runs as many moves at once as it may."
    SYNC_LIMIT = "sync_limit", "The cluster runs as many full syncs at once as it may.", "raise `max_slave_full_syncs`"
    NODE_ACTION_IN_PROGRESS = "node_action_in_progress", "Another action of the node is live.", "wait for it, or cancel it"
    REMOVE_IN_PROGRESS = "remove_in_progress", "Another removal is live in the cluster.", "wait for it, or cancel it"
    NO_LEADER = "no_leader", "No daemon leads the cluster just now.", "start the daemon of any node"

    # -- what a plan says beforehand ---------------------------------------------------------------------------------

    SCAN_CURSORS = "scan_cursors", "SCAN cursors do not live on at another server.", "begin a SCAN again that fails"
    SCRIPTS_NOT_PASSED_ON = "scripts_not_passed_on", "The script cache is not passed on.", "use EVAL when EVALSHA fails"
    SYNC_BUFFERS_AT_PRIMARY = "sync_buffers_at_primary", "During a full sync writes are buffered at the primary's node."

    # -- troubles of databases ---------------------------------------------------------------------------------------

    ENDPOINT_CANNOT_LISTEN = "endpoint_cannot_listen", "The endpoint cannot listen.", "end what uses the port"
    WRITES_REFUSED = "writes_refused", "The primary refuses writes.", "free disk space, or see its log"
    PERSISTENCE_FAILED = "persistence_failed", "A server cannot write its files.", "free disk space, or see its log"
    MEMORY_FULL = "memory_full", "A server is at its memory limit.", "raise `memory_size`, or delete data"
    CLIENTS_FULL = "clients_full", "A server has as many connections as it takes.", "close connections that are not used"
    REPLICA_NOT_FOLLOWING = "replica_not_following", "A replica does not follow its primary.", "see the logs of both"
    COPY_NOT_RUNNING = "copy_not_running", "A copy does not run.", "see the log of its node"

    # -- errors: servers and endpoint processes ----------------------------------------------------------------------

    SERVER_UNREACHABLE = "server_unreachable", "The server cannot be connected to."
    SERVER_NO_ANSWER = "server_no_answer", "The server did not answer: the command may have been executed."
    SERVER_REFUSED = "server_refused", "The server refused a command."
    SERVER_ANSWER_UNREADABLE = "server_answer_unreadable", "The server's answer cannot be understood."
    SERVER_SESSION_ENDED = "server_session_ended", "The management session was ended by a later leader."
    SERVER_IS_ANOTHER = "server_is_another", "Another server than the recorded one answers."
    SERVER_RESTARTED = "server_restarted", "The server is another process than a moment ago."
    SERVER_SAVING = "server_saving", "The server writes its files just now."
    SHARD_UNKNOWN = "shard_unknown", "The shard's node or secrets are not on record."
    ENDPOINT_PROCESS_UNKNOWN = "endpoint_process_unknown", "No endpoint process of the node is known.", "start its daemon"
    PROCESS_OF_ANOTHER_MACHINE = "process_of_another_machine", "The process runs on a machine that was not asked."
    ENDPOINT_PROCESS_ENDED = "endpoint_process_ended", "The node's endpoint process has ended."
    ENDPOINT_PROCESS_SILENT = "endpoint_process_silent", "The node's endpoint process did not answer in time."
    ENDPOINT_PROCESS_REFUSED = "endpoint_process_refused", "The node's endpoint process refused a request."
    SERVER_BINARY_MISSING = "server_binary_missing", "The node has no server program of that version.", "install it"
    SERVER_BINARY_UNUSABLE = "server_binary_unusable", "The server program cannot be run.", "see the text"
    PORT_IN_USE = "port_in_use", "The server's port is in use by another process.", "end what uses it"
    PORT_UNUSABLE = "port_unusable", "The server's address or port cannot be used.", "check the node's address"
    NOTHING_TO_CUT = "nothing_to_cut", "The append-only file has no damaged end that could be cut."

    # -- errors: store and leadership --------------------------------------------------------------------------------

    STORE_UNAVAILABLE = "store_unavailable", "The store cannot be reached or is locked."
    STORE_BEHIND = "store_behind", "This daemon's copy of the records is behind the store."
    STORE_CLOSED = "store_closed", "The store was closed."
    STORE_COMPACTED = "store_compacted", "The store's history was compacted beyond what was asked for."
    STORE_LEASE_LOST = "store_lease_lost", "The lease has ended."
    STORE_SCHEMA_TOO_NEW = "store_schema_too_new", "A newer version wrote the store.", "install that version"
    STORE_RECORD_UNREADABLE = "store_record_unreadable", "A record of the store cannot be understood."
    STORE_TRANSACTION_TOO_LARGE = "store_transaction_too_large", "What is to be written does not fit into one transaction."
    CONFLICT = "conflict", "Another writer changed one of the records first."
    LOST_LEADERSHIP = "lost_leadership", "Another daemon leads, or none does."

    # -- errors: a daemon and a local cluster ------------------------------------------------------------------------

    API_NOT_STARTED = "api_not_started", "The daemon's API did not start.", "see the log of its node"
    API_PORT_UNAVAILABLE = (
        "api_port_unavailable",
        "The port of the API is taken.",
        "end what uses it, or choose another port",
    )
    NOT_READY = "not_ready", "The cluster did not become ready in time.", "see the logs of its nodes"
    NOT_STOPPED = "not_stopped", "The cluster did not end in time.", "see the logs of its nodes"
    SUPERVISOR_ENDED = "supervisor_ended", "The process that starts the daemons ended.", "see its log"
