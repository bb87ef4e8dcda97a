"""A process that is being replaced: the requests that it also passes to the process that takes its place, and the common
answer. Pure, but for ``Relay``, which asks.

The connections of an endpoint are in both processes until the last one has passed. A leader knows only the old one, so what
it asks must be true of both. Owned by ``process.py``.
"""

import asyncio
from typing import Any, Final

from shardwright.endpoint.channel import Channel, Message
from shardwright.endpoint.protocol import CALM_S, HOLD_TIMEOUT_S, RELAY_TIMEOUT_S

RELAYED: Final = frozenset({"serve", "lease", "drop", "retire", "calm", "hold", "release", "pass_along"})
"""Requests that concern connections, wherever they are."""


class Relay:
    """The way to the process that takes the place of this one, at its control socket."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def ask(self, message: Message) -> Message:
        """Its answer to a request. Raises ValueError if it refuses or does not answer: then no caller may assume that both
        processes did what was asked."""
        timeout_s = CALM_S + HOLD_TIMEOUT_S if message["op"] == "calm" else HOLD_TIMEOUT_S
        try:
            answer = await self._ask(message, timeout_s)
        except (OSError, TimeoutError, ValueError) as error:
            reason = str(error) or "no answer in time"
            raise ValueError(f"the process that takes the place of this one: {reason}") from error
        if "error" in answer:
            raise ValueError(f"the process that takes the place of this one: {answer['error']}")
        return dict(answer["ok"])

    async def state(self) -> Message | None:
        """What it says of its endpoints; None: it does not answer."""
        try:
            return dict((await self._ask({"op": "status"}, RELAY_TIMEOUT_S))["ok"])
        except (OSError, TimeoutError, ValueError, KeyError):
            return None

    async def _ask(self, message: Message, timeout_s: float) -> Message:
        async with asyncio.timeout(timeout_s), await Channel.connect(self.path) as channel:
            return await channel.ask(message)


def merged(request: str, own: Message, other: Message) -> Message:
    """The answer for both processes."""
    match request:
        case "hold":
            both = {key: own[key] and other[key] for key in ("was_held", "is_drained")}
            return both | {"busy": [*own["busy"], *other["busy"]]}
        case "release":
            held = own["held_commands"] + other["held_commands"]
            return {key: max(own[key], other[key]) for key in ("pause_ms", "generation")} | {"held_commands": held}
        case "pass_along":
            return {key: own[key] + other[key] for key in ("passed", "remaining")}
        case _:
            return own


def merged_status(own: Message, other: Message) -> Message:
    """The state of both processes, as that of this one: an endpoint that was passed on is what the other one says of it."""
    theirs = {seen["endpoint_uid"]: seen for seen in other["endpoints"]}
    endpoints = [
        _merged_endpoint(seen, theirs[seen["endpoint_uid"]]) if seen["endpoint_uid"] in theirs else seen
        for seen in own["endpoints"]
    ]
    totals = {name: count + other["totals"].get(name, 0) for name, count in own["totals"].items()}
    return own | {"endpoints": endpoints, "totals": totals, "leases": _merged_leases(own, other)}


def _merged_leases(own: Message, other: Message) -> list[dict[str, Any]]:
    """What is true of both: a lease is shown when both processes have shown it. The new process is not named by any waiver,
    so it needs proofs from the first version that it knows; until then, the leader must not count on it."""
    theirs = {seen["endpoint_uid"]: seen for seen in other.get("leases", ())}
    passed = {seen["endpoint_uid"] for seen in other["endpoints"]}
    found = []
    for seen in own.get("leases", ()):
        uid = seen["endpoint_uid"]
        if uid in theirs:
            found.append(_merged_lease(seen, theirs[uid]))
        elif uid not in passed:
            found.append(seen)
    return found


def _merged_lease(own: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    unconfirmed = [seen["unconfirmed_s"] for seen in (own, other) if seen.get("unconfirmed_s") is not None]
    return own | {
        "version": min(own["version"], other["version"]),
        "is_waived": own["is_waived"] or other["is_waived"],
        "unconfirmed_s": max(unconfirmed, default=None),
    }


def _merged_endpoint(own: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    held = [seen["held_generation"] for seen in (own, other) if seen["held_generation"] is not None]
    return other | {
        "connections": own["connections"] + other["connections"],
        # The one that is behind is told again.
        "generation": min(own["generation"], other["generation"]),
        "held_generation": min(held, default=None),
        "busy": [*own["busy"], *other["busy"]],
        "ended": [*own["ended"], *other["ended"]],
        "server_silent_s": own.get("server_silent_s"),
    }
