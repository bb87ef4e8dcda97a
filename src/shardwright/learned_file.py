"""What a daemon learned of the members of its store, on the disk: written by the daemon, read at its next start.

``store/endpoints.py`` owns what it means, ``agent/store_endpoints.py`` keeps it up to date. The short commands of a node's
units read it too, so this module imports little.
"""

from dataclasses import dataclass
from pathlib import Path

import structlog

from shardwright.machine.files import write_private
from shardwright.store.endpoints import Learned, learned_text, read_learned

FILE_BYTES_MAX = 64 * 1024
"""What was written here is much smaller."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LearnedFile:
    """What was learned of the members, on the disk. All calls wait for it."""

    path: Path

    def read(self) -> Learned | None:
        """None: there is nothing, or nothing that can be believed (which is logged)."""
        try:
            return self._content()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            _log.warning("what was learned of the store's members is ignored", path=str(self.path), reason=str(e))
            return None

    def look(self) -> Learned | None:
        """The same without a log: for commands, which users run who may not read it."""
        try:
            return self._content()
        except (OSError, ValueError):
            return None

    def _content(self) -> Learned:
        with self.path.open("rb") as file:
            return read_learned(file.read(FILE_BYTES_MAX))

    def write(self, learned: Learned) -> None:
        """Replace it as a whole. Raises OSError."""
        write_private(self.path, learned_text(learned))

    def forget(self) -> None:
        """Remove it. Raises OSError."""
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Learning:
    """What a daemon needs to follow the members of its store."""

    file: LearnedFile
    own: tuple[str, ...]
    """The addresses at which this node's own member would serve clients, if it runs one."""
    configured: tuple[str, ...]
    """The endpoints in the node's settings."""
