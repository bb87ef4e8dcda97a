import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from shardwright.model.database import AofPolicy, Database, Persistence, ServerKind, ServerSecrets, SnapshotRule
from shardwright.model.ids import DatabaseUid, ShardUid
from shardwright.server import config
from shardwright.server.config import MIB, ServerFile, render_config, settings_commands, settings_of
from shardwright.server.network import LINK_OVER_NETWORK, TlsFiles
from shardwright.server.protocol import ServerSettings

SECRETS = ServerSecrets(DatabaseUid(1), "app-secret", "repl-secret", "obs-secret", "man-secret", "seed")
SETTINGS = ServerSettings(64 * MIB, "noeviction", Persistence.DISABLED, AofPolicy.EVERY_SECOND, ())
FILE = ServerFile(
    kind=ServerKind.VALKEY,
    version="9.1.2",
    shard_uid=ShardUid(7),
    incarnation=3,
    address="127.0.0.2",
    port=21000,
    directory="/data/shard-7",
    log_file="/data/shard-7/server.log",
    settings=SETTINGS,
    secrets=SECRETS,
)
SNAPSHOT = replace(
    SETTINGS, persistence=Persistence.SNAPSHOT, snapshot_rules=(SnapshotRule(3600, 1), SnapshotRule(300, 100))
)
AOF = replace(SETTINGS, persistence=Persistence.AOF, aof_policy=AofPolicy.ALWAYS)


def _lines(file: ServerFile = FILE) -> dict[str, str]:
    """Directive to value; the users' lines by ``user <name>``."""
    found = {}
    for line in render_config(file).splitlines():
        name, _, value = line.partition(" ")
        if name == "user":
            user, _, value = value.partition(" ")
            name = f"user {user}"
        assert name not in found, f"{name} twice"
        found[name] = value
    return found


def test_every_server_starts_fenced_and_unattached() -> None:
    lines = _lines()
    assert lines["min-replicas-to-write"] == "9999"
    assert int(lines["min-replicas-max-lag"]) > 0
    assert "replicaof" not in lines
    assert "slaveof" not in lines


def test_a_server_listens_only_on_its_node_and_announces_it() -> None:
    lines = _lines()
    assert lines["bind"] == lines["replica-announce-ip"] == "127.0.0.2"
    assert lines["port"] == lines["replica-announce-port"] == "21000"


def test_a_replication_link_over_a_network_ends_soon_when_the_other_end_is_silent() -> None:
    names = ("repl-ping-replica-period", "repl-timeout")
    assert [_lines()[name] for name in names] == ["10", "60"]
    over_network = _lines(replace(FILE, link=LINK_OVER_NETWORK))
    assert [over_network[name] for name in names] == ["1", "10"]


def test_a_server_with_certificates_has_no_port_in_clear() -> None:
    lines = _lines(replace(FILE, tls=TlsFiles("/etc/s/node.pem", "/etc/s/node-key.pem", "/etc/s/ca.pem")))
    assert (lines["port"], lines["tls-port"], lines["replica-announce-port"]) == ("0", "21000", "21000")
    assert (lines["tls-auth-clients"], lines["tls-replication"], lines["tls-protocols"]) == ("yes", "yes", "TLSv1.3")
    files = [lines[name] for name in ("tls-cert-file", "tls-key-file", "tls-ca-cert-file")]
    assert files == ["/etc/s/node.pem", "/etc/s/node-key.pem", "/etc/s/ca.pem"]
    assert not [name for name in _lines() if name.startswith("tls")]


def test_secrets_of_users_are_hashed_and_default_is_off() -> None:
    text = render_config(FILE)
    for secret in ("app-secret", "obs-secret", "man-secret"):
        assert secret not in text
        assert "#" + hashlib.sha256(secret.encode()).hexdigest() in text
    assert text.count("repl-secret") == 1
    assert _lines()["masterauth"] == "repl-secret"
    assert _lines()["user default"] == "reset off ~* &* +@all"


def test_secrets_are_not_in_a_repr() -> None:
    assert "secret" not in repr(FILE).replace("secrets", "")


@pytest.mark.parametrize("secrets", [replace(SECRETS, application=""), replace(SECRETS, management="")])
def test_a_user_without_a_secret_is_refused(secrets: ServerSecrets) -> None:
    with pytest.raises(ValueError, match="does not have a secret"):
        render_config(replace(FILE, secrets=secrets))


@pytest.mark.parametrize(
    ("kind", "version", "has_dual_channel", "has_seed"),
    [
        (ServerKind.VALKEY, "9.1.2", True, True),
        (ServerKind.VALKEY, "9.0.1", True, False),
        (ServerKind.VALKEY, "7.2.5", False, False),
        (ServerKind.REDIS, "7.0.15", False, False),
        (ServerKind.REDIS, "9.9.9", False, False),
    ],
)
def test_directives_only_for_servers_that_support_them(
    kind: ServerKind, version: str, has_dual_channel: bool, has_seed: bool
) -> None:
    lines = _lines(replace(FILE, kind=kind, version=version))
    assert ("dual-channel-replication-enabled" in lines) is has_dual_channel
    assert ("hash-seed" in lines) is has_seed


