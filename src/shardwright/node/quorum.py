"""Whether the store still has its quorum, as far as this machine can tell. Asks, and changes nothing."""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Final

from shardwright.errors import ClusterError
from shardwright.node.known_store import known_endpoints
from shardwright.node.places import store_settings
from shardwright.node.services import Say
from shardwright.node.settings import NodeSettings
from shardwright.store import keys
from shardwright.store.open import open_store
from shardwright.store.settings import EtcdSettings

ASKED_S: Final = 8.0
"""Several elections of the store: one that is under way must not look like a lost quorum."""
_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a member's address said."""

    endpoint: str
    has_cluster: bool
    """It answered with the cluster's records, which needs a quorum."""
    why_not: str
    """Empty if it did, or if it answered without a cluster."""


def ask_members(settings: NodeSettings, say: Say) -> list[Asked]:
    """Ask every member that this node knows of, until one answers with the cluster or the time is over."""
    say("asking the members of the store whether they have a quorum")
    place, deadline = store_settings(settings.store), time.monotonic() + ASKED_S
    endpoints = known_endpoints(settings)
    while True:
        asked = asyncio.run(_ask_all(place, endpoints))
        if any(one.has_cluster for one in asked) or time.monotonic() >= deadline:
            return asked
        time.sleep(_PAUSE_S)


async def _ask_all(place: EtcdSettings, endpoints: tuple[str, ...]) -> list[Asked]:
    # Each alone: they may belong to different stores.
    return list(await asyncio.gather(*(_ask(replace(place, endpoints=(endpoint,))) for endpoint in endpoints)))


async def _ask(place: EtcdSettings) -> Asked:
    endpoint = place.endpoints[0]
    try:
        store = await open_store(place)
        try:
            found = await store.get(keys.CLUSTER)
        finally:
            await store.close()
    except (ClusterError, OSError) as e:
        return Asked(endpoint, has_cluster=False, why_not=str(e))
    return Asked(endpoint, has_cluster=found is not None, why_not="")
