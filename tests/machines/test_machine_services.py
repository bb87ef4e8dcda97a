"""Real programs on machines: an etcd of three members, replication between two servers, and the package's units.

Needs root, iproute2 and util-linux, and is skipped by name without them.
"""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from testkit.deadlines import until
from testkit.etcd import require_etcd
from testkit.machines.commands import MachinesFailed, missing
from testkit.machines.group import Machines
from testkit.machines.installation import installed
from testkit.machines.machine import Machine, Process
from testkit.machines.spec import VENV

pytestmark = [pytest.mark.proof, pytest.mark.skipif(bool(missing()), reason=missing() or "machines can be made")]
NODE = "shardwright-node.service"
PROGRAM = f"{VENV}/bin/shardwright-node"
NAMES = ("m1", "m2", "m3")


# -- etcd --------------------------------------------------------------------------------------------------------------


def start_etcd(machines: Machines, name: str, *, is_new: bool = True) -> Process:
    """A member on a machine, with the peers on the others."""
    machine = machines[name]
    peers = ",".join(f"{each}=http://{machines[each].address}:2380" for each in NAMES)
    urls = {kind: f"http://{machine.address}:{port}" for kind, port in (("client", 2379), ("peer", 2380))}
    flags = [
        f"--name={name}",
        "--data-dir=/var/lib/shardwright/etcd",
        f"--initial-cluster={peers}",
        f"--initial-cluster-state={'new' if is_new else 'existing'}",
        f"--listen-client-urls={urls['client']}",
        f"--advertise-client-urls={urls['client']}",
        f"--listen-peer-urls={urls['peer']}",
        f"--initial-advertise-peer-urls={urls['peer']}",
        "--log-level=warn",
    ]
    machine.check("mkdir", "-p", "/var/lib/shardwright/etcd")
    return machine.spawn("etcd", "etcd", *flags)


def control(machine: Machine, *words: str) -> str | None:
    """What etcdctl says to a machine's own member; None: it fails."""
    ran = machine.run(
        "env", "ETCDCTL_API=3", "etcdctl", f"--endpoints=http://{machine.address}:2379", "--command-timeout=2s", *words
    )
    return ran.output if ran.status == 0 else None


def leader_seen_by(machine: Machine) -> int:
    """Id of the leader; 0: the member does not answer, or knows none."""
    said = control(machine, "endpoint", "status", "--write-out=json")
    return 0 if said is None else int(json.loads(said)[0]["Status"].get("leader", 0))


def own_id(machine: Machine) -> int:
    said = control(machine, "endpoint", "status", "--write-out=json")
    assert said is not None
    return int(json.loads(said)[0]["Status"]["header"]["member_id"])


def test_an_etcd_of_three_members_survives_a_kill_and_a_cut() -> None:
    require_etcd()
    with Machines(NAMES) as machines:
        processes = {name: start_etcd(machines, name) for name in NAMES}
        every = [machines[name] for name in NAMES]
        leader = until("a leader", lambda: all(map(leader_seen_by, every)) and leader_seen_by(every[0]), state=machines.logs)
        ids = {own_id(machine): machine for machine in every}
        assert control(every[0], "put", "a", "1") is not None

        killed = ids[leader]
        killed.signal(processes[killed.name], signal.SIGKILL)
        rest = [machine for machine in every if machine is not killed]

        def next_leader() -> int:
            found = {leader_seen_by(machine) for machine in rest}
            return found.pop() if len(found) == 1 and leader not in found else 0

        until("another leader", next_leader, state=machines.logs)
        assert "1" in (control(rest[0], "get", "a") or "")
        start_etcd(machines, killed.name, is_new=False)
        until("it is back", lambda: leader_seen_by(killed), state=machines.logs)

        alone = ids[leader_seen_by(every[0])]
        machines.switch.cut(alone.name)
        until("the one that is alone does not write", lambda: control(alone, "put", "a", "2") is None)
        others = [machine for machine in every if machine is not alone]
        until("the others write", lambda: control(others[0], "put", "a", "3"), state=machines.logs)
        machines.switch.heal()
        until("it has caught up", lambda: "3" in (control(alone, "get", "a") or ""), state=machines.logs)


# -- replication -------------------------------------------------------------------------------------------------------


