"""The daemon's composition root: the one place that knows which parts there are and hands each what it needs.

``run_daemon`` is what a daemon's process runs, in a local cluster as in one of machines: ``DaemonConfig`` says what differs.
No part reaches for another by itself.
"""

import asyncio
import gc
import os
import secrets
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import structlog

from shardwright import __version__
from shardwright.agent.backups import Backups, back_up_before
from shardwright.agent.loop import Agent
from shardwright.agent.signing import Signing
from shardwright.agent.store_endpoints import StoreEndpoints
from shardwright.agent.virtual_addresses import VirtualAddressKeeper
from shardwright.api.app import create_app
from shardwright.api.certificate import ApiCertificate
from shardwright.api.deps import ApiContext
from shardwright.api.replacement import replace_node
from shardwright.api.server import ApiServer, serve
from shardwright.api.services.check import Checks
from shardwright.api.services.figures import Figures
from shardwright.clock import Clock, SteadyClock, SystemClock
from shardwright.composition import NodeAccess, lease_times
from shardwright.daemon_config import DaemonConfig
from shardwright.discovery.server import Discovery
from shardwright.errors import Permanent
from shardwright.faults import LIFETIME_VARIABLE, VARIABLE, Faults
from shardwright.leader.apply import SwitchOffMachine
from shardwright.leader.attendance import remember
from shardwright.leader.election import Held, LeaseKeeper, check_term
from shardwright.leader.loop import Leader, LeaderParts
from shardwright.leader.presence import Lasting
from shardwright.leader.probe import Probe, silent
from shardwright.leader.upgrade import BackUp
from shardwright.machine import processes
from shardwright.machine.fence_hooks import FenceHooks
from shardwright.model.cluster import DaemonPresence
from shardwright.model.codes import Code
from shardwright.model.version import CLUSTER_VERSION
from shardwright.nodes.paths import agent_path, control_path
from shardwright.server.adapter import ServerAdapter
from shardwright.store.endpoints import EndpointBook
from shardwright.store.members import Members
from shardwright.store.mirror import Mirror
from shardwright.store.open import book_of, for_election, open_members, open_store
from shardwright.store.protocol import Store
from shardwright.tasks import RightOfWay, spawn
from shardwright.trust.certificates import LIFETIME

_log = structlog.get_logger(__name__)


FAILED_PAUSE_S = 1.0
"""From the failure of a leader to the end of its leadership: a daemon that is alone leads again immediately."""


class LeadershipRunner:
    """Runs a ``Leader`` for as long as this daemon holds the leadership, one after another. Gives up a leadership whose
    leader has failed: otherwise the keeper would go on to renew its lease, and no daemon would lead."""

    def __init__(
        self,
        keeper: LeaseKeeper,
        store: Store,
        mirror: Mirror,
        *,
        access: NodeAccess,
        clock: Clock,
        probe: Probe,
        members: Callable[[], Members | None],
        switch_off: SwitchOffMachine | None,
        back_up: BackUp,
        right_of_way: RightOfWay,
    ) -> None:
        self._keeper = keeper
        self._store = store
        self._mirror = mirror
        self._access = access
        self._clock = clock
        self._probe = probe
        self._members = members
        self._switch_off = switch_off
        self._back_up = back_up
        self._right_of_way = right_of_way
        self._lasting = Lasting()
        remember(self._lasting, mirror, clock)

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
            servers=ServerAdapter(check_term=check, is_leader=is_leader, clock=clock, context=self._access.server_context),
            nodes=self._access.nodes(clock, term=held.term),
            clock=clock,
            probe=self._probe,
            random_text=_random_text,
            yield_leadership=self._yield_leadership,
            right_of_way=self._right_of_way,
            lasting=self._lasting,
            members=self._members(),
            switch_off=self._switch_off,
            back_up=self._back_up,
        )
        return Leader(parts, term=held.term, fence=held.fence)


