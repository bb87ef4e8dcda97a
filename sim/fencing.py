"""The invariants of fencing, checked from outside: no two primaries acknowledge, nothing is given up without proof, and an
older term does nothing.

Called by ``checker.py``. Knows the simulated processes: a proof that the product claims is compared with the truth.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardwright.model.database import Role
from sim.server import SimServer
from sim.unproven import Unproven

if TYPE_CHECKING:
    from sim.checker import Checker

Json = dict[str, Any]


@dataclass(slots=True)
class _Acknowledged:
    """The latest acknowledged write of a slot group, by the time of its execution."""

    server: SimServer
    executed_at: float


class Fencing:
    """See the module's docstring."""

    def __init__(self, checker: "Checker") -> None:
        self.checker = checker
        self.unproven = Unproven(checker)
        self._last: dict[str, _Acknowledged] = {}
        self._commanded: dict[str, int] = {}

    def acknowledged(self, server: SimServer, executed_at: float) -> None:
        """A client has received a success. If another server executed an acknowledged write while this one was an open
        primary all the time, both were."""
        self.unproven.acknowledged(server, executed_at)
        last = self._last.get(server.group_uid)
        if last is None or executed_at >= last.executed_at:
            self._last[server.group_uid] = _Acknowledged(server, executed_at)
        if last is None or last.server is server:
            return
        older, newer = sorted(
            ((last.server, last.executed_at), (server, executed_at)), key=lambda pair: (pair[1], pair[0].shard_uid)
        )
        open_since = self.unproven.open_since(*newer)
        if open_since < older[1]:
            self.checker.fail(
                "two_primaries",
                f"shard {newer[0].shard_uid} has been open since {open_since:.3f} and acknowledges a write "
                f"of {newer[1]:.3f}; shard {older[0].shard_uid} acknowledged one of {older[1]:.3f}",
            )

    def group(self, before: Json, after: Json) -> None:
        """A slot group has another primary, or starts over: its former primary is no open primary any more."""
        self.unproven.note(before, after)
        if self.unproven.is_failover(before, after):
            self.unproven.replaced(before, after)
            return
        is_over = before["phase"] == "serving" and after["phase"] != "serving"
        if before["primary"] is None or (before["primary"] == after["primary"] and not is_over):
            return
        if not self._is_wanted(after["database_uid"]):
            return
        world = self.checker.world
        for server in world.servers_of(after["uid"]):
            is_harmless = world.is_strict(after["uid"]) and not server.replicas  # No write to it is answered any more.
            is_open = server.role is Role.PRIMARY and not server.is_fenced
            if server.shard_uid == before["primary"] and is_open and not is_harmless:
                self.checker.fail(
                    "replaced_without_proof",
                    f"slot group {after['uid']}: shard {server.shard_uid} is an open primary and is replaced by "
                    f"{after['primary']} ({after['phase']})",
                )

    def deleted(self, shard: Json) -> None:
        """The record of a copy is deleted: nothing of it runs, unless its data is not wanted."""
        group = self.checker.tables["groups"].get(f"groups/{shard['group_uid']}")
        if not self._is_wanted(shard["database_uid"]) or group is None or group["generation"] == 0:
            return
        for server in self.checker.world.servers_of(shard["group_uid"]):
            if server.shard_uid == shard["uid"]:
                self.checker.fail("given_up_without_proof", f"the record of shard {shard['uid']} is deleted while it runs")

    def _is_wanted(self, database_uid: int) -> bool:
        database = self.checker.database(database_uid)
        return database is not None and database["status"] != "delete-pending"

    # -- terms ---------------------------------------------------------------------------------------------------------

    def led(self, term: int) -> None:
        """A leader's transaction was committed: no later term may have begun."""
        leader = self.checker.tables["leader"].get("leader")
        if leader is None or leader["term"] != term:
            self.checker.fail("term_fences_the_store", f"term {term} writes while {leader and leader['term']} leads")

    def commanded(self, server: SimServer, term: int, name: str) -> None:
        """A command is executed: when a later term has a session with the server, commands of older terms have no effect."""
        last = self._commanded.get(server.run_id, 0)
        if term < last:
            self.checker.fail(
                "sessions_fence_the_servers", f"{name} of term {term} at shard {server.shard_uid} after term {last}"
            )
        self._commanded[server.run_id] = max(last, term)
