"""The faults of a simulation, drawn from its seed, and their end."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from sim.machine_faults import boot
from sim.world import World

if TYPE_CHECKING:
    from sim.daemon import SimDaemon
    from sim.server import SimServer
    from sim.simulation import Simulation

STEPS = (
    "handoff:intend", "handoff:hold", "handoff:fence", "handoff:compare", "handoff:promote",
    "handoff:release", "handoff:end_clients", "handoff:demote", "handoff:end_pause", "handoff:unfence", "handoff:verify",
    "handoff:commit", "handoff:undo_fence", "handoff:undo_release", "handoff:undo_commit", "recovery:promote",
)  # fmt: skip
COMMANDS = ("attach", "promote", "unfence", "end_sessions", "serve", "release", "pass", "drop", "apply", "save", "fence")


Kind = tuple[str, Callable[[], str | None], int]
"""Name, strike, and weight. A strike returns what it did; None: nothing."""


class Faults:
    """See the module's docstring."""

    def __init__(self, world: World, simulation: "Simulation") -> None:
        self.world = world
        self.simulation = simulation
        self.is_over = False
        self.last_at = 0.0
        """Time of the last fault."""
        self.kinds: tuple[Kind, ...] = (
            ("daemon killed", self._kill_daemon, 3),
            ("daemon frozen", self._freeze_daemon, 3),
            ("leader killed", self._kill_leader, 3),
            ("leader frozen", self._freeze_leader, 3),
            ("strike in a handoff", self._arm_step, 12),
            ("strike at a command", self._arm_command, 5),
            ("endpoint process killed", self._kill_endpoint, 3),
            ("endpoint process frozen", self._freeze_endpoint, 2),
            ("endpoint process late", self._delay_endpoint, 4),
            ("server killed", self._kill_server, 4),
            ("server frozen", self._freeze_server, 4),
            ("node killed", self._kill_node, 2),
            ("node lost for good", self._lose_node, 3),
            ("partition", self._partition, 3),
            ("one-way partition", self._one_way, 3),
            ("slow network", self._slow, 2),
            ("watch stalls", self._stall_watch, 2),
            ("watch breaks", self._break_watch, 2),
            ("watch repeats", self._repeat_watch, 1),
            ("clock jump", self._jump, 2),
            ("disk full", self._fill_disk, 2),
            ("no memory to start", self._no_memory, 2),
            ("sync hangs", self._hang_sync, 2),
            ("sync fails", self._fail_sync, 2),
            ("late answers", self._late, 3),
            ("replication lags", self._lag, 2),
        )

    def add(self, kinds: tuple[Kind, ...]) -> None:
        """More kinds of faults."""
        self.kinds += kinds

    def inject(self) -> None:
        """Inject a random fault now, or arm it for the next time its point is reached."""
        if self.is_over:
            return
        rng = self.world.rng
        name, strike, _ = rng.choices(self.kinds, weights=[k[2] for k in self.kinds])[0]
        what = strike()
        if what is not None:
            self.last_at = self.world.loop.now
            self.world.tally.faults[name] += 1
            self.world.log(f"fault: {name}: {what}")

    def strike_step(self) -> None:
        """Arm a failure of the leader at a random step of a handoff."""
        if not self.is_over:
            self.world.log(f"fault: strike in a handoff: {self._arm_step()}")

    def strike_server(self) -> None:
        """Kill or freeze a random server."""
        if not self.is_over:
            what = self._kill_server() if self.world.rng.random() < 0.5 else self._freeze_server()
            self.last_at = self.world.loop.now
            self.world.log(f"fault: server: {what}")

    def duration(self) -> float:
        """A random duration of a fault, in seconds."""
        return self.world.rng.choice((0.3, 1.0, 2.5, 5.0, 8.0, 14.0, 25.0))

    # -- daemons -------------------------------------------------------------------------------------------------------

    def _living(self) -> "list[SimDaemon]":
        return [d for d in self.world.daemons() if d.process.runs]

    def _kill_daemon(self) -> str | None:
        living = self._living()
        return None if not living else self._kill(self.world.rng.choice(living))

    def _freeze_daemon(self) -> str | None:
        living = self._living()
        return None if not living else self._freeze(self.world.rng.choice(living))

    def _kill_leader(self) -> str | None:
        leader = self.world.leader()
        return None if leader is None else self._kill(leader)

    def _freeze_leader(self) -> str | None:
        leader = self.world.leader()
        return None if leader is None or not leader.process.runs else self._freeze(leader)

    def _kill(self, daemon: "SimDaemon") -> str:
        daemon.process.kill()
        node = daemon.node
        self.world.loop.at(self.duration(), self.simulation.restart_daemon, node.uid)
        return f"daemon {node.uid}"

    def _freeze(self, daemon: "SimDaemon") -> str:
        daemon.process.freeze()
        seconds = self.duration()
        self.world.loop.at(seconds, daemon.process.thaw, self.world.loop)
        return f"daemon {daemon.node.uid} for {seconds} s"

    def _arm_step(self) -> str:
        rng = self.world.rng
        return self._arm(f"{rng.choice(STEPS)}:{rng.choice(('before', 'after'))}")

    def _arm_command(self) -> str:
        rng = self.world.rng
        where = rng.choice(COMMANDS)
        return self._arm(
            f"{where}{'' if where in ('serve', 'release', 'pass', 'drop') else ' server'}:{rng.choice(('before', 'after'))}"
        )

    def _arm(self, point: str) -> str:
        world = self.world
        freezes = world.rng.random() < 0.5
        skips = [world.rng.choice((0, 0, 1, 3))]

        def reached(daemon: "SimDaemon | None", at: str) -> None:
            if at != point or daemon is None or self.is_over or not daemon.process.runs:
                return
            if skips[0] > 0:
                skips[0] -= 1
                return
            world.on_point.remove(reached)
            self.last_at = world.loop.now
            world.tally.struck[point] += 1
            world.log(f"struck at {point}: {self._freeze(daemon) if freezes else self._kill(daemon)}")

        world.on_point.append(reached)
        return f"{point} {'freeze' if freezes else 'kill'}"

    # -- other processes -----------------------------------------------------------------------------------------------

    def _kill_endpoint(self) -> str | None:
        found = [n for n in self.world.nodes.values() if self.world.endpoint_process(n.uid) is not None]
        if not found:
            return None
        node = self.world.rng.choice(found)
        assert node.endpoint_process is not None
        node.endpoint_process.process.kill()
        return f"node {node.uid}"

    def _freeze_endpoint(self) -> str | None:
        found = [p for n in self.world.nodes if (p := self.world.endpoint_process(n)) is not None and p.process.runs]
        if not found:
            return None
        chosen = self.world.rng.choice(found)
        chosen.process.freeze()
        seconds = self.duration()
        self.world.loop.at(seconds, chosen.process.thaw, self.world.loop)
        return f"node {chosen.node_uid} for {seconds} s"

    def _delay_endpoint(self) -> str | None:
        found = [p for n in self.world.nodes if (p := self.world.endpoint_process(n)) is not None and p.process.runs]
        if not found:
            return None
        chosen = self.world.rng.choice(found)
        chosen.late_s = self.world.rng.choice((0.05, 0.15, 0.5, 0.9, 1.1, 1.5))
        seconds = self.duration()
        self.world.loop.at(seconds, setattr, chosen, "late_s", 0.0)
        return f"node {chosen.node_uid}, by {chosen.late_s} s for {seconds} s"

    def _servers(self) -> "list[SimServer]":
        return [s for s in self.world.all_servers if s.process.runs]

    def _kill_server(self) -> str | None:
        found = self._servers()
        if not found:
            return None
        server = self.world.rng.choice(found)
        server.die(planned=False)
        return f"shard {server.shard_uid}"

    def _freeze_server(self) -> str | None:
        found = self._servers()
        if not found:
            return None
        server = self.world.rng.choice(found)
        server.process.freeze()
        self.time_out_links(server)
        seconds = self.duration()
        self.world.loop.at(seconds, server.process.thaw, self.world.loop)
        return f"shard {server.shard_uid} for {seconds} s"

    def time_out_links(self, server: "SimServer") -> None:
        """The replicas of a frozen server notice it after a while."""
        for replica in list(server.replicas):
            self.world.loop.at(5.0, self._link_times_out, server, replica)

    def _link_times_out(self, server: object, replica: object) -> None:
        from sim.server import SimServer

        assert isinstance(server, SimServer)
        assert isinstance(replica, SimServer)
        if server.process.is_frozen and replica.source_server is server and replica.process.runs:
            replica.link_lost()

    def _kill_node(self) -> str | None:
        nodes = [n for n in self.world.nodes.values() if not n.is_down and n.daemon is not None]
        if not nodes:
            return None
        node = self.world.rng.choice(nodes)
        self.simulation.kill_node(node.uid)
        self.world.loop.at(self.duration() + 1.0, self.simulation.revive_node, node.uid)
        return f"node {node.uid}"

    def _lose_node(self) -> str | None:
        """Lose at most one node per seed, so that the others are a majority. Not if there are several machines: then the end
        of its processes cannot be known, and nothing is promoted because of silence."""
        if self.world.machines.are_several:
            return None
        nodes = [n for n in self.world.nodes.values() if not n.is_down and n.daemon is not None]
        if not nodes or any(n.is_lost for n in self.world.nodes.values()):
            return None
        node = self.world.rng.choice(nodes)
        self.simulation.lose_node(node.uid)
        return f"node {node.uid}"

    # -- network and store ---------------------------------------------------------------------------------------------

    def cut(self, pairs: list[tuple[int, int]], *, seconds: float | None = None) -> str:
        """Drop what is sent between these places for a while."""
        self.world.network.cuts.update(pairs)
        self.check_links()
        self.world.loop.at(self.duration() if seconds is None else seconds, self._join, pairs)
        return str(pairs)

    def check_links(self) -> None:
        """Break the replication links that no longer pass."""
        for server in self.world.all_servers:
            if server.is_alive:
                server.check_link()

    def _join(self, pairs: list[tuple[int, int]]) -> None:
        self.world.network.cuts.difference_update(pairs)
        for watcher in self.world.store.watchers:
            watcher.announce()

    def _two(self) -> tuple[int, int]:
        places = [0, *sorted(self.world.nodes)]
        first, second = self.world.rng.sample(places, 2)
        return first, second

    def _partition(self) -> str:
        first, second = self._two()
        return self.cut([(first, second), (second, first)])

    def _one_way(self) -> str:
        return self.cut([self._two()])

    def _slow(self) -> str:
        place = self.world.rng.choice([0, *sorted(self.world.nodes)])
        self.world.network.slow_until[place] = self.world.loop.now + self.duration()
        return f"place {place}"

    def _stall_watch(self) -> str | None:
        living = self._living()
        if not living:
            return None
        daemon = self.world.rng.choice(living)
        daemon.store.watch_stalls_until = self.world.loop.now + min(4.0, self.duration())
        return f"daemon {daemon.node.uid}"

    def _break_watch(self) -> str | None:
        living = self._living()
        if not living:
            return None
        daemon = self.world.rng.choice(living)
        daemon.store.break_watches()
        return f"daemon {daemon.node.uid}"

    def _repeat_watch(self) -> str | None:
        living = self._living()
        if not living:
            return None
        daemon = self.world.rng.choice(living)
        daemon.store.repeats_watch = True
        return f"daemon {daemon.node.uid}"

    # -- conditions ----------------------------------------------------------------------------------------------------

    def _jump(self) -> str:
        node = self.world.rng.choice(list(self.world.nodes.values()))
        node.skew_s += self.world.rng.choice((-3600.0, -30.0, -5.0, 5.0, 30.0, 3600.0))
        return f"node {node.uid}: {node.skew_s:+.0f} s"

    def _fill_disk(self) -> str:
        node = self.world.rng.choice(list(self.world.nodes.values()))
        node.full_until = self.world.loop.now + self.duration()
        return f"node {node.uid}"

    def _no_memory(self) -> str:
        node = self.world.rng.choice(list(self.world.nodes.values()))
        node.start_fails_until = self.world.loop.now + self.duration()
        return f"node {node.uid}"

    def _hang_sync(self) -> str:
        self.world.sync_hangs_until = self.world.loop.now + self.duration()
        return f"until {self.world.sync_hangs_until:.0f}"

    def _fail_sync(self) -> str:
        self.world.sync_fails_until = self.world.loop.now + self.duration()
        return f"until {self.world.sync_fails_until:.0f}"

    def _late(self) -> str:
        self.world.late_until = self.world.loop.now + self.duration()
        return f"until {self.world.late_until:.0f}"

    def _lag(self) -> str:
        self.world.replication_lag_s = self.world.rng.choice((0.05, 0.3, 1.2))
        self.world.loop.at(self.duration(), self._no_lag)
        return f"{self.world.replication_lag_s} s"

    def _no_lag(self) -> None:
        self.world.replication_lag_s = 0.002

    def end(self) -> None:
        """End all faults."""
        world = self.world
        self.is_over = True
        world.on_point.clear()
        self._join(sorted(world.network.cuts))
        world.network.filters.clear()
        world.network.rejects.clear()
        for machine in world.machines.all:
            boot(self, machine)
        world.network.slow_until.clear()
        world.sync_hangs_until = world.sync_fails_until = world.late_until = 0.0
        world.replication_lag_s = 0.002
        for node in world.nodes.values():
            node.full_until = node.start_fails_until = 0.0
            if node.daemon is not None:
                node.daemon.store.watch_stalls_until = 0.0
                node.daemon.process.thaw(world.loop)
            if node.endpoint_process is not None:
                node.endpoint_process.process.thaw(world.loop)
                node.endpoint_process.late_s = 0.0
            self.simulation.revive_node(node.uid)
            self.simulation.restart_daemon(node.uid)
        for server in world.all_servers:
            if not server.is_frozen_for_good:
                server.process.thaw(world.loop)
