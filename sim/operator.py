"""The operator of a simulated cluster: sends random requests through the product's own API services on a random living
daemon."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from shardwright.api.deps import ApiContext
from shardwright.api.schemas.v1.requests import DatabaseBody, DeclareOffBody, SnapshotRuleBody, StartBody
from shardwright.api.services import databases, declarations, node_actions, starting
from shardwright.api.services.check import Checks
from shardwright.api.services.figures import Figures
from shardwright.api.services.intent import Intent, Look, submit
from shardwright.errors import Rejected, ShardwrightError
from shardwright.model.cluster import ClusterKind
from shardwright.model.database import DatabaseStatus
from shardwright.model.ids import ActionUid, DatabaseUid, NodeUid
from shardwright.model.view import Put
from sim.nodes import SimNodes
from sim.policies import ProxyPolicies
from sim.strict import StrictDraws
from sim.world import World

MB = 1 << 20
WORDS = (
    "maintenance_on",
    "maintenance_on",
    "maintenance_on",
    "maintenance_off",
    "maintenance_off",
    "enslave_node",
    "remove",
)


class Operator:
    """See the module's docstring."""

    def __init__(self, world: World, policies: ProxyPolicies) -> None:
        self.world = world
        self.policies = policies
        self.strict = StrictDraws(world.seed)
        self.accepted = 0
        self.may_remove = True
        self._deleted: set[int] = set()
        """Databases whose deletion was requested: at least one serving database must remain for the writers."""
        self._number = 0

    def ask(self, text: str, decide: Callable[[Look], Intent[Any]]) -> None:
        """Send a request to a running daemon."""
        world = self.world
        daemons = [d for d in world.daemons() if d.process.runs and d.mirror.revision > 0]
        if not daemons:
            return
        daemon = world.rng.choice(daemons)
        nodes = SimNodes(world, process=daemon.process, place=daemon.node.uid, clock=daemon.clock)
        context = ApiContext(
            store=daemon.store,
            mirror=daemon.mirror,
            clock=daemon.clock,
            node_uid=NodeUid(daemon.node.uid),
            is_leader=lambda: daemon.leader is not None,
            new_uid=lambda: world.new_id("uid"),
            random_text=world.random_text,
            figures=Figures(nodes, clock=daemon.clock),
            checks=Checks(nodes, clock=daemon.clock),
        )

        async def work() -> None:
            try:
                await submit(context, "admin@example.com", decide)
                self.accepted += 1
                world.log(f"operator on {daemon.node.uid}: {text}: accepted")
            except Rejected as e:
                world.log(f"operator on {daemon.node.uid}: {text}: rejected: {e.code}")
                world.tally.actions[f"rejected {e.code}"] += 1
            except ShardwrightError as e:
                world.log(f"operator on {daemon.node.uid}: {text}: {e.code}")

        world.loop.start(daemon.process, work(), f"request: {text}")

    def _uid(self) -> str:
        self._number += 1
        return f"00000000-0000-4000-8000-{self._number:012d}"

    def action(self, node: int, word: str, parameters: dict[str, Any] | None = None) -> None:
        """Request a node action."""
        uid = ActionUid(self._uid())
        raw = json.dumps(parameters or {}).encode()
        self.ask(
            f"{word} of node {node} {parameters or ''}",
            lambda seen: node_actions.start(seen, NodeUid(node), word, raw, uid=uid),
        )

    def cancel(self, node: int, word: str, *, mode: str = "stop") -> None:
        """Stop or undo an action, or delete the result of an action that has ended."""
        self.ask(
            f"cancel {word} of node {node} ({mode})",
            lambda seen: node_actions.cancel_or_forget(seen, NodeUid(node), word, mode=mode),
        )

    def create(
        self,
        memory_mb: int,
        *,
        replication: bool,
        persistence: str,
        proxy_policy: str = "single",
        strict: bool = False,
    ) -> None:
        """Request a database."""
        number = self.world.new_id("db")
        rules = [SnapshotRuleBody(secs=60, writes=1)] if persistence == "snapshot" else None
        body = DatabaseBody(
            name=number,
            memory_size=memory_mb * MB,
            replication=replication,
            data_persistence=persistence,
            snapshot_policy=rules,
            proxy_policy=proxy_policy,
            strict=strict,
        )
        secrets = databases.FreshSecrets("application", "replication", "observation", "management", "0" * 16)
        uid = ActionUid(self._uid())
        self.ask(
            f"create {number} {memory_mb} MB replication={replication} {persistence} {proxy_policy}{' strict' * strict}",
            lambda seen: databases.create(seen, body, action_uid=uid, secrets=secrets),
        )

    def change(self, database: int, **settings: Any) -> None:
        """Request a change of a database."""
        body = DatabaseBody(**settings)
        uid = ActionUid(self._uid())
        self.ask(
            f"change {database} {settings}", lambda seen: databases.change(seen, DatabaseUid(database), body, action_uid=uid)
        )

    def delete(self, database: int) -> None:
        """Request the deletion of a database."""
        self._deleted.add(database)
        uid = ActionUid(self._uid())
        self.ask(f"delete {database}", lambda seen: databases.delete(seen, DatabaseUid(database), action_uid=uid))

    def start(self, database: int, from_copy: int) -> None:
        """Continue a waiting database with one copy."""
        body = StartBody(from_copy=from_copy)
        self.ask(f"start {database} from {from_copy}", lambda seen: starting.start(seen, DatabaseUid(database), body))

    def policy(self, **changes: Any) -> None:
        """Change the policy."""
        self.ask(f"policy {changes}", lambda seen: Intent(None, (Put(replace(seen.view.policy, **changes)),)))

    def declare_off(self, node: int) -> None:
        """Say that a node's machine is off. The nodes of a simulation have loopback addresses whatever their machines, so
        the cluster is of machines for this request only."""

        def decide(seen: Look) -> Intent[Any]:
            assert seen.view.cluster is not None
            view = seen.view.changed(cluster=replace(seen.view.cluster, kind=ClusterKind.MACHINES))
            found = view.nodes.get(NodeUid(node))
            body = DeclareOffBody(address="" if found is None else found.address)
            return declarations.declare_off(replace(seen, view=view), NodeUid(node), body)

        self.ask(f"declare node {node} off", decide)

    def reopen(self, node: int) -> None:
        """PUT accept_servers for a node that a removal left closed."""

        def decide(seen: Look) -> Intent[None]:
            found = seen.view.nodes.get(NodeUid(node))
            if found is None or found.is_decommissioning:
                return Intent(None)
            return Intent(None, (Put(replace(found, is_closed=False, is_quorum_only=False)),))

        self.ask(f"reopen node {node}", decide)

    def request(self) -> None:
        """Send a random request."""
        world, rng = self.world, self.world.rng
        nodes = sorted(n["uid"] for n in world.checker.tables["nodes"].values())
        known = sorted(d["uid"] for d in world.checker.tables["databases"].values())
        kind = rng.random()
        self._change_modes(known)
        lost = sorted(n for n in nodes if self.world.nodes[n].is_lost)
        if lost and rng.random() < 0.2:
            self.action(lost[0], rng.choice(("remove", "remove", "maintenance_on")))
        elif kind < 0.62 or not known:
            word = rng.choice(WORDS)
            if word == "remove" and (len(nodes) <= 3 or not self.may_remove):
                word = "maintenance_on"
            marked = sorted(n["uid"] for n in world.checker.tables["nodes"].values() if n["is_quorum_only"])
            if marked and rng.random() < 0.5:
                word = "maintenance_off"
            elif not marked and word == "maintenance_off":
                word = rng.choice(("maintenance_on", "enslave_node"))
            node = rng.choice(marked if word == "maintenance_off" and marked else nodes)
            self.action(node, word, self._parameters(word, known))
        elif kind < 0.74:
            live = [a for a in world.checker.tables["actions"].values() if a["status"] in ("queued", "starting", "running")]
            if live:
                chosen = rng.choice(sorted(live, key=lambda a: a["uid"]))
                self.cancel(chosen["node_uid"], _word_of(chosen["name"]), mode=rng.choice(("stop", "undo")))
        elif kind < 0.82 and len(known) < 4:
            self.create_any()
        elif kind < 0.90:
            uid = rng.choice(known)
            choice = rng.random()
            if choice < 0.5:
                self.change(uid, replication=rng.random() < 0.7)
            elif choice < 0.8:
                self.change(uid, **persistence_of(rng.choice(("aof", "snapshot", "disabled"))))
            else:
                self.change(uid, memory_size=rng.choice((60, 100, 140)) * MB)
        elif kind < 0.94 and len(set(known) - self._deleted) > 1:
            doomed = rng.choice(known)
            if self._serving() - {doomed}:
                self.delete(doomed)
        else:
            self.policy(
                max_slave_full_syncs=rng.choice((0, 1, 2)), default_concurrent_restore_actions=rng.choice((0, 1, 10))
            )

    def _change_modes(self, known: list[int]) -> None:
        """Sometimes another proxy policy, or another answer to the question when a write is acknowledged."""
        if (changed := self.policies.chosen(known)) is not None:
            self.change(changed, proxy_policy=self.policies.draw())
        databases = self.world.checker.tables["databases"].values()
        modes = {int(d["uid"]): bool(d["is_strict"]) for d in databases if d["has_replica"]}
        if (changed := self.strict.changed(sorted(modes))) is not None:
            self.change(changed, strict=not modes[changed])

    def _serving(self) -> set[int]:
        databases = self.world.checker.tables["databases"].values()
        serving = (DatabaseStatus.ACTIVE, DatabaseStatus.ACTIVE_CHANGE_PENDING)
        return {d["uid"] for d in databases if d["status"] in serving} - self._deleted

    def _parameters(self, word: str, known: list[int]) -> dict[str, Any]:
        rng = self.world.rng
        found: dict[str, Any] = {}
        match word:
            case "maintenance_on":
                if rng.random() < 0.2:
                    found["evict_ha_replica"] = rng.random() < 0.5
                if rng.random() < 0.2:
                    found["demote_node"] = True
                if rng.random() < 0.2:
                    found["overwrite_snapshot"] = True
                if rng.random() < 0.2:
                    found["max_concurrent_actions"] = rng.choice((0, 1, 2))
            case "maintenance_off":
                if rng.random() < 0.2:
                    found["skip_shards_restore"] = True
            case "enslave_node":
                if rng.random() < 0.3:
                    found["demote_node"] = True
                found["retry_timeout_seconds"] = rng.choice((5, 30, 60))
            case "remove":
                found["wait_for_persistence"] = rng.random() < 0.5
        return found

    def create_any(self, *, safe: bool = False) -> None:
        """Request a random database."""
        rng = self.world.rng
        memory_mb, replication = rng.choice((60, 100, 200)), safe or rng.random() < 0.8
        self.create(
            memory_mb,
            replication=replication,
            persistence=rng.choice(("aof", "disabled", "snapshot", "aof")),
            proxy_policy=self.policies.draw(),
            strict=self.strict.draw(replication=replication),
        )


def _word_of(name: str) -> str:
    return "enslave_node" if name == "step_down" else name


def persistence_of(word: str) -> dict[str, Any]:
    """Settings with this persistence."""
    if word != "snapshot":
        return {"data_persistence": word}
    return {"data_persistence": word, "snapshot_policy": [SnapshotRuleBody(secs=60, writes=1)]}
