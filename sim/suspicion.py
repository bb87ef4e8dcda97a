"""A simulated endpoint process asks its server itself, like ``endpoint/suspicion.py``. Called by ``endpoints.py``."""

from typing import TYPE_CHECKING

from shardwright.endpoint.protocol import Target
from shardwright.endpoint.suspicion import ASK_EVERY_S, ASK_TIMEOUT_S, FORGET_AFTER_S
from sim.loop import Handle

if TYPE_CHECKING:
    from sim.served import Served


class Suspicion:
    """What the process knows of one endpoint's server."""

    def __init__(self, served: "Served") -> None:
        self.served = served
        self.world = served.world
        self._target: Target | None = None
        self._suspected_at = self._asked_at = -1e9
        self._silent_since: float | None = None
        self._is_known = False
        self._timer: Handle | None = None

    def suspect(self) -> None:
        """A leader asks whether the server answers."""
        now, target = self.world.loop.now, self.served.gate.target
        if target != self._target or now - self._suspected_at > FORGET_AFTER_S:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._target, self._is_known = target, target is None
            self._silent_since = now if target is None else None
        self._suspected_at = now
        if target is not None and self._timer is None and now - self._asked_at >= ASK_EVERY_S:
            self._asked_at = now
            self._ask(target)

    @property
    def silent_s(self) -> float | None:
        """See ``EndpointSeen.server_silent_s``."""
        now = self.world.loop.now
        if not self._is_known or now - self._suspected_at > FORGET_AFTER_S:
            return None
        return 0.0 if self._silent_since is None else now - self._silent_since

    def _ask(self, target: Target) -> None:
        own = self.served.owner
        self._timer = self.world.loop.at(ASK_TIMEOUT_S, self._unanswered, process=own.process)
        node, server = self.world.node_at(target.address), self.world.listener(target.address, target.port)
        network = self.world.network
        if server is not None and network.passes(own.node_uid, node) and network.passes(node, own.node_uid):
            # A frozen server answers when it is thawed; then the timer has ended the question.
            asked = self._timer
            self.world.loop.at(0.0005, lambda: self._answered(asked), process=server.process)

    def _answered(self, asked: Handle) -> None:
        if self._timer is asked:
            asked.cancel()
            self._timer, self._is_known, self._silent_since = None, True, None

    def _unanswered(self) -> None:
        self._timer, self._is_known = None, True
        if self._silent_since is None:
            self._silent_since = self._asked_at
