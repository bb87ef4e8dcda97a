"""The file with the identity of a process. Later processes recognize it by that, never by its pid alone.

Called by what starts, adopts and watches processes. Imports little, because short commands use it too. Must not decide
whether the process still runs: ``processes.py`` does.
"""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from shardwright.machine.files import write_private
from shardwright.model.seen import ProcessIdentity

_adapter = TypeAdapter(ProcessIdentity)


def read_identity(path: Path) -> ProcessIdentity | None:
    """The process identity in a file; None if there is no readable file."""
    try:
        return _adapter.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def write_identity(path: Path, identity: ProcessIdentity) -> None:
    """Keep a process identity in a file. Raises OSError."""
    write_private(path, _adapter.dump_json(identity, indent=1))
