"""How many nodes remain when one goes into maintenance.

Called by ``checker.py``. A node whose presence has vanished a moment ago counts as present, as in the product: a lost lease
proves nothing (``leader/presence.py``).
"""

from typing import TYPE_CHECKING

from shardwright.leader.presence import AWAY_AFTER_S

if TYPE_CHECKING:
    from sim.checker import Checker, Json


class Quorum:
    """See the module's docstring."""

    def __init__(self, checker: "Checker") -> None:
        self._checker = checker
        self._left_at: dict[int, float] = {}

    def left(self, daemon: "Json") -> None:
        """The presence of a daemon has vanished."""
        self._left_at[daemon["node_uid"]] = self._checker.world.loop.now

    def check(self, node: "Json", *, is_restore: bool) -> None:
        """A node has been marked as in maintenance. Fails the simulation if no majority remains. ``is_restore``: a failed
        restore has marked it again."""
        tables, now = self._checker.tables, self._checker.world.loop.now
        nodes = tables["nodes"].values()
        present = {d["node_uid"] for d in tables["daemons"].values()}
        present |= {uid for uid, at in self._left_at.items() if now - at < AWAY_AFTER_S}
        remaining = sum(1 for n in nodes if not n["is_quorum_only"] and n["uid"] in present)
        if remaining < len(nodes) // 2 + 1 and not is_restore:
            self._checker.fail("quorum", f"node {node['uid']} goes into maintenance and {remaining} of {len(nodes)} remain")
