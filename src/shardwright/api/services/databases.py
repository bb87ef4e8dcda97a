"""Databases as intents: create, change, delete. Pure; ``database_rules.py`` checks the settings.

A new database is a record in status ``pending`` with its secrets; create-once keys reserve names and ports. The leader
places and starts it, and deletes those keys after the database's deletion.
"""

from dataclasses import dataclass, field, replace

from shardwright.api.codes import conflict, not_acceptable, not_found
from shardwright.api.schemas.v1.databases import CREATE_EVENT, DELETE_EVENT, UPDATE_EVENT
from shardwright.api.schemas.v1.requests import DatabaseBody
from shardwright.api.services import database_rules as rules
from shardwright.api.services.intent import Intent, Look, audit
from shardwright.model.database import Database, DatabaseStatus, GroupPhase, ServerSecrets
from shardwright.model.ids import ActionUid, DatabaseUid
from shardwright.model.move import Move, Relocation
from shardwright.model.view import ClusterView, Put
from shardwright.plan.explain import Unplaceable
from shardwright.plan.placement import place_database
from shardwright.store import keys
from shardwright.store.protocol import DeleteKey, ModifiedAt, PutKey


@dataclass(frozen=True, slots=True)
class FreshSecrets:
    """Random texts for a new database's servers, generated before the decision."""

    application: str = field(repr=False)
    replication: str = field(repr=False)
    observation: str = field(repr=False)
    management: str = field(repr=False)
    hash_seed: str = field(repr=False)
    """16 hexadecimal characters."""


def database_of(view: ClusterView, uid: DatabaseUid) -> Database:
    """The database. Raises Rejected (404)."""
    found = view.databases.get(uid)
    if found is None:
        raise not_found("db_not_found", f"The database {uid} does not exist.")
    return found


def create(
    seen: Look, body: DatabaseBody, *, action_uid: ActionUid, secrets: FreshSecrets, is_dry_run: bool = False
) -> Intent[Database]:
    """A new database. Raises Rejected without a change; with ``is_dry_run`` nothing is changed in any case."""
    uid = _new_uid(seen.view, body.uid)
    rules.refuse_unavailable(body)
    name = rules.checked_name(body.name)
    if seen.bare(keys.name_key(name)) is not None:
        raise conflict("name_violation", f"The name {name!r} is already in use.")
    port = rules.chosen_port(seen, body.port)
    kind, version = rules.chosen_server(seen.view, body)
    settings = rules.checked_settings(seen.view, body, None)
    database = Database(
        uid=uid,
        name=name,
        port=port,
        memory_bytes=settings.memory_bytes,
        created_at=seen.now,
        changed_at=seen.now,
        server_kind=kind,
        server_version=version,
        uses_tls=rules.encrypts(seen.view, kind, version),
        has_replica=settings.has_replica,
        persistence=settings.persistence,
        aof_policy=settings.aof_policy,
        snapshot_rules=settings.snapshot_rules,
        eviction_policy=settings.eviction_policy,
        password=settings.password,
        is_rack_aware=settings.is_rack_aware,
        is_strict=settings.is_strict,
        is_strict_everywhere=settings.is_strict,
        proxy_policy=settings.proxy_policy,
        notify_keyspace_events=settings.notify_keyspace_events,
        action_uid=action_uid,
        port_was_given=bool(body.port),
        options=settings.options,
    )
    rules.refuse_small_memory(None, database)
    rules.refuse_strict_without_replica(None, database)
    rules.refuse_without_racks(seen.view, database)
    _refuse_without_room(seen.view, database)
    if is_dry_run:
        return Intent(database)
    held = (keys.name_key(name), keys.port_key(port))
    text = f"the creation of database {name} was requested"
    return Intent(
        database,
        (
            Put(database),
            Put(
                ServerSecrets(
                    uid, secrets.application, secrets.replication, secrets.observation, secrets.management, secrets.hash_seed
                )
            ),
            Put(replace(seen.view.counters, next_database=uid + 1)),
            audit(seen, CREATE_EVENT, text, database_uid=uid, action_uid=action_uid, extra={"bdb_name": name}),
        ),
        tuple(ModifiedAt(key, 0) for key in held),
        tuple(PutKey(key, str(uid).encode()) for key in held),
    )


def _new_uid(view: ClusterView, wished: int | None) -> DatabaseUid:
    if wished is None:
        return DatabaseUid(view.counters.next_database)
    if wished < view.counters.next_database or wished in view.databases:
        raise conflict("uid_exists", f"The uid {wished} is or was in use.")
    return DatabaseUid(wished)


