"""The daemon's composition root: the one place that knows which parts there are and hands each what it needs.

``run_daemon`` is what a daemon's process runs. No part reaches for another by itself.
"""

import asyncio
import os
import secrets
import uuid
from functools import partial
from pathlib import Path

import structlog

from shardwright import __version__
from shardwright.agent.loop import Agent
from shardwright.api.app import create_app
from shardwright.api.deps import ApiContext
from shardwright.api.server import ApiServer, serve
from shardwright.api.services.figures import Figures
from shardwright.clock import Clock, SteadyClock, SystemClock
from shardwright.faults import VARIABLE, Faults
from shardwright.leader.election import Held, LeaseKeeper, check_term
from shardwright.leader.loop import Leader, LeaderParts
from shardwright.leader.probe import Probe, silent
from shardwright.local.config import DaemonConfig
from shardwright.machine import processes
from shardwright.model.cluster import DaemonPresence
from shardwright.nodes.local import LocalNodes, agent_path, control_path
from shardwright.server.adapter import ServerAdapter
from shardwright.store.mirror import Mirror
from shardwright.store.sqlite import POLL_SELDOM_S, SqliteStore
from shardwright.tasks import spawn

_log = structlog.get_logger(__name__)


FAILED_PAUSE_S = 1.0
"""From the failure of a leader to the end of its leadership: a daemon that is alone leads again immediately."""


class LeadershipRunner:
    """Runs a ``Leader`` for as long as this daemon holds the leadership, one after another. Gives up a leadership whose
    leader has failed: its lease is renewed all the same, so it would last, and no daemon would lead."""

    def __init__(
        self,
        keeper: LeaseKeeper,
        store: SqliteStore,
        mirror: Mirror,
        *,
        run_directory: Path,
        clock: Clock,
        probe: Probe,
    ) -> None:
        self._keeper = keeper
        self._store = store
        self._mirror = mirror
        self._run_directory = run_directory
        self._clock = clock
        self._probe = probe

    async def run(self) -> None:
        """For ever. Leaves nothing of an ended leadership running."""
        held = await self._keeper.wait_change(None)
        while True:
            if held is None:
                held = await self._keeper.wait_change(None)
                continue
            leading = spawn(f"lead term {held.term}", self._lead(self._leader(held)))
            _log.info("this daemon leads", term=held.term)
            try:
                held = await self._keeper.wait_change(held)
            finally:
                leading.cancel()
                await asyncio.gather(leading, return_exceptions=True)

    async def _lead(self, leader: Leader) -> None:
        try:
            await leader.run()
        except Exception:
            _log.exception("the leader failed; a defect")
            await self._clock.sleep(FAILED_PAUSE_S)
            self._yield_leadership()

    def _yield_leadership(self) -> None:
        # In a task of its own: the leader's is cancelled at once.
        spawn("yield leadership", self._keeper.yield_leadership())

    def _leader(self, held: Held) -> Leader:
        def is_leader() -> bool:
            now = self._keeper.leadership
            return now is not None and now.term == held.term

        async def check() -> None:
            await check_term(self._store, held)

        # What is seen of servers and what is decided from it must go by one clock.
        clock = SteadyClock(self._clock)
        parts = LeaderParts(
            store=self._store,
            mirror=self._mirror,
            servers=ServerAdapter(check_term=check, is_leader=is_leader, clock=clock),
            nodes=LocalNodes.of(self._run_directory, clock=clock),
            clock=clock,
            probe=self._probe,
            random_text=_random_text,
            yield_leadership=self._yield_leadership,
        )
        return Leader(parts, term=held.term, fence=held.fence)


async def run_daemon(config: DaemonConfig) -> None:
    """Run a node's daemon until it is cancelled. Shards and the endpoint process outlive it. Raises RuntimeError when one of
    its eternal tasks ends: the daemon ends with it, and the supervisor starts it anew."""
    clock = SystemClock()
    store = await SqliteStore.open(config.layout.store)
    mirror = Mirror(store, clock=clock)
    mirroring = spawn("mirror", mirror.run())
    try:
        await mirror.ready()
        await mirror.fresh()
        await _serve(config, store, mirror=mirror, clock=clock)
    finally:
        mirroring.cancel()
        await asyncio.gather(mirroring, return_exceptions=True)
        await store.close()


async def _serve(config: DaemonConfig, store: SqliteStore, *, mirror: Mirror, clock: Clock) -> None:
    keeper = LeaseKeeper(
        partial(SqliteStore.open, config.layout.store, poll_s=POLL_SELDOM_S), _presence(config, clock), clock=clock
    )
    context = ApiContext(
        store=store,
        mirror=mirror,
        clock=clock,
        node_uid=config.node_uid,
        is_leader=keeper.is_leader,
        new_uid=lambda: str(uuid.uuid4()),
        random_text=_random_text,
        figures=Figures(LocalNodes.of(config.run_directory, clock=clock), clock=clock),
    )
    agent = Agent(
        config.node_uid,
        store,
        mirror=mirror,
        directory=config.layout.node(config.node_uid),
        control=control_path(config.run_directory, config.node_uid),
        news_socket=agent_path(config.run_directory, config.node_uid),
        clock=clock,
    )
    runner = LeadershipRunner(keeper, store, mirror, run_directory=config.run_directory, clock=clock, probe=_probe())
    layout = config.layout
    # The agent first: processes that ended together with the last daemon shall not wait for anything else.
    tasks = [spawn("agent", agent.run())]
    api: ApiServer | None = None
    try:
        api = await serve(create_app(context), config.address, config.api_port, layout.certificate, layout.key)
        await keeper.start()
        tasks += [spawn("leadership", runner.run()), spawn("api", api.ended())]
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        raise RuntimeError(f"{', '.join(t.get_name() for t in ended)} ended by itself")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await keeper.stop()
        if api is not None:
            await api.stop()


def _presence(config: DaemonConfig, clock: Clock) -> DaemonPresence:
    identity = processes.identity_of(os.getpid())
    assert identity is not None
    return DaemonPresence(
        node_uid=config.node_uid,
        pid=identity.pid,
        start_ticks=identity.start_ticks,
        boot_id=identity.boot_id,
        lease_id=0,
        version=__version__,
        api_url=config.api_url,
        started_at=clock.now(),
    )


def _probe() -> Probe:
    directory = os.environ.get(VARIABLE)
    return Faults(Path(directory)) if directory else silent


def _random_text() -> str:
    return secrets.token_hex(4)
