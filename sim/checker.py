"""The invariants of a simulation, checked by code that shares nothing with the product's decisions.

Reads commits as JSON and examines the simulated servers directly. A violation ends the run; its text begins with the
invariant's name.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shardwright.model.ids import GroupUid, database_of
from shardwright.store.protocol import KeyChange
from sim.fencing import Fencing
from sim.history import Position
from sim.lives import ENDED_STATES, ENDED_STATUS, NEXT_STATE, NEXT_STATUS, may_become
from sim.quorum import Quorum
from sim.server import SimServer

if TYPE_CHECKING:
    from sim.world import World

TABLES = (
    "policy",
    "nodes",
    "databases",
    "groups",
    "shards",
    "endpoints",
    "actions",
    "moves",
    "leader",
    "daemons",
    "snapshots",
)
NOTICE_S = 1.5
"""A decision that gives up another copy may not know of a death within this time: it counts as a later death."""

Json = dict[str, Any]


class Violation(Exception):
    """An invariant does not hold. ``name``: the invariant."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


@dataclass(slots=True)
class Chain:
    """The acknowledged writes of a slot group that must not be lost, oldest first."""

    required: list[Position] = field(default_factory=list)
    excused: list[tuple[Position, list[Position]]] = field(default_factory=list)
    """The data of a dead server, and the writes of its heirs."""
    died_at: float = -1e9
    """Time of the last unplanned death of one of the group's servers."""


