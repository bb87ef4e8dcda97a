"""Starts and stops the programs of a node: by systemd where it runs, otherwise it says which commands to run.

Called by ``init``, ``join``, ``node leave``, ``cluster restore`` and ``node follow-restore``. The package's units name the
usual places; a node elsewhere is started by hand. Must not start a program by itself: nothing would supervise it.
"""

import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx

from shardwright.agent.launch import check_port
from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.node.etcd_config import NAME
from shardwright.node.files import USER, FileOwner
from shardwright.node.settings import SETTINGS_FILE, Directories, NodeSettings
from shardwright.trust.authority import Authority
from shardwright.trust.contexts import trusting_context

SYSTEMD: Final = Path("/run/systemd/system")
"""Exists while systemd manages the machine."""
UNITS: Final = ("shardwright.target", "shardwright-etcd.service", "shardwright-node.service", "shardwright-drain.service")
"""The services are named too: the target may be active already, without them."""
PROGRAMS: Final = ("shardwright-node.service", "shardwright-etcd.service")
"""The daemon first: it ends while the store still answers."""
COMMAND_TIMEOUT_S: Final = 120.0
READY_TIMEOUT_S: Final = 120.0
"""A daemon on a busy machine starts within seconds; the first election of the store takes one or two."""
SAY_EVERY_S: Final = 2.0
_POLL_S: Final = 0.25

Say = Callable[[str], None]


def start_commands(
    directories: Directories, *, has_member: bool, owner: FileOwner | None, systemd: Path = SYSTEMD
) -> list[str]:
    """The commands that start the node. Without the service manager they must go on running, the store first."""
    if is_managed(directories, systemd=systemd):
        return [shlex.join(["systemctl", "enable", "--now", *UNITS])]
    configuration = directories.configuration
    commands = [["shardwright-node", "--config", str(configuration / SETTINGS_FILE.name)]]
    if has_member:
        commands.insert(0, ["etcd", "--config-file", str(configuration / NAME)])
    as_user = ["runuser", "-u", USER, "--"] if owner is not None else []
    return [shlex.join([*as_user, *command]) for command in commands]


def is_managed(directories: Directories, *, systemd: Path = SYSTEMD) -> bool:
    """Whether the package's units start this node."""
    return systemd.is_dir() and directories.configuration == SETTINGS_FILE.parent


def is_listening(settings: NodeSettings) -> bool:
    """Whether something listens at the node's API port."""
    try:
        check_port(str(settings.address), settings.ports.api)
    except Permanent as e:
        return e.code is Code.PORT_IN_USE
    return False


def start_units() -> None:
    """Start the node now and at each boot. Raises Permanent ``not_ready`` with what systemd says."""
    _systemctl("enable", *UNITS)
    _systemctl("start", *UNITS)


def stop_units() -> None:
    """Stop the node, and do not start it at the next boot. Its servers are not ended by this. Raises Permanent."""
    _systemctl("disable", *UNITS)
    _systemctl("stop", *reversed(UNITS))


def stop_programs() -> None:
    """Stop the daemon and the node's member of the store, for a while: they start again with the machine. The node's servers
    and its endpoint process go on. Raises Permanent."""
    _systemctl("stop", *PROGRAMS)


def _systemctl(verb: str, *units: str) -> None:
    try:
        done = subprocess.run(
            ["systemctl", "--quiet", verb, *units],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Permanent(Code.NOT_READY, f"systemctl {verb} has failed: {e}") from e
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise Permanent(Code.NOT_READY, f"systemctl {verb} {' '.join(units)} has failed: {said}")


def wait_serving(settings: NodeSettings, authority: Authority, say: Say, *, timeout_s: float = READY_TIMEOUT_S) -> None:
    """Wait until the node's API answers with the cluster's state. Raises Permanent ``not_ready``."""
    host = f"[{settings.address}]" if settings.address.version == 6 else str(settings.address)
    url = f"https://{host}:{settings.ports.api}/v1/bootstrap"
    began = said_at = time.monotonic()
    with httpx.Client(verify=trusting_context(authority), trust_env=False, timeout=5.0) as client:
        while True:
            why = _why_not(client, url)
            if not why:
                return
            now = time.monotonic()
            if now - began > timeout_s:
                raise Permanent(Code.NOT_READY, f"the API at {url} does not answer after {timeout_s:.0f} s: {why}")
            if now - said_at >= SAY_EVERY_S:
                said_at = now
                say(f"waiting for the API at {url}: {why}")
            time.sleep(_POLL_S)


def _why_not(client: httpx.Client, url: str) -> str:
    """Why the node is not ready; empty: it is. Without credentials, the answer of a ready node is 401: before that it has
    read the cluster's state."""
    try:
        answer = client.get(url)
    except httpx.TransportError as e:
        return str(e) or type(e).__name__
    if answer.status_code in (httpx.codes.OK, httpx.codes.UNAUTHORIZED):
        return ""
    try:
        return str(answer.json()["description"])
    except (ValueError, KeyError, TypeError):
        return f"it answers {answer.status_code}"
