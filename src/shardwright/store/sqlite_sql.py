"""Every SQL statement of the SQLite store, named, and the migrations of its schema. Used by ``sqlite_file.py`` only."""

# -- connection ----------------------------------------------------------------------------------------------------------

SETTINGS = (
    # Readers never wait for a writer, and a writer never for readers.
    "PRAGMA journal_mode = WAL",
    # A commit is on the disk when it returns.
    "PRAGMA synchronous = FULL",
    # sqlite_file waits for the write lock in its own steps: SQLite's steps grow to 100 ms.
    "PRAGMA busy_timeout = 0",
    # A burst must not leave a large log behind permanently.
    "PRAGMA journal_size_limit = 16777216",
)

SYNC_EVERY_COMMIT = "PRAGMA synchronous = FULL"
SYNC_AT_CHECKPOINTS = "PRAGMA synchronous = NORMAL"

DATA_VERSION = "PRAGMA data_version"
"""Changes on this connection when another connection has committed. Touches only shared memory."""

BEGIN_READ = "BEGIN"
BEGIN_WRITE = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

# -- schema --------------------------------------------------------------------------------------------------------------

CREATE_SCHEMA_VERSION = """
CREATE TABLE IF NOT EXISTS schema_version (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    version INTEGER NOT NULL
)"""
HAS_SCHEMA_VERSION = "SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'"
GET_SCHEMA_VERSION = "SELECT version FROM schema_version"
SET_SCHEMA_VERSION = "INSERT OR REPLACE INTO schema_version (only, version) VALUES (0, ?)"

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    # 1: the first schema.
    (
        # One row: the current revision, the oldest revision available to watchers, and the last lease id.
        """
        CREATE TABLE state (
            only INTEGER PRIMARY KEY CHECK (only = 0),
            revision INTEGER NOT NULL,
            compacted INTEGER NOT NULL,
            last_lease INTEGER NOT NULL
        )""",
        "INSERT INTO state (only, revision, compacted, last_lease) VALUES (0, 1, 0, 0)",
        # Current values.
        """
        CREATE TABLE items (
            key TEXT PRIMARY KEY,
            value BLOB NOT NULL,
            create_revision INTEGER NOT NULL,
            modify_revision INTEGER NOT NULL,
            lease INTEGER
        )""",
        "CREATE INDEX items_by_lease ON items (lease) WHERE lease IS NOT NULL",
        # The input of watchers. A deletion has no value.
        """
        CREATE TABLE history (
            revision INTEGER NOT NULL,
            key TEXT NOT NULL,
            value BLOB,
            create_revision INTEGER,
            lease INTEGER,
            PRIMARY KEY (revision, key)
        )""",
        # ``ends_at`` in seconds of the boot clock; a lease of another boot has ended.
        """
        CREATE TABLE leases (
            lease INTEGER PRIMARY KEY,
            ttl_s REAL NOT NULL,
            ends_at REAL NOT NULL,
            boot_id TEXT NOT NULL
        )""",
    ),
)
"""Statements that lead from each version to the next; the first process that opens the file runs them in one
transaction."""

# -- items and state -----------------------------------------------------------------------------------------------------

GET_STATE = "SELECT revision, compacted FROM state"
SET_STATE = "UPDATE state SET revision = ?, compacted = ?"

GET_ITEM = "SELECT key, value, create_revision, modify_revision, lease FROM items WHERE key = ?"
GET_REVISIONS = "SELECT create_revision, modify_revision FROM items WHERE key = ?"
RANGE_ITEMS = """
SELECT key, value, create_revision, modify_revision, lease FROM items
WHERE key >= ? AND (? IS NULL OR key < ?) ORDER BY key LIMIT ?"""
PUT_ITEM = """
INSERT INTO items (key, value, create_revision, modify_revision, lease) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, modify_revision = excluded.modify_revision, lease = excluded.lease"""
DELETE_ITEM = "DELETE FROM items WHERE key = ?"

# -- history -------------------------------------------------------------------------------------------------------------

ADD_HISTORY = "INSERT INTO history (revision, key, value, create_revision, lease) VALUES (?, ?, ?, ?, ?)"
READ_HISTORY = """
SELECT revision, key, value, create_revision, lease FROM history
WHERE revision BETWEEN ? AND ? AND key >= ? AND (? IS NULL OR key < ?) ORDER BY revision, key"""
FORGET_HISTORY = "DELETE FROM history WHERE revision < ?"

# -- leases --------------------------------------------------------------------------------------------------------------

NEXT_LEASE = "UPDATE state SET last_lease = last_lease + 1 RETURNING last_lease"
ADD_LEASE = "INSERT INTO leases (lease, ttl_s, ends_at, boot_id) VALUES (?, ?, ?, ?)"
HAS_LEASE = "SELECT 1 FROM leases WHERE lease = ?"
RENEW_LEASE = "UPDATE leases SET ends_at = ? + ttl_s WHERE lease = ?"
END_LEASE = "DELETE FROM leases WHERE lease = ?"
LEASE_KEYS = "SELECT key FROM items WHERE lease = ? ORDER BY key"
ENDED_LEASES = "SELECT lease FROM leases WHERE boot_id <> ? OR ends_at <= ? ORDER BY ends_at, lease"
