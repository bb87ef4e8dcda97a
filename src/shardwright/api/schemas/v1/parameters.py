"""Converts bodies of node actions to parameters of the model. Pure; raises Rejected for contradictions."""

from collections.abc import Container

from shardwright.api.codes import invalid
from shardwright.api.schemas.v1.requests import (
    Body,
    MaintenanceOffBody,
    MaintenanceOnBody,
    RemoveBody,
    StepDownBody,
    json_object,
    read_body,
)
from shardwright.model.action import (
    ActionName,
    ActionParameters,
    MaintenanceOffParameters,
    MaintenanceOnParameters,
    RemoveParameters,
    StepDownParameters,
)
from shardwright.model.ids import DatabaseUid

IGNORED_SHOWN = 50
_BODIES: dict[ActionName, type[Body]] = {
    ActionName.REMOVE: RemoveBody,
    ActionName.MAINTENANCE_ON: MaintenanceOnBody,
    ActionName.MAINTENANCE_OFF: MaintenanceOffBody,
    ActionName.STEP_DOWN: StepDownBody,
}


def ignored_keys(name: ActionName, raw: bytes) -> list[str]:
    """Unknown keys of a request body. They are accepted, because clients send keys of other products and versions, but
    reported, because one of them may be misspelled. The number and the length of the reported keys are limited."""
    return [key[:100] for key in json_object(raw) if key not in _BODIES[name].model_fields][:IGNORED_SHOWN]


def parameters_of(name: ActionName, raw: bytes, *, databases: Container[int]) -> ActionParameters:
    """The parameters in a request body. ``databases`` contains the existing uids."""
    match name:
        case ActionName.REMOVE:
            return RemoveParameters(wait_for_persistence=read_body(RemoveBody, raw).wait_for_persistence)
        case ActionName.MAINTENANCE_ON:
            return _maintenance_on(read_body(MaintenanceOnBody, raw), databases)
        case ActionName.MAINTENANCE_OFF:
            return _maintenance_off(read_body(MaintenanceOffBody, raw))
        case ActionName.STEP_DOWN:
            return _step_down(read_body(StepDownBody, raw))


def _maintenance_on(body: MaintenanceOnBody, databases: Container[int]) -> MaintenanceOnParameters:
    if body.keep_slave_shards and (body.evict_ha_replica or body.evict_active_active_replica):
        raise invalid("conflicting_parameters", "keep_slave_shards contradicts an evict_*_replica key.")
    # Active-Active databases do not exist here, so evict_active_active_replica is accepted without effect.
    evicts = body.evict_ha_replica if body.evict_ha_replica is not None else not body.keep_slave_shards
    evicted = None if body.evict_dbs is None else tuple(dict.fromkeys(_database(uid, databases) for uid in body.evict_dbs))
    return MaintenanceOnParameters(
        overwrite_snapshot=bool(body.overwrite_snapshot),
        evict_replicas=evicts,
        evict_databases=evicted,
        yields_leadership=bool(body.demote_node),
        moves_max=body.max_concurrent_actions,
    )


def _database(given: int | str, databases: Container[int]) -> DatabaseUid:
    text = str(given)
    uid = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
    if uid not in databases:
        raise invalid("invalid_parameter", f"evict_dbs: the database {text!r} does not exist.")
    return DatabaseUid(uid)


def _maintenance_off(body: MaintenanceOffBody) -> MaintenanceOffParameters:
    if body.snapshot_name is not None and body.skip_shards_restore:
        raise invalid("conflicting_parameters", "snapshot_name and skip_shards_restore are mutually exclusive.")
    return MaintenanceOffParameters(
        snapshot_name=body.snapshot_name,
        skips_restore=bool(body.skip_shards_restore),
        moves_max=body.max_concurrent_actions,
    )


def _step_down(body: StepDownBody) -> StepDownParameters:
    if body.endpoints_only and body.shards_only:
        raise invalid("conflicting_parameters", "endpoints_only and shards_only are mutually exclusive.")
    return StepDownParameters(
        yields_leadership=bool(body.demote_node),
        endpoints_only=bool(body.endpoints_only),
        shards_only=bool(body.shards_only),
        retry_timeout_s=body.retry_timeout_seconds,
    )


def parameters_json(parameters: ActionParameters) -> dict[str, object]:
    """The parameters in the wire's words; parameters that were not given are left out."""
    match parameters:
        case RemoveParameters():
            found: dict[str, object] = {"wait_for_persistence": parameters.wait_for_persistence}
        case MaintenanceOnParameters():
            listed = parameters.evict_databases
            found = {
                "overwrite_snapshot": parameters.overwrite_snapshot,
                "evict_ha_replica": parameters.evict_replicas,
                "evict_dbs": None if listed is None else [str(uid) for uid in listed],
                "demote_node": parameters.yields_leadership,
                "max_concurrent_actions": parameters.moves_max,
            }
        case MaintenanceOffParameters():
            found = {
                "snapshot_name": parameters.snapshot_name,
                "skip_shards_restore": parameters.skips_restore,
                "max_concurrent_actions": parameters.moves_max,
            }
        case StepDownParameters():
            found = {
                "demote_node": parameters.yields_leadership,
                "endpoints_only": parameters.endpoints_only,
                "shards_only": parameters.shards_only,
                "retry_timeout_seconds": parameters.retry_timeout_s,
            }
    return {key: value for key, value in found.items() if value is not None}
