"""Reads unit files of systemd as far as the harness needs: sections, drop-ins, lists, times, commands. Starts nothing."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

UNITS = Path(__file__).parents[2] / "packaging" / "units"

_UNIT_S = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)\s*")


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit with its drop-ins: the values of each setting, in order."""

    name: str
    values: dict[tuple[str, str], list[str]]

    def all(self, section: str, key: str) -> list[str]:
        """All values of a setting that may be given several times."""
        return self.values.get((section, key), [])

    def last(self, section: str, key: str, default: str = "") -> str:
        """The value that holds."""
        return (self.all(section, key) or [default])[-1]


def parse_unit(name: str, *texts: str) -> Unit:
    """A unit file and its drop-ins. An empty assignment forgets the earlier ones, as with systemd. Raises ValueError for
    an invalid line."""
    values: dict[tuple[str, str], list[str]] = {}
    for text in texts:
        section = ""
        for line in text.replace("\\\n", " ").splitlines():
            line = line.strip()
            if not line or line[0] in "#;":
                continue
            if line[0] == "[" and line[-1] == "]":
                section = line[1:-1]
                continue
            key, is_assignment, value = line.partition("=")
            if not is_assignment or not section:
                raise ValueError(f"{name}: {line!r} is no setting in a section")
            if value.strip():
                values.setdefault((section, key.strip()), []).append(value.strip())
            else:
                values[section, key.strip()] = []
    return Unit(name, values)


def load_unit(name: str, *drop_ins: str) -> Unit:
    """One of the package's units, with drop-ins."""
    return parse_unit(name, (UNITS / name).read_text(encoding="utf-8"), *drop_ins)


def seconds(text: str) -> float | None:
    """A time of systemd; None: infinity, or 0 where that means never. Raises ValueError."""
    if text == "infinity":
        return None
    parts = _SPAN.findall(text)
    if not parts or _SPAN.sub("", text).strip() or any(unit not in _UNIT_S for _, unit in parts):
        raise ValueError(f"{text!r} is no time")
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts) or None


@dataclass(frozen=True, slots=True)
class Command:
    """A line such as ExecStart."""

    arguments: tuple[str, ...]
    may_fail: bool = False

    @classmethod
    def of(cls, line: str) -> "Command":
        """Understands the prefix ``-`` only. Raises ValueError for the others."""
        if line[:1] in "@+!:":
            raise ValueError(f"the prefix of {line!r} is not supported")
        return cls(tuple(shlex.split(line.removeprefix("-"))), line.startswith("-"))


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What the harness honors of a service, with systemd's own defaults."""

    start: Command
    stop_post: tuple[Command, ...] = ()
    type: str = "simple"
    restart: str = "no"
    restart_s: float = 0.1
    restart_prevented_by: frozenset[int] = frozenset()
    watchdog_s: float | None = None
    start_timeout_s: float | None = 90.0
    stop_timeout_s: float | None = 90.0
    abort_timeout_s: float | None = 90.0
    kill_mode: str = "control-group"
    oom_policy: str = "stop"
    runtime_directories: tuple[str, ...] = ()
    are_runtime_directories_kept: bool = False
    environment: dict[str, str] = field(default_factory=dict)


def settings_of(unit: Unit) -> ServiceSettings:
    """The settings of a service unit. Raises ValueError for what the harness cannot honor."""

    def last(key: str, default: str = "") -> str:
        return unit.last("Service", key, default)

    def words(key: str) -> Iterable[str]:
        return (word for line in unit.all("Service", key) for word in shlex.split(line))

    found = ServiceSettings(
        start=Command.of(last("ExecStart")),
        stop_post=tuple(Command.of(line) for line in unit.all("Service", "ExecStopPost")),
        type=last("Type", "simple"),
        restart=last("Restart", "no"),
        restart_s=seconds(last("RestartSec", "100ms")) or 0.0,
        restart_prevented_by=frozenset(int(word) for word in words("RestartPreventExitStatus")),
        watchdog_s=seconds(last("WatchdogSec", "0")),
        start_timeout_s=seconds(last("TimeoutStartSec", "90s")),
        stop_timeout_s=seconds(last("TimeoutStopSec", "90s")),
        abort_timeout_s=seconds(last("TimeoutAbortSec", last("TimeoutStopSec", "90s"))),
        kill_mode=last("KillMode", "control-group"),
        oom_policy=last("OOMPolicy", "stop"),
        runtime_directories=tuple(words("RuntimeDirectory")),
        are_runtime_directories_kept=last("RuntimeDirectoryPreserve", "no") == "yes",
        environment=dict(word.split("=", 1) for word in words("Environment")),
    )
    known = {
        "Type": (found.type, ("simple", "exec", "notify")),
        "Restart": (found.restart, ("no", "always", "on-failure")),
        "KillMode": (found.kill_mode, ("control-group", "process")),
        "OOMPolicy": (found.oom_policy, ("continue", "stop")),
    }
    for key, (value, supported) in known.items():
        if value not in supported:
            raise ValueError(f"{unit.name}: {key}={value} is not supported")
    return found
