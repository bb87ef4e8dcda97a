"""As whom a service of the harness runs, and the directories that its unit wants made for it. Starts no process."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from testkit.machines.unit_files import Unit

_PARENTS = {"RuntimeDirectory": "run", "StateDirectory": "var/lib", "LogsDirectory": "var/log"}


@dataclass(frozen=True, slots=True)
class Account:
    """User, group and file mode mask of a service, with its directories and their modes. None, and -1: as the caller."""

    user: str | None = None
    group: str | None = None
    umask: int = -1
    directories: tuple[tuple[str, int], ...] = ()
    """Relative to the root of the file system."""
    capabilities: tuple[str, ...] = ()
    """Those that it has although it is not root, such as ``CAP_NET_RAW``."""

    def becoming(self) -> list[str]:
        """The words before a command that root starts for this account, if it has capabilities; empty: it has none."""
        if not self.capabilities or self.user is None:
            return []
        wanted = ",".join(f"+{name.lower().removeprefix('cap_')}" for name in self.capabilities)
        who = [f"--reuid={self.user}", f"--regid={self.group}", "--clear-groups"]
        return ["setpriv", *who, f"--inh-caps={wanted}", f"--ambient-caps={wanted}", "--"]


def account_of(unit: Unit) -> Account:
    """What a service unit says of it, with systemd's defaults."""

    def last(key: str, default: str = "") -> str:
        return unit.last("Service", key, default)

    directories = tuple(
        (f"{parent}/{name}", int(last(f"{key}Mode", "0755"), 8))
        for key, parent in _PARENTS.items()
        for line in unit.all("Service", key)
        for name in line.split()
    )
    user = last("User") or None
    capabilities = tuple(word for line in unit.all("Service", "AmbientCapabilities") for word in line.split())
    return Account(user, last("Group") or user, int(last("UMask", "0022"), 8), directories, capabilities)


def make_directories(account: Account, root: Path) -> None:
    """Make the directories below a root and give them to the user. As root only, unless there are none."""
    for name, mode in account.directories:
        path = root / name
        # What lies between, as systemd does it, belongs to root.
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        if account.user is not None:
            shutil.chown(path, account.user, account.group)
