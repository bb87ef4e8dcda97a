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
    VIRTUAL_ADDRESS_HELD = (
        "virtual_address_held",
        "The node still has a virtual address.",
        "let another node be able to have it (`cluster vip list`), or remove it (`cluster vip remove`)",
    )
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
    PRIMARY_OUT_OF_REACH = (
        "primary_out_of_reach",
        "The primary's machine does not answer, and no other copy can take over yet.",
        "repair the machine or its network",
    )
    FENCING_FAILED = (
        "fencing_failed",
        "No fencing hook confirmed that a silent machine is off.",
        "check the hooks, or switch the machine off and declare it (`node declare-off`)",
    )
    SHARD_LOADING = "shard_loading", "The server is loading its data."
    SHARD_NOT_STARTED = "shard_not_started", "The server does not answer yet."
    SURVEY_AWAITED = (
        "survey_awaited",
        "The records were restored from a backup, and a node's machine has not said yet what runs there.",
        "let it follow (`node follow-restore` there), or declare it off if it is gone (`node declare-off`)",
    )
    COPIES_NOT_FOUND = (
        "copies_not_found",
        "After a restore, no machine has a copy of the slot group that the restored records name.",
        "look for its data on nodes that are newer than the backup, or delete the database",
    )
    SEVERAL_LEAD = (
        "several_lead",
        "After a restore, several copies of the slot group take writes, or one without data does beside one with data.",
        "choose the copy whose data counts (`db start --from-copy`)",
    )
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
    CLIENTS_LEAVING = (
        "clients_leaving",
        "The node still has clients of an endpoint that several nodes serve; they are disconnected when the time is over.",
        "let the clients connect to another address, or lower drain_clients of the policy",
    )
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
    LAST_SIGNER = (
        "last_signer",
        "No other node holds the key of the cluster's authority.",
        "copy ca-key.pem, of this node or your own copy, to /etc/shardwright of another node, with the owner and mode of "
        "node-key.pem there, and wait a minute",
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
    AGENT_REFUSED = "agent_refused", "The node's agent refused a request.", "check the log of its node"
    NODE_CERTIFICATE_REFUSED = (
        "node_certificate_refused",
        "A handshake with a node has failed over a certificate; the text says why.",
        "renew the certificate of the node that the text names",
    )
    PROCESS_OF_ANOTHER_MACHINE = "process_of_another_machine", "The process runs on another machine."
    ENDPOINT_PROCESS_ENDED = "endpoint_process_ended", "The node's endpoint process has ended."
    ENDPOINT_PROCESS_SILENT = "endpoint_process_silent", "The node's endpoint process did not answer in time."
    ENDPOINT_PROCESS_NOT_CONNECTED = (
        "endpoint_process_not_connected",
        "The leader has no connection to the node's endpoint process.",
        "check the node and its port 9445",
    )
    ENDPOINT_ON_OTHER_MACHINE = (
        "endpoint_on_other_machine",
        "Client connections cannot be passed to another machine.",
        "let the clients connect to a node of the other machine",
    )
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
    STORE_SCHEMA_TOO_NEW = (
        "store_schema_too_new",
        "A newer version wrote the store.",
        "install that version of Shardwright or a newer one; records never go back to an older version",
    )
    STORE_INCOMPLETE = (
        "store_incomplete",
        "The store holds an incomplete copy of a cluster's records.",
        "copy the records again (`cluster move-store`)",
    )
    STORE_COPY_DIFFERS = (
        "store_copy_differs",
        "The copied records differ from the original ones.",
        "stop everything that writes to either store, then copy again",
    )
    STORE_RECORD_UNREADABLE = "store_record_unreadable", "A record of the store is unreadable."
    STORE_TRANSACTION_TOO_LARGE = "store_transaction_too_large", "The write does not fit into one transaction."
    SECRET_KEY_MISSING = (
        "secret_key_missing",
        "A secret in the store is sealed with a cluster key that this node does not have.",
        "restore the file of the cluster key (`cluster.key`)",
    )
    SECRET_DAMAGED = (
        "secret_damaged",
        "A sealed value of the store cannot be opened.",
        "write the record again, or restore the store from a backup",
    )
    CLUSTER_KEY_UNUSABLE = (
        "cluster_key_unusable",
        "The file of the cluster key cannot be used.",
        "restore it; only its owner may read it (mode 0600)",
    )
    CLUSTER_KEY_AWAITED = (
        "cluster_key_awaited",
        "A node does not hold a cluster key that it needs.",
        "start its daemon; it asks the other nodes for the key (port 9444)",
    )
    CLUSTER_KEY_KEPT = (
        "cluster_key_kept",
        "A node still has a cluster key that was replaced.",
        "start its daemon, which drops it; or remove the node",
    )
    STORE_FULL = (
        "store_full",
        "The database of the store's etcd has reached its quota; it takes no writes.",
        "compact and defragment every member (`etcdctl compaction`, `etcdctl defrag`), then `etcdctl alarm disarm`",
    )
    STORE_REPLACED = (
        "store_replaced",
        "The store's etcd was restored or replaced while a daemon used it.",
        "start the daemon again",
    )
    STORE_SHARED = "store_shared", "Another program keeps its keys in the etcd.", "give the cluster an etcd of its own"
    STORE_VERSION_UNSUITABLE = (
        "store_version_unsuitable",
        "This version of etcd cannot be the store.",
        "install etcd 3.4.23 or newer of 3.4, or 3.5.3 or newer of 3.5",
    )
    STORE_CERTIFICATE_UNUSABLE = (
        "store_certificate_unusable",
        "A certificate between this daemon and the store's etcd is not accepted.",
        "check its authority, names, usages and dates; etcd's own needs the usages server and client",
    )
    STORE_SETTINGS_INVALID = "store_settings_invalid", "The settings of the store are invalid.", "see the text"
    STORE_LEARNER_PENDING = "store_learner_pending", "A new member of the store catches up.", "repeat in a few seconds"
    STORE_MEMBER_GONE = "store_member_gone", "The store has no such member any more."
    STORE_MEMBERS_UNREADY = (
        "store_members_unready",
        "Too few members of the store run.",
        "start them; repeat in a few seconds",
    )
    STORE_MEMBERS_UNKNOWN = "store_members_unknown", "It is not known yet which members of the store answer."
    STORE_MEMBER_LEAVING = "store_member_leaving", "The node's member of the store is being removed."
    CONFLICT = "conflict", "Another writer changed one of the records first."
    LOST_LEADERSHIP = "lost_leadership", "The daemon is no longer the leader."

    # -- errors: trust between machines ------------------------------------------------------------------------------

    AUTHORITY_UNFIT = (
        "authority_unfit",
        "The certificate or the key of the authority cannot be used.",
        "give the PEM files of an authority with a key on the curve P-256 or P-384",
    )
    AUTHORITY_KEY_ABSENT = (
        "authority_key_absent",
        "The node does not hold the key of the cluster's authority.",
        "ask a node that holds it, or sign with the operator's authority",
    )
    AUTHORITY_MISMATCH = (
        "authority_mismatch",
        "The node that answers does not belong to the expected authority.",
        "check the address, and take a new join line from the cluster (`node token`)",
    )
    API_UNREACHABLE = (
        "api_unreachable",
        "The API of the named node does not answer.",
        "check the address, the daemon there and the firewall (port 9443)",
    )
    CERTIFICATE_REQUEST_INVALID = (
        "certificate_request_invalid",
        "The certificate request is unreadable, not signed by its key, or for an unfit key.",
        "make a request with a new key on the curve P-256",
    )
    CERTIFICATE_EXPIRED = (
        "certificate_expired",
        "The certificate of the node has expired.",
        "remove the node (`node remove`), then join as a new one (`node token`)",
    )
    CERTIFICATE_REVOKED = (
        "certificate_revoked",
        "The certificate was revoked: its node was removed or replaced.",
        "join as a new node (`node token`)",
    )
    CREDENTIALS_UNUSABLE = (
        "credentials_unusable",
        "The node's certificate, its key and the authority are missing or do not fit together.",
        "restore the files, or remove the node and join as a new one (`node remove`, `node token`)",
    )
    PEER_UNKNOWN = (
        "peer_unknown",
        "The peer has shown no certificate that names a member.",
        "connect from a node of the cluster",
    )
    PEER_ROLE_WRONG = (
        "peer_role_wrong",
        "The peer's certificate has another role than the one needed here.",
        "use the certificate of the right role",
    )
    PEER_IS_ANOTHER = (
        "peer_is_another",
        "Another node answers at the address of the node.",
        "check the addresses of both nodes",
    )
    CLOCK_OFF = (
        "clock_off",
        "The clock of the machine is more than five minutes off.",
        "synchronize it, for instance with chrony",
    )
    JOIN_REQUEST_INVALID = "join_request_invalid", "The request to join is incomplete or contradictory.", "see the text"
    JOIN_TOKEN_UNKNOWN = (
        "join_token_unknown",
        "The join token is not one of this cluster.",
        "copy the whole join line, or make a new one (`node token`)",
    )
    JOIN_TOKEN_USED = (
        "join_token_used",
        "The join token was used: it is good for one node.",
        "make another token (`node token`)",
    )
    JOIN_TOKEN_EXPIRED = "join_token_expired", "The join token is older than 24 hours.", "make another token (`node token`)"
    MACHINE_IS_MEMBER = (
        "machine_is_member",
        "The machine is a node of the cluster already.",
        "remove that node first (`node remove`)",
    )
    ADDRESS_IN_USE = (
        "address_in_use",
        "An address of the newcomer belongs to another node, or is a virtual address.",
        "give another address, or remove that node (`node remove`) or virtual address (`cluster vip remove`) first",
    )
    NEWCOMER_TOO_NEW = (
        "newcomer_too_new",
        "The newcomer's Shardwright is newer than the cluster's.",
        "install the cluster's version on the new machine, or upgrade the cluster first",
    )
    NODE_OF_OLDER_VERSION = (
        "node_of_older_version",
        "The node runs an older version than another node. Newer records are not written before all have it.",
        "install the newer version there",
    )
    UPGRADE_NOT_PREPARED = (
        "upgrade_not_prepared",
        "The cluster's state was not backed up before the upgrade yet.",
        "wait a few seconds; if it stays, see the event `backup_failed` (`shardwright events`)",
    )
    NO_ROUTE_BACK = (
        "no_route_back",
        "The cluster cannot connect to a port of the newcomer.",
        "open the port for the cluster's nodes in every firewall between them, and check the newcomer's address",
    )
    STORE_UNFIT = (
        "store_unfit",
        "No member of the store can run on this machine.",
        "install etcd (`apt-get install etcd-server`), or name an etcd of your own (`--store`)",
    )
    NODE_EXISTS = (
        "node_exists",
        "This machine is a node of a cluster already, or has the files of one.",
        "take it out first (`shardwright node leave`)",
    )
    REPLACED_NODE_NEEDED = (
        "replaced_node_needed",
        "The node that is to be replaced runs, or may hold copies that are needed.",
        "switch it off and declare it off, or wait until its copies are elsewhere",
    )

    # -- errors: a node of a cluster of machines ---------------------------------------------------------------------

    FOUNDING_FILE_UNUSABLE = (
        "founding_file_unusable",
        "The file with the first records of the cluster (founding.json) cannot be used.",
        "delete it and run `shardwright init` again",
    )
    STORE_HOLDS_ANOTHER_CLUSTER = (
        "store_holds_another_cluster",
        "The store contains another cluster than the one that was founded on this machine.",
        "name the store of this cluster in node.toml, or delete founding.json and join the other cluster",
    )
    NODE_NOT_RECORDED = (
        "node_not_recorded",
        "The cluster has no record of this node: it was removed, or node.toml names another cluster's store.",
        "run `shardwright node leave` here, or correct node.toml",
    )
    DRAIN_FAILED = (
        "drain_failed",
        "The node could not be emptied before the shutdown of its machine.",
        "its databases fail over when it is off; see the action (`node action`)",
    )

    # -- errors: backups and restores --------------------------------------------------------------------------------

    BACKUP_FOREIGN = "backup_foreign", "The file is no backup of a cluster's state.", "see `shardwright cluster backups`"
    BACKUP_TOO_NEW = (
        "backup_too_new",
        "The backup was written by a newer version of Shardwright.",
        "install that version here first",
    )
    BACKUP_DAMAGED = (
        "backup_damaged",
        "The backup is incomplete, or was changed after it was written.",
        "take another backup (`shardwright cluster backups`), also from the other machines",
    )
    BACKUP_UNREADABLE = "backup_unreadable", "The file of a backup cannot be read.", "see `shardwright cluster backups`"
    BACKUP_NOT_SEALED = (
        "backup_not_sealed",
        "The store has secrets in clear, so a backup of it would open the databases.",
        "start every daemon with this version once, then try again",
    )
    BACKUP_OF_ANOTHER_CLUSTER = (
        "backup_of_another_cluster",
        "The backup does not know this machine's node: it is of another cluster, or older than the node.",
        "take a backup of this cluster that was written after the node had joined",
    )
    BACKUP_NOT_SUPPORTED = (
        "backup_not_supported",
        "Only the state of a cluster of machines can be backed up.",
        "of a local cluster, copy its directory while it is stopped (`shardwright down`)",
    )
    STORE_HAS_QUORUM = (
        "store_has_quorum",
        "The store answers: it has its quorum, and nothing needs to be restored.",
        "use the cluster as it is; `shardwright cluster members` shows what is missing",
    )
    STORE_NOT_RESTORABLE = (
        "store_not_restorable",
        "The cluster does not run its store itself.",
        "restore your etcd with its own tools",
    )
    STORE_NOT_RESTORED = (
        "store_not_restored",
        "The store that was named does not have records of this cluster that come from a backup.",
        "name the address of the machine on which `shardwright cluster restore` ran",
    )
    RESTORE_FILE_UNUSABLE = (
        "restore_file_unusable",
        "The records that wait for the new store (restoring.backup) cannot be used.",
        "run `shardwright cluster restore` again",
    )
    RESTORED_FROM_BACKUP = (
        "restored_from_backup",
        "It was under way when the records were backed up, and ended with their restore.",
        "look at the state of its node, and start it again",
    )

    # -- errors: a daemon and a local cluster ------------------------------------------------------------------------

    API_NOT_STARTED = "api_not_started", "The daemon's API did not start.", "check the log of its node"
    API_PORT_UNAVAILABLE = (
        "api_port_unavailable",
        "The API's port is in use.",
        "end the process that uses it, or choose another port",
    )
    NODE_SETTINGS_ABSENT = (
        "node_settings_absent",
        "This machine has no settings of a node.",
        "create a cluster here, or join one",
    )
    NODE_SETTINGS_INVALID = (
        "node_settings_invalid",
        "The settings of the node (node.toml) cannot be used.",
        "correct the line that the text names",
    )
    SECRET_EXPOSED = (
        "secret_exposed",
        "A file that holds a secret, or that decides whom the node believes, is open to other users.",
        "restrict the file as the text says",
    )
    NOT_READY = "not_ready", "The cluster did not become ready in time.", "check the logs of its nodes"
    NOT_STOPPED = "not_stopped", "The cluster did not end in time.", "check the logs of its nodes"
    SUPERVISOR_ENDED = "supervisor_ended", "The process that starts the daemons has ended.", "check its log"
