"""An operator's decision to continue with one copy of a waiting database. Pure.

``plan/waiting.py`` names the reasons for waiting; ``reconcile/start.py`` executes the decision.
"""

from dataclasses import replace

from shardwright.api.codes import conflict, invalid
from shardwright.api.schemas.v1.requests import StartBody
from shardwright.api.services.databases import database_of
from shardwright.api.services.intent import Intent, Look, audit
from shardwright.model.database import Damage, Database, DatabaseStatus, GroupPhase, Shard, SlotGroup, StartWith
from shardwright.model.event import EventKind, Severity
from shardwright.model.ids import DatabaseUid, ShardUid
from shardwright.model.view import ClusterView, Put
from shardwright.plan.standing import has_left
from shardwright.plan.waiting import CopyState, copy_state, damage_of, standing_of_copy

START_EVENT = EventKind.BDB_START_FROM_COPY_REQUEST


def start(seen: Look, uid: DatabaseUid, body: StartBody) -> Intent[Database]:
    """Continue with one copy, regardless of the others. A repeated request changes nothing. Raises Rejected."""
    database = database_of(seen.view, uid)
    if body.from_copy is None:
        raise invalid("invalid_parameter", "from_copy: name the shard to continue with.")
    shard = seen.view.shards.get(ShardUid(body.from_copy))
    group = None if shard is None else seen.view.groups.get(shard.group_uid)
    if shard is None or group is None or shard.database_uid != uid or has_left(seen.view, shard):
        raise invalid("shard_not_exist", f"Database {uid} has no shard {body.from_copy}.")
    if database.status is DatabaseStatus.DELETE_PENDING:
        raise conflict("db_busy", f"Database {uid} is being deleted.")
    cuts = bool(body.cut_damaged_tail)
    serves = group.phase is GroupPhase.SERVING
    if group.primary == shard.uid if serves else _is_decided(group, shard, cuts=cuts):
        return Intent(database)
    if serves or not group.waits_for:
        raise conflict("db_not_waiting", f"Database {uid} does not wait for an operator's decision.")
    _refuse_unusable(seen.view, shard, cuts=cuts)
    return _decided(seen, database, group, shard, cuts=cuts)


def _is_decided(group: SlotGroup, shard: Shard, *, cuts: bool) -> bool:
    """Whether the same decision was made before and is still being executed."""
    is_cut = group.start_cuts or shard.starts_with is StartWith.CUT_FILES
    return group.start_from == shard.uid and (is_cut or not cuts)


def _refuse_unusable(view: ClusterView, shard: Shard, *, cuts: bool) -> None:
    state, damage = copy_state(view, shard), damage_of(view, shard)
    if not cuts and state is not CopyState.LOADED:
        text = f"Shard {shard.uid} is not loaded: {state.value}."
        remedy = "Continue with a loaded copy, or bring this one back."
        if damage is Damage.APPEND_ONLY_FILE:
            remedy = "Cut the damaged end of its append-only file (cut_damaged_tail), or continue with a loaded copy."
        raise conflict("copy_not_loaded", text, remedy=remedy)
    if cuts and (state is not CopyState.DAMAGED or damage is not Damage.APPEND_ONLY_FILE):
        text = f"Shard {shard.uid} has no append-only file with a damaged end: {damage or state}."
        raise conflict("copy_not_damaged", text, remedy="Continue with a loaded copy, or replace the files with a backup.")


def _decided(seen: Look, database: Database, group: SlotGroup, shard: Shard, *, cuts: bool) -> Intent[Database]:
    standing = standing_of_copy(seen.view, database, group, shard)
    cut = " The unreadable end of its append-only file is cut; the original file is kept." if cuts else ""
    text = (
        f"database {database.name} is to continue with shard {shard.uid} on node {shard.node_uid}. {standing.may_lack}{cut}"
    )
    event = audit(
        seen,
        START_EVENT,
        text.strip(),
        node_uid=shard.node_uid,
        database_uid=database.uid,
        severity=Severity.WARNING,
        extra={"bdb_name": database.name, "from_copy": shard.uid, "keys": standing.keys, "cut": cuts},
    )
    return Intent(database, (Put(replace(group, start_from=shard.uid, start_cuts=cuts)), event))
