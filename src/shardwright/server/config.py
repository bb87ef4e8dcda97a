"""Pure: a database's settings for one server, as a complete configuration file and as changes at run time.

Called by the agent (which writes the file with mode 0600 and starts the server with it) and by the adapter. Does no I/O.
With this file every server starts fenced and unattached; only the leader opens it.
"""

import hashlib
import ipaddress
from dataclasses import dataclass, field

from shardwright.model.database import AofPolicy, Database, Persistence, ServerKind, ServerSecrets
from shardwright.model.ids import ShardUid
from shardwright.server.network import LINK_ON_ONE_MACHINE, LinkTimes, TlsFiles, tls_lines
from shardwright.server.protocol import (
    APPLICATION_USER,
    FENCE_LAG_S,
    FENCE_REPLICAS,
    MANAGEMENT_USER,
    OBSERVATION_USER,
    REPLICATION_USER,
    ServerSettings,
)

MIB = 1024 * 1024

BACKLOG_BYTES_MIN = 1 * MIB
BACKLOG_BYTES_MAX = 64 * MIB
"""The backlog counts as used memory, at the expense of the data: at most a 32nd of ``maxmemory``, never more than this."""
REPLICA_BUFFER_BYTES_MIN = 256 * MIB
"""Writes that arrive during a full sync wait here; with the servers' smaller default, a sync under load would repeat
indefinitely."""
VALUE_BYTES_MAX = 512 * MIB
"""The servers' ``proto-max-bulk-len``: no client can write a larger value with one argument."""
REPLICA_BUFFER_BYTES_BESIDES = 64 * MIB
"""Room for writes of other clients while a large value is being sent to the replica."""
SHUTDOWN_TIMEOUT_S = 3
"""A stopping primary waits this long for its replicas, which acknowledge once per second."""
MAXCLIENTS = 10_000

_DUAL_CHANNEL_SINCE = (8, 0, 0)
_HASH_SEED_SINCE = (9, 1, 0)

_NEVER_FOR_APPLICATIONS = (
    # @admin already contains all but the last three lines. They are listed so that a server with other categories stays
    # safe.
    *("acl|deluser", "acl|getuser", "acl|list", "acl|load", "acl|log", "acl|save", "acl|setuser", "acl|users", "acl|dryrun"),
    *("bgrewriteaof", "bgsave", "save", "lastsave", "shutdown"),
    *("config|get", "config|set", "config|rewrite", "config|resetstat", "debug", "module", "monitor"),
    *("client|kill", "client|pause", "client|unpause", "client|unblock", "client|no-evict"),
    *("replicaof", "slaveof", "psync", "sync", "replconf", "failover", "role", "pfdebug", "pfselftest"),
    *("slowlog|reset", "latency|reset"),
    "migrate",  # not in @admin: it would transfer keys to and from unknown servers
    "restore-asking",
    "script|debug",  # blocks the whole server during the debugging of a script
)
_ALLOWED_ADMIN = (
    *("client|list", "slowlog|get", "slowlog|len"),
    *("latency|doctor", "latency|graph", "latency|histogram", "latency|history", "latency|latest"),
)
_VALKEY_ALLOWED_ADMIN = ("commandlog|get", "commandlog|len")
_COMMANDLOG_SINCE = (8, 1, 0)

_REPLICATION_COMMANDS = ("ping", "psync", "replconf", "sync")
"""``sync``: a Valkey replica with two channels requests the second one with it."""
_OBSERVATION_COMMANDS = ("ping", "info", "role")
_MANAGEMENT_COMMANDS = (
    *("ping", "info", "role", "replicaof", "bgsave", "bgrewriteaof"),
    *("client|pause", "client|unpause", "client|kill", "client|list", "client|id"),
    *("config|get", "config|set"),
)


