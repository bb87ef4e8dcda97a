"""Connects machines: a bridge in a network namespace of its own, a port for each machine, and the faults of the network.

Nothing of it is in this machine's own network. The namespace ends with the process that holds it, which ends with its owner.
A fault is a program of the kernel's packet filter at the port where frames come in from a machine: the sender sees silence,
as behind a switch that drops, and not a link that is down.
"""

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from testkit.machines.commands import Held, check, run

_DROP, _NEXT = 2, 0xFFFFFFFF
"""What a program answers: to drop the frame, to ask the next program."""
_IP, _ARP = 0x0800, 0x0806


def drop_program(destination: IPv4Address, *, with_arp: bool) -> str:
    """The packet filter's program that drops what goes to an address, in the form of ``tc``. Without ``with_arp``, the
    sender still learns the hardware address, so its connections time out; with it they also fail as unreachable."""
    target = int(destination)
    lines = [
        (40, 0, 0, 12),  # the kind of frame
        (21, 0, 2, _IP),  # not IP: go on with ARP
        (32, 0, 0, 30),  # the address
        (21, 3, 4, target),
        (21, 0, 3, _ARP) if with_arp else (6, 0, 0, _NEXT),
        (32, 0, 0, 38),  # the address that is asked for
        (21, 0, 1, target),
        (6, 0, 0, _DROP),
        (6, 0, 0, _NEXT),
    ]
    return ",".join([str(len(lines)), *(" ".join(map(str, line)) for line in lines)])


