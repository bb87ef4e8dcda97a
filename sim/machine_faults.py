"""Faults of machines and of the network between them, drawn like the others (``faults.py``)."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sim.machines import SimMachine
from sim.network import AGENT, REPLICATION, SERVER, STORE

if TYPE_CHECKING:
    from sim.faults import Faults, Kind

BOOT_S = 3.0
"""Time that a machine needs to boot, beside the time that it is off."""


class MachineFaults:
    """See the module's docstring."""

    def __init__(self, faults: "Faults") -> None:
        self.faults = faults
        self.world = faults.world
        self.kinds: tuple[Kind, ...] = (
            ("machine reboots", self._reboot, 5),
            ("machine frozen", self._freeze, 4),
            ("machine cut off", self._cut_off, 5),
            ("machine hears nothing", self._deafen, 3),
            ("machine is not heard", self._mute, 3),
            ("leader does not reach servers", self._filter_servers, 4),
            ("leader does not reach agents", self._filter_agents, 4),
            ("replicas do not reach primaries", self._filter_replication, 3),
            ("store does not answer a machine", self._cut_store, 3),
            ("presence storm", self._storm, 3),
            ("firewall refuses the leader", self._refuse, 3),
            ("machine of a replaceable primary", self._strike_a_replaceable_primary, 8),
            ("machine declared off", self._declare_off, 5),
        )

    def _any(self) -> SimMachine:
        return self.world.rng.choice(self.world.machines.all)

    def _others(self, machine: SimMachine) -> list[int]:
        return [STORE, *(uid for uid in self.world.nodes if uid not in machine.nodes)]

    # -- machines ------------------------------------------------------------------------------------------------------

    def _reboot(self) -> str | None:
        machine = self._any()
        if any(self.world.nodes[uid].is_down for uid in machine.nodes):
            return None
        seconds = self.faults.duration()
        reboot(self.faults, machine, off_s=seconds)
        return f"{machine.machine_id} with nodes {machine.nodes}, off for {seconds} s"

    def _declare_off(self) -> str | None:
        """It is off, and an operator says so; sometimes only when it is about to be back."""
        machine, rng = self._any(), self.world.rng
        if any(self.world.nodes[uid].is_down for uid in machine.nodes):
            return None
        seconds, after = rng.choice((8.0, 14.0, 25.0)), rng.choice((1.0, 5.0, 9.0))
        reboot(self.faults, machine, off_s=seconds)
        for uid in machine.nodes:
            self.world.loop.at(after, self.faults.simulation.operator.declare_off, uid)
        return f"{machine.machine_id} with nodes {machine.nodes}, off for {seconds} s, declared after {after} s"

    def _freeze(self) -> str:
        machine = self._any()
        seconds = self.faults.duration()
        freeze(self.faults, machine, seconds)
        return f"{machine.machine_id} with nodes {machine.nodes} for {seconds} s"

    def _strike_a_replaceable_primary(self) -> str | None:
        """It is cut off, alone or with another machine, or sleeps: mostly for long enough that another copy takes over."""
        world, rng = self.world, self.world.rng
        known = [g for g in world.checker.tables["groups"].values() if g["primary"]]
        groups = [g for g in known if g["lease"] is not None or world.is_strict(g["uid"])]
        if not groups:
            return None
        shard = world.checker.tables["shards"][f"shards/{rng.choice(groups)['primary']:08d}"]
        machine, seconds = world.machine_of(shard["node_uid"]), rng.choice((3.5, 5.0, 8.0, 14.0, 25.0))
        way = rng.choice(("frozen", "cut off", "cut off", "cut off with another"))
        if way == "frozen":
            freeze(self.faults, machine, seconds)
        else:
            side = list(machine.nodes)
            if way == "cut off with another":
                side += self._any().nodes
            self.faults.cut(pairs_around(side, [p for p in self._others(machine) if p not in side]), seconds=seconds)
        return f"{machine.machine_id} with nodes {machine.nodes} {way} for {seconds} s"

    # -- between them --------------------------------------------------------------------------------------------------

    def _cut_off(self) -> str:
        machine = self._any()
        return self.faults.cut(pairs_around(machine.nodes, self._others(machine)))

    def _deafen(self) -> str:
        machine = self._any()
        return self.faults.cut([(other, uid) for other in self._others(machine) for uid in machine.nodes])

    def _mute(self) -> str:
        machine = self._any()
        return self.faults.cut([(uid, other) for other in self._others(machine) for uid in machine.nodes])

    def _cut_store(self) -> str:
        return self.faults.cut([(STORE, uid) for uid in self._any().nodes])

    def _filter_servers(self) -> str | None:
        return self._filter_from_the_leader(SERVER)

    def _filter_agents(self) -> str | None:
        return self._filter_from_the_leader(AGENT)

    def _filter_from_the_leader(self, kind: str) -> str | None:
        """Most often one machine only; otherwise all others."""
        leader = self.world.leader()
        if leader is None:
            return None
        own = leader.node.uid
        machine = self._any()
        targets = machine.nodes if self.world.rng.random() < 0.7 else list(self.world.nodes)
        return self._filter({(own, uid, kind) for uid in targets if not self.world.share_machine(own, uid)})

    def _filter_replication(self) -> str:
        machine = self._any()
        others = [uid for uid in self._others(machine) if uid != STORE]
        return self._filter({(a, b, REPLICATION) for a, b in pairs_around(machine.nodes, others)})

    def _filter(self, filters: set[tuple[int, int, str]]) -> str:
        network = self.world.network
        network.filters |= filters
        self.faults.check_links()
        self.world.loop.at(self.faults.duration(), network.filters.difference_update, filters)
        return str(sorted(filters))

    def _refuse(self) -> str | None:
        """In the name of a machine that serves."""
        leader = self.world.leader()
        if leader is None:
            return None
        own, network, machine = leader.node.uid, self.world.network, self._any()
        kinds = self.world.rng.choice(((SERVER,), (SERVER, AGENT)))
        refused = {(own, uid, k) for uid in machine.nodes for k in kinds if not self.world.share_machine(own, uid)}
        network.rejects |= refused
        self.world.loop.at(self.faults.duration(), network.rejects.difference_update, refused)
        return str(sorted(refused))

    def _storm(self) -> str:
        ended = revoke_all(self.faults)
        return f"{ended} leases"


