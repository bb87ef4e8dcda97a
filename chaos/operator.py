"""Sends the requests of a schedule over the REST API, like an impatient operator."""

import sqlite3
from typing import Any

from chaos import crowd, rules
from chaos.cluster import NO_ANSWER, ChaosCluster
from chaos.facts import Records
from chaos.schedule import Item, ItemKind
from shardwright.model.database import DatabaseStatus

MB = 1 << 20
SCRATCH = "scratch-"
"""Databases that are created and deleted; no client writes to them."""
SCRATCH_MAX = 2
WORDS = {
    "maintenance_on": "maintenance_on",
    "maintenance_off": "maintenance_off",
    "step_down": "enslave_node",
    "remove": "remove",
}
ON_WAYS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"evict_ha_replica": False},
    {"overwrite_snapshot": True},
    {"demote_node": True},
)
PERSISTENCE: tuple[dict[str, Any], ...] = (
    {"data_persistence": "disabled"},
    {"data_persistence": "aof"},
    {"data_persistence": "snapshot", "snapshot_policy": [{"secs": 60, "writes": 1}]},
)
NOTHING = "nothing to request now"


class Operator:
    """See the module's docstring. ``changeable``: databases whose persistence may be changed under writers."""

    def __init__(self, cluster: ChaosCluster, *, nodes: int, changeable: frozenset[str]) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._changeable = changeable
        self._created = 0

    def do(self, item: Item) -> str:
        """Send the request. Returns it with its answer."""
        try:
            return self._do(item, self._cluster.records())
        except sqlite3.Error as e:
            return f"{NOTHING} ({e})"

    def _do(self, item: Item, now: Records) -> str:
        match item.kind:
            case ItemKind.MAINTENANCE:
                return self._maintenance(item, now)
            case ItemKind.STEP_DOWN:
                return self._start(self._node(item, now), "enslave_node", {})
            case ItemKind.REMOVE:
                is_spare = len(now.nodes) >= self._nodes
                return self._start(self._node(item, now), "remove", {}) if is_spare else NOTHING
            case ItemKind.CANCEL_STOP | ItemKind.CANCEL_UNDO:
                return self._cancel(item, now)
            case ItemKind.TEND:
                return self.tend(now)
            case ItemKind.CREATE_DATABASE:
                return self._create(item, now)
            case ItemKind.UPDATE_DATABASE:
                return self._update(item, now)
            case _:
                return self._delete(item, now)

    def _node(self, item: Item, now: Records) -> int:
        nodes = sorted(now.nodes)
        return nodes[item.pick % len(nodes)]

    def _maintenance(self, item: Item, now: Records) -> str:
        marked = [n.uid for n in rules.open_nodes(now) if n.is_quorum_only]
        if marked:
            way = {"skip_shards_restore": True} if item.pick % 5 == 0 else {}
            return self._start(marked[item.pick % len(marked)], "maintenance_off", way)
        if any(n.is_quorum_only for n in now.nodes.values()) and item.pick % 4:
            return NOTHING  # Almost always one node too many for the quorum; still requested occasionally.
        return self._start(self._node(item, now), "maintenance_on", ON_WAYS[item.pick // 64 % len(ON_WAYS)])

    def _start(self, node: int, word: str, parameters: dict[str, Any]) -> str:
        return self._ask("POST", f"/v1/nodes/{node}/actions/{word}", parameters)

    def _cancel(self, item: Item, now: Records) -> str:
        live = now.live_actions()
        if not live:
            return NOTHING
        action = live[item.pick % len(live)]
        mode = "undo" if item.kind is ItemKind.CANCEL_UNDO else "stop"
        return self._ask("DELETE", f"/v1/nodes/{action.node_uid}/actions/{WORDS[action.name]}?mode={mode}")

    def tend(self, now: Records) -> str:
        """Reopen one closed node, or add a node in place of a removed one."""
        closed = [n.uid for n in rules.open_nodes(now) if n.is_closed]
        if closed:
            return self._ask("PUT", f"/v1/nodes/{closed[0]}", {"accept_servers": True})
        return self._ask("POST", "/v1/nodes", {}) if len(now.nodes) < self._nodes else NOTHING

    def tidy(self, now: Records) -> None:
        """Remove what prevents the cluster from coming to rest: closed nodes and nodes in maintenance."""
        for node in rules.open_nodes(now):
            if node.is_quorum_only:
                self._start(node.uid, "maintenance_off", {})
            elif node.is_closed:
                self._ask("PUT", f"/v1/nodes/{node.uid}", {"accept_servers": True})

    # -- databases -----------------------------------------------------------------------------------------------------

    def _scratch(self, now: Records) -> list[int]:
        is_going = DatabaseStatus.DELETE_PENDING
        return sorted(d.uid for d in now.databases.values() if d.name.startswith(SCRATCH) and d.status is not is_going)

    def _create(self, item: Item, now: Records) -> str:
        if len(self._scratch(now)) >= SCRATCH_MAX:
            return NOTHING
        self._created += 1
        settings = {"name": f"{SCRATCH}{self._created}", "memory_size": 32 * MB, "replication": item.pick % 2 == 0}
        return self._ask("POST", "/v1/bdbs", {**settings, **PERSISTENCE[item.pick // 2 % len(PERSISTENCE)]})

    def _update(self, item: Item, now: Records) -> str:
        databases = sorted(now.databases.values(), key=lambda d: d.uid)
        if not databases:
            return NOTHING
        database = databases[item.pick % len(databases)]
        is_scratch = database.name.startswith(SCRATCH)
        # Never less than at its creation: a write refused for lack of memory would be this run's own fault.
        made_with = 32 if is_scratch else 512 if database.name == crowd.DATABASE else 64
        change: dict[str, Any] = {"memory_size": (made_with + (0, 16, 32)[item.pick // 16 % 3]) * MB}
        if is_scratch and item.pick // 48 % 2:
            change = {"replication": not database.has_replica}
        elif (is_scratch or database.name in self._changeable) and item.pick // 96 % 2:
            change = PERSISTENCE[item.pick // 192 % len(PERSISTENCE)]
        return self._ask("PUT", f"/v1/bdbs/{database.uid}", change)

    def _delete(self, item: Item, now: Records) -> str:
        databases = self._scratch(now)
        return self._ask("DELETE", f"/v1/bdbs/{databases[item.pick % len(databases)]}") if databases else NOTHING

    def _ask(self, method: str, path: str, body: Any = None) -> str:
        status, answer = self._cluster.ask(method, path, body)
        said = "no answer" if status == NO_ANSWER else str(status)
        code = answer.get("error_code", "") if isinstance(answer, dict) else answer
        return f"{method} {path}: {said}{f' {code}' if code else ''}"
