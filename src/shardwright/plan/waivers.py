"""Which endpoint processes are to serve a slot group without a proof while none is needed. Pure.

Used by ``reconcile/lease.py``, and by a handoff, which gives the proofs up in the same commit as its intent.
"""

from collections.abc import Iterator

from shardwright.model.database import Endpoint, SlotGroup
from shardwright.model.lease import Lease, Waiver
from shardwright.model.move import Rebind
from shardwright.model.seen import EndpointProcessSeen, EndpointState
from shardwright.model.view import ClusterView


def given_up(group: SlotGroup, view: ClusterView) -> Lease | None:
    """The group's lease without proofs: the processes that serve it and answer go on without any. A process that does not
    answer keeps what it was told, because it cannot be told anything else; None: the group has no lease."""
    return None if group.lease is None else group.lease.ended().waiving(_serving(group, view))


def _serving(group: SlotGroup, view: ClusterView) -> Iterator[Waiver]:
    for endpoint in view.endpoints_of(group.database_uid):
        for uid, process in view.endpoint_processes.items():
            if uid in view.nodes and process.answers and process.instance and may_serve(process, endpoint, view):
                yield Waiver(uid, process.instance)


def may_serve(process: EndpointProcessSeen, endpoint: Endpoint, view: ClusterView) -> bool:
    """Whether the process serves the endpoint, or is about to."""
    if process.node_uid in endpoint.nodes or process.endpoint(endpoint.uid).state is not EndpointState.ABSENT:
        return True
    rebinds = (move for move in view.live_moves() if isinstance(move, Rebind) and move.endpoint_uid == endpoint.uid)
    return any(move.to_node == process.node_uid for move in rebinds)
