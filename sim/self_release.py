"""The end of a hold whose leader is silent: the simulated process asks both servers itself. Called by ``served.py``."""

from typing import TYPE_CHECKING

from shardwright.endpoint.protocol import SELF_RELEASE_S, Target
from shardwright.model.database import Role

if TYPE_CHECKING:
    from sim.served import Served

LOOK_AGAIN_S = 0.2


class SelfRelease:
    """Of one endpoint in one process."""

    def __init__(self, served: "Served") -> None:
        self.served = served
        self.world = served.world
        self._is_due = False

    def schedule(self) -> None:
        """Ask when the hold has lasted for too long."""
        hold = self.served.gate.hold
        if hold is not None and not self._is_due:
            self._is_due = True
            wait = max(0.0, hold.since + SELF_RELEASE_S - self.world.loop.now)
            self.world.loop.at(wait, self._ask, process=self.served.owner.process)

    def _ask(self) -> None:
        self._is_due = False
        served = self.served
        hold = served.gate.hold
        if hold is None or served.is_ended:
            return
        if hold.since + SELF_RELEASE_S - self.world.loop.now > 1e-6:
            self.schedule()
            return
        for target in (hold.new, hold.old):
            if self._is_writable(target):
                uid, node = served.gate.spec.uid, served.owner.node_uid
                self.world.log(f"endpoint {uid} on {node}: released itself to {target.shard_uid}")
                served.release(target)
                return
        self._is_due = True
        self.world.loop.at(LOOK_AGAIN_S, self._ask, process=served.owner.process)

    def _is_writable(self, target: Target) -> bool:
        server = self.world.listener(target.address, target.port)
        if server is None or not server.process.runs or server.is_loading:
            return False
        network, own = self.world.network, self.served.owner.node_uid
        if not network.passes(own, server.node_uid) or not network.passes(server.node_uid, own):
            return False
        is_it = not target.run_id or server.run_id == target.run_id
        return is_it and server.role is Role.PRIMARY and not server.is_fenced
