"""An endpoint process asks its server itself while a leader suspects that it is out of reach."""

import asyncio
from pathlib import Path

import pytest

from shardwright.endpoint.suspicion import FORGET_AFTER_S
from shardwright.model.database import ServerKind
from shardwright.model.ids import EndpointUid
from testkit.deadlines import until
from tests.integration.endpoint_harness import ENDPOINT, World, endpoint_world

pytestmark = pytest.mark.server


def silent_s(world: World, *, suspects: bool = True) -> float | None:
    seen = asyncio.run(world.control().status([ENDPOINT] if suspects else ()))
    return seen.endpoint(ENDPOINT).server_silent_s


def test_it_says_how_long_the_server_has_been_silent(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        world.serve()
        assert silent_s(world, suspects=False) is None, "no one wants to know"
        assert silent_s(world) is None, "it has not asked yet"
        until("it has answered", lambda: silent_s(world) == 0.0, seconds=5, poll_s=0.05)
        world.primary.freeze()
        try:
            until("it is silent for long", lambda: (silent_s(world) or 0.0) > 2.0, seconds=10, poll_s=0.1)
        finally:
            world.primary.thaw()
        until("it answers again", lambda: silent_s(world) == 0.0, seconds=5, poll_s=0.05)
        world.primary.kill()
        until("no one answers there", lambda: (silent_s(world) or 0.0) > 0.5, seconds=10, poll_s=0.1)
        until("what it knew is outdated", lambda: silent_s(world, suspects=False) is None, seconds=FORGET_AFTER_S + 5)


def test_an_endpoint_that_it_does_not_serve_is_no_trouble(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        world.serve()
        seen = asyncio.run(world.control().status([EndpointUid("9:9")]))
        assert [e.endpoint_uid for e in seen.endpoints] == [ENDPOINT]
