"""Converts the records of the control socket to JSON and back. Pure. Used by both sides, so that only this module knows the
keys.

Bytes are encoded as base64. Raises KeyError, TypeError or ValueError for invalid data. Unknown keys are ignored: the other
side may run a newer version.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from shardwright.endpoint.connection import Packed
from shardwright.endpoint.gate import Hold
from shardwright.endpoint.packed_session import PackedSession
from shardwright.endpoint.protocol import (
    EndpointSpec,
    HoldResult,
    LeaseTerms,
    PassResult,
    ReleaseResult,
    Target,
    VirtualPlace,
)
from shardwright.endpoint.setup import ConnectionState
from shardwright.model.ids import EndpointUid
from shardwright.model.lease import LeaseSeen
from shardwright.model.seen import BusyCommand, EndpointSeen, EndpointState, VirtualSeen, VirtualState

Json = dict[str, Any]


_KEYS = {
    kind: frozenset(f.name for f in fields(kind))
    for kind in (EndpointSeen, EndpointSpec, LeaseSeen, LeaseTerms, PassResult, ReleaseResult, Target)
}


def _known(kind: type[Any], data: Mapping[str, Any]) -> Json:
    """What this version knows of the data for a record."""
    return {key: data[key] for key in _KEYS[kind] & data.keys()}


def target_to(target: Target | None) -> Json | None:
    return None if target is None else asdict(target)


def target_from(data: Json | None) -> Target | None:
    return None if data is None else known_target_from(data)


def known_target_from(data: Json) -> Target:
    """A target that must exist."""
    return Target(**_known(Target, data))


def spec_to(spec: EndpointSpec) -> Json:
    return asdict(spec)


def spec_from(data: Json) -> EndpointSpec:
    virtual = tuple(VirtualPlace(place["address"], place["is_closing"]) for place in data.get("virtual", ()))
    target, lease = target_from(data["target"]), data.get("lease")
    own = {"target": target, "virtual": virtual, "lease": None if lease is None else terms_from(lease)}
    return EndpointSpec(**(_known(EndpointSpec, data) | own))


def terms_to(terms: LeaseTerms) -> Json:
    return asdict(terms)


def terms_from(data: Json) -> LeaseTerms:
    return LeaseTerms(**(_known(LeaseTerms, data) | {"waived": tuple(map(str, data["waived"]))}))


def lease_to(seen: LeaseSeen) -> Json:
    return asdict(seen)


def lease_from(data: Json) -> LeaseSeen:
    return LeaseSeen(**(_known(LeaseSeen, data) | {"endpoint_uid": EndpointUid(data["endpoint_uid"])}))


def hold_to(hold: Hold | None, now: float) -> Json | None:
    return None if hold is None else {"old": asdict(hold.old), "new": asdict(hold.new), "age_s": now - hold.since}


def busy_to(busy: BusyCommand) -> Json:
    return asdict(busy) | {"since": None if busy.since is None else busy.since.isoformat()}


def busy_from(data: Json) -> BusyCommand:
    since = data["since"]
    return BusyCommand(data["client"], data["command"], None if since is None else datetime.fromisoformat(since))


def hold_result_to(result: HoldResult) -> Json:
    return asdict(result) | {"busy": [busy_to(busy) for busy in result.busy]}


def hold_result_from(data: Json) -> HoldResult:
    return HoldResult(data["was_held"], data["is_drained"], tuple(busy_from(busy) for busy in data["busy"]))


def release_result_from(data: Json) -> ReleaseResult:
    return ReleaseResult(**_known(ReleaseResult, data))


def pass_result_from(data: Json) -> PassResult:
    return PassResult(**_known(PassResult, data))


def seen_to(seen: EndpointSeen) -> Json:
    return asdict(seen) | {"busy": [busy_to(busy) for busy in seen.busy]}


def seen_from(data: Json) -> EndpointSeen:
    uid, state = EndpointUid(data["endpoint_uid"]), EndpointState(data["state"])
    busy, ended = tuple(busy_from(busy) for busy in data["busy"]), tuple(data["ended"])
    virtual = tuple(virtual_from(one) for one in data.get("virtual", ()))
    known = _known(EndpointSeen, data)
    return EndpointSeen(**(known | {"endpoint_uid": uid, "state": state, "busy": busy, "ended": ended, "virtual": virtual}))


def virtual_from(data: Json) -> VirtualSeen:
    return VirtualSeen(data["address"], VirtualState(data["state"]), data["failed_s"])


def packed_session_to(packed: PackedSession) -> Json:
    state = packed.state
    return {
        "is_authenticated": packed.is_authenticated,
        "protocol": state.protocol,
        "database": state.database,
        "settings": {name: _text(command) for name, command in state.settings.items()},
        "transaction": None if packed.transaction is None else [[_text(w), _text(raw)] for w, raw in packed.transaction],
        "is_transaction_broken": packed.is_transaction_broken,
    }


def packed_session_from(data: Json) -> PackedSession:
    members = data["transaction"]
    return PackedSession(
        is_authenticated=data["is_authenticated"],
        state=ConnectionState(
            data["protocol"], data["database"], {name: b64decode(command) for name, command in data["settings"].items()}
        ),
        transaction=None if members is None else tuple((b64decode(word), b64decode(raw)) for word, raw in members),
        is_transaction_broken=data["is_transaction_broken"],
    )


def packed_to(packed: Packed) -> Json:
    """A connection in a message; an attached file contains its bytes."""
    return {
        # The key's name stays: the two processes may run adjacent versions.
        "luggage": packed_session_to(packed.session),
        "unread_bytes": sum(map(len, packed.unread)),
        "unsent_bytes": sum(map(len, packed.unsent)),
    }


def _text(data: bytes) -> str:
    return b64encode(data).decode()
