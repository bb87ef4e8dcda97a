"""Raises the cluster's version when every daemon can work with a newer one. Called by the leader each turn.

``model/version.py`` says what the version permits, ``plan/upgrade.py`` what it waits for. It is never lowered: records may
already use it.
"""

from dataclasses import replace
from datetime import datetime

from shardwright.model.decision import NOTHING, Decision
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.view import ClusterView, Put
from shardwright.plan.upgrade import raised_version


def decide_version(view: ClusterView, now: datetime) -> Decision:
    """Raise the version to the least of all daemons', if nothing forbids it."""
    version = raised_version(view)
    if view.cluster is None or version is None:
        return NOTHING
    text = f"all {len(view.nodes)} nodes run a version that can work with cluster version {version}"
    event = Event(now, EventKind.CLUSTER_VERSION_RAISED, Severity.INFO, text)
    return Decision(writes=(Put(replace(view.cluster, cluster_version=version)), Put(event)))
