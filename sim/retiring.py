"""The end of an endpoint at one simulated process, as ``endpoint/retiring.py`` closes connections with sockets.

Single writes have a connection of their own, which ends with its reply. A lasting connection ends when nothing of it is
unanswered, or when the time is over.
"""

from typing import TYPE_CHECKING

from shardwright.endpoint.protocol import RETIRE_IDLE_S, RETIRE_S
from sim.clients import Client, cut

if TYPE_CHECKING:
    from sim.served import Served

POLL_S = 0.05
RETIRED = "the endpoint retired"


def retire(served: "Served") -> None:
    """Accept no more connections, and close those that are open."""
    served.is_listening = False
    served.is_draining = True
    if not served.gate.is_retiring:
        served.gate.retire()
        _look(served, 0.0)


def _look(served: "Served", passed_s: float) -> None:
    if not served.gate.is_retiring or served.is_ended:
        return
    if served.gate.hold is None:
        for client in list(served.clients.values()):
            if passed_s >= RETIRE_S or _is_behind_a_reply(client, served, passed_s):
                served.forget_client(client)
                cut(served.world, client, RETIRED)
        passed_s += POLL_S
    served.world.loop.at(POLL_S, _look, served, passed_s, process=served.owner.process)


def _is_behind_a_reply(client: Client, served: "Served", passed_s: float) -> bool:
    is_busy = bool(client.writes) or client.drain_s > 0
    is_recent = served.world.loop.now - client.active_at <= passed_s
    return not is_busy and (is_recent or passed_s >= RETIRE_IDLE_S)