def reboot(faults: "Faults", machine: SimMachine, *, off_s: float) -> None:
    """All processes of the machine end; its files stay. It answers nothing until it has booted."""
    world = faults.world
    nodes = list(machine.nodes)
    world.network.off.update(nodes)
    for uid in nodes:
        faults.simulation.kill_node(uid)
    world.loop.at(off_s + BOOT_S, boot, faults, machine)


def boot(faults: "Faults", machine: SimMachine) -> None:
    """The machine has booted, if it was off; its nodes start."""
    world = faults.world
    if not world.network.off & set(machine.nodes):
        return
    machine.boots += 1
    world.network.off.difference_update(machine.nodes)
    world.log(f"{machine.machine_id} has booted: {machine.boot_id}")
    for uid in machine.nodes:
        faults.simulation.revive_node(uid)


def freeze(faults: "Faults", machine: SimMachine, seconds: float) -> None:
    """No process of the machine runs for a while: a virtual machine that is paused."""
    world = faults.world
    servers = [s for s in world.all_servers if s.is_alive and s.node_uid in machine.nodes]
    found = [s.process for s in servers]
    for uid in machine.nodes:
        node = world.nodes[uid]
        found += [part.process for part in (node.daemon, node.endpoint_process) if part is not None]
    for process in found:
        if process.runs:
            process.freeze()
            world.loop.at(seconds, process.thaw, world.loop)
    for server in servers:
        faults.time_out_links(server)


def revoke_all(faults: "Faults", *, but: int | None = None) -> int:
    """The store loses every lease at once, as a store does whose frozen leader wakes. Returns how many. ``but``: it keeps
    this one."""
    store = faults.world.store
    leases = [lease for lease in store._leases if lease != but]
    for lease in leases:
        store._end(lease)
    return len(leases)


def pairs_around(nodes: Iterable[int], others: Iterable[int]) -> list[tuple[int, int]]:
    """Both directions between each of the nodes and each of the others."""
    far = list(others)
    return [pair for uid in nodes for other in far for pair in ((uid, other), (other, uid))]


__all__ = ["MachineFaults", "boot", "freeze", "pairs_around", "reboot", "revoke_all"]