@pytest.mark.parametrize(
    ("settings", "save", "appendonly", "checksum"),
    [
        (SETTINGS, '""', "no", "no"),
        (SNAPSHOT, '"3600 1 300 100"', "no", "yes"),
        (AOF, '""', "yes", "yes"),
    ],
)
def test_persistence(settings: ServerSettings, save: str, appendonly: str, checksum: str) -> None:
    lines = _lines(replace(FILE, settings=settings))
    assert (lines["save"], lines["appendonly"], lines["rdbchecksum"]) == (save, appendonly, checksum)
    assert lines["rdb-del-sync-files"] == "yes"


def test_changes_enable_the_new_persistence_before_they_disable_the_old_one() -> None:
    assert settings_commands(AOF)[-2:] == [("CONFIG", "SET", "appendonly", "yes"), ("CONFIG", "SET", "save", "")]
    assert settings_commands(SNAPSHOT)[-2:] == [
        ("CONFIG", "SET", "save", "3600 1 300 100"),
        ("CONFIG", "SET", "appendonly", "no"),
    ]
    assert ("CONFIG", "SET", "appendfsync", "always") in settings_commands(AOF)
    assert ("CONFIG", "SET", "maxmemory", str(64 * MIB)) in settings_commands(SETTINGS)


def test_settings_of_a_database_are_those_of_one_copy() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    database = Database(
        DatabaseUid(1),
        "d",
        10000,
        200 * MIB,
        now,
        now,
        ServerKind.VALKEY,
        "9.1.2",
        has_replica=True,
        eviction_policy="allkeys-lru",
        notify_keyspace_events="Ex",
    )
    settings = settings_of(database)
    assert settings.notify_keyspace_events == "Ex"
    assert settings.maxmemory_bytes == 100 * MIB
    assert settings.eviction_policy == "allkeys-lru"


@pytest.mark.parametrize(
    ("maxmemory", "backlog"),
    [(0, 64 * MIB), (1, MIB), (64 * MIB, 2 * MIB), (2048 * MIB, 64 * MIB), (1 << 40, 64 * MIB)],
)
def test_backlog(maxmemory: int, backlog: int) -> None:
    assert config.backlog_bytes(maxmemory) == backlog


@pytest.mark.parametrize(
    ("maxmemory", "free", "limit"),
    [
        (0, 0, 1152 * MIB),
        (100 * MIB, 0, 512 * MIB),
        (100 * MIB, 1, 256 * MIB),
        (300 * MIB, 1, 364 * MIB),
        (1024 * MIB, 0, 1152 * MIB),
        (1024 * MIB, 4096 * MIB, 1024 * MIB),
        (4096 * MIB, 0, 2048 * MIB),
        (4096 * MIB, 4096 * MIB, 1024 * MIB),
        (4096 * MIB, 1, 576 * MIB),
    ],
)
def test_replica_buffer(maxmemory: int, free: int, limit: int) -> None:
    assert config.replica_buffer_bytes(maxmemory, free) == limit


def test_a_replica_buffer_grows_with_the_database_and_never_shrinks() -> None:
    shown = "['normal 0 0 0 slave {} 0 0 pubsub 33554432 8388608 60']"
    grown = replace(SETTINGS, maxmemory_bytes=1024 * MIB)
    growth = ("CONFIG", "SET", "client-output-buffer-limit", f"replica {576 * MIB} 0 0")
    assert config.replica_buffer_command(shown.format(256 * MIB), grown) == growth
    assert config.replica_buffer_command(shown.format(576 * MIB), grown) is None
    assert config.replica_buffer_command(shown.format(1152 * MIB), SETTINGS) is None
    assert config.replica_buffer_command(shown.format(0), grown) is None, "0 is no limit"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", '""'),
        ("/plain/path-1.log", "/plain/path-1.log"),
        ("/with space", '"/with space"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("#first", '"#first"'),
        ("{title} x=1", '"{title} x=1"'),
        ("it's", '"it\'s"'),
    ],
)
def test_quoting(value: str, text: str) -> None:
    assert config.quoted(value) == text


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b"])
def test_a_value_that_cannot_be_quoted(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        render_config(replace(FILE, directory=value))


def test_an_address_is_checked() -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        render_config(replace(FILE, address="0.0.0.0 -evil"))


def test_the_marker_distinguishes_incarnations() -> None:
    assert config.marker(ShardUid(7), 3) in render_config(FILE)
    assert config.marker(ShardUid(7), 3) != config.marker(ShardUid(7), 4) != config.marker(ShardUid(8), 4)
