"""Whether strict mode is in force everywhere: no endpoint process answers a write of the database before a replica has it.

Called by ``database.py``. A failover without a proof of the primary's end (``parking.py``) is allowed only then, because a
process that has missed a change of the mode would go on answering writes that only the old primary has.
"""

from dataclasses import replace

from shardwright.model.database import Database
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView, Put
from shardwright.reconcile.endpoint import is_mode_old


def decide_strictness(database: Database, view: ClusterView) -> Decision:
    """Record that strict mode is in force everywhere, as soon as the processes of all nodes have shown it: also one whose
    endpoint was bound to another node may still have clients behind a cut of the network."""
    if not database.is_strict or database.is_strict_everywhere:
        return NOTHING
    if any(_may_be_in_default_mode(database, node, view) for node in view.nodes):
        return NOTHING
    return Decision(writes=(Put(replace(database, is_strict_everywhere=True)),))


def _may_be_in_default_mode(database: Database, node: NodeUid, view: ClusterView) -> bool:
    """Whether the process on this node may not know of the mode: it is silent, or has not been asked since the change."""
    process = view.endpoint_processes.get(node)
    if process is None:
        return True
    if process.has_ended:
        return False
    if not process.answers or process.at <= database.changed_at:
        return True
    return any(is_mode_old(process.endpoint(e.uid), e, view) for e in view.endpoints_of(database.uid))