@dataclass
class Switch:
    """See the module's text. A context manager."""

    addresses: Mapping[str, IPv4Address]
    """Of all machines, by name, also those that are off."""
    _ports: set[str] = field(default_factory=set)
    """The machines that are plugged in."""
    _drops: dict[tuple[str, str], bool] = field(default_factory=dict)
    """From, to, and whether ARP is dropped as well."""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _relays: dict[str, Held] = field(default_factory=dict)
    """The processes that delay, by machine."""
    _holder: Held | None = None

    def __enter__(self) -> "Switch":
        # The shell's words come when the bridge is there; then it waits for the end of its input, which is its owner's end.
        script = "ip link add switch type bridge forward_delay 0 && ip link set switch up && echo ready && exec cat"
        self._holder = Held(["unshare", "--net", "/bin/sh", "-c", script])
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; what was plugged in is without a network then."""
        for held in (*self._relays.values(), *([] if self._holder is None else [self._holder])):
            held.close()
        self._relays, self._holder = {}, None

    def plug(self, name: str, pid: int, interface: str) -> None:
        """Connect the network namespace of a process; the cable ends there as ``interface``. Faults that were made
        before go on. Raises MachinesFailed."""
        port = self._port(name)
        with self._lock:
            # A machine keeps its hardware address: the others remember it.
            hardware = "02:00:" + ":".join(f"{byte:02x}" for byte in self.addresses[name].packed)
            peer = ["peer", "name", interface, "address", hardware, "netns", str(pid)]
            self._ip("link", "add", "name", port, "type", "veth", *peer)
            self._ip("link", "set", port, "master", "switch", "up")
            self._check("tc", "qdisc", "add", "dev", port, "clsact")
            self._ports.add(name)
            self._filter(name)

    def unplug(self, name: str) -> None:
        """Take the cable away, at both ends: like a machine without power. Without effect if there is none."""
        with self._lock:
            if name in self._ports:
                self._ports.remove(name)
                self.delay(name, None)
                # The cable of a machine that has ended by itself ended with it.
                run(self._inside("ip", "link", "del", self._port(name)))

    # -- faults ------------------------------------------------------------------------------------------------------------

    def drop(self, source: str, target: str, *, with_arp: bool = False) -> None:
        """Nothing from the source reaches the target any more; the other direction is as before."""
        with self._lock:
            self._drops[source, target] = with_arp
            self._filter(source)

    def cut(self, one: str, *others: str, with_arp: bool = False) -> None:
        """Nothing passes between a machine and the others, in either direction; without others: all machines."""
        with self._lock:
            for other in others or tuple(name for name in self.addresses if name != one):
                self.drop(one, other, with_arp=with_arp)
                self.drop(other, one, with_arp=with_arp)

    def isolate(self, name: str, *, is_alone: bool = True) -> None:
        """Let nothing pass to or from a machine, whatever address it is for, or let it pass again. The machine sees
        silence. Not while ``delay`` is in force. Raises MachinesFailed."""
        where = ["nomaster"] if is_alone else ["master", "switch"]
        self._ip("link", "set", self._port(name), *where)

    def set_link(self, name: str, *, is_up: bool) -> None:
        """Whether a machine's cable carries a signal: the machine sees it, and its neighbors' addresses are forgotten."""
        self._ip("link", "set", self._port(name), "up" if is_up else "down")

    def limit(self, name: str, bytes_per_s: int | None) -> None:
        """Let only so much pass to a machine in a second; None: all."""
        port = self._port(name)
        if bytes_per_s is None:
            self._check("tc", "qdisc", "del", "dev", port, "root")
            return
        # Enough for a packet that the kernel has put together, and a queue like that of a small router.
        limits = ["rate", f"{bytes_per_s * 8}bit", "burst", "128kb", "latency", "200ms"]
        self._check("tc", "qdisc", "replace", "dev", port, "root", "tbf", *limits)

    def delay(self, name: str, seconds: float | None) -> None:
        """Let what passes to and from a machine arrive later, by so much in each direction; None: at once. The machine
        itself must send plain frames (``Machine.delay``). Some frames are lost at the change. Raises MachinesFailed."""
        port, inner, outer = (f"{kind}-{name}" for kind in ("port", "in", "out"))
        with self._lock:
            if (relay := self._relays.pop(name, None)) is not None:
                relay.close()
                # The other end goes with it. That of the machine may be gone already.
                run(self._inside("ip", "link", "del", outer))
                run(self._inside("ip", "link", "set", port, "master", "switch"))
            if seconds is not None:
                self._ip("link", "set", port, "nomaster")
                self._ip("link", "add", "name", outer, "type", "veth", "peer", "name", inner)
                self._ip("link", "set", inner, "up")
                self._ip("link", "set", outer, "master", "switch", "up")
                self._check("tc", "qdisc", "add", "dev", outer, "clsact")
                words = [sys.executable, "-m", "testkit.machines.delay", port, inner, outer, str(seconds)]
                self._relays[name] = Held(self._inside(*words))
            self._filter(name)

    def heal(self, *names: str) -> None:
        """End all faults that ``drop`` and ``cut`` have made; with names: those from and to them."""
        with self._lock:
            over = [pair for pair in self._drops if not names or set(pair) & set(names)]
            for pair in over:
                del self._drops[pair]
            for source in {source for source, _ in over}:
                self._filter(source)

    def _filter(self, source: str) -> None:
        """Make the programs at a port as they should be. A fault of a machine that is off begins when it is plugged in."""
        if source not in self._ports:
            return
        # With a relay, frames come to the bridge by another way: the relay would pass on what its own port drops.
        port = f"out-{source}" if source in self._relays else self._port(source)
        self._check("tc", "filter", "del", "dev", port, "ingress")
        for number, ((_, target), with_arp) in enumerate(sorted(p for p in self._drops.items() if p[0][0] == source), 1):
            program = drop_program(self.addresses[target], with_arp=with_arp)
            where = ["dev", port, "ingress", "protocol", "all", "prio", str(number)]
            self._check("tc", "filter", "add", *where, "bpf", "direct-action", "bytecode", program)

    def state(self) -> str:
        """Ports and faults, for a failed test."""
        return f"plugged in: {sorted(self._ports)}, dropped: {sorted(self._drops)}"

    # -- inside the namespace ----------------------------------------------------------------------------------------------

    def _port(self, name: str) -> str:
        port = f"port-{name}"
        assert len(port) < 16, f"{name} is too long for the name of an interface"
        return port

    def _ip(self, *words: str) -> None:
        self._check("ip", *words)

    def _check(self, *words: str) -> str:
        return check(self._inside(*words))

    def _inside(self, *words: str) -> list[str]:
        assert self._holder is not None, "the switch is not there"
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", *words]
