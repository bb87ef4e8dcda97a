"""Machines on a switch: what tests and demonstrations use. Ends everything it made, and what a dead run has left.

    with Machines(("m1", "m2", "m3", "client")) as machines:
        machines["m1"].run("hostname")
        machines.switch.cut("m1")

The kernel ends the processes, namespaces and mounts of a run whose first process was killed; only a directory and groups of
processes remain. ``sweep`` removes those of dead runs, found by their own mark.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from ipaddress import IPv4Network
from pathlib import Path
from uuid import uuid4

from shardwright.machine.identity_file import read_identity, write_identity
from shardwright.machine.processes import identity_of, is_running
from testkit.machines import freezer
from testkit.machines.commands import MachinesFailed, missing
from testkit.machines.freezer import Freezer
from testkit.machines.machine import Machine
from testkit.machines.spec import ROOT, RUNTIME, MachineSpec
from testkit.machines.switch import Switch

NETWORK = IPv4Network("10.213.7.0/24")
"""All runs have the same one: each has its own switch, and no run reaches another's."""
PREFIX = "shardwright-machines-"
OWNER = "owner.json"
KEEP_LOGS = "SHARDWRIGHT_MACHINES_LOGS"
"""Environment variable: a directory to which logs are copied when a run ends by an exception."""


class Machines:
    """See the module's text. A context manager; on entering, all machines are booted."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        venvs: Mapping[str, Path] | None = None,
        programs: Mapping[str, Sequence[str]] | None = None,
        drop_ins: Mapping[str, str] | None = None,
    ) -> None:
        """``venvs``: the environment that is installed on a machine, by name. ``programs``: what units run instead of their
        programs. ``drop_ins``: what is added to units, by name. Raises MachinesFailed when there can be no machines here."""
        if why := missing():
            raise MachinesFailed(why)
        sweep()
        self._names, self._venvs = tuple(names), dict(venvs or {})
        self._programs = {name: list(words) for name, words in (programs or {}).items()}
        self._drop_ins = dict(drop_ins or {})
        addresses = dict(zip(self._names, NETWORK.hosts(), strict=False))
        self.switch = Switch(addresses)
        self.all: dict[str, Machine] = {}
        self._stack = ExitStack()
        self._directory: Path | None = None

    def __enter__(self) -> "Machines":
        with ExitStack() as stack:
            self._make(stack)
            try:
                with ThreadPoolExecutor() as pool:
                    list(pool.map(Machine.boot, self.all.values()))
            except BaseException:
                self.keep_logs()
                raise
            self._stack = stack.pop_all()
        return self

    def _make(self, stack: ExitStack) -> None:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o755)
        me = identity_of(os.getpid())
        assert me is not None
        write_identity(directory / OWNER, me)
        self._directory = directory
        stack.enter_context(self.switch)
        group = Freezer(directory.name, freezer.find_parent())
        hosts = {name: str(address) for name, address in self.switch.addresses.items()}
        visible = dict.fromkeys(str(Path(path).resolve()) for path in (ROOT, sys.prefix, sys.base_prefix))
        for name, address in hosts.items():
            venv = self._venvs.get(name)
            spec = MachineSpec(
                name=name,
                address=address,
                directory=str(directory / name),
                machine_id=uuid4().hex,
                boot_id=str(uuid4()),
                hosts=hosts,
                venv=None if venv is None else str(venv),
                programs=self._programs,
                drop_ins=self._drop_ins,
                visible=tuple(path for path in visible if path not in ("/", "/usr")),
            )
            machine = Machine(spec, self.switch, group)
            self.all[name] = machine
            stack.callback(machine.power_off)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.keep_logs()
        self._stack.close()

    def __getitem__(self, name: str) -> Machine:
        return self.all[name]

    @property
    def directory(self) -> Path:
        """Holds everything of this run."""
        assert self._directory is not None, "the machines are not there"
        return self._directory

    def logs(self) -> str:
        """The ends of all logs of all machines, and the faults of the network."""
        return "\n".join([self.switch.state(), *(machine.logs() for machine in self.all.values())])

    def keep_logs(self) -> None:
        """Copy all logs to where the environment wants them, if it does."""
        if (wanted := os.environ.get(KEEP_LOGS)) is None:
            return
        for machine in self.all.values():
            for name in (RUNTIME, "log", "state"):
                for path in (machine.directory / name).rglob("*.log"):
                    target = Path(wanted) / path.relative_to(self.directory)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)


def sweep() -> None:
    """Remove what runs whose first process has ended have left; what runs of others use stays."""
    parent = freezer.find_parent()
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = read_identity(directory / OWNER)
        # Without the file, the directory was made a moment ago, or is not ours.
        if owner is None or is_running(owner):
            continue
        for group in [] if parent is None else parent.glob(f"{directory.name}-*"):
            freezer.kill_group(group)
            freezer.remove_group(group)
        shutil.rmtree(directory, ignore_errors=True)