@pytest.mark.server
def test_replication_ends_at_a_cut_and_goes_on_after_it(server_binary: Path) -> None:
    with Machines(("m1", "m2")) as machines:
        one, two = machines["m1"], machines["m2"]
        common = ["--port", "20000", "--save", "", "--protected-mode", "no", "--repl-timeout", "5"]
        common += ["--repl-ping-replica-period", "1"]
        for machine in (one, two):
            shutil.copy(server_binary, machine.directory / "runtime")
            machine.spawn("server", f"/run/machine/{server_binary.name}", *common, "--bind", machine.address)

        def say(machine: Machine, *words: str) -> Any:
            with machine.network(), redis.Redis(machine.address, 20000, decode_responses=True) as client:
                try:
                    return client.execute_command(*words)
                except redis.ConnectionError:
                    return None

        def link() -> str:
            return str(say(two, "INFO", "replication").get("master_link_status"))

        until("both answer", lambda: say(one, "PING") and say(two, "PING"), state=machines.logs)
        assert say(two, "REPLICAOF", one.address, "20000")
        until("replication runs", lambda: link() == "up", state=machines.logs)
        machines.switch.cut("m1", "m2")
        assert say(one, "SET", "a", "1")
        until("the replica has noticed", lambda: link() == "down", state=machines.logs, clock_s=10)
        machines.switch.heal()
        until("the write has arrived", lambda: say(two, "GET", "a") == "1", state=machines.logs)


# -- units -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def venv() -> Iterator[Path]:
    """The installed product."""
    try:
        with installed() as found:
            yield found
    except MachinesFailed as e:
        pytest.skip(str(e))


@pytest.fixture
def with_stand_in(venv: Path) -> Iterator[Machines]:
    """A machine on which a small daemon stands in for the node's."""
    programs = {PROGRAM: [f"{VENV}/bin/python3", "-m", "tests.machines.stand_in_daemon"]}
    with Machines(("m1",), venvs={"m1": venv}, programs=programs) as machines:
        yield machines


def node(machine: Machine) -> dict[str, Any]:
    return dict(machine.units()[NODE])


def test_the_installed_command_runs_on_a_machine(venv: Path) -> None:
    with Machines(("m1", "m2"), venvs={"m1": venv}) as machines:
        one = machines["m1"]
        assert "Usage" in one.check("shardwright", "--help", user="shardwright")
        where = one.check(f"{VENV}/bin/python3", "-c", "import shardwright; print(shardwright.__file__)")
        assert where.startswith(VENV)
        assert one.run("touch", f"{VENV}/x").status != 0
        assert one.check("stat", "-c", "%U %a", "/var/lib/shardwright").split() == ["shardwright", "700"]
        assert machines["m2"].run("ls", VENV).status != 0
        assert one.run("systemctl", "is-active", NODE).status != 0
        assert one.run("systemctl", "start", "another.service").status != 0


def test_a_unit_starts_when_it_may_and_again_after_its_end_and_a_reboot(with_stand_in: Machines) -> None:
    machine = with_stand_in["m1"]
    machine.check("systemctl", "enable", "--now", "shardwright.target")
    assert node(machine)["state"] == "inactive", "without node.toml it must not start"
    machine.check("sh", "-c", "echo >/etc/shardwright/node.toml; chmod 640 /etc/shardwright/node.toml")
    machine.check("systemctl", "start", "shardwright.target")

    def active(starts: int) -> bool:
        found = node(machine)
        return bool(found["state"] == "active" and found["starts"] >= starts)

    until("active", lambda: active(1), state=machine.logs)
    assert machine.run("systemctl", "is-active", "--quiet", NODE).status == 0
    main = machine.main_process(NODE)
    assert main is not None
    assert machine.check("ps", "-o", "user=", "-p", str(main.pid)).strip() == "shardwright"
    machine.signal_unit(NODE, signal.SIGKILL)
    until("active again", lambda: active(2), state=machine.logs)
    assert machine.check("cat", "/etc/shardwright/node.toml.ended").split() == ["signal"]
    machine.reboot()
    until("active after the reboot", lambda: active(1), state=machine.logs)
    machine.stop(NODE)
    assert node(machine)["state"] == "inactive"
