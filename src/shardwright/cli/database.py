"""``shardwright db``: create, list, show, update, start and delete databases."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from shardwright.cli.database_text import addresses, described
from shardwright.cli.failure import Exit, Failure, usage
from shardwright.cli.overview import databases_table, shards_table, told
from shardwright.cli.session import CommandSession, Timeout, Wait, Yes, command, confirm, parsed
from shardwright.cli.unserved import price_text, waiting_text
from shardwright.cli.waiting import wait_until
from shardwright.units import parse_bytes

DatabaseArgument = Annotated[str, typer.Argument(metavar="DATABASE", help="Name or number, such as orders, 1 or db:1.")]
Memory = Annotated[
    str, typer.Option("--memory", metavar="SIZE", help="Limit for all copies together, such as 4gb; 0: no limit.")
]
Port = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Endpoint port; default: a free port.")]
Replication = Annotated[bool | None, typer.Option("--replication/--no-replication", help="Keep a replica on another node.")]
PersistenceOption = Annotated[
    str | None, typer.Option("--persistence", metavar="disabled|aof|snapshot", help="Persistence on disk.")
]
AofPolicyOption = Annotated[
    str | None, typer.Option("--aof-policy", metavar="every-sec|always", help="When the append-only file is synced to disk.")
]
SnapshotRules = Annotated[
    list[str] | None,
    typer.Option(
        "--snapshot-policy", metavar="SECS:WRITES", help="Save after SECS if there were WRITES changes; repeatable."
    ),
]
Eviction = Annotated[
    str | None, typer.Option("--eviction", metavar="POLICY", help="Eviction policy, such as noeviction or allkeys-lru.")
]
PasswordOf = Annotated[
    Path | None,
    typer.Option(
        "--database-password-file", help="File whose first line is the password for applications; empty line: no password."
    ),
]
RackAware = Annotated[bool | None, typer.Option("--rack-aware/--no-rack-aware", help="Place copies in different racks.")]
Strict = Annotated[
    bool | None,
    typer.Option("--strict/--no-strict", help="Answer a write only once the replica has it (default on several machines)."),
]
ProxyPolicy = Annotated[
    str | None,
    typer.Option("--proxy-policy", metavar="POLICY", help="Who serves the endpoint: single, all-nodes, all-master-shards."),
]
Notifications = Annotated[
    str | None,
    typer.Option(
        "--notify-keyspace-events",
        metavar="LETTERS",
        help="Keyspace events that the servers publish, such as KEA; '': none.",
    ),
]

FromCopy = Annotated[
    str | None,
    typer.Option(
        "--from-copy", metavar="SHARD", help="The copy to continue with, such as 2 or redis:2. db show lists them."
    ),
]
CutTail = Annotated[
    bool,
    typer.Option(
        "--cut-damaged-tail",
        help="First cut the unreadable end of its append-only file; the original file is kept next to it.",
    ),
]
StartDryRun = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing: show the reasons for waiting and the state of the copies.")
]

_AOF_POLICIES = {"every-sec": "appendfsync-every-sec", "always": "appendfsync-always"}


def register(app: typer.Typer) -> None:
    """Add the command group ``db``."""
    group = typer.Typer(no_args_is_help=True, help="Create, list, show, update, start and delete databases.")
    app.add_typer(group, name="db")
    command(
        group,
        "create",
        examples="shardwright db create orders --memory 1gb --replication --persistence aof --wait\n"
        "shardwright db create cache --memory 512mb --eviction allkeys-lru\n"
        "shardwright db create sessions --memory 2gb --persistence snapshot --snapshot-policy 3600:1",
    )(_create)
    command(group, "list")(_list)
    command(group, "show", examples="shardwright db show orders\nshardwright db show 1 --json")(_show)
    command(group, "update", examples="shardwright db update orders --memory 2gb --wait")(_update)
    command(
        group,
        "start",
        examples="shardwright db start orders --dry-run\nshardwright db start orders --from-copy 2 --wait\n"
        "shardwright db start orders --from-copy 1 --cut-damaged-tail --wait",
    )(_start)
    command(group, "delete", examples="shardwright db delete cache --yes --wait")(_delete)


def _create(
    session: CommandSession,
    name: Annotated[str, typer.Argument(help="Letters, digits and hyphens.")],
    memory: Memory,
    port: Port = None,
    replication: Replication = None,
    persistence: PersistenceOption = None,
    aof_policy: AofPolicyOption = None,
    snapshot_policy: SnapshotRules = None,
    eviction: Eviction = None,
    database_password_file: PasswordOf = None,
    rack_aware: RackAware = None,
    strict: Strict = None,
    proxy_policy: ProxyPolicy = None,
    notify_keyspace_events: Notifications = None,
    shards: Annotated[int | None, typer.Option("--shards", min=1, help="Number of slot groups.")] = None,
    server: Annotated[str | None, typer.Option("--server", metavar="valkey|redis", help="Server program.")] = None,
    is_waited_for: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Create a database."""
    changed = _settings(
        memory=memory,
        replication=replication,
        persistence=persistence,
        aof_policy=aof_policy,
        snapshot_policy=snapshot_policy,
        eviction=eviction,
        password_file=database_password_file,
        rack_aware=rack_aware,
        strict=strict,
        proxy_policy=proxy_policy,
        notify_keyspace_events=notify_keyspace_events,
    )
    given = {"name": name, "port": port, "shards_count": shards, "server": server}
    database = session.api.post("/v1/bdbs", changed | {key: value for key, value in given.items() if value is not None})
    if is_waited_for:
        database = _wait_active(session, database["uid"], timeout)
    verb = "created" if is_waited_for else "being created:"
    session.show(database, lambda: f"{verb} db:{database['uid']} {database['name']} at {addresses(database)}")