async def run_daemon(config: DaemonConfig) -> None:
    """Run a node's daemon until it is cancelled. Shards and the endpoint process outlive it. Raises RuntimeError when one of
    its eternal tasks ends: the daemon ends with it, and the supervisor starts it again. Raises Permanent when the store
    contains what this daemon must not go on with, StoreReplaced when another store answers than before."""
    # What is imported is never garbage, and a full collection that looks at all of it stops the loop for 25 to 40 ms.
    gc.freeze()
    clock = SystemClock()
    book = book_of(config.store)
    store = await open_store(config.store, book)
    mirror = Mirror(store, clock=clock, sealing=config.sealing)
    access = NodeAccess(config, mirror)
    mirroring = spawn("mirror", mirror.run())
    addresses = access.virtual_addresses(clock)
    # Before anything else: an address that another node has by now must not stay here.
    keeping = [] if addresses is None else [spawn("virtual addresses", addresses.run())]
    serving = spawn("serve", _serve(config, store, book, access, addresses, mirror=mirror, clock=clock))
    try:
        ended, _ = await asyncio.wait((mirroring, serving, *keeping), return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
        raise RuntimeError(f"{', '.join(t.get_name() for t in ended)} ended by itself")
    finally:
        # What serves needs the mirror until its own end.
        for task in (serving, *keeping, mirroring):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await store.close()


async def _serve(
    config: DaemonConfig,
    store: Store,
    book: EndpointBook | None,
    access: NodeAccess,
    addresses: VirtualAddressKeeper | None,
    *,
    mirror: Mirror,
    clock: Clock,
) -> None:
    await mirror.ready()
    await mirror.fresh()
    opened = partial(open_store, for_election(config.store), book)
    members = partial(open_members, config.store, book)
    shown_members = members()
    keeper = LeaseKeeper(opened, _presence(config, clock), clock=clock, times=lease_times(config.store))
    nodes = access.nodes(clock)
    context = ApiContext(
        store=store,
        mirror=mirror,
        clock=clock,
        node_uid=config.node_uid,
        is_leader=keeper.is_leader,
        new_uid=lambda: str(uuid.uuid4()),
        random_text=_random_text,
        figures=Figures(nodes, clock=clock),
        checks=Checks(nodes, clock=clock),
        machines=None if config.machines is None else config.machines.with_members(shown_members),
        members=shown_members,
        api_certificate=config.api_certificate.read_bytes,
    )
    signing = access.signing(store, clock=clock, random_text=_random_text, lifetime=_certificate_lifetime())
    agent = await _agent(config, store, mirror=mirror, access=access, addresses=addresses, signing=signing, clock=clock)
    probe = _probe()
    runner = _runner(config, keeper, context, access=access, members=members, probe=probe)
    shown = ApiCertificate(config.api_certificate, config.api_key)
    # The agent first: processes that ended together with the last daemon shall not wait for anything else.
    tasks = [spawn("agent", agent.run()), spawn("discovery", _discovery(config, mirror).run())]
    tasks += _among_machines(access, agent, signing, clock=clock)
    if (holder := access.key_holder(store, clock=clock, random_text=_random_text)) is not None:
        tasks.append(spawn("authority's key", holder.run()))
    if config.machines is not None:
        tasks.append(spawn("replacement", replace_node(context)))
    tasks += _about_the_store(config, store, book, shown_members, access=access, mirror=mirror, clock=clock, probe=probe)
    api: ApiServer | None = None
    try:
        await asyncio.to_thread(shown.load)
        api = await serve(create_app(context), config.addresses, config.api_port, shown.context)
        tasks.append(spawn("api certificate", shown.follow()))
        await keeper.start()
        tasks += [spawn("leadership", runner.run()), spawn("lease", keeper.ended()), spawn("api", api.ended())]
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
        raise RuntimeError(f"{', '.join(t.get_name() for t in ended)} ended by itself")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await keeper.stop()
        if api is not None:
            await api.stop()
        nodes.close()
        if shown_members is not None:
            await shown_members.close()


def _runner(
    config: DaemonConfig,
    keeper: LeaseKeeper,
    parts: ApiContext,
    *,
    access: NodeAccess,
    members: Callable[[], Members | None],
    probe: Probe,
) -> LeadershipRunner:
    """``parts``: the store, the mirror, the clock and the right of way are the same for the leader as for the API."""
    store, clock = parts.store, parts.clock
    return LeadershipRunner(
        keeper,
        store,
        parts.mirror,
        access=access,
        clock=clock,
        probe=probe,
        members=members,
        switch_off=None if config.fence_hooks is None else FenceHooks(config.fence_hooks).switch_off,
        back_up=partial(back_up_before, node_uid=config.node_uid, directory=config.backups, store=store, clock=clock),
        right_of_way=parts.right_of_way,
    )


async def _agent(
    config: DaemonConfig,
    store: Store,
    *,
    mirror: Mirror,
    access: NodeAccess,
    addresses: VirtualAddressKeeper | None,
    signing: Signing | None,
    clock: Clock,
) -> Agent:
    return Agent(
        config.node_uid,
        store,
        mirror=mirror,
        directory=config.directory,
        control=control_path(config.run_directory, config.node_uid),
        news_socket=agent_path(config.run_directory, config.node_uid),
        clock=clock,
        endpoint_directory=config.endpoint_directory,
        endpoint_command=await asyncio.to_thread(access.endpoint_command),
        remote=access.agent_place(),
        sign=None if signing is None else signing.sign,
        checked=config.checked,
        certificate=access.member_files,
        addresses=addresses,
    )


def _among_machines(
    access: NodeAccess, agent: Agent, signing: Signing | None, *, clock: Clock
) -> list["asyncio.Task[None]"]:
    """The tasks that only a node among other machines has."""
    if signing is None or (renewals := access.renewals(signing, clock=clock)) is None:
        return []
    return [
        spawn("certificates", renewals.run()),
        spawn("revoked certificates", access.publish_revoked()),
        spawn("membership", _removed(access, agent)),
    ]


def _about_the_store(
    config: DaemonConfig,
    store: Store,
    book: EndpointBook | None,
    members: Members | None,
    *,
    access: NodeAccess,
    mirror: Mirror,
    clock: Clock,
    probe: Probe,
) -> list["asyncio.Task[None]"]:
    """A daemon keeps the keys that open the store's secrets. If its cluster runs the store itself, it also follows the
    members, and keeps backups."""
    tasks: list[asyncio.Task[None]] = []
    if (held := access.cluster_keys(store, clock=clock, random_text=_random_text, reach=probe)) is not None:
        tasks.append(spawn("cluster keys", held.run()))
    if config.backups is not None:
        backups = Backups(config.node_uid, config.backups, store, mirror=mirror, clock=clock, random_text=_random_text)
        tasks.append(spawn("backups", backups.run()))
    if config.learning is not None and members is not None and book is not None:
        followed = StoreEndpoints(config.learning, members, book, mirror=mirror)
        tasks.append(spawn("store endpoints", followed.run()))
    return tasks


async def _removed(access: NodeAccess, agent: Agent) -> None:
    """Raises Permanent ``node_not_recorded`` when the node has been removed and is empty."""
    await access.until_removed(lambda: agent.has_shards)
    # It serves nothing any more, and nothing would end it once the daemon waits for a record.
    await agent.retire()
    raise Permanent(Code.NODE_NOT_RECORDED, "the node was removed from the cluster")


def _discovery(config: DaemonConfig, mirror: Mirror) -> Discovery:
    places = config.addresses, config.discovery_port
    return Discovery(config.node_uid, *places, view=mirror.view, subscribe=mirror.subscribe)


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
        cluster_version=CLUSTER_VERSION,
        machine_id=identity.machine_id,
    )


def _probe() -> Probe:
    directory = os.environ.get(VARIABLE)
    return Faults(Path(directory)) if directory else silent


def _certificate_lifetime() -> timedelta:
    given = os.environ.get(LIFETIME_VARIABLE)
    return timedelta(seconds=float(given)) if given else LIFETIME


def _random_text() -> str:
    return secrets.token_hex(4)
