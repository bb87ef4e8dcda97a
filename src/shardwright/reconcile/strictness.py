"""Whether strict mode is in force everywhere: no endpoint process answers a write of the database before a replica has it.

Called by ``database.py``. A failover without a proof of the primary's end (``parking.py``) is allowed only then, because a
process that has missed a change of the mode would go on answering writes that only the old primary has.
"""

from dataclasses import replace

from shardwright.model.database import Database, Endpoint
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView, Put
from shardwright.reconcile.endpoint import is_mode_old


def decide_strictness(database: Database, view: ClusterView) -> Decision:
    """Record that strict mode is in force everywhere, as soon as every process that may have clients has shown it."""
    if not database.is_strict or database.is_strict_everywhere:
        return NOTHING
    endpoints = view.endpoints_of(database.uid)
    if any(_may_be_in_default_mode(endpoint, node, view) for endpoint in endpoints for node in endpoint.nodes):
        return NOTHING
    return Decision(writes=(Put(replace(database, is_strict_everywhere=True)),))


def _may_be_in_default_mode(endpoint: Endpoint, node: NodeUid, view: ClusterView) -> bool:
    """Whether the process on this node may not know of the mode. A silent one may serve behind a cut of the network."""
    process = view.endpoint_processes.get(node)
    if process is None or not (process.answers or process.has_ended):
        return True
    return is_mode_old(process.endpoint(endpoint.uid), endpoint, view)
