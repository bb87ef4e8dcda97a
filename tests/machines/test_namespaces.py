"""Machines of namespaces: their own names, processes, network and files; faults; power; and that nothing of them is left.

Needs root, iproute2 and util-linux, and is skipped by name without them.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.deadlines import until
from testkit.machines import freezer
from testkit.machines.commands import missing
from testkit.machines.group import Machines, sweep
from testkit.machines.machine import Machine

pytestmark = [pytest.mark.proof, pytest.mark.skipif(bool(missing()), reason=missing() or "machines can be made")]
PORT = 7000
SHORT_S = 1.0
"""Longer than any answer of a machine that answers."""


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """For tests that leave them as they were: on, and without faults."""
    with Machines(("m1", "m2", "m3")) as made:
        yield made


@contextlib.contextmanager
def listening(machine: Machine, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[socket.socket]:
    """A socket of a machine, at its address."""
    with machine.network(), socket.socket(socket.AF_INET, kind) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((machine.address, PORT))
        if kind is socket.SOCK_STREAM:
            made.listen()
        yield made


def connection_error(source: Machine, target: Machine, timeout_s: float = SHORT_S) -> type[OSError] | None:
    """How connecting fails; None: it does not."""
    try:
        with source.network(), socket.create_connection((target.address, PORT), timeout=timeout_s):
            return None
    except OSError as e:
        return type(e)


def hears(listener: socket.socket, source: Machine, target: Machine) -> bool:
    """Whether a datagram arrives."""
    with source.network(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", (target.address, PORT))
    listener.settimeout(SHORT_S)
    try:
        return listener.recv(100) == b"hello"
    except TimeoutError:
        return False


def outside() -> dict[str, str]:
    """What of this machine must not change, whatever else runs on it.

    Neighbours that the kernel has learned come and go by themselves; those that a program wrote are permanent. Groups of
    processes are looked at by ``groups_of``: other tests make and remove theirs at the same time.
    """
    ip = {
        what: subprocess.run(["ip", "-o", *what.split()], capture_output=True, text=True, check=True).stdout
        for what in ("address", "route", "netns", "neighbor show nud permanent", "rule")
    }
    ip["address"] = "".join(line.partition("valid_lft")[0] for line in ip["address"].splitlines())
    mounts = Path("/proc/self/mountinfo").read_text()
    files = "\n".join(
        str(Path(path).exists()) for path in ("/etc/shardwright", "/var/lib/shardwright", "/usr/lib/shardwright")
    )
    return {**ip, "mounts": mounts, "host": socket.gethostname(), "files": files}


def groups_of(directory: Path) -> list[str]:
    """The groups of processes of a run."""
    parent = freezer.find_parent()
    return [] if parent is None else sorted(str(path) for path in parent.glob(f"{directory.name}*"))


# -- what a machine is -------------------------------------------------------------------------------------------------


def test_a_machine_has_its_own_names_processes_and_files(machines: Machines) -> None:
    one, two = machines["m1"], machines["m2"]
    assert one.check("hostname").strip() == "m1"
    for path in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        assert len({one.check("cat", path), two.check("cat", path), Path(path).read_text()}) == 3, path
    assert one.check("getent", "hosts", "m2").split() == [two.address, "m2"]
    assert max(int(line) for line in one.check("ps", "-eo", "pid=").split()) < os.getpid() or os.getpid() < 1000
    assert {process.pid for process in one.processes()} >= {1}
    for path in ("/etc/shardwright/x", "/usr/lib/x", "/tmp/x", "/var/lib/shardwright/x"):
        one.check("sh", "-c", 'echo one >"$0"', path)
        assert two.run("cat", path).status != 0, path
        assert not Path(path).exists(), path
    assert (one.configuration / "x").read_text() == "one\n"


def test_nothing_of_this_machine_changes() -> None:
    before = outside()
    with Machines(("m1", "m2")) as made:
        directory = made.directory
        assert outside() == before
        made["m1"].spawn("sleeper", "sleep", "1000")
        made.switch.cut("m1")
    assert outside() == before
    assert not directory.exists()
    assert (processes_of(directory), groups_of(directory)) == ({}, [])


def test_an_exception_ends_them() -> None:
    before = outside()
    made = Machines(("m1",))
    with pytest.raises(ZeroDivisionError), made:
        raise ZeroDivisionError
    assert (outside(), made.directory.exists()) == (before, False)
    assert (processes_of(made.directory), groups_of(made.directory)) == ({}, [])


# -- faults of the network ---------------------------------------------------------------------------------------------


def test_a_cut_is_silent_and_heals(machines: Machines) -> None:
    one, two, three = (machines[name] for name in ("m1", "m2", "m3"))
    with listening(two):
        assert connection_error(one, two) is None
        machines.switch.cut("m1", "m2")
        assert connection_error(one, two) is TimeoutError
        assert connection_error(three, two) is None
        machines.switch.heal()
        assert connection_error(one, two) is None


def test_a_cut_with_arp_is_unreachable(machines: Machines) -> None:
    one, two = machines["m1"], machines["m2"]
    with listening(two):
        machines.switch.cut("m1", with_arp=True)
        one.check("ip", "neighbor", "flush", "all")
        # The kernel asks three times, once a second.
        assert connection_error(one, two, timeout_s=10) is OSError
        machines.switch.heal("m1")
        assert connection_error(one, two) is None


def test_one_direction_can_be_dropped(machines: Machines) -> None:
    one, two = machines["m1"], machines["m2"]
    with listening(one, socket.SOCK_DGRAM) as at_one, listening(two, socket.SOCK_DGRAM) as at_two:
        machines.switch.drop("m1", "m2")
        assert hears(at_one, two, one)
        assert not hears(at_two, one, two)
        machines.switch.heal("m1", "m2")
        assert hears(at_two, one, two)


def test_a_link_can_be_down(machines: Machines) -> None:
    one, two = machines["m1"], machines["m2"]
    with listening(two):
        machines.switch.set_link("m1", is_up=False)
        until("no carrier", lambda: "NO-CARRIER" in one.check("ip", "link", "show", "eth0"))
        machines.switch.set_link("m1", is_up=True)
        until("connected", lambda: connection_error(one, two) is None)


def test_a_link_can_be_slow(machines: Machines) -> None:
    one, two = machines["m1"], machines["m2"]
    size, per_s = 1_000_000, 1_000_000
    with listening(two) as listener:
        machines.switch.limit("m2", per_s)
        try:
            with one.network():
                sender = socket.create_connection((two.address, PORT))
            with sender, listener.accept()[0] as receiver:
                sending = threading.Thread(target=sender.sendall, args=(bytes(size),))
                began = time.monotonic()
                sending.start()
                got = 0
                while got < size:
                    got += len(receiver.recv(65536))
                sending.join()
        finally:
            machines.switch.limit("m2", None)
    # A burst passes at once.
    assert time.monotonic() - began > 0.6 * size / per_s


def test_a_link_can_be_late(machines: Machines) -> None:
    one, two = machines["m1"], machines["m2"]
    late_s = 0.1
    with listening(two) as listener:
        one.delay(late_s)
        try:
            began = time.monotonic()
            with one.network():
                sender = socket.create_connection((two.address, PORT), timeout=30)
            # There and back; ARP perhaps as well.
            assert time.monotonic() - began >= 2 * late_s
            with sender, listener.accept()[0] as receiver:
                # More than a packet in each direction: no frame is too large, and none has a wrong checksum.
                for source, target in ((sender, receiver), (receiver, sender)):
                    sending = threading.Thread(target=source.sendall, args=(bytes(200_000),))
                    sending.start()
                    target.settimeout(30)
                    got = 0
                    while got < 200_000:
                        got += len(target.recv(65536))
                    sending.join()
            machines.switch.cut("m1", "m2")
            assert connection_error(one, two) is TimeoutError
            machines.switch.heal()
            assert connection_error(one, two) is None
        finally:
            one.delay(None)
        began = time.monotonic()
        assert connection_error(one, two) is None
        assert time.monotonic() - began < 2 * late_s


# -- power -------------------------------------------------------------------------------------------------------------


def test_a_reboot_ends_everything_and_keeps_the_files() -> None:
    with Machines(("m1", "m2")) as made:
        one, two = made["m1"], made["m2"]
        boot, machine = (one.check("cat", path) for path in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"))
        one.check("sh", "-c", "echo kept >/var/lib/shardwright/x; echo lost >/run/x")
        one.spawn("sleeper", "sleep", "1000")
        with listening(one):
            # The others know its hardware address then, and it must keep that.
            assert connection_error(two, one) is None
        made.switch.cut("m1")
        one.reboot()
        with listening(one):
            assert connection_error(two, one) is TimeoutError, "a fault outlives the machine"
        made.switch.heal()
        assert not [p for p in one.processes() if p.arguments[:1] == ("sleep",)]
        assert one.check("cat", "/proc/sys/kernel/random/boot_id") != boot
        assert one.check("cat", "/etc/machine-id") == machine
        assert one.check("cat", "/var/lib/shardwright/x") == "kept\n"
        assert one.run("cat", "/run/x").status != 0
        with listening(one):
            assert connection_error(two, one) is None


def test_without_power_the_others_hear_nothing() -> None:
    with Machines(("m1", "m2")) as made:
        one, two = made["m1"], made["m2"]
        with listening(two) as listener:
            script = f"exec 3<>/dev/tcp/{two.address}/{PORT}; echo here >&3; sleep 1000"
            one.spawn("client", "bash", "-c", script)
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b"here\n"
                one.power_off()
                connection.settimeout(SHORT_S)
                # No end of the connection either.
                with pytest.raises(TimeoutError):
                    connection.recv(100)
        assert not one.is_on


@pytest.mark.skipif(freezer.find_parent() is None, reason="this kernel has no cgroups of version 2")
def test_a_frozen_machine_does_nothing_until_it_thaws(machines: Machines) -> None:
    one, two = machines["m1"], machines["m2"]
    echo = "import socket; c = socket.create_server(('', 7001)).accept()[0]\nwhile d := c.recv(9): c.sendall(d)"
    one.spawn("echo", sys.executable, "-c", echo)
    with two.network():
        connection = until("it listens", lambda: connect((one.address, 7001)))
    assert connection is not None
    with connection:
        connection.settimeout(30)
        connection.sendall(b"a")
        assert connection.recv(9) == b"a"
        one.freeze()
        connection.sendall(b"b")
        connection.settimeout(SHORT_S)
        with pytest.raises(TimeoutError):
            connection.recv(9)
        one.thaw()
        connection.settimeout(30)
        assert connection.recv(9) == b"b"


def connect(address: tuple[str, int]) -> socket.socket | None:
    try:
        return socket.create_connection(address, timeout=SHORT_S)
    except OSError:
        return None


# -- what a killed run leaves ------------------------------------------------------------------------------------------

OWNER = """
import sys, time
from testkit.machines.group import Machines
with Machines(("m1", "m2")) as made:
    made["m1"].spawn("sleeper", "sleep", "1000")
    try:
        made["m2"].freeze()
    except Exception:
        pass
    print(made.directory, flush=True)
    time.sleep(1000)