def _refuse_without_room(view: ClusterView, database: Database) -> None:
    placed = place_database(view, database)
    if isinstance(placed, Unplaceable):
        raise not_acceptable("insufficient_resources", rules.sentence(placed.reasons))


def change(
    seen: Look, uid: DatabaseUid, body: DatabaseBody, *, action_uid: ActionUid, is_dry_run: bool = False
) -> Intent[Database]:
    """Change settings of an idle database. Raises Rejected: 409 while it is busy."""
    old = database_of(seen.view, uid)
    rules.refuse_unavailable(body)
    rules.refuse_fixed(old, body)
    settings = rules.checked_settings(seen.view, body, old)
    name = old.name if body.name is None else rules.checked_name(body.name)
    new = replace(
        old,
        name=name,
        memory_bytes=settings.memory_bytes,
        has_replica=settings.has_replica,
        persistence=settings.persistence,
        aof_policy=settings.aof_policy,
        snapshot_rules=settings.snapshot_rules,
        eviction_policy=settings.eviction_policy,
        password=settings.password,
        is_rack_aware=settings.is_rack_aware,
        is_strict=settings.is_strict,
        is_strict_everywhere=old.is_strict_everywhere and settings.is_strict,
        proxy_policy=settings.proxy_policy,
        notify_keyspace_events=settings.notify_keyspace_events,
        options=settings.options,
    )
    _refuse_busy(seen.view, old)
    if new == old:
        return Intent(old)
    if name.lower() != old.name.lower() and seen.bare(keys.name_key(name)) is not None:
        raise conflict("name_violation", f"The name {name!r} is already in use.")
    rules.refuse_small_memory(old, new)
    rules.refuse_strict_without_replica(old, new)
    rules.refuse_without_racks(seen.view, new)
    rules.refuse_shared_rack(seen.view, old, new)
    rules.refuse_without_room(seen.view, old, new)
    pending = replace(new, status=DatabaseStatus.ACTIVE_CHANGE_PENDING, changed_at=seen.now, action_uid=action_uid)
    if is_dry_run:
        return Intent(pending)
    return _committed_change(seen, old, pending)


def _committed_change(seen: Look, old: Database, new: Database) -> Intent[Database]:
    what = ", ".join(f for f in _FIELDS_OF_CHANGE if getattr(old, f) != getattr(new, f))
    text = f"a change of database {new.name} was requested: {what}"
    event = audit(seen, UPDATE_EVENT, text, database_uid=new.uid, action_uid=new.action_uid, extra={"bdb_name": new.name})
    writes = (Put(new), event)
    before, after = keys.name_key(old.name), keys.name_key(new.name)
    if before == after:
        return Intent(new, writes)
    return Intent(new, writes, (ModifiedAt(after, 0),), (DeleteKey(before), PutKey(after, str(new.uid).encode())))


_FIELDS_OF_CHANGE = (
    "name",
    "memory_bytes",
    "has_replica",
    "persistence",
    "aof_policy",
    "snapshot_rules",
    "eviction_policy",
    "password",
    "is_rack_aware",
    "is_strict",
    "proxy_policy",
    "notify_keyspace_events",
    "options",
)


def _refuse_busy(view: ClusterView, database: Database) -> None:
    if database.status is not DatabaseStatus.ACTIVE:
        raise conflict("db_busy", f"Database {database.uid} is {database.status}.", remedy="Try again when it is active.")
    _refuse_moving(view, database)


def _refuse_moving(view: ClusterView, database: Database) -> None:
    if any(move.database_uid == database.uid and not _only_cleans(move) for move in view.live_moves()):
        raise conflict("db_busy", f"Database {database.uid} is being moved.", remedy="Try again after the end of the move.")


def _only_cleans(move: Move) -> bool:
    """A move whose old copy has left only cleans up: its action may have completed."""
    return isinstance(move, Relocation) and move.has_left


def delete(seen: Look, uid: DatabaseUid, *, action_uid: ActionUid) -> Intent[Database]:
    """Request the deletion of a database and its data, in any status; a repeated request changes nothing. Raises
    Rejected."""
    old = database_of(seen.view, uid)
    if old.status is DatabaseStatus.DELETE_PENDING:
        return Intent(old)
    if all(g.phase is GroupPhase.SERVING for g in seen.view.groups_of(uid)):
        _refuse_moving(seen.view, old)
    # Otherwise a move might wait for a node that never returns; a deletion is then the operator's only way out.
    new = replace(old, status=DatabaseStatus.DELETE_PENDING, changed_at=seen.now, action_uid=action_uid)
    text = f"the deletion of database {old.name} was requested"
    event = audit(seen, DELETE_EVENT, text, database_uid=uid, action_uid=action_uid, extra={"bdb_name": old.name})
    return Intent(new, (Put(new), event))
