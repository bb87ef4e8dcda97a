"""The operator's fencing hooks: programs in a directory that switch another node's machine off.

Called by the leader for a silent machine. Each hook is run as ``HOOK off <node> <address>``, in the order of the names,
until one ends with status 0: that is its word that the machine has no power. Any other status, or no end in time, says
nothing.
Must not decide which machine is switched off.
"""

import asyncio
import contextlib
import os
import re
import signal
import stat
from pathlib import Path

import structlog

from shardwright.errors import Transient
from shardwright.model.cluster import Node
from shardwright.model.codes import Code

HOOK_S = 60.0
"""Limit for one hook. A management controller answers within seconds, and switches off within ten or so."""
OUTPUT_BYTES_MAX = 4096
"""What a hook says beyond that is not read."""
LINE_CHARACTERS_MAX = 200
_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""As ``run-parts`` takes them: no copies of an editor, and no samples."""

_log = structlog.get_logger(__name__)


class FenceHooks:
    """The hooks of one directory, which is read each time."""

    def __init__(self, directory: Path, *, limit_s: float = HOOK_S) -> None:
        self._directory = directory
        self._limit_s = limit_s

    def usable(self) -> list[Path]:
        """The hooks in the order of their names. One that others than root and this user could change is left out."""
        with contextlib.suppress(OSError):
            if _is_safe(self._directory):
                return [path for path in sorted(self._directory.iterdir()) if _is_usable(path)]
        return []

    async def switch_off(self, node: Node) -> str | None:
        """Switch the node's machine off. Returns the name of the hook that did it; None: there is no hook. Raises Transient
        (``fencing_failed``) if no hook says that the machine is off."""
        said = []
        for hook in self.usable():
            _log.warning("a fencing hook is started", hook=hook.name, node=node.uid, address=node.address)
            failure = await self._run(hook, node)
            if failure is None:
                return hook.name
            said.append(f"{hook.name} {failure}")
        if said:
            raise Transient(Code.FENCING_FAILED, f"the machine of node {node.uid} was not switched off: {'; '.join(said)}")
        return None

    async def _run(self, hook: Path, node: Node) -> str | None:
        """Run a hook. Returns why it says nothing about the machine, with the last line that it printed; None: the machine
        is off. A hook that does not end in time is killed."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "SHARDWRIGHT_MACHINE_ID": node.machine_id}
        try:
            process = await asyncio.create_subprocess_exec(
                *(str(hook), "off", str(node.uid), node.address),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as e:
            return f"cannot be started: {e.strerror}"
        output = b""
        try:
            async with asyncio.timeout(self._limit_s):
                assert process.stdout is not None
                while block := await process.stdout.read(OUTPUT_BYTES_MAX):
                    output = (output + block)[-OUTPUT_BYTES_MAX:]
                status = await process.wait()
            return None if status == 0 else f"ended with status {status}{_last_line(output)}"
        except TimeoutError:
            return f"did not end within {self._limit_s:g} s{_last_line(output)}"
        finally:
            # Also when the leadership ends: what the hook has begun is repeated by the next leader.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _is_usable(path: Path) -> bool:
    if _NAME.fullmatch(path.name) is None or not path.is_file() or not os.access(path, os.X_OK):
        return False
    if _is_safe(path):
        return True
    _log.error("a fencing hook is not used: others than root and this user can change it", hook=str(path))
    return False


def _is_safe(path: Path) -> bool:
    found = path.stat()
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _last_line(output: bytes) -> str:
    lines = (line.strip() for line in reversed(output.decode(errors="replace").split("\n")))
    found = next((line for line in lines if line), "")
    return f": {found[:LINE_CHARACTERS_MAX]}" if found else ""
