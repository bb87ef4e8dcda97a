"""Injects the faults of a plan into machines, and heals them."""

import time

from chaos.load import Place
from chaos.machines.plan import Fault, Strike
from demo.machines.cluster import NODES, MachinesCluster
from testkit.machines.machine import Machine

NOTED_EVERY_S = 1.0
PROVEN_S = 3.0
"""In default mode clients behind a cut are answered for so long, and another copy may take over then."""
CUTS = frozenset({Fault.CUT_OFF, Fault.MUTE, Fault.DEAF, Fault.FREEZE})


class MachineFaults:
    """See the module's docstring. ``losing``: databases in default mode, which may lose the last moment before a power
    failure or a takeover."""

    def __init__(self, cluster: MachinesCluster, place: Place, *, losing: frozenset[str]) -> None:
        assert cluster.machines is not None
        self._cluster = cluster
        self._machines = cluster.machines
        self._place = place
        self._losing = losing

    def name_of(self, strike: Strike) -> str:
        """The machine that it strikes."""
        return NODES[strike.pick % len(NODES)]

    def do(self, strike: Strike) -> None:
        """Strike, wait, and heal. Raises MachinesFailed."""
        machine = self._machines[self.name_of(strike)]
        others = [name for name in NODES if name != machine.name]
        self._cluster.ask_last(machine.address)
        try:
            self._strike(strike, machine, others)
        finally:
            self._heal(machine)

    def _strike(self, strike: Strike, machine: Machine, others: list[str]) -> None:
        switch = self._machines.switch
        match strike.fault:
            case Fault.CUT_OFF | Fault.CUT_AND_REBOOT:
                switch.cut(machine.name, *others)
            case Fault.MUTE:
                for other in others:
                    switch.drop(machine.name, other)
            case Fault.DEAF:
                for other in others:
                    switch.drop(other, machine.name)
            case Fault.SLOW:
                machine.delay(strike.delay_s)
            case Fault.FREEZE:
                machine.freeze()
            case Fault.REBOOT | Fault.POWER_OFF:
                self._power_off(machine)
        struck_at = time.monotonic()
        over_at = struck_at + strike.lasts_s
        while (left := over_at - time.monotonic()) > 0:
            is_proven = strike.fault in CUTS and time.monotonic() < struck_at + PROVEN_S + NOTED_EVERY_S
            if strike.fault is Fault.CUT_AND_REBOOT or is_proven:
                self._note()  # what clients write behind the cut is on this machine alone
            time.sleep(min(left, NOTED_EVERY_S))
        if strike.fault is Fault.SLOW:
            machine.delay(None)
        elif strike.fault is Fault.FREEZE:
            machine.thaw()
        elif strike.fault is Fault.CUT_AND_REBOOT:
            self._power_off(machine)

    def _power_off(self, machine: Machine) -> None:
        self._note()
        machine.power_off()

    def _note(self) -> None:
        """A write that is acknowledged now may be lost, in a database in default mode."""
        with self._place.kills.open("a") as kills:
            for name in sorted(self._losing):
                kills.write(f"{name} {time.time():.6f}\n")

    def _heal(self, machine: Machine) -> None:
        self._machines.switch.heal()
        if not machine.is_on:
            machine.reboot()