"""


def test_a_killed_run_leaves_no_process_and_the_next_one_sweeps_the_rest() -> None:
    sweep()  # what earlier runs left
    before = outside()
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner:
        directory = Path(owner.stdout.readline().strip())
        assert len(processes_of(directory)) >= 4
        sweep()
        assert directory.exists(), "what is used must not be swept"
        owner.send_signal(signal.SIGKILL)
    # The frozen machine waits for the sweep; the other one has ended with its owner.
    until("the machine has ended", lambda: not processes_of(directory / "m1"), state=lambda: states_of(directory))
    sweep()
    until("all have ended", lambda: not processes_of(directory), state=lambda: states_of(directory))
    assert not directory.exists()
    assert groups_of(directory) == []
    assert outside() == before


def processes_of(directory: Path) -> dict[int, str]:
    """Command lines that name a directory, by process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if f"{directory}/" in line:
                    found[int(entry.name)] = line
    return found


def states_of(directory: Path) -> str:
    """What the kernel says of them: state, what they wait in, and what they hold open."""
    lines = []
    for pid, line in processes_of(directory).items():
        entry = Path("/proc") / str(pid)
        with contextlib.suppress(OSError):
            lines += [f"{pid}: {line}", (entry / "wchan").read_text(), (entry / "status").read_text()]
            lines += [f"{fd.name} -> {fd.readlink()}" for fd in (entry / "fd").iterdir()]
    return "\n".join(lines)
