"""What the API says of an upgrade that is under way."""

from dataclasses import replace

from shardwright.api.schemas.v1.cluster import cluster as shown
from testkit.builders import cluster


def test_an_upgrade_is_shown_with_what_it_waits_for() -> None:
    builder = cluster(2)
    record = builder.view.cluster
    assert record is not None
    before = shown(record, builder.view)
    assert (before["cluster_version"], before["upgrade"], before["upgrade_in_progress"]) == (1, None, False)
    daemons = {uid: replace(d, version=f"0.{uid}.0", cluster_version=uid) for uid, d in builder.view.daemons.items()}
    view = builder.with_records(replace(record, prepared_for="0.2.0")).view.changed(daemons=daemons)
    assert view.cluster is not None
    during = shown(view.cluster, view)
    assert during["upgrade_in_progress"] is True
    assert during["upgrade"] == {
        "version": "0.2.0",
        "cluster_version": 2,
        "reasons": [
            {
                "code": "node_of_older_version",
                "description": "node 1 runs 0.1.0",
                "grade": "configuration",
                "remedy": "install 0.2.0 there",
                "node_uid": "1",
            }
        ],
    }
