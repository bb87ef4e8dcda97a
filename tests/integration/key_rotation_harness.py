"""Several nodes change the cluster key: real key files, the real parts of daemons, a store in memory.

Each node has its own file. A daemon dies at a named point and takes with it what it had in memory; the next one of that node
begins with the file, and asks the others for what the store needs, as the real one does.
"""

import asyncio
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from shardwright.agent.cluster_keys import ClusterKeys
from shardwright.clock import SystemClock
from shardwright.errors import LostLeadership, Permanent, Transient
from shardwright.key_file import KeyFile, Keys, new_key
from shardwright.leader.handoff import Build
from shardwright.leader.resealing import Resealing
from shardwright.model.account import ManagementRole, User
from shardwright.model.cluster import Cluster, DaemonPresence, Leadership, Node
from shardwright.model.codes import Code
from shardwright.model.ids import KeyUid, NodeUid, UserUid
from shardwright.model.key_rotation import KeyPhase, KeyRotation
from shardwright.model.seen import NodeSeen
from shardwright.model.version import CLUSTER_VERSION
from shardwright.model.view import Put
from shardwright.store import keys, records
from shardwright.store.admission import missing_keys
from shardwright.store.commit import Conflict, Fence, commit
from shardwright.store.keys import StoredRecord
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import DeleteKey, PutKey, Transaction
from shardwright.store.seal import SEALED, ClusterKey, Sealing, uid_in
from shardwright.tasks import spawn

BEGIN = datetime(2026, 11, 29, tzinfo=UTC)
VALUES = 100
"""More than two batches."""


def random_text() -> str:
    return secrets.token_hex(4)


class Died(Exception):
    """A daemon was killed at a point."""


@dataclass
class Faults:
    """Kills at the nth named point that any daemon reaches. 0: never."""

    kills_at: int = 0
    reached: list[str] = field(default_factory=list)

    def reach(self, point: str) -> None:
        self.reached.append(point)
        if len(self.reached) == self.kills_at:
            raise Died(point)


@dataclass
class Daemon:
    """The parts of one daemon."""

    mirror: Mirror
    task: "asyncio.Task[None]"
    keys: ClusterKeys


def user(number: int) -> User:
    uid = UserUid(number)
    return User(uid, f"u{number}@example.com", f"user {number}", ManagementRole.NONE, f"hash {number}", BEGIN, BEGIN)


