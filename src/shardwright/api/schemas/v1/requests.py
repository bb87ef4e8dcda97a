"""Request bodies: strict models and their parser. Pure.

Types are strict (``1`` and ``"true"`` are not booleans), a key with ``null`` counts as absent, unknown keys are ignored.
The services check whether values make sense together.
"""

import json
from typing import Annotated, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shardwright.api.codes import invalid

LARGEST = 2**53 - 1
"""The largest integer that every JSON client can represent."""

Natural = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Text = Annotated[str, Field(max_length=1024)]


class Body(BaseModel):
    """Base of all request bodies."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class RemoveBody(Body):
    """``remove``."""

    wait_for_persistence: bool | None = None


class MaintenanceOnBody(Body):
    """``maintenance_on``."""

    overwrite_snapshot: bool | None = None
    evict_ha_replica: bool | None = None
    evict_active_active_replica: bool | None = None
    evict_dbs: Annotated[list[Annotated[int, Field(ge=0, le=LARGEST)] | Text], Field(max_length=10_000)] | None = None
    keep_slave_shards: bool | None = Field(default=None, json_schema_extra={"deprecated": True})
    demote_node: bool | None = None
    max_concurrent_actions: Natural | None = None


class MaintenanceOffBody(Body):
    """``maintenance_off``."""

    snapshot_name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    skip_shards_restore: bool | None = None
    max_concurrent_actions: Natural | None = None


class StepDownBody(Body):
    """``enslave_node``."""

    demote_node: bool | None = None
    endpoints_only: bool | None = None
    shards_only: bool | None = None
    retry_timeout_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = None


class ChangeLeaderBody(Body):
    """``change_master``."""

    node_uid: Annotated[int, Field(ge=1, le=99_999_999)] | Text | None = None


class RotateKeyBody(Body):
    """Extension: ``rotate_key``. It takes no parameters."""


class DeclareOffBody(Body):
    """Extension: ``declare_off``."""

    address: Text = Field(description="The node's address, as a confirmation of which machine is off")


class VirtualAddressBody(Body):
    """Extension: a virtual address."""

    address: Text = Field(description="ADDRESS/PREFIX, such as 10.0.0.9/24")
    interface: Text = Field(description="The interface that gets it; the same name on every node")
    bdb_uid: Annotated[int, Field(ge=1, le=99_999_999)] | None = Field(
        default=None, description="The database that is served at it; default: all databases"
    )


class SnapshotRuleBody(Body):
    """One rule of ``snapshot_policy``."""

    secs: Annotated[int, Field(ge=1, le=31_536_000)]
    writes: Annotated[int, Field(ge=1, le=2**31 - 1)]


class DatabaseBody(Body):
    """A database, at its creation (``POST``) or change (``PUT``). Keys that are not listed here are ignored."""

    uid: Annotated[int, Field(ge=1, le=99_999_999)] | None = None
    name: Text | None = None
    memory_size: Natural | None = None
    type: Text | None = None
    port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    replication: bool | None = None
    sharding: bool | None = None
    shards_count: Annotated[int, Field(ge=1, le=512)] | None = None
    shards_placement: Text | None = None
    oss_cluster: bool | None = None
    oss_sharding: bool | None = None
    proxy_policy: Text | None = None
    rack_aware: bool | None = None
    data_persistence: Text | None = None
    aof_policy: Text | None = None
    snapshot_policy: Annotated[list[SnapshotRuleBody], Field(max_length=16)] | None = None
    eviction_policy: Text | None = None
    authentication_redis_pass: Text | None = None
    default_user: bool | None = None
    tls_mode: Text | None = None
    ssl: bool | None = None
    bigstore: bool | None = None
    crdt: bool | None = None
    backup: bool | None = None
    module_list: list[object] | None = None
    avoid_nodes: list[object] | None = None
    use_nodes: list[object] | None = None
    redis_version: Text | None = None
    server: Text | None = Field(default=None, description="Extension: valkey or redis")
    strict: bool | None = Field(
        default=None,
        description="Extension: a write is answered only once a replica has it; needs replication. Default for a new "
        "database: whether it has replication if the nodes are on several machines, otherwise false",
    )
    notify_keyspace_events: Text | None = Field(
        default=None, description="Extension: keyspace events that the servers publish, in their letters; empty: none"
    )
    slave_ha: bool | None = None
    slave_ha_priority: Annotated[int, Field(ge=0, le=LARGEST)] | None = None


class StartBody(Body):
    """Extension: ``actions/start`` of a waiting database."""

    from_copy: Annotated[int, Field(ge=1, le=LARGEST)] | None = Field(
        default=None, description="uid of the shard to continue with, regardless of the other copies"
    )
    cut_damaged_tail: bool | None = Field(
        default=None, description="first cut the unreadable end of its append-only file; the original file is kept"
    )


class NewNodeBody(Body):
    """Extension: an additional node of a local cluster."""

    rack_id: Annotated[str, Field(max_length=128)] | None = None
    memory: Natural | None = None
    addr: Annotated[str, Field(max_length=45)] | None = None


class NodeBody(Body):
    """``PUT /v1/nodes/{uid}``: the editable keys."""

    accept_servers: bool | None = None
    addr: Annotated[str, Field(max_length=45)] | None = None
    external_addr: Annotated[list[Annotated[str, Field(max_length=255)]], Field(max_length=16)] | None = None
    max_listeners: Annotated[int, Field(ge=0, le=100_000)] | None = None
    max_redis_servers: Annotated[int, Field(ge=0, le=100_000)] | None = None
    max_redis_forks: Annotated[int, Field(ge=-1, le=100_000)] | None = None
    max_slave_full_syncs: Annotated[int, Field(ge=-1, le=100_000)] | None = None
    rack_id: Annotated[str, Field(max_length=128)] | None = None
    second_rack_id: Annotated[str, Field(max_length=128)] | None = None
    recovery_path: Annotated[str, Field(max_length=1024)] | None = None


class UserBody(Body):
    """A user, at creation or change."""

    email: Annotated[str, Field(max_length=254)] | None = None
    password: Text | None = Field(default=None, repr=False)
    name: Annotated[str, Field(max_length=255)] | None = None
    role: Text | None = None
    role_uids: Annotated[list[int], Field(max_length=16)] | None = None
    email_alerts: bool | None = None
    auth_method: Text | None = None


class PasswordBody(Body):
    """``PUT /v1/users/password``."""

    username: Annotated[str, Field(max_length=254)] | None = None
    old_password: Text | None = Field(default=None, repr=False)
    new_password: Text | None = Field(default=None, repr=False)


BodyT = TypeVar("BodyT", bound=Body)


def json_object(raw: bytes) -> dict[str, object]:
    """The object in a request body; an absent, empty or ``null`` body is an empty object. Raises Rejected."""
    if not raw.strip():
        return {}
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # lone surrogates cannot be stored
    except (ValueError, RecursionError) as e:
        raise invalid("invalid_request", "The body is not JSON.") from e
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid("invalid_request", f"The body must be a JSON object, not {_kind(value)}.")
    return {str(key): item for key, item in value.items() if item is not None}


def read_body(model: type[BodyT], raw: bytes) -> BodyT:
    """The body as a model. Raises Rejected, which names the first invalid key."""
    value = json_object(raw)
    try:
        return model.model_validate(value)
    except ValidationError as e:
        first = e.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"] if not _is_union_branch(part))
        message = str(first["msg"]).removeprefix("Input s").removeprefix("Value s")
        text = f"s{message}" if message.startswith("hould") else message
        raise invalid("invalid_parameter", f"{where}: {text}.") from e


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _is_union_branch(part: int | str) -> bool:
    return isinstance(part, str) and (part in ("int", "str") or "[" in part)


def _kind(value: object) -> str:
    match value:
        case bool():
            return "a boolean"
        case list():
            return "an array"
        case str():
            return "a string"
        case _:
            return "a number"
