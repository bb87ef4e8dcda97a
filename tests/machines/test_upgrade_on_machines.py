"""Three machines are upgraded one after the other under load: from the version of a past commit to these sources, and from
these to one that is newer. No client gets an error, nothing is lost, and the records get their new version at the end.

Needs root, iproute2, util-linux, etcd, and git with the past commit, and is skipped by name without them.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.machines.cluster import DAEMON, NODES, MachinesCluster
from shardwright.backup_files import load_backup
from shardwright.model.version import CLUSTER_VERSION
from shardwright.store.backup import read_header
from testkit.deadlines import until
from testkit.etcd import require_etcd
from testkit.machines.commands import missing
from testkit.machines.installation import install, workshop
from testkit.machines.machine import Machine
from testkit.machines.releases import Release, build_release, has_commit, install_over
from tests.machines.upgrade_load import UpgradeLoad

PAST = Release("0.1.0", commit="4427880a1d9ce918820faec1b22bdd8b71fd4153")
"""The last sources in which nothing replaces an endpoint process."""
PRESENT = Release("0.2.0", cluster_version=CLUSTER_VERSION + 1)
NEXT = Release("0.3.0", cluster_version=CLUSTER_VERSION + 2)

pytestmark = [
    pytest.mark.proof,
    pytest.mark.slow,  # minutes; test_endpoint_replacement.py has the parts with real processes
    pytest.mark.server,
    pytest.mark.skipif(bool(missing()), reason=missing() or "machines can be made"),
    pytest.mark.skipif(not has_commit(PAST.commit or ""), reason="this repository does not have the past commit"),
]
UPGRADED_S = 60.0
RAISED_S = 30.0


@dataclass
class Upgradable:
    """Three machines, each with an environment of its own."""

    cluster: MachinesCluster
    wheels: dict[Release, Path]
    venvs: dict[str, Path]

    def machine(self, name: str) -> Machine:
        assert self.cluster.machines is not None
        return self.cluster.machines[name]

    def state(self) -> str:
        assert self.cluster.machines is not None
        return self.cluster.machines.logs()

    def install(self, name: str, release: Release) -> None:
        """As the package does it: the files, then the restart."""
        install_over(self.venvs[name], self.wheels[release])
        self.machine(name).check("systemctl", "try-restart", DAEMON)

    def call(self, path: str) -> dict[str, Any]:
        return dict(self.cluster.call("GET", path))

    def backups(self, release: Release) -> list[Path]:
        """Those before the upgrade to this version, of all machines."""
        pattern = f"state/backups/upgrade-{release.version}-*.backup"
        return [path for name in NODES for path in self.machine(name).directory.glob(pattern)]

    def events(self, kind: str) -> list[str]:
        found = self.cluster.call("GET", "/v1/logs?limit=1000")
        return [str(event["description"]) for event in found if event["type"] == kind]


@pytest.fixture
def made() -> Iterator[Upgradable]:
    require_etcd()
    with ExitStack() as stack:
        directory = stack.enter_context(workshop())
        wheels = {release: build_release(release, directory / release.version) for release in (PAST, PRESENT, NEXT)}
        first = install(directory / "first", wheels[PAST])
        venvs = {name: directory / name for name in NODES}
        for venv in venvs.values():
            shutil.copytree(first, venv, symlinks=True, copy_function=os.link)
        yield Upgradable(stack.enter_context(MachinesCluster(print, venvs=venvs)), wheels, venvs)


def servers(machine: Machine) -> set[int]:
    return {p.pid for p in machine.processes() if any("shard=" in word for word in p.arguments)}


def endpoint_processes(machine: Machine) -> set[int]:
    return {p.pid for p in machine.processes() if "shardwright.endpoint.main" in p.arguments}


def has_version(made: Upgradable, name: str, release: Release) -> bool:
    return bool(made.call(f"/v1/nodes/{made.cluster.node_of(name)}")["software_version"] == release.version)


def is_served_by_another(machine: Machine, before: set[int]) -> bool:
    now = endpoint_processes(machine)
    return len(now) == 1 and not now & before


def in_place(made: Upgradable, load: UpgradeLoad, name: str, release: Release) -> None:
    """Clients stay connected to this machine."""
    machine = made.machine(name)
    kept, before = servers(machine), endpoint_processes(machine)
    began = time.monotonic()
    made.install(name, release)
    until(f"{name} is upgraded", partial(has_version, made, name, release), seconds=UPGRADED_S, state=made.state)
    replaced = partial(is_served_by_another, machine, before)
    until(f"{name} has another endpoint process", replaced, seconds=UPGRADED_S, state=made.state)
    print(f"{name} runs {release.version} after {time.monotonic() - began:.1f} s: {load.said()}")
    assert servers(machine) == kept, "they were adopted"
    load.check_all_write()


def by_maintenance(made: Upgradable, load: UpgradeLoad, name: str, release: Release | None) -> None:
    """The node is emptied, and its clients connect elsewhere. ``release``: what is installed meanwhile; None: nothing."""
    cluster, node = made.cluster, made.cluster.node_of(name)
    load.leave(name)
    cluster.finish(cluster.start(node, "maintenance_on"))
    if release is not None:
        made.install(name, release)
        until(f"{name} is upgraded", partial(has_version, made, name, release), seconds=UPGRADED_S, state=made.state)
    cluster.finish(cluster.start(node, "maintenance_off"))
    load.come(name)
    load.check_all_write()


def check_mixed(made: Upgradable, release: Release, *, records: int) -> None:
    """The first machine runs the new version, the others do not."""
    shown = made.call("/v1/cluster")
    assert (shown["cluster_version"], shown["upgrade_in_progress"]) == (records, True)
    told = made.cluster.told(NODES[0], "status")
    print(told)
    assert f"to {release.version}; the records have version {records}, and get version {release.cluster_version}" in told
    upgrade = shown["upgrade"]
    assert (upgrade["version"], upgrade["cluster_version"]) == (release.version, release.cluster_version)
    waits = [(reason["code"], int(reason.get("node_uid", 0))) for reason in upgrade["reasons"]]
    assert [wait for wait in waits if wait[0] == "node_of_older_version"] == [
        ("node_of_older_version", made.cluster.node_of(name)) for name in NODES[1:]
    ]


def upgrade_all(made: Upgradable, load: UpgradeLoad, release: Release, *, emptied: str | None = None) -> None:
    """All three, one after the other. ``emptied``: the machine that is upgraded in maintenance."""
    records = (release.cluster_version or 0) - 1
    for name in NODES:
        if name == emptied:
            by_maintenance(made, load, name, release)
        else:
            in_place(made, load, name, release)
        if name == NODES[0]:
            check_mixed(made, release, records=records)
            by_maintenance(made, load, NODES[2], None)
    raised = partial(has_records, made, release.cluster_version)
    until("the records have the new version", raised, seconds=RAISED_S, state=made.state)
    assert made.call("/v1/cluster")["upgrade"] is None
    backups = made.backups(release)
    assert backups, "before the records changed"
    assert {records_in(path) for path in backups} == {records}
    assert any(release.version in text for text in made.events("upgrade_prepared"))


def records_in(backup: Path) -> int:
    """The version of the records in it. These sources do not read those of a newer one."""
    with backup.open("rb") as file:
        header = read_header(file.readline())
    assert header is not None
    if header.cluster_version <= CLUSTER_VERSION:
        assert load_backup(backup).items, "it is whole"
    return header.cluster_version


def has_records(made: Upgradable, version: int | None) -> bool:
    return made.call("/v1/cluster").get("cluster_version") == version


def refuse_the_older_one(made: Upgradable, load: UpgradeLoad, name: str) -> None:
    """The records have the version of NEXT: a daemon that does not know it does not start, and says why."""
    machine = made.machine(name)
    made.install(name, PRESENT)
    has_failed = lambda: machine.units()[DAEMON]["state"] == "failed"  # noqa: E731
    until("the older daemon refuses to start", has_failed, seconds=UPGRADED_S, state=machine.logs)
    said = f"the cluster has version {NEXT.cluster_version}; this version of Shardwright supports {PRESENT.cluster_version}"
    assert said in machine.logs()
    assert "install that version of Shardwright or a newer one" in machine.logs()
    load.check_all_write()
    install_over(made.venvs[name], made.wheels[NEXT])
    machine.check("systemctl", "start", DAEMON)
    until(f"{name} is back", partial(has_version, made, name, NEXT), seconds=UPGRADED_S, state=made.state)
    load.check_all_write()


def test_three_machines_are_upgraded_twice_under_load(made: Upgradable) -> None:
    settings = {"memory_size": 100_000_000, "replication": True}
    strict = made.cluster.create_database(name="orders", data_persistence="aof", **settings)
    plain = made.cluster.create_database(name="cache", strict=False, **settings)
    assert (strict["strict"], plain["strict"]) == (True, False)
    ports = {database["name"]: int(database["endpoints"][0]["port"]) for database in (strict, plain)}
    with UpgradeLoad({name: made.machine(name).address for name in NODES}, ports) as load:
        load.check_all_write()
        upgrade_all(made, load, PRESENT)
        upgrade_all(made, load, NEXT, emptied=NODES[1])
        refuse_the_older_one(made, load, NODES[2])
    assert len(made.events("cluster_version_raised")) == 2
    print(load.said())
    for port in ports.values():
        with redis.Redis(made.machine(NODES[0]).address, port) as client:
            assert load.lost(client, port) == []