class Rotating:
    """See the module's text."""

    def __init__(self, directory: Path, *, nodes: int = 3, faults: Faults | None = None, shared: bool = False) -> None:
        self.faults = faults or Faults()
        self.clock = SystemClock()
        self.store = MemoryStore(self.clock)
        self.first = new_key()
        self.shared = shared
        self.files: dict[NodeUid, KeyFile] = {}
        for number in range(1, nodes + 1):
            place = directory / ("all" if shared else str(number))
            place.mkdir(exist_ok=True)
            file = self.files[NodeUid(number)] = KeyFile(place / "cluster.key")
            file.change(lambda _: (self.first,))
        self.daemons: dict[NodeUid, Daemon] = {}
        self.leader = NodeUid(1)

    async def __aenter__(self) -> "Rotating":
        cluster = Cluster("c", BEGIN, "10.0.0.1", 9443, cluster_version=CLUSTER_VERSION)
        clear: list[StoredRecord] = [cluster, *(Node(uid, f"10.0.0.{uid}", BEGIN) for uid in self.files)]
        clear.append(KeyRotation(self.first.uid, self.clock.now(), "admin", KeyPhase.MAKING, self.clock.now()))
        await self._put(clear)
        sealing = Sealing((self.first,), secrets.token_bytes)
        for start in range(1, VALUES + 1, 50):
            found = [user(number) for number in range(start, start + 50)]
            values = [(keys.key_of(record), records.encode(record)) for record in found]
            await self.store.transact(Transaction((), tuple(PutKey(key, sealing.seal(key, v)) for key, v in values)))
        for uid in self.files:
            await self.start(uid)
        await self.elect(self.leader)
        return self

    async def __aexit__(self, *_: object) -> None:
        for uid in list(self.daemons):
            await self.stop(uid)
        await self.store.close()

    async def _put(self, found: list[StoredRecord]) -> None:
        await self.store.transact(Transaction((), tuple(PutKey(keys.key_of(r), records.encode(r)) for r in found)))

    # -- daemons -------------------------------------------------------------------------------------------------------

    async def start(self, uid: NodeUid) -> None:
        file = self.files[uid]
        for missing in await missing_keys(self.store, Sealing(file.read(), secrets.token_bytes)):
            key = await self.fetch(missing, uid)
            file.change(partial(_with, key))
        mirror = Mirror(self.store, sealing=Sealing(file.read(), secrets.token_bytes))
        task = spawn(f"mirror of {uid}", mirror.run())
        await mirror.ready()

        async def fetch(wanted: KeyUid) -> ClusterKey:
            return await self.fetch(wanted, uid)

        held = ClusterKeys(
            uid,
            file,
            self.store,
            mirror=mirror,
            fetch=None if self.shared else fetch,
            clock=self.clock,
            random_text=random_text,
            reach=self.faults.reach,
        )
        self.daemons[uid] = Daemon(mirror, task, held)
        presence = DaemonPresence(uid, 1, 1, "boot", 1, "0.1.0", "https://…", BEGIN)
        await self._put([presence])
        await self.report(uid)

    async def stop(self, uid: NodeUid) -> None:
        daemon = self.daemons.pop(uid)
        daemon.task.cancel()
        await asyncio.gather(daemon.task, return_exceptions=True)
        await self.store.transact(Transaction((), (DeleteKey(keys.daemon_key(uid)),)))

    async def fetch(self, uid: KeyUid, by: NodeUid) -> ClusterKey:
        """What the agents of the others answer."""
        held = [key for node, daemon in self.daemons.items() if node != by for key in daemon.mirror.sealing.keys]
        found = next((key for key in held if key.uid == uid), None)
        if found is None:
            raise Transient(Code.CLUSTER_KEY_AWAITED, "no node has it")
        return found

    async def report(self, uid: NodeUid) -> None:
        """What the agent writes after each change."""
        await self._put([NodeSeen(uid, BEGIN, cluster_keys=self.daemons[uid].mirror.sealing.uids)])

    async def elect(self, uid: NodeUid) -> None:
        self.leader = uid
        await self.store.transact(Transaction((), (DeleteKey(keys.LEADER),)))
        await self._put([Leadership(uid, 1)])

    # -- turns ---------------------------------------------------------------------------------------------------------

    async def turn(self) -> None:
        """One turn of each daemon. One that dies is started again, and another one leads if it led."""
        for uid in list(self.files):
            if uid not in self.daemons:
                continue
            try:
                await self._turn_of(uid)
            except Died:
                await self.stop(uid)
                if uid == self.leader:
                    await self.elect(next(iter(self.daemons), uid))
                await self.start(uid)
            except (Transient, Conflict, LostLeadership):
                pass
            self.check()

    async def _turn_of(self, uid: NodeUid) -> None:
        daemon = self.daemons[uid]
        await daemon.mirror.fresh()
        await daemon.keys.look()
        await self.report(uid)
        await daemon.mirror.fresh()
        if uid == self.leader:
            await self._resealing(daemon.mirror).advance(self.clock.now())

    def _resealing(self, mirror: Mirror) -> Resealing:
        fence = Fence(mirror.created_at(keys.LEADER))

        async def put(build: Build) -> None:
            view = mirror.view().changed(away=frozenset(uid for uid in self.files if uid not in self.daemons))
            await commit(self.store, mirror, list(build(view)), fence=fence, random_text=random_text)

        return Resealing(self.store, mirror, fence=fence, commit=put, probe=self.faults.reach, random_text=random_text)

    async def finish(self, turns: int = 60) -> KeyRotation:
        for _ in range(turns):
            await self.turn()
            if (rotation := self.rotation()).has_ended:
                return rotation
        raise AssertionError(f"no end after {turns} turns: {self.state()}")

    # -- what holds ----------------------------------------------------------------------------------------------------

    def rotation(self) -> KeyRotation:
        found = next(iter(self.daemons.values())).mirror.view().key_rotation
        assert found is not None
        return found

    def values(self) -> dict[str, bytes]:
        mirror = next(iter(self.daemons.values())).mirror
        return {item.key: item.value for prefix in SEALED for item in mirror.range(prefix)}

    def check(self) -> None:
        """The key of every value is in the files of most nodes: no loss that the store survives makes it unreadable."""
        used = {uid_in(value) for value in self.values().values()}
        for uid in used:
            holding = [node for node, file in self.files.items() if uid in [key.uid for key in file.read()]]
            assert 2 * len(holding) > len(self.files), f"{uid} is used, and in the files of {holding} only: {self.state()}"

    def state(self) -> str:
        files = {node: [key.uid for key in file.read()] for node, file in self.files.items()}
        return f"{self.rotation()}, files {files}, reached {self.faults.reached}"


async def add_user(rotating: Rotating, uid: NodeUid, number: int) -> None:
    """What an API does. Raises ShardwrightError."""
    mirror = rotating.daemons[uid].mirror
    await commit(rotating.store, mirror, [Put(user(number))], fence=None, random_text=lambda: "r")


def _with(key: ClusterKey, found: Keys) -> Keys:
    return (*found, key)


def opened(key: ClusterKey, values: dict[str, bytes]) -> int:
    """How many values a key alone opens."""
    sealing, count = Sealing((key,), secrets.token_bytes), 0
    for place, value in values.items():
        try:
            sealing.open(place, value)
            count += 1
        except Permanent:
            pass
    return count