def _list(session: CommandSession) -> None:
    """List the databases."""
    databases = session.api.get("/v1/bdbs")
    session.show(databases, lambda: databases_table(databases))


def _show(session: CommandSession, database: DatabaseArgument) -> None:
    """Show one database and its shards."""
    found = find(session, database)
    if session.as_json:
        session.show(found, lambda: "")
        return
    shards = session.api.get(f"/v1/bdbs/{found['uid']}/shards")
    waits = waiting_text(found)
    session.say(f"{described(found)}\n\n{shards_table(shards, [found])}" + (f"\n\n{waits}" if waits else ""))


def _update(
    session: CommandSession,
    database: DatabaseArgument,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="New limit for all copies together.")
    ] = None,
    replication: Replication = None,
    persistence: PersistenceOption = None,
    aof_policy: AofPolicyOption = None,
    snapshot_policy: SnapshotRules = None,
    eviction: Eviction = None,
    database_password_file: PasswordOf = None,
    rack_aware: RackAware = None,
    strict: Strict = None,
    proxy_policy: ProxyPolicy = None,
    notify_keyspace_events: Notifications = None,
    is_waited_for: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Change a live database."""
    changed = _settings(
        memory=memory,
        replication=replication,
        persistence=persistence,
        aof_policy=aof_policy,
        snapshot_policy=snapshot_policy,
        eviction=eviction,
        password_file=database_password_file,
        rack_aware=rack_aware,
        strict=strict,
        proxy_policy=proxy_policy,
        notify_keyspace_events=notify_keyspace_events,
    )
    if not changed:
        raise usage("nothing to change was given", remedy="shardwright db update --help lists what can be changed")
    uid = find(session, database)["uid"]
    answer = session.api.put(f"/v1/bdbs/{uid}", changed)
    if is_waited_for:
        answer = _wait_active(session, uid, timeout)
    session.show(answer, lambda: f"db:{uid} {answer.get('name')}: {answer.get('status')}")


def _delete(
    session: CommandSession,
    database: DatabaseArgument,
    is_confirmed: Yes = False,
    is_waited_for: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Delete a database and its data."""
    found = find(session, database)
    uid = found["uid"]
    confirm(f"Delete db:{uid} {found.get('name')} with all its data?", is_confirmed=is_confirmed)
    answer = session.api.delete(f"/v1/bdbs/{uid}")
    if is_waited_for:
        wait_until(
            session, f"the deletion of db:{uid}", lambda: True if _read(session, uid) is None else None, timeout=timeout
        )
    session.show(answer, lambda: f"db:{uid} {found.get('name')}: {'deleted' if is_waited_for else 'being deleted'}")


