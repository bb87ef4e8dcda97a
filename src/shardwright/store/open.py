"""Opens the store that the settings name: the one seam between the daemon and the kinds of store.

Called by ``wiring.py`` and ``local/``. Callers know the settings and ``protocol.Store``, never a
backend's own module. A further kind of store is one class of settings, one member of ``StoreSettings`` and one case in each
function below.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

from shardwright.store.protocol import Store
from shardwright.store.sqlite import POLL_S, POLL_SELDOM_S, SqliteStore


@dataclass(frozen=True, slots=True)
class SqliteSettings:
    """A SQLite file: all daemons of one machine share it."""

    path: Path
    poll_s: float = POLL_S
    """Maximum delay, in seconds, until a watcher sees a write of another process."""


StoreSettings = SqliteSettings
"""Every kind of settings: a union, of one member so far."""


async def open_store(settings: StoreSettings) -> Store:
    """Open the store; a missing file is created. Raises StoreUnavailable. The caller closes it. It belongs to the event loop
    in which it was opened."""
    match settings:
        case SqliteSettings():
            return await SqliteStore.open(settings.path, poll_s=settings.poll_s)
        case _:
            assert_never(settings)


def for_election(settings: StoreSettings) -> StoreSettings:
    """The same store for a candidate: its watcher of the ``leader`` key may wait longer, and costs less."""
    match settings:
        case SqliteSettings():
            return replace(settings, poll_s=POLL_SELDOM_S)
        case _:
            assert_never(settings)