class Checker:
    """See the module's docstring."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.tables: dict[str, dict[str, Json]] = {name: {} for name in TABLES}
        self.chains: dict[str, Chain] = {}
        self.violations: list[Violation] = []
        self.transitions: Counter[str] = Counter()
        self._quorum = Quorum(self)
        self._busy: dict[int, bool] = {}
        self._nodes_before: dict[int, Json] = {}
        """Nodes that change in the examined revision, as they were: a turn may place a copy there, then close the node."""
        self._ended: set[str] = set()
        """Actions whose status changes in the examined revision."""
        self.fencing = Fencing(self)
        world.store.on_lead = self.fencing.led

    def fail(self, name: str, text: str) -> None:
        """Note a violation. The run ends after the current step."""
        self.world.log(f"VIOLATION {name}: {text}")
        self.violations.append(Violation(name, text))

    # -- writes --------------------------------------------------------------------------------------------------------

    def acknowledged(self, position: Position, server: SimServer) -> None:
        """A write was acknowledged: it must continue everything that was acknowledged before."""
        self.fencing.acknowledged(server, server.executed_at(position))
        chain = self.chains.setdefault(server.group_uid, Chain())
        if _is_excused(chain, position):
            return  # The answer came late: only a server that has died meanwhile held the write.
        if chain.required and not position.holds(chain.required[-1]):
            if chain.required[-1].holds(position):
                return
            self.fail(
                "no_write_lost",
                f"shard {server.shard_uid} acknowledges {position.offset} in {position.history.uid} without holding "
                f"{chain.required[-1].offset} in {chain.required[-1].history.uid}, which was acknowledged before",
            )
        chain.required.append(position)
        if len(chain.required) > 600:
            del chain.required[:300]

    def acknowledged_unwritten(self, number: int, server: SimServer) -> None:
        """A script was refused while it ran, but its client received a success."""
        self.fail(
            "no_write_lost",
            f"shard {server.shard_uid} ({server.role}, fenced {server.is_fenced}) refused write {number} inside a script, "
            "which was acknowledged",
        )

    def server_died(self, server: SimServer, *, planned: bool) -> None:
        """Data that only a server with an unplanned death held may be lost."""
        chain = self.chains.get(server.group_uid)
        if chain is None or planned:
            return
        chain.died_at = self.world.loop.now
        # A server that was in sync or serves now keeps its data; a copy that was given up does not count.
        heirs = [s.position for s in self.world.servers_of(server.group_uid) if s.is_synced_copy and self.is_wanted(s)]
        chain.excused.append((server.position, heirs))
        if not heirs:
            stored = server.comes_back
            if not server.is_aof_on and stored is not None:
                others = [n.shards.values() for n in self.world.nodes.values()]
                snapshots = [d.files.snapshot for part in others for d in part if d.server is not None
                         and d.server.group_uid == server.group_uid]  # fmt: skip
                heirs = [p for p in snapshots if p is not None]
                while chain.required and not all(p.holds(chain.required[-1]) for p in heirs):
                    chain.required.pop()
                if any(p is None for p in snapshots):
                    chain.required.clear()
                return
            heirs = [*([] if stored is None else [stored]), *self._stored_elsewhere(server.group_uid, wanted=("stopped",))]
        while chain.required and not any(h.holds(chain.required[-1]) for h in heirs):
            chain.required.pop()

    def node_lost(self, uid: int) -> None:
        """A machine is lost for good: data that only its servers and its disk held may be lost."""
        groups = {s["group_uid"] for s in self.tables["shards"].values() if s["node_uid"] == uid}
        for group_uid in sorted(groups & self.chains.keys()):
            chain = self.chains[group_uid]
            heirs = [s.position for s in self.world.servers_of(group_uid) if s.is_synced_copy and self.is_wanted(s)]
            heirs = heirs or self._stored_elsewhere(group_uid)
            while chain.required and not any(h.holds(chain.required[-1]) for h in heirs):
                chain.required.pop()

    def _stored_elsewhere(self, group_uid: str, wanted: tuple[str, ...] = ("running", "stopped")) -> list[Position]:
        """The data that dead servers of a group have when they return on other machines. A server that is wanted stopped has
        left, but its files stay until another copy has files of its own."""
        dead = [
            d.server
            for node in self.world.nodes.values()
            if not node.is_lost
            for d in node.shards.values()
            if d.server is not None and not d.server.is_alive and d.server.group_uid == group_uid
        ]
        return [s.comes_back for s in dead if s.comes_back is not None and self._wanted(s) in wanted]

    def server_ended(self, server: SimServer) -> None:
        """The product ends a frozen server: data that no replica has received may be lost with it, but not the only copy."""
        chain = self.chains.get(server.group_uid)
        if chain is None or not chain.required or server.is_aof_on or not server.position.holds(chain.required[-1]):
            return
        if self._is_being_deleted(server):
            return
        others = [s for s in self.world.servers_of(server.group_uid) if s is not server and s.is_alive]
        if not any(s.is_synced_copy and self.is_wanted(s) for s in others):
            self.fail("live_copy", f"shard {server.shard_uid} is frozen and is ended, but no other copy is in sync")

    def _is_being_deleted(self, server: SimServer) -> bool:
        """Whether the copy is deleted together with its database, so that its data is no longer needed."""
        database = self.database(database_of(GroupUid(server.group_uid)))
        return database is None or bool(database["status"] == "delete-pending")

    def is_wanted(self, server: SimServer) -> bool:
        return self._wanted(server) == "running"

    def _wanted(self, server: SimServer) -> str:
        shard = self.tables["shards"].get(f"shards/{server.shard_uid:08d}")
        return "" if shard is None else str(shard["wanted"])

    # -- commits -------------------------------------------------------------------------------------------------------

    def committed(self, changes: tuple[KeyChange, ...]) -> None:
        """A revision was committed."""
        touched: list[tuple[str, Json | None, Json | None]] = []
        for change in changes:
            name = change.key.partition("/")[0]
            if name == "events":
                self._event(change)
                continue
            table = self.tables.get(name)
            if table is None:
                continue
            before = table.get(change.key)
            if change.current is None:
                table.pop(change.key, None)
                if name == "daemons" and before is not None:
                    self._quorum.left(before)
                touched.append((name, before, None))
            else:
                record = json.loads(change.current.value)
                table[change.key] = record
                touched.append((name, before, record))
        self._ended = {r["uid"] for name, old, r in touched if name == "actions" and r is not None and old is not None
                       and old["status"] != r["status"]}  # fmt: skip
        self._nodes_before = {old["uid"]: old for name, old, _ in touched if name == "nodes" and old is not None}
        for name, before, after in touched:
            match name:
                case "shards":
                    self._shard(before, after)
                case "nodes":
                    self._node(before, after)
                case "actions":
                    self._action(before, after)
                case "moves":
                    self._move(before, after)
                case "groups":
                    self._group(before, after)
                case "databases":
                    self._databases()

    def _event(self, change: KeyChange) -> None:
        if change.current is not None and self.world.lines is not None:
            event = json.loads(change.current.value)
            self.world.log(f"event {event['kind']}: {event['text']}")

    def _databases(self) -> None:
        serving = ("active", "active-change-pending")
        ports = {d["uid"]: d["port"] for d in self.tables["databases"].values() if d["status"] in serving}
        self.world.writers.follow(ports)

    def database(self, uid: int) -> Json | None:
        """A database's record."""
        return self.tables["databases"].get(f"databases/{uid:08d}")

    def is_busy(self, uid: int) -> bool:
        """Whether a handoff of this database is in progress."""
        return self._busy.get(uid, False)

    def _shard(self, before: Json | None, after: Json | None) -> None:
        if after is None:
            if before is not None:
                self.fencing.deleted(before)
            return
        if before is None:
            self.world.log(f"shard {after['uid']} of {after['group_uid']} shall be on node {after['node_uid']}")
            self._placed(after)
        elif before["wanted"] == "running" and after["wanted"] != "running":
            self.world.log(f"shard {after['uid']} is wanted {after['wanted']}")
            self._given_up(after)

    def _placed(self, shard: Json) -> None:
        node = self.tables["nodes"].get(f"nodes/{shard['node_uid']:08d}")
        if node is None:
            self.fail("placement", f"shard {shard['uid']} on node {shard['node_uid']}, which is not a member")
            return
        is_undo = any(m.get("new_shard_uid") == shard["uid"] and m["is_undo"] for m in self.tables["moves"].values())
        states = (node, self._nodes_before.get(node["uid"], node))
        if all((state["is_quorum_only"] and not is_undo) or state["is_decommissioning"] for state in states):
            # An undo restores the former shards of a node in maintenance.
            self.fail("placement", f"shard {shard['uid']} on node {node['uid']}, which takes no shards")
        beside = [s for s in self.tables["shards"].values() if s["node_uid"] == node["uid"] and s["wanted"] == "running"]
        if sum(s["group_uid"] == shard["group_uid"] for s in beside) > 1:
            self.fail("anti_affinity", f"two copies of {shard['group_uid']} on node {node['uid']}")
        used = sum(self._memory(s) for s in beside)
        if used > node["memory_bytes"]:
            self.fail("capacity", f"node {node['uid']} is provisioned with {used} of {node['memory_bytes']} bytes")

    def has_room(self, node: Json, shard: Json) -> bool:
        """Whether this copy fits on the node, by provisioned memory."""
        beside = [s for s in self.tables["shards"].values() if s["node_uid"] == node["uid"]]
        return bool(sum(self._memory(s) for s in (*beside, shard)) <= node["memory_bytes"])

    def _memory(self, shard: Json) -> int:
        database = self.database(shard["database_uid"])
        if database is None or database["status"] == "delete-pending":
            return 0
        copies = 2 if database["has_replica"] else 1
        return int(database["memory_bytes"]) // (copies * int(database["shards_count"]))

    def _given_up(self, shard: Json) -> None:
        """A copy is given up on purpose: another copy must hold its data."""
        database = self.database(shard["database_uid"])
        chain = self.chains.get(shard["group_uid"])
        if database is None or database["status"] == "delete-pending" or chain is None or not chain.required:
            return
        if self.world.loop.now - chain.died_at < NOTICE_S:
            return
        living = self.world.servers_of(shard["group_uid"])
        last = chain.required[-1]
        if any(s.shard_uid == shard["uid"] and s.position.holds(last) for s in living):
            others = [s for s in living if s.shard_uid != shard["uid"]]
            # A linked replica receives the writes in transit, because its primary lives.
            if not any(s.position.holds(last) or (s.is_link_up and s.source_server is not None) for s in others):
                self.fail("live_copy", f"shard {shard['uid']} is given up, and no other live copy holds {last.offset}")

    def _node(self, before: Json | None, after: Json | None) -> None:
        if after is None:
            node = 0 if before is None else before["uid"]
            left = [s for s in self.world.all_servers if s.is_alive and s.node_uid == node]
            held = [s for s in left if self._holds_last(s) and not self._has_other(s)]
            if held:
                self.fail("live_copy", f"node {node} was removed with the only live copy of {held[0].group_uid}")
            return
        if before is not None and after["is_quorum_only"] and not before["is_quorum_only"]:
            self._quorum.check(after, is_restore=self._is_restore(after["uid"]))
            self._snapshot_first(after)

    def _is_restore(self, node: int) -> bool:
        return any(a["node_uid"] == node and a["name"] == "maintenance_off" for a in self.tables["actions"].values()
                   if a["status"] in ("running", "cancelling", "failed") or a["uid"] in self._ended)  # fmt: skip

    def _snapshot_first(self, node: Json) -> None:
        prefix = f"snapshots/{node['uid']:08d}/"
        if not any(key.startswith(prefix) for key in self.tables["snapshots"]) and not self._is_restore(node["uid"]):
            self.fail("snapshot_first", f"node {node['uid']} is marked without a snapshot")

    def _holds_last(self, server: SimServer) -> bool:
        chain = self.chains.get(server.group_uid)
        return chain is not None and bool(chain.required) and server.position.holds(chain.required[-1])

    def _has_other(self, server: SimServer) -> bool:
        return any(s is not server and self._holds_last(s) for s in self.world.servers_of(server.group_uid))

    def _group(self, before: Json | None, after: Json | None) -> None:
        if after is None or before is None:
            return
        uid = after["database_uid"]
        self._busy[uid] = after["handoff"] is not None
        self.fencing.group(before, after)
        if after["handoff"] is not None and before["handoff"] is None:
            self.world.writers.write_soon(uid)
        if after["generation"] < before["generation"]:
            self.fail("generation", f"slot group {after['uid']}: {before['generation']} -> {after['generation']}")
        if after["primary"] != before["primary"]:
            self.world.log(f"group {after['uid']}: primary {before['primary']} -> {after['primary']}, {after['generation']}")
            if after["generation"] <= before["generation"] and before["primary"] is not None:
                self.fail("generation", f"slot group {after['uid']}: another primary in the same generation")

    def _action(self, before: Json | None, after: Json | None) -> None:
        if after is None:
            return
        old, new = ("" if before is None else before["status"]), after["status"]
        if old == new:
            if before is not None and after["progress"] < before["progress"] - 1e-9:
                self.fail("progress", f"action {after['uid']}: {before['progress']} -> {after['progress']}")
            return
        what = f"action {after['uid']} {after['name']} of node {after['node_uid']}"
        self.world.log(f"{what}: {old} -> {new} {after['error_message'][:200]}")
        if before is None:
            return
        self.transitions[f"action {old} -> {new}"] += 1
        self.world.tally.actions[f"{after['name']} {new}"] += new in ENDED_STATUS
        if not may_become(NEXT_STATUS, old, new):
            self.fail("transitions", f"action {after['uid']}: {old} -> {new}")
        if new == "completed":
            self._completed(after)

    def _completed(self, action: Json) -> None:
        """``completed`` means that everything that had to leave the node has left."""
        parameters = action["parameters"]
        node = action["node_uid"]
        self._clients_have_left(action)
        everything = action["name"] == "remove" or (
            action["name"] == "maintenance_on" and parameters["evict_replicas"] and parameters["evict_databases"] is None
        )
        if not everything:
            return
        for server in self.world.all_servers:
            if server.is_alive and server.node_uid == node and self._is_recorded(server):
                daemon_lives = f"daemons/{node:08d}" in self.tables["daemons"]
                if daemon_lives or action["name"] == "maintenance_on":
                    self.fail(
                        "completed", f"{action['name']} of node {node} completed and shard {server.shard_uid} runs there"
                    )
        for endpoint in self.tables["endpoints"].values():
            if node in endpoint["nodes"]:
                self.fail(
                    "completed", f"{action['name']} of node {node} completed and endpoint {endpoint['uid']} is bound to it"
                )

    def _clients_have_left(self, action: Json) -> None:
        """No client is still connected through an endpoint process that no longer serves the endpoint, unless a live move of
        another action will take the clients, or the endpoint has no record any more: then a deletion ends them."""
        node = action["node_uid"]
        process = self.world.endpoint_process(node)
        if process is None or action["name"] == "maintenance_off" or f"daemons/{node:08d}" not in self.tables["daemons"]:
            return
        bound = {e["uid"]: node in e["nodes"] for e in self.tables["endpoints"].values()}
        live = [m for m in self.tables["moves"].values() if m["state"] not in ENDED_STATES and m["from_node"] == node]
        taken = {m.get("endpoint_uid") for m in live if m["action_uid"] != action["uid"]}
        for uid, served in process.endpoints.items():
            left = served.seen().connections
            if bound.get(uid) is False and uid not in taken and served.is_draining and left:
                self.fail("completed", f"{action['name']} of node {node} completed and {left} clients of {uid} remain")

    def _is_recorded(self, server: SimServer) -> bool:
        shard = self.tables["shards"].get(f"shards/{server.shard_uid:08d}")
        return shard is not None and shard["wanted"] == "running"

    def _move(self, before: Json | None, after: Json | None) -> None:
        if after is None:
            return
        if before is None:
            group = after.get("group_uid")
            live = sum(m.get("group_uid") == group and m["state"] not in ENDED_STATES for m in self.tables["moves"].values())
            if group is not None and live > 1:
                self.fail("one_move", f"slot group {group} has {live} live moves")
            self.world.log(f"move {after['uid'][-12:]}: {after['kind']} of {group or after['endpoint_uid']}")
            return
        if after["state"] != before["state"]:
            self.world.log(f"move {after['uid'][-12:]}: {before['state']} -> {after['state']}")
            self.transitions[f"move {before['state']} -> {after['state']}"] += 1
            if not may_become(NEXT_STATE, before["state"], after["state"]):
                self.fail("transitions", f"move {after['uid']}: {before['state']} -> {after['state']}")
        if after.get("evidence") is not None and before["evidence"] != after["evidence"]:
            self._evidence(after["evidence"])

    def _evidence(self, evidence: Json) -> None:
        if evidence["fenced_offset"] > evidence["promoted_offset"] and evidence["finished_by"] == "handoff":
            self.fail("evidence", f"fenced at {evidence['fenced_offset']}, promoted at {evidence['promoted_offset']}")
        known = evidence["replication_id_before"]
        if evidence["finished_by"] == "handoff" and known and evidence["second_replication_id"] != known:
            self.fail("evidence", "the new primary does not continue the old one's history")


def _is_excused(chain: Chain, position: Position) -> bool:
    return any(dead.holds(position) and not any(h.holds(position) for h in heirs) for dead, heirs in chain.excused)
