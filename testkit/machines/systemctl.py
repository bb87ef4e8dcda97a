"""``systemctl`` inside a machine, as far as the product and its package use it: asks the supervisor.

Understands start, stop, restart, try-restart, is-active, is-system-running, show and status; enabling and reloading mean
nothing here, because a machine starts at its boot whatever may start.
"""

import sys
from pathlib import Path
from typing import Any

from testkit.machines.calls import CallRefused, call
from testkit.machines.spec import INSIDE, SOCKET

_CHANGES = {"start": "start", "stop": "stop", "restart": "restart", "try-restart": "restart"}
_WITHOUT_MEANING = ("daemon-reload", "enable", "disable", "unmask", "reset-failed", "preset")
_USAGE = 1
_INACTIVE = 3
_UNKNOWN_UNIT = 5


def main(arguments: list[str]) -> int:
    options = [word for word in arguments if word.startswith("-")]
    words = [word for word in arguments if not word.startswith("-")]
    verb, units = (words or [""])[0], words[1:]
    if verb in _WITHOUT_MEANING:
        if "--now" not in options:
            return 0
        verb = "start" if verb == "enable" else "stop"
    if verb == "is-system-running":
        print("running")
        return 0
    try:
        if verb in _CHANGES:
            for unit in units:
                _ask({"do": _CHANGES[verb], "unit": unit})
            return 0
        if verb in ("is-active", "status", "show"):
            return _show(verb, units, is_quiet="--quiet" in options or "-q" in options)
    except CallRefused as e:
        print(f"Failed to {verb}: {e}", file=sys.stderr)
        return _UNKNOWN_UNIT
    print(f"this systemctl does not know {' '.join(arguments)}", file=sys.stderr)
    return _USAGE


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    return call(Path(INSIDE) / SOCKET, request)


def _show(verb: str, units: list[str], *, is_quiet: bool) -> int:
    status = _ask({"do": "status"})
    names = [
        name for name in status if not units or "shardwright.target" in units or name.partition(".")[0] in _stems(units)
    ]
    states = [str(status[name]["state"]) for name in names]
    for name, state in zip(names, states, strict=True):
        if not is_quiet:
            line = {"is-active": state, "show": f"ActiveState={state}\nMainPID={status[name]['main_pid']}"}
            print(line.get(verb, f"{name}: {state}, main process {status[name]['main_pid']}: {status[name]['status']}"))
    return 0 if states and any(state == "active" for state in states) else _INACTIVE


def _stems(units: list[str]) -> set[str]:
    return {unit.partition(".")[0] for unit in units}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
