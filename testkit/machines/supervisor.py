"""Keeps the services of one machine, as systemd would, and answers on a socket: the owner of the machine and ``systemctl``.

The second process of a machine; ``boot.py`` starts it. A request is one line of JSON, and so is its answer. Must end no
process but by its pid and start time, or as a service's setting says.
"""

import json
import os
import signal
import socketserver
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testkit.machines.spec import INSIDE, SOCKET, SPEC, MachineSpec
from testkit.machines.systemd_like import Service
from testkit.machines.unit_files import Unit, load_unit

ORDER = ("shardwright-etcd.service", "shardwright-node.service")
"""What the target wants, in the order of the start."""
DRAIN = "shardwright-drain.service"
"""Known, and does nothing: what it does at a shutdown needs systemd itself."""
TARGET = "shardwright.target"


class Supervisor:
    """The services of this machine."""

    def __init__(self, spec: MachineSpec) -> None:
        self._lock = threading.RLock()
        self._services: dict[str, Service] = {}
        self._units: dict[str, Unit] = {}
        if spec.venv is not None:
            for name in ORDER:
                self._units[name] = load_unit(name, spec.drop_ins.get(name, ""))
                output = Path(INSIDE) / f"{name}.log"
                self._services[name] = Service(
                    self._units[name],
                    Path("/"),
                    programs=spec.programs,
                    environment={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **_import_paths(spec)},
                    output=output,
                    has_users=True,
                )

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request. Raises KeyError for a unit, LookupError for a process that is not there."""
        actions: dict[str, Callable[..., dict[str, Any]]] = {
            "ping": dict,
            "start": self._start,
            "stop": self._stop,
            "restart": self._restart,
            "status": self._status,
            "processes": self._processes,
            "signal": self._signal,
        }
        arguments = {key: value for key, value in request.items() if key != "do"}
        return actions[request["do"]](**arguments)

    def _named(self, unit: str) -> list[str]:
        if unit == TARGET:
            return list(self._services)
        name = unit if "." in unit else f"{unit}.service"
        if name == DRAIN and self._services:
            return []
        if name not in self._services:
            raise KeyError(f"there is no unit {name}")
        return [name]

    def _start(self, unit: str) -> dict[str, Any]:
        """Start what is not started, and whose conditions hold."""
        with self._lock:
            for name in self._named(unit):
                service = self._services[name]
                paths = self._units[name].all("Unit", "ConditionPathExists")
                if service.is_idle and all(Path(path).exists() for path in paths):
                    service.stop()
                    service.start()
        return {}

    def _stop(self, unit: str) -> dict[str, Any]:
        with self._lock:
            for name in reversed(self._named(unit)):
                self._services[name].stop()
        return {}

    def _restart(self, unit: str) -> dict[str, Any]:
        with self._lock:
            self._stop(unit)
            return self._start(unit)

    def _status(self) -> dict[str, Any]:
        services = self._services.items()
        return {
            name: {
                "state": s.state,
                "status": s.status,
                "main_pid": s.main_pid,
                "starts": s.starts,
                "events": s.events[-20:],
            }
            for name, s in services
        }

    def _processes(self) -> dict[str, Any]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
                    found.append({"pid": int(entry.name), "started": _started(int(entry.name)), "arguments": words})
                except OSError:
                    continue
        return {"processes": sorted(found, key=lambda process: int(str(process["pid"])))}

    def _signal(self, pid: int, started: int, number: int) -> dict[str, Any]:
        descriptor = os.pidfd_open(pid)
        try:
            if _started(pid) != started:
                raise LookupError(f"process {pid} is another one")
            signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
        return {}


def _import_paths(spec: MachineSpec) -> dict[str, str]:
    """Only what replaces a unit's program may import from the sources."""
    return {"PYTHONPATH": os.environ["PYTHONPATH"]} if spec.programs else {}


def _started(pid: int) -> int:
    """In the kernel's ticks since the boot. Raises OSError."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        try:
            answer = self.server.supervisor.handle(json.loads(self.rfile.readline()))
        except (LookupError, OSError, TypeError, ValueError) as e:
            answer = {"error": f"{type(e).__name__}: {e}"}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        path.unlink(missing_ok=True)
        super().__init__(str(path), _Handler)


def main() -> int:
    supervisor = Supervisor(MachineSpec.read(Path(INSIDE) / SPEC))
    server = _Server(Path(INSIDE) / SOCKET, supervisor)
    # At a boot everything starts that may: a machine that is no node yet lacks the files which the units want.
    supervisor.handle({"do": "start", "unit": TARGET})
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
