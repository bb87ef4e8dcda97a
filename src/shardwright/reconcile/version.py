"""Raises the cluster's version when every daemon can work with a newer one. Called by the leader each turn.

``model/version.py`` says what the version permits. It is never lowered: records may already use it.
"""

from dataclasses import replace
from datetime import datetime

from shardwright.model.decision import NOTHING, Decision
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.view import ClusterView, Put


def decide_version(view: ClusterView, now: datetime) -> Decision:
    """Raise the version to the least of all daemons'. A node without a daemon is waited for: it may return with the version
    that it had, and would then be refused."""
    cluster = view.cluster
    if cluster is None or not view.nodes or not view.nodes.keys() <= view.daemons.keys():
        return NOTHING
    # Including the daemon of a node that was just removed: it still runs, and its API still writes.
    least = min(daemon.cluster_version for daemon in view.daemons.values())
    if least <= cluster.cluster_version:
        return NOTHING
    text = f"all {len(view.nodes)} nodes run a version that can work with cluster version {least}"
    event = Event(now, EventKind.CLUSTER_VERSION_RAISED, Severity.INFO, text)
    return Decision(writes=(Put(replace(cluster, cluster_version=least)), Put(event)))