def _start(
    session: CommandSession,
    database: DatabaseArgument,
    from_copy: FromCopy = None,
    cut_damaged_tail: CutTail = False,
    dry_run: StartDryRun = False,
    is_confirmed: Yes = False,
    is_waited_for: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Let a waiting database continue with another copy. Data that only the lost copy holds is discarded."""
    found = find(session, database)
    uid, name = found["uid"], found.get("name")
    if dry_run:
        session.show(found.get("waiting") or [], lambda: waiting_text(found) or f"db:{uid} {name} is not waiting")
        return
    if from_copy is None:
        raise usage("--from-copy is missing", remedy=f"shardwright db start {name} --dry-run shows the copies")
    shard = _shard_uid(from_copy)
    if not is_confirmed:
        session.say(f"{waiting_text(found)}\n\n{price_text(found, shard, cuts=cut_damaged_tail)}")
    confirm(f"Continue db:{uid} {name} with redis:{shard}?", is_confirmed=is_confirmed)
    body: dict[str, object] = {"from_copy": shard}
    if cut_damaged_tail:
        body["cut_damaged_tail"] = True
    answer = session.api.post(f"/v1/bdbs/{uid}/actions/start", body)
    if is_waited_for:
        answer = wait_until(session, f"the start of db:{uid}", lambda: _serving(session, uid, shard), timeout=timeout)
    verb = "serves" if is_waited_for else "will serve"
    session.show(answer, lambda: f"db:{uid} {name}: {verb} the data of redis:{shard}")


def _shard_uid(text: str) -> int:
    digits = text.removeprefix("redis:")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16):
        raise usage(f"{text!r} is not a shard", remedy="shardwright db show DATABASE lists them")
    return int(digits)


def _serving(session: CommandSession, uid: int, shard: int) -> dict[str, Any] | None:
    """The database, once it serves. Raises Failure if the start failed."""
    try:
        session.api.get(f"/v1/bdbs/{uid}/availability")
    except Failure as failure:
        if failure.status != 503:
            raise
        found = _read(session, uid) or {}
        if any(one.get("start_from") is None for one in found.get("waiting") or []):
            raise Failure(
                Exit.FAILED, "start_failed", f"db:{uid} could not be started from redis:{shard}: {failure.text}"
            ) from None
        return None
    return _read(session, uid)


def find(session: CommandSession, text: str) -> dict[str, Any]:
    """The database with this number or name. A number takes precedence over a name of digits. Raises Failure."""
    databases = session.api.get("/v1/bdbs")
    number = text.removeprefix("db:")
    by_uid = [database for database in databases if str(database["uid"]) == number]
    by_name = [database for database in databases if database.get("name") == text]
    for found in (by_uid, by_name):
        if found:
            return dict(found[0])
    raise Failure(
        Exit.FAILED, "db_not_found", f"there is no database {text!r}", remedy="shardwright db list shows all databases"
    )


def _settings(
    *,
    memory: str | None,
    replication: bool | None,
    persistence: str | None,
    aof_policy: str | None,
    snapshot_policy: list[str] | None,
    eviction: str | None,
    password_file: Path | None,
    rack_aware: bool | None,
    strict: bool | None,
    proxy_policy: str | None,
    notify_keyspace_events: str | None,
) -> dict[str, object]:
    wanted: dict[str, object | None] = {
        "memory_size": parsed(parse_bytes, memory),
        "replication": replication,
        "data_persistence": persistence,
        "aof_policy": _AOF_POLICIES.get(aof_policy, aof_policy) if aof_policy else None,
        "snapshot_policy": [parsed(snapshot_rule, rule) for rule in snapshot_policy] if snapshot_policy else None,
        "eviction_policy": eviction,
        "authentication_redis_pass": _first_line(password_file),
        "rack_aware": rack_aware,
        "strict": strict,
        "proxy_policy": proxy_policy,
        "notify_keyspace_events": notify_keyspace_events,
    }
    return {key: value for key, value in wanted.items() if value is not None}


def snapshot_rule(text: str) -> dict[str, int]:
    """``3600:1`` on the wire. Raises ValueError with a sentence for people."""
    seconds, _, writes = text.partition(":")
    if not (seconds.isascii() and seconds.isdigit() and writes.isascii() and writes.isdigit()):
        raise ValueError(f"{text!r} is not a snapshot rule: write SECONDS:WRITES, for instance 3600:1")
    return {"secs": int(seconds), "writes": int(writes)}


def _first_line(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").split("\n", 1)[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise usage(f"the password file {path} cannot be read: {error}") from error


def _read(session: CommandSession, uid: int) -> dict[str, Any] | None:
    try:
        return dict(session.api.get(f"/v1/bdbs/{uid}"))
    except Failure as failure:
        if failure.status == 404:
            return None
        raise


def _wait_active(session: CommandSession, uid: int, timeout: str | None) -> dict[str, Any]:
    said: set[str] = set()

    def ask() -> dict[str, Any] | None:
        database = _read(session, uid)
        for line in () if database is None else (told(reason) for reason in database.get("reasons") or []):
            if line not in said:
                said.add(line)
                print(f"waits: {line}", file=sys.stderr)
        if database is None:
            raise Failure(Exit.FAILED, "db_not_found", f"db:{uid} no longer exists: it has been deleted")
        if database.get("status") == "creation-failed":
            why = str(database.get("failure_reason") or "its creation failed")
            raise Failure(
                Exit.FAILED, "creation_failed", f"db:{uid}: {why}", remedy=f"shardwright db delete {uid}, then try again"
            )
        return database if database.get("status") == "active" else None

    return wait_until(session, f"the change of db:{uid}", ask, timeout=timeout)
