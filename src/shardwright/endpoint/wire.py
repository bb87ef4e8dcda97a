"""The records of the control socket as JSON and back. Pure. Used by both of its sides, so that one place knows the names.

Bytes travel as base64. Raises KeyError, TypeError or ValueError for what is no such record.
"""

from base64 import b64decode, b64encode
from dataclasses import asdict
from typing import Any

from shardwright.endpoint.gate import Hold
from shardwright.endpoint.protocol import BusyCommand, EndpointSpec, HoldResult, PassResult, ReleaseResult, Target
from shardwright.endpoint.session import Luggage
from shardwright.endpoint.setup import ConnectionState
from shardwright.model.ids import EndpointUid
from shardwright.model.seen import EndpointSeen, EndpointState

Json = dict[str, Any]


def target_to(target: Target | None) -> Json | None:
    return None if target is None else asdict(target)


def target_from(data: Json | None) -> Target | None:
    return None if data is None else Target(**data)


def known_target_from(data: Json) -> Target:
    """A target that must be there."""
    return Target(**data)


def spec_to(spec: EndpointSpec) -> Json:
    return asdict(spec)


def spec_from(data: Json) -> EndpointSpec:
    return EndpointSpec(**(data | {"target": target_from(data["target"])}))


def hold_to(hold: Hold | None, now: float) -> Json | None:
    return None if hold is None else {"old": asdict(hold.old), "new": asdict(hold.new), "age_s": now - hold.since}


def hold_result_from(data: Json) -> HoldResult:
    return HoldResult(data["was_held"], data["is_drained"], tuple(BusyCommand(**busy) for busy in data["busy"]))


def release_result_from(data: Json) -> ReleaseResult:
    return ReleaseResult(**data)


def pass_result_from(data: Json) -> PassResult:
    return PassResult(**data)


def seen_from(data: Json) -> EndpointSeen:
    uid, state = EndpointUid(data["endpoint_uid"]), EndpointState(data["state"])
    return EndpointSeen(**(data | {"endpoint_uid": uid, "state": state}))


def luggage_to(luggage: Luggage) -> Json:
    state = luggage.state
    return {
        "is_authenticated": luggage.is_authenticated,
        "protocol": state.protocol,
        "database": state.database,
        "settings": {name: _text(command) for name, command in state.settings.items()},
        "transaction": None if luggage.transaction is None else [[_text(w), _text(raw)] for w, raw in luggage.transaction],
        "is_transaction_broken": luggage.is_transaction_broken,
        "unread": _text(luggage.unread),
    }


def luggage_from(data: Json) -> Luggage:
    members = data["transaction"]
    return Luggage(
        is_authenticated=data["is_authenticated"],
        state=ConnectionState(
            data["protocol"], data["database"], {name: b64decode(command) for name, command in data["settings"].items()}
        ),
        transaction=None if members is None else tuple((b64decode(word), b64decode(raw)) for word, raw in members),
        is_transaction_broken=data["is_transaction_broken"],
        unread=b64decode(data["unread"]),
    )


def _text(data: bytes) -> str:
    return b64encode(data).decode()
