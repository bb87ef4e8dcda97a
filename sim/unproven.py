"""The invariant of failovers without a proof of the primary's end, in default mode: nothing is acknowledged by the old
primary after another copy was made the primary.

Called by ``checker.py``. In strict mode an acknowledgment may come late: a replica has confirmed it before.
"""

from typing import TYPE_CHECKING, Any

from shardwright.model.ids import GroupUid, database_of
from sim.server import SimServer

if TYPE_CHECKING:
    from sim.checker import Checker

Json = dict[str, Any]


class Unproven:
    """See the module's docstring."""

    def __init__(self, checker: "Checker") -> None:
        self.checker = checker
        self.count = 0
        """Failovers of that kind."""
        self._replaced_at: dict[SimServer, float] = {}
        self._left_open: set[SimServer] = set()
        """Former primaries that were replaced while they were open, in either mode."""
        self._again_at: dict[SimServer, float] = {}
        """Those that became the primary again and were open all the time: when."""

    def note(self, before: Json, after: Json) -> None:
        """Every commit of a slot group."""
        if before["primary"] == after["primary"]:
            return
        world = self.checker.world
        for server in world.servers_of(after["uid"]):
            if server.shard_uid == before["primary"] and before["parking"] is not None:
                self._left_open.add(server)
            if server.shard_uid == after["primary"] and server in self._left_open:
                self._again_at[server] = world.loop.now

    def open_since(self, server: SimServer, executed_at: float) -> float:
        """Since when the server is an open primary, for a write that was executed at this time. One that was replaced
        without a proof of its end stayed open, and nothing that it executes until it is the primary again may be
        acknowledged."""
        again_at = self._again_at.get(server, server.open_since)
        return max(again_at, server.open_since) if executed_at >= again_at else server.open_since

    def is_failover(self, before: Json, after: Json) -> bool:
        """Whether this commit replaces a primary that may serve, in default mode: also if strict mode was requested
        meanwhile and is not in force everywhere."""
        world = self.checker.world
        database = self.checker.database(database_of(GroupUid(after["uid"])))
        is_strict = database is not None and database["is_strict"] and database["is_strict_everywhere"]
        if before["parking"] is None or after["primary"] == before["primary"] or is_strict:
            return False
        return any(s.shard_uid == before["primary"] for s in world.servers_of(after["uid"]))

    def replaced(self, before: Json, after: Json) -> None:
        """Such a commit: what only the old primary has may be lost, as when it dies."""
        world = self.checker.world
        self.count += 1
        for server in world.servers_of(after["uid"]):
            if server.shard_uid == before["primary"]:
                self._replaced_at[server] = world.loop.now
                self._excuse(server)
        world.log(f"group {after['uid']}: shard {before['primary']} is replaced without a proof of its end")

    def _excuse(self, server: SimServer) -> None:
        checker = self.checker
        chain = checker.chains.get(server.group_uid)
        if chain is None:
            return
        copies = checker.world.servers_of(server.group_uid)
        heirs = [s.position for s in copies if s is not server and checker.is_wanted(s)]
        chain.died_at = checker.world.loop.now
        chain.excused.append((server.position, heirs))
        while chain.required and not any(heir.holds(chain.required[-1]) for heir in heirs):
            chain.required.pop()

    def acknowledged(self, server: SimServer, executed_at: float) -> None:
        """A client has received a success."""
        replaced_at = self._replaced_at.get(server)
        if replaced_at is None or self.checker.world.is_strict(server.group_uid):
            return
        open_since = self.open_since(server, executed_at)
        if open_since <= replaced_at or executed_at < open_since:
            self.checker.fail(
                "behind_the_promotion",
                f"shard {server.shard_uid} was replaced at {replaced_at:.3f}, and a write to it is acknowledged now",
            )