@dataclass(frozen=True, slots=True)
class ServerFile:
    """All settings in one server's configuration file."""

    kind: ServerKind
    version: str
    shard_uid: ShardUid
    incarnation: int
    address: str
    """The node's address for servers: the server's only listen address, which it also announces to its primary."""
    port: int
    directory: str
    log_file: str
    settings: ServerSettings
    secrets: ServerSecrets = field(repr=False)
    memory_free_bytes: int = 0
    """Free memory on the node at the server's start, the basis of buffer sizes; 0: unknown."""
    link: LinkTimes = LINK_ON_ONE_MACHINE
    tls: TlsFiles | None = None
    """With them, it accepts and makes only encrypted connections. None: connections are in clear."""
    starts_with_aof: bool = False
    """Load the append-only file although the settings disable it (``files.prepare_directory``)."""


def settings_of(database: Database) -> ServerSettings:
    """The settings of each server of a database."""
    return ServerSettings(
        maxmemory_bytes=database.shard_memory_bytes,
        eviction_policy=database.eviction_policy,
        persistence=database.persistence,
        aof_policy=database.aof_policy,
        snapshot_rules=database.snapshot_rules,
        notify_keyspace_events=database.notify_keyspace_events,
    )


def render_config(file: ServerFile) -> str:
    """The complete configuration file of one server process. It contains secrets: write it with mode 0600.

    Raises ValueError if an address, a path or a secret cannot be written safely.
    """
    lines = [
        *_identity(file),
        *_fence(),
        *_users(file),
        *_memory(file),
        *_persistence(file),
        *_replication(file),
        *_limits(),
    ]
    return "".join(" ".join((name, *(quoted(value) for value in values))) + "\n" for name, *values in lines)


def settings_commands(settings: ServerSettings) -> list[tuple[str, ...]]:
    """The commands that apply these settings to a running server, each safe to repeat.

    A new form of persistence is enabled before the previous one is disabled. The checksum of snapshots cannot be changed at
    run time. Replica buffers only grow (``replica_buffer_command``).
    """
    on, off = ("appendonly", "yes"), ("appendonly", "no")
    saves = ("save", save_rules(settings))
    keeping: tuple[tuple[str, str], ...]
    match settings.persistence:
        case Persistence.DISABLED:
            keeping = (saves, off)
        case Persistence.SNAPSHOT:
            keeping = (saves, off)
        case Persistence.AOF:
            keeping = (on, saves)
    changes = (
        ("maxmemory", str(settings.maxmemory_bytes)),
        ("maxmemory-policy", settings.eviction_policy),
        ("repl-backlog-size", str(backlog_bytes(settings.maxmemory_bytes))),
        ("notify-keyspace-events", settings.notify_keyspace_events),
        ("appendfsync", _appendfsync(settings.aof_policy)),
        *keeping,
    )
    return [("CONFIG", "SET", name, value) for name, value in changes]


def marker(shard_uid: ShardUid, incarnation: int) -> str:
    """The process title of this incarnation: visible in ``ps``, and proof for a manager that the server is the expected
    one."""
    return f"{{title}} {{listen-addr}} shard={shard_uid} incarnation={incarnation}"


def save_rules(settings: ServerSettings) -> str:
    """The value of ``save``; empty unless the database uses snapshots."""
    if settings.persistence != Persistence.SNAPSHOT:
        return ""
    return " ".join(f"{rule.seconds} {rule.writes}" for rule in settings.snapshot_rules)


