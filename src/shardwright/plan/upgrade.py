"""What the upgrade of a cluster waits for: the versions of its daemons, and the backup that comes first. Pure.

Called by the leader, which raises the cluster's version (``reconcile/version.py``) and writes the backup
(``leader/upgrade.py``), and by the API, which shows it. ``model/version.py`` says what the cluster's version permits.
"""

from dataclasses import dataclass

from shardwright.model.cluster import DaemonPresence
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.version import release_of
from shardwright.model.view import ClusterView


@dataclass(frozen=True, slots=True)
class Upgrade:
    """An upgrade that is under way."""

    version: str
    """The newest program that a daemon runs."""
    cluster_version: int
    """The version that the records get when every daemon runs it."""
    reasons: tuple[Reason, ...]
    """What it waits for, by node; empty: the leader raises the version next."""


def newest_version(view: ClusterView) -> str:
    """The newest program that a daemon runs; empty: there is no daemon."""
    return max((daemon.version for daemon in view.daemons.values()), key=release_of, default="")


def version_to_prepare(view: ClusterView) -> str | None:
    """The version before whose upgrade the cluster's state is to be backed up now; None: it was, or there is no upgrade."""
    newest = newest_version(view)
    if view.cluster is None or release_of(newest) <= release_of(view.cluster.prepared_for):
        return None
    return newest


def raised_version(view: ClusterView) -> int | None:
    """The version that the cluster can have now: the least of all daemons'. None: not above the present one, or a node
    without a daemon, which may return with the version that it had, or a missing backup forbids it."""
    cluster = view.cluster
    if cluster is None or not view.nodes or not view.nodes.keys() <= view.daemons.keys():
        return None
    # Including the daemon of a node that was just removed: it still runs, and its API still writes.
    least = min(daemon.cluster_version for daemon in view.daemons.values())
    return least if least > cluster.cluster_version and version_to_prepare(view) is None else None


def upgrade_of(view: ClusterView) -> Upgrade | None:
    """The upgrade that is under way; None: all daemons run one version, and the records have the version that it knows."""
    if view.cluster is None or not view.daemons:
        return None
    highest = max(daemon.cluster_version for daemon in view.daemons.values())
    newest = newest_version(view)
    old = [d for _, d in sorted(view.daemons.items()) if release_of(d.version) < release_of(newest)]
    if not old and highest <= view.cluster.cluster_version:
        return None
    reasons = [_of_older_version(daemon, newest) for daemon in old]
    reasons += [_without_daemon(uid) for uid in sorted(view.nodes.keys() - view.daemons.keys())]
    if (version := version_to_prepare(view)) is not None:
        text = f"the cluster's state was not backed up before the upgrade to {version} yet"
        reasons.append(Reason(Code.UPGRADE_NOT_PREPARED, text, Grade.SOFT_LIMIT, remedy=Code.UPGRADE_NOT_PREPARED.remedy))
    return Upgrade(newest, max(highest, view.cluster.cluster_version), tuple(reasons))


def _of_older_version(daemon: DaemonPresence, newest: str) -> Reason:
    code, uid = Code.NODE_OF_OLDER_VERSION, daemon.node_uid
    return Reason(
        code, f"node {uid} runs {daemon.version}", Grade.CONFIGURATION, remedy=f"install {newest} there", node_uid=uid
    )


def _without_daemon(uid: NodeUid) -> Reason:
    text = f"node {uid} has no running daemon, and may return with an older version"
    remedy = "start its daemon, or remove the node"
    return Reason(Code.NODE_DOWN, text, Grade.CONFIGURATION, remedy=remedy, node_uid=uid)
