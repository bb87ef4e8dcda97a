"""Bodies: JSON, strict types, and the parameters of node actions."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.api.schemas.v1.parameters import ignored_keys, parameters_json, parameters_of
from shardwright.api.schemas.v1.requests import DatabaseBody, json_object, read_body
from shardwright.errors import Refusal, Rejected
from shardwright.model.action import (
    ActionName,
    MaintenanceOffParameters,
    MaintenanceOnParameters,
    RemoveParameters,
    StepDownParameters,
)

ON, OFF, REMOVE, STEP = (
    ActionName.MAINTENANCE_ON,
    ActionName.MAINTENANCE_OFF,
    ActionName.REMOVE,
    ActionName.STEP_DOWN,
)


def test_unknown_keys_of_an_action_are_refused() -> None:
    assert ignored_keys(ON, b'{"evict_ha_replicas":false,"evict_ha_replica":false,"node_uid":null}') == ["evict_ha_replicas"]
    assert ignored_keys(REMOVE, b'{"keep_slave_shards":true,"wait_for_persistence":true}') == ["keep_slave_shards"]
    assert ignored_keys(OFF, b"") == ignored_keys(STEP, b"null") == []
    many = ignored_keys(STEP, json.dumps({f"{number:0200}": 1 for number in range(200)}).encode())
    assert (len(many), {len(key) for key in many}) == (50, {100})


@pytest.mark.parametrize("raw", [b"", b"  \r\n", b"null", b"{}", b' { "x" : null } '])
def test_empty_bodies(raw: bytes) -> None:
    assert json_object(raw) == {}


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[]",
        b"[1]",
        b'"text"',
        b"12",
        b"true",
        b"{'a':1}",
        b"a=b",
        b"\xff\xfe",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":"\\ud800"}',
        b"[" * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
        b"{} {}",
    ],
)
def test_a_body_that_is_not_an_object_is_refused(raw: bytes) -> None:
    with pytest.raises(Rejected) as refused:
        json_object(raw)
    assert refused.value.refusal is Refusal.INVALID
    assert refused.value.code == "invalid_request"


@given(st.binary(max_size=60))
def test_any_bytes_give_an_object_or_a_refusal(raw: bytes) -> None:
    with contextlib.suppress(Rejected):
        assert isinstance(json_object(raw), dict)


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        (b'{"memory_size":"1"}', "memory_size"),
        (b'{"memory_size":1.0}', "memory_size"),
        (b'{"memory_size":true}', "memory_size"),
        (b'{"memory_size":-1}', "memory_size"),
        (b'{"memory_size":1e3}', "memory_size"),
        (b'{"memory_size":99999999999999999999}', "memory_size"),
        (b'{"replication":1}', "replication"),
        (b'{"replication":"true"}', "replication"),
        (b'{"port":70000}', "port"),
        (b'{"name":7}', "name"),
        (b'{"snapshot_policy":{}}', "snapshot_policy"),
        (b'{"snapshot_policy":[{"secs":0,"writes":1}]}', "snapshot_policy.0.secs"),
        (b'{"snapshot_policy":[{"secs":1}]}', "snapshot_policy.0.writes"),
    ],
)
def test_types_are_strict_and_the_key_is_named(raw: bytes, key: str) -> None:
    with pytest.raises(Rejected) as refused:
        read_body(DatabaseBody, raw)
    assert refused.value.code == "invalid_parameter"
    assert refused.value.text.startswith(f"{key}: ")


def test_unknown_keys_are_ignored() -> None:
    assert read_body(DatabaseBody, b'{"name":"a","novelty":[1]}') == DatabaseBody(name="a")


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        (REMOVE, b"", RemoveParameters()),
        (REMOVE, b'{"wait_for_persistence":true}', RemoveParameters(wait_for_persistence=True)),
        (REMOVE, b'{"wait_for_persistence":null}', RemoveParameters()),
        (ON, b"null", MaintenanceOnParameters()),
        (ON, b'{"evict_dbs":["1",2,"1"]}', MaintenanceOnParameters(evict_databases=(1, 2))),  # type: ignore[arg-type]
        (ON, b'{"evict_dbs":[]}', MaintenanceOnParameters(evict_databases=())),
        (ON, b'{"evict_ha_replica":false}', MaintenanceOnParameters(evict_replicas=False)),
        (ON, b'{"keep_slave_shards":true}', MaintenanceOnParameters(evict_replicas=False)),
        (ON, b'{"keep_slave_shards":true,"evict_ha_replica":false}', MaintenanceOnParameters(evict_replicas=False)),
        (ON, b'{"keep_slave_shards":false}', MaintenanceOnParameters()),
        (ON, b'{"evict_active_active_replica":false}', MaintenanceOnParameters()),
        (
            ON,
            b'{"overwrite_snapshot":true,"demote_node":true,"max_concurrent_actions":0}',
            MaintenanceOnParameters(overwrite_snapshot=True, yields_leadership=True, moves_max=0),
        ),
        (OFF, b'{"snapshot_name":"s"}', MaintenanceOffParameters(snapshot_name="s")),
        (OFF, b'{"skip_shards_restore":true}', MaintenanceOffParameters(skips_restore=True)),
        (OFF, b'{"snapshot_name":"s","skip_shards_restore":false}', MaintenanceOffParameters(snapshot_name="s")),
        (STEP, b'{"endpoints_only":true}', StepDownParameters(endpoints_only=True)),
        (STEP, b'{"shards_only":true,"retry_timeout_seconds":5}', StepDownParameters(shards_only=True, retry_timeout_s=5)),
        (STEP, b'{"demote_node":true}', StepDownParameters(yields_leadership=True)),
    ],
)
def test_parameters(name: ActionName, raw: bytes, expected: object) -> None:
    assert parameters_of(name, raw, databases={1, 2}) == expected


@pytest.mark.parametrize(
    ("name", "raw", "code"),
    [
        (REMOVE, b'{"wait_for_persistence":1}', "invalid_parameter"),
        (REMOVE, b'{"wait_for_persistence":"true"}', "invalid_parameter"),
        (ON, b'{"evict_dbs":["3"]}', "invalid_parameter"),
        (ON, b'{"evict_dbs":["orders"]}', "invalid_parameter"),
        (ON, b'{"evict_dbs":[true]}', "invalid_parameter"),
        (ON, b'{"evict_dbs":[1.5]}', "invalid_parameter"),
        (ON, b'{"evict_dbs":"1"}', "invalid_parameter"),
        (ON, '{"evict_dbs":["²"]}'.encode(), "invalid_parameter"),
        (ON, b'{"max_concurrent_actions":-1}', "invalid_parameter"),
        (ON, b'{"keep_slave_shards":true,"evict_ha_replica":true}', "conflicting_parameters"),
        (ON, b'{"keep_slave_shards":true,"evict_active_active_replica":true}', "conflicting_parameters"),
        (OFF, b'{"snapshot_name":""}', "invalid_parameter"),
        (OFF, b'{"snapshot_name":"s","skip_shards_restore":true}', "conflicting_parameters"),
        (STEP, b'{"endpoints_only":true,"shards_only":true}', "conflicting_parameters"),
        (STEP, b'{"retry_timeout_seconds":1.0}', "invalid_parameter"),
    ],
)
def test_bad_parameters(name: ActionName, raw: bytes, code: str) -> None:
    with pytest.raises(Rejected) as refused:
        parameters_of(name, raw, databases={1, 2})
    assert (refused.value.refusal, refused.value.code) == (Refusal.INVALID, code)


def test_parameters_in_the_words_of_the_wire() -> None:
    assert parameters_json(RemoveParameters()) == {}
    assert parameters_json(MaintenanceOnParameters(evict_databases=(7,)))["evict_dbs"] == ["7"]  # type: ignore[arg-type]
    assert parameters_json(MaintenanceOffParameters(snapshot_name="s"))["snapshot_name"] == "s"
    assert parameters_json(StepDownParameters(retry_timeout_s=3))["retry_timeout_seconds"] == 3