def backlog_bytes(maxmemory_bytes: int) -> int:
    """Size of the replication backlog."""
    if maxmemory_bytes == 0:
        return BACKLOG_BYTES_MAX
    return max(BACKLOG_BYTES_MIN, min(BACKLOG_BYTES_MAX, maxmemory_bytes // 32))


def replica_buffer_bytes_min(maxmemory_bytes: int) -> int:
    """Minimum of the hard limit for one replica. A server puts a whole command into the buffer at once, and breaks the link
    if it exceeds the limit: with every retry, the same value would break it again, indefinitely."""
    largest = min(maxmemory_bytes or VALUE_BYTES_MAX, VALUE_BYTES_MAX)
    return max(REPLICA_BUFFER_BYTES_MIN, largest + REPLICA_BUFFER_BYTES_BESIDES)


def replica_buffer_bytes(maxmemory_bytes: int, memory_free_bytes: int) -> int:
    """Hard limit of the data that may wait for one replica: half the data, or twice the largest value. At most a quarter of
    the free memory (two replicas may sync in parallel and still leave half), but never less than one value needs. The limit
    reserves no memory. If it is reached, that sync ends; it is detected and retried later."""
    least = replica_buffer_bytes_min(maxmemory_bytes)
    wanted = max(maxmemory_bytes // 2, 2 * least)
    if memory_free_bytes:
        wanted = min(wanted, memory_free_bytes // 4)
    return max(least, wanted)


def replica_buffer_command(limits: str, settings: ServerSettings) -> tuple[str, ...] | None:
    """The command that raises a running server's limit to settings that have grown; None: the limit is sufficient.
    ``limits``: the server's present value."""
    words = limits.split()
    now = next((int(words[at + 1]) for at, word in enumerate(words) if word in ("slave", "replica")), 0)
    least = replica_buffer_bytes_min(settings.maxmemory_bytes)
    if now >= least or now == 0:  # 0: no limit
        return None
    return ("CONFIG", "SET", "client-output-buffer-limit", f"replica {least} 0 0")


def quoted(value: str) -> str:
    """A value in the syntax of the servers' configuration parser, whatever its content.

    Raises ValueError for a line break or NUL: paths, addresses and secrets must not contain them.
    """
    if any(char in value for char in "\r\n\0"):
        raise ValueError("a value of a server's configuration contains a line break or NUL")
    if value and all(char.isalnum() or char in "-_./:,|#+@~&*%" for char in value) and not value.startswith("#"):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


# -- the parts of the file -----------------------------------------------------------------------------------------------


def _identity(file: ServerFile) -> list[tuple[str, ...]]:
    address = str(ipaddress.ip_address(file.address))
    return [
        ("bind", address),
        *_listening(file),
        ("protected-mode", "yes"),
        ("daemonize", "no"),
        ("dir", file.directory),
        ("logfile", file.log_file),
        ("loglevel", "notice"),
        ("always-show-logo", "no"),
        ("proc-title-template", marker(file.shard_uid, file.incarnation)),
        ("replica-announce-ip", address),
        ("replica-announce-port", str(file.port)),
        ("enable-debug-command", "no"),
        ("enable-module-command", "no"),
        ("enable-protected-configs", "no"),
    ]


def _listening(file: ServerFile) -> list[tuple[str, ...]]:
    if file.tls is None:
        return [("port", str(file.port))]
    return [
        ("port", "0"),
        ("tls-port", str(file.port)),
        *tls_lines(file.tls),
        ("tls-auth-clients", "yes"),
        ("tls-replication", "yes"),
        ("tls-protocols", "TLSv1.3"),
    ]


def _fence() -> list[tuple[str, ...]]:
    # With a lag of 0 the servers ignore the other line: the fence would silently be open.
    return [("min-replicas-to-write", str(FENCE_REPLICAS)), ("min-replicas-max-lag", str(FENCE_LAG_S))]


def _users(file: ServerFile) -> list[tuple[str, ...]]:
    secrets = file.secrets
    allowed: tuple[str, ...] = _ALLOWED_ADMIN
    if file.kind == ServerKind.VALKEY and _version(file.version) >= _COMMANDLOG_SINCE:
        allowed += _VALKEY_ALLOWED_ADMIN
    application = ("~*", "&*", "+@all", "-@admin", *_each("-", _NEVER_FOR_APPLICATIONS), *_each("+", allowed))
    return [
        # Off: no client uses this user, and a connection without a login may do nothing. But Redis 7.0 loads an append-only
        # file as this user, and would skip each transaction and script that the user may not execute.
        ("user", "default", "reset", "off", "~*", "&*", "+@all"),
        _user(APPLICATION_USER, secrets.application, application),
        _user(REPLICATION_USER, secrets.replication, _each("+", _REPLICATION_COMMANDS)),
        _user(OBSERVATION_USER, secrets.observation, _each("+", _OBSERVATION_COMMANDS)),
        _user(MANAGEMENT_USER, secrets.management, _each("+", _MANAGEMENT_COMMANDS)),
        ("masteruser", REPLICATION_USER),
        ("masterauth", secrets.replication),
    ]


def _user(name: str, secret: str, rules: tuple[str, ...]) -> tuple[str, ...]:
    if not secret:
        raise ValueError(f"the server user {name} does not have a secret")
    return ("user", name, "reset", "on", "#" + hashlib.sha256(secret.encode()).hexdigest(), *rules)


def _each(sign: str, commands: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sign + command for command in commands)


def _memory(file: ServerFile) -> list[tuple[str, ...]]:
    settings = file.settings
    return [
        ("maxmemory", str(settings.maxmemory_bytes)),
        ("maxmemory-policy", settings.eviction_policy),
        ("notify-keyspace-events", settings.notify_keyspace_events),
        ("replica-ignore-maxmemory", "yes"),
        ("disable-thp", "yes"),
    ]


def _persistence(file: ServerFile) -> list[tuple[str, ...]]:
    settings = file.settings
    has_aof = file.starts_with_aof or settings.persistence == Persistence.AOF
    has_files = settings.persistence != Persistence.DISABLED
    return [
        ("save", save_rules(settings)),
        ("appendonly", "yes" if has_aof else "no"),
        ("appendfsync", _appendfsync(settings.aof_policy)),
        ("aof-use-rdb-preamble", "yes"),
        ("aof-load-truncated", "yes"),
        # These two also affect the sync stream. Without them a full sync takes a third of the time, and a file is at most
        # as large as the memory that it came from. A checksum only protects files, so it stays enabled if there are files.
        ("rdbcompression", "no"),
        ("rdbchecksum", "yes" if has_files else "no"),
        # A replica without persistence must not leave a file that a later start would load.
        ("rdb-del-sync-files", "yes"),
        ("stop-writes-on-bgsave-error", "yes"),
        ("shutdown-timeout", str(SHUTDOWN_TIMEOUT_S)),
    ]


def _replication(file: ServerFile) -> list[tuple[str, ...]]:
    maxmemory = file.settings.maxmemory_bytes
    buffer = str(replica_buffer_bytes(maxmemory, file.memory_free_bytes))
    lines: list[tuple[str, ...]] = [
        ("repl-diskless-sync", "yes"),
        ("repl-diskless-sync-delay", "0"),
        # An empty copy loads directly from the socket; a copy with data keeps its data until the new stream has arrived
        # completely.
        ("repl-diskless-load", "on-empty-db"),
        ("repl-backlog-size", str(backlog_bytes(maxmemory))),
        # Never released: so every former primary can continue from its last offset.
        ("repl-backlog-ttl", "0"),
        ("repl-timeout", str(file.link.timeout_s)),
        ("repl-ping-replica-period", str(file.link.ping_s)),
        ("repl-disable-tcp-nodelay", "no"),
        ("client-output-buffer-limit", "replica", buffer, "0", "0"),
        ("replica-serve-stale-data", "yes"),
        ("replica-read-only", "yes"),
        ("replica-lazy-flush", "yes"),
    ]
    if file.kind == ServerKind.VALKEY:
        version = _version(file.version)
        if version >= _DUAL_CHANNEL_SINCE:
            lines.append(("dual-channel-replication-enabled", "yes"))
        if version >= _HASH_SEED_SINCE:
            lines.append(("hash-seed", file.secrets.hash_seed))
    return lines


def _limits() -> list[tuple[str, ...]]:
    return [
        ("maxclients", str(MAXCLIENTS)),
        ("timeout", "0"),
        ("tcp-keepalive", "60"),
        ("io-threads", "1"),
        ("slowlog-log-slower-than", "10000"),
        ("slowlog-max-len", "128"),
        ("latency-tracking", "yes"),
        ("latency-monitor-threshold", "0"),
    ]


def _appendfsync(policy: AofPolicy) -> str:
    match policy:
        case AofPolicy.EVERY_SECOND:
            return "everysec"
        case AofPolicy.ALWAYS:
            return "always"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
