"""The files in a simulated shard's directory, and what of them a start loads. Used by ``server.py`` and ``node.py``."""

from dataclasses import dataclass

from shardwright.model.database import Persistence
from sim.history import Position


@dataclass(slots=True)
class Files:
    """The files in a shard's directory; they survive the process."""

    aof: Position | None = None
    aof_at: float = 0.0
    """Time of the last append."""
    snapshot: Position | None = None
    snapshot_at: float = 0.0
    """Time at which it was begun."""

    def prepare(self, persistence: Persistence, *, kept: Persistence) -> bool:
        """Like the agent before a start. Returns whether the server starts with the append-only file."""
        if kept is Persistence.DISABLED:
            self.aof = self.snapshot = None
        has_snapshot = self.snapshot is not None and (self.aof is None or self.snapshot_at > self.aof_at)
        if persistence is Persistence.AOF and has_snapshot:
            self.aof, self.aof_at = self.snapshot, self.snapshot_at
        return persistence is Persistence.AOF or (self.aof is not None and not has_snapshot)
