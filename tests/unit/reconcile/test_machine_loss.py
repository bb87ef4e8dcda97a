"""What the loss of its primary's machine would mean for a database, by the records."""

from dataclasses import replace
from typing import Any

import pytest

from shardwright.model.cluster import ClusterKind
from shardwright.model.database import DatabaseStatus, GroupPhase, ShardWanted
from shardwright.model.ids import DatabaseUid, GroupUid, NodeUid, ShardUid
from shardwright.model.lease import Lease, Waiver
from shardwright.reconcile.machine_loss import LossOutcome, MachineLoss, machine_loss_of
from testkit.builders import NOW, ClusterBuilder, cluster

DATABASE, GROUP, PRIMARY, REPLICA = DatabaseUid(1), GroupUid("1:1"), ShardUid(1), ShardUid(2)


def machines(lease: Lease | None = None, **changes: Any) -> ClusterBuilder:
    builder = cluster(nodes=3).with_database(on=((1, 2),), **changes)
    assert builder.view.cluster is not None
    group = replace(builder.view.groups[GROUP], lease=lease)
    return builder.with_records(replace(builder.view.cluster, kind=ClusterKind.MACHINES), group)


def loss(builder: ClusterBuilder) -> MachineLoss | None:
    return machine_loss_of(builder.view.databases[DATABASE], builder.view)


def outcome(builder: ClusterBuilder) -> LossOutcome | None:
    return None if (found := loss(builder)) is None else found.outcome


STRICT: dict[str, Any] = {"is_strict": True, "is_strict_everywhere": True}
IN_FORCE = Lease(version=5, is_needed=True)


def test_strict_mode_loses_nothing_when_it_is_in_force() -> None:
    assert outcome(machines(**STRICT)) is LossOutcome.NOTHING_LOST
    found = loss(machines(is_strict=True, is_strict_everywhere=False))
    assert found == MachineLoss(LossOutcome.WAITS, "strict mode is not in force everywhere yet")


def test_proofs_of_a_replica_serve_until_strict_mode_is_in_force() -> None:
    """The database has become strict: the failover goes as in default mode, so it promises no more than that."""
    assert outcome(machines(IN_FORCE, is_strict=True)) is LossOutcome.LATEST_LOST


def test_default_mode_loses_the_latest_writes_when_its_lease_is_in_force() -> None:
    assert outcome(machines(IN_FORCE)) is LossOutcome.LATEST_LOST
    for lease in (None, replace(IN_FORCE, is_needed=False), replace(IN_FORCE, waived=(Waiver(NodeUid(3), "i3"),))):
        assert outcome(machines(lease)) is LossOutcome.WAITS


def test_the_nodes_whose_processes_do_not_ask_yet_are_named() -> None:
    waived = (Waiver(NodeUid(1), "i1"), Waiver(NodeUid(3), "i3"))
    found = loss(machines(replace(IN_FORCE, waived=waived)))
    assert found is not None
    assert "node 1, node 3" in found.text


@pytest.mark.parametrize("changes", [STRICT, {}])
def test_a_replica_must_be_there(changes: dict[str, Any]) -> None:
    """In sync, wanted, and not known to be lost."""
    builder = machines(IN_FORCE, **changes)
    replica = builder.view.shards[REPLICA]
    for lost in ({"in_sync_generation": -1}, {"missing_since": NOW}, {"wanted": ShardWanted.GONE}):
        assert outcome(builder.with_records(replace(replica, **lost))) is LossOutcome.WAITS


def test_one_copy_waits() -> None:
    found = loss(machines(has_replica=False))
    assert found == MachineLoss(LossOutcome.WAITS, "it has one copy")


def test_nothing_is_said_in_a_local_cluster_or_of_a_database_that_does_not_serve() -> None:
    assert loss(cluster(nodes=3).with_database(on=((1, 2),), **STRICT)) is None
    builder = machines(**STRICT)
    assert loss(builder.with_records(replace(builder.view.groups[GROUP], phase=GroupPhase.STARTING))) is None
    pending = replace(builder.view.databases[DATABASE], status=DatabaseStatus.PENDING)
    assert loss(builder.with_records(pending)) is None
