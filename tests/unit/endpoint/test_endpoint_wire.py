"""The records of the control socket survive JSON, and invalid data is refused."""

import json
import socket
from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest

from shardwright.endpoint import wire
from shardwright.endpoint.connection import Packed
from shardwright.endpoint.gate import Hold
from shardwright.endpoint.packed_session import PackedSession
from shardwright.endpoint.protocol import EndpointSpec, HoldResult, PassResult, ReleaseResult, Target, VirtualPlace
from shardwright.endpoint.setup import ConnectionState
from shardwright.model.ids import DatabaseUid, EndpointUid, ShardUid
from shardwright.model.seen import BusyCommand, EndpointSeen, EndpointState, VirtualSeen, VirtualState

OLD = Target(ShardUid(1), 1, "127.0.0.1", 1001, "aaa")
NEW = Target(ShardUid(2), 2, "127.0.0.1", 1002)
SPEC = EndpointSpec(EndpointUid("1:1"), DatabaseUid(1), "dätabase", "127.0.0.1", 12_000, OLD, "p", "s", is_strict=True)
BUSY = (BusyCommand("10.0.0.1:5 me", "EVAL", datetime(2026, 1, 2, tzinfo=UTC)), BusyCommand("10.0.0.2:6", ""))
SEEN = EndpointSeen(
    EndpointUid("1:1"), EndpointState.BIND_FAILED, 3, 4, 5, "in use", "print", True, BUSY, ("10.0.0.9:5 me EVAL",)
)


VIRTUAL = (VirtualPlace("10.0.0.9"), VirtualPlace("10.0.0.8", is_closing=True))
AT_VIRTUAL = tuple(VirtualSeen("10.0.0.9", state, 1.5) for state in VirtualState)


def through_json(data: wire.Json) -> wire.Json:
    found = json.loads(json.dumps(data))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, target=None), replace(SPEC, virtual=VIRTUAL)])
def test_a_specification(spec: EndpointSpec) -> None:
    assert wire.spec_from(through_json(wire.spec_to(spec))) == spec


def test_a_target() -> None:
    for target in (OLD, NEW):
        assert wire.target_from(wire.target_to(target)) == wire.known_target_from(wire.target_to(target) or {}) == target
    assert wire.target_from(wire.target_to(None)) is None


@pytest.mark.parametrize(
    "seen", [SEEN, replace(SEEN, virtual=AT_VIRTUAL), EndpointSeen(EndpointUid("1:1"), EndpointState.ABSENT)]
)
def test_the_observation_of_an_endpoint(seen: EndpointSeen) -> None:
    assert wire.seen_from(through_json(wire.seen_to(seen))) == seen
    # Every field of the record is sent, including new ones.
    assert set(wire.seen_to(seen)) == {field.name for field in fields(EndpointSeen)}


@pytest.mark.parametrize("result", [HoldResult(True, False, BUSY), HoldResult(False, True)])
def test_the_result_of_a_hold(result: HoldResult) -> None:
    assert wire.hold_result_from(through_json(wire.hold_result_to(result))) == result


def test_other_results() -> None:
    assert wire.release_result_from({"pause_ms": 1.5, "held_commands": 2, "generation": 3}) == ReleaseResult(1.5, 2, 3)
    assert wire.pass_result_from({"passed": 1, "remaining": 2}) == PassResult(1, 2)


def test_a_hold_is_sent_with_its_age_because_clocks_differ() -> None:
    assert wire.hold_to(None, 9.0) is None
    data = wire.hold_to(Hold(OLD, NEW, 5.0), 9.0)
    assert data is not None
    assert (wire.known_target_from(data["old"]), wire.known_target_from(data["new"]), data["age_s"]) == (OLD, NEW, 4.0)


SESSION = PackedSession(
    is_authenticated=True,
    state=ConnectionState(3, 5, {"SETNAME": b"CLIENT SETNAME me\r\n", "SETINFO LIB-NAME": bytes(range(256))}),
    transaction=((b"MULTI", b"MULTI\r\n"), (b"SET", b"*3\r\n\xff\x00")),
    is_transaction_broken=True,
)


@pytest.mark.parametrize(
    "packed", [SESSION, PackedSession(False, ConnectionState(), None, False), replace(SESSION, transaction=())]
)
def test_a_packed_session_with_all_its_bytes(packed: PackedSession) -> None:
    assert wire.packed_session_from(through_json(wire.packed_session_to(packed))) == packed


def test_the_bytes_of_a_connection_are_sent_beside_its_message() -> None:
    with socket.socket() as client:
        packed = Packed(client, SESSION, [b"abc", bytearray(b"de")], [b"f"])
        data = through_json(wire.packed_to(packed))
    assert (data["unread_bytes"], data["unsent_bytes"], packed.size) == (5, 1, 6)
    assert wire.packed_session_from(data["luggage"]) == SESSION


def test_what_a_newer_version_adds_is_ignored() -> None:
    new = {"new": {"more": 1}}
    spec = through_json(wire.spec_to(SPEC))
    assert wire.spec_from(spec | new | {"target": spec["target"] | new}) == SPEC
    assert wire.seen_from(through_json(wire.seen_to(SEEN)) | new) == SEEN
    busy = [wire.busy_to(b) | new for b in BUSY]
    assert wire.hold_result_from({"was_held": True, "is_drained": False, "busy": busy} | new) == HoldResult(
        True, False, BUSY
    )
    assert wire.release_result_from({"pause_ms": 1.5, "held_commands": 2, "generation": 3} | new) == ReleaseResult(1.5, 2, 3)
    assert wire.pass_result_from({"passed": 1, "remaining": 2} | new) == PassResult(1, 2)


def test_invalid_records_are_refused() -> None:
    spec = through_json(wire.spec_to(SPEC))
    for wrong in ({}, {k: v for k, v in spec.items() if k != "port"}, spec | {"target": {"port": 1}}):
        with pytest.raises((KeyError, TypeError)):
            wire.spec_from(wrong)
    with pytest.raises(ValueError, match="nonsense"):
        wire.seen_from(through_json(wire.seen_to(SEEN)) | {"state": "nonsense"})
    with pytest.raises(ValueError, match=r"base64|padding"):
        wire.packed_session_from(through_json(wire.packed_session_to(SESSION)) | {"settings": {"SETNAME": "x"}})
