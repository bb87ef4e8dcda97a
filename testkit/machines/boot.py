"""The first process of a machine: makes its files, names and network, starts the supervisor, reaps what has no parent.

``machine.py`` starts it in new namespaces. It ends, and with it the kernel ends every process of the machine, when its
standard input does: that is when the process that made the machine has ended, however it ended.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

from testkit.machines.spec import INSIDE, INTERFACE, KEPT, PREFIX_BITS, ROOT, RUNTIME, USER, USER_ID, VENV, MachineSpec
from testkit.machines.unit_files import UNITS

_SCRATCH_BYTES_MAX = 256 << 20


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def make_files(spec: MachineSpec, scratch: Path) -> Path:
    """The machine's root directory: this machine's files as they are, and what the machine changes in memory."""
    mount("-t", "tmpfs", "-o", f"size={_SCRATCH_BYTES_MAX},mode=755", "tmpfs", scratch)
    changes, work, root = scratch / "changes", scratch / "work", scratch / "root"
    for path in (changes, work, root):
        path.mkdir()
    mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={changes},workdir={work}", root)
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "sysfs", "-o", "ro", "sysfs", root / "sys")
    mount("--rbind", "/dev", root / "dev")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root / "dev/shm")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root / "run")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root / "tmp")
    for visible in spec.visible:
        bind(Path(visible), root / visible.lstrip("/"), "ro")
    directory = Path(spec.directory)
    for name, inside in KEPT.items():
        bind(directory / name, root / inside)
    bind(directory / RUNTIME, root / INSIDE.lstrip("/"))
    boot_id = scratch / "boot_id"
    boot_id.write_text(f"{spec.boot_id}\n")
    mount("--bind", boot_id, root / "proc/sys/kernel/random/boot_id")
    return root


def bind(source: Path, target: Path, *options: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    mount("--bind", source, target)
    if options:
        mount("-o", ",".join(("remount", "bind", *options)), target)


def name_it(spec: MachineSpec, root: Path) -> None:
    """Host name, machine id, the addresses of the others, the user."""
    etc = root / "etc"
    socket.sethostname(spec.name)
    (etc / "hostname").write_text(f"{spec.name}\n")
    (etc / "machine-id").write_text(f"{spec.machine_id}\n")
    names = "".join(f"{address} {name}\n" for name, address in spec.hosts.items())
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    for file, line in (("passwd", f"{USER}:x:{USER_ID}:{USER_ID}::/var/lib/shardwright:/usr/sbin/nologin"), ("group", None)):
        text = (etc / file).read_text()
        if not any(entry.startswith(f"{USER}:") for entry in text.splitlines()):
            (etc / file).write_text(f"{text.rstrip()}\n{line or f'{USER}:x:{USER_ID}:'}\n")


def _make_directories(root: Path) -> None:
    """Those of the package."""
    for line in (UNITS.parent / "snippets" / "tmpfiles.conf").read_text().splitlines():
        match line.split():
            case ["d", path, mode, user, group, *_]:
                directory = root / path.lstrip("/")
                directory.mkdir(parents=True, exist_ok=True)
                os.chown(directory, _id_in(root / "etc/passwd", user), _id_in(root / "etc/group", group))
                directory.chmod(int(mode, 8))


def _id_in(file: Path, name: str) -> int:
    """The number of a user or group in a file whose lines are ``name:password:number:...``."""
    return next(int(line.split(":")[2]) for line in file.read_text().splitlines() if line.startswith(f"{name}:"))


def install(spec: MachineSpec, root: Path) -> None:
    """What the package installs, without dpkg: the environment, the command and the units; and a ``systemctl`` that asks the
    supervisor."""
    assert spec.venv is not None
    bind(Path(spec.venv), root / VENV.lstrip("/"), "ro")
    command = root / "usr/bin/shardwright"
    command.unlink(missing_ok=True)
    command.symlink_to(f"{VENV}/bin/shardwright")
    shutil.copy(UNITS.parent / "drain-at-shutdown", root / "usr/lib/shardwright/drain-at-shutdown")
    for unit in UNITS.iterdir():
        shutil.copy(unit, root / "lib/systemd/system" / unit.name)
    _make_directories(root)
    (root / "run/systemd/system").mkdir(parents=True)
    systemctl = root / "usr/bin/systemctl"
    systemctl.unlink(missing_ok=True)
    systemctl.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m testkit.machines.systemctl "$@"\n')
    systemctl.chmod(0o755)


def enter(root: Path) -> None:
    """Make the directory the root of this and all later processes, and let go of the old one."""
    old = root / "run/old"
    old.mkdir()
    os.chdir(root)
    subprocess.run(["pivot_root", ".", "run/old"], check=True)
    os.chdir("/")
    subprocess.run(["umount", "--lazy", "/run/old"], check=True)
    Path("/run/old").rmdir()


def connect(spec: MachineSpec) -> None:
    """Take the cable that was plugged in, and the ports that the package reserves."""
    for name, value in (("ipv6/conf/all/disable_ipv6", "1"), ("ipv4/ip_local_reserved_ports", "10000-29999")):
        setting = Path("/proc/sys/net") / name
        if setting.exists():
            setting.write_text(value)
    for line in (
        ["link", "set", "lo", "up"],
        ["address", "add", f"{spec.address}/{PREFIX_BITS}", "dev", INTERFACE],
        ["link", "set", INTERFACE, "up"],
    ):
        subprocess.run(["ip", *line], check=True)


def main() -> int:
    spec = MachineSpec.read(Path(sys.argv[1]))
    root = make_files(spec, Path(spec.directory) / "scratch")
    name_it(spec, root)
    if spec.venv is not None:
        install(spec, root)
    enter(root)
    if os.read(0, 1) == b"":
        return 1
    connect(spec)
    supervisor = os.fork()
    if supervisor == 0:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.execv(sys.executable, [sys.executable, "-m", "testkit.machines.supervisor"])
    threading.Thread(target=_end_with_owner, daemon=True).start()
    while os.wait()[0] != supervisor:
        pass
    return 1


def _end_with_owner() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
