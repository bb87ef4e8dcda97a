"""``rotate_key``: who may ask, what is written, and how a change of the cluster key is shown."""

from dataclasses import replace

import pytest

from shardwright.api.errors import STATUS_OF, answer_of
from shardwright.api.schemas.v1.key_rotation import key_rotation
from shardwright.api.services.key_rotation import find, refuse_to_forget, request, shown
from shardwright.errors import Rejected, Transient
from shardwright.model.cluster import Cluster
from shardwright.model.codes import Code
from shardwright.model.ids import KeyUid, NodeUid
from shardwright.model.key_rotation import KeyPhase, KeyRotation
from shardwright.model.seen import NodeSeen
from shardwright.model.version import CLUSTER_VERSION
from shardwright.model.view import ClusterView, Put
from shardwright.store.protocol import KeyValue
from shardwright.store.seal import MAGIC
from testkit.builders import NOW, cluster
from tests.unit.api.api_looks import events_of, look_at

OLD, NEW = KeyUid("00" * 8), KeyUid("11" * 8)
ASKED = KeyRotation(OLD, NOW, "admin@example.com", KeyPhase.MAKING, NOW)


def led(rotation: KeyRotation | None = None, *, version: int = CLUSTER_VERSION) -> ClusterView:
    view = cluster(3, leader=1).view
    assert isinstance(view.cluster, Cluster)
    seen = {NodeUid(uid): NodeSeen(NodeUid(uid), NOW, cluster_keys=(OLD, NEW)) for uid in (1, 2)}
    changed = replace(view.cluster, cluster_version=version)
    return view.changed(cluster=changed, key_rotation=rotation, node_seen=view.node_seen | seen)


def value(number: int, uid: KeyUid) -> KeyValue:
    return KeyValue(f"users/{number:08d}", MAGIC + bytes.fromhex(uid) + bytes(40), 1, 1)


def test_a_change_is_requested_with_the_key_that_seals() -> None:
    intent = request(look_at(led()), OLD)
    assert intent.answer == ASKED
    assert intent.writes[0] == Put(ASKED)
    assert [(e.kind, e.by) for e in events_of(intent)] == [("key_rotation_request", "admin@example.com")]


@pytest.mark.parametrize("phase", [phase for phase in KeyPhase if phase is not KeyPhase.DONE])
def test_a_second_request_shows_the_change_that_is_under_way(phase: KeyPhase) -> None:
    under_way = replace(ASKED, phase=phase, new=NEW)
    intent = request(look_at(led(under_way)), OLD)
    assert (intent.answer, intent.writes) == (under_way, ())


def test_after_its_end_another_one_replaces_the_new_key() -> None:
    done = replace(ASKED, phase=KeyPhase.DONE, new=NEW)
    # The file of the answering node may be behind the record.
    assert request(look_at(led(done)), OLD).answer.old == NEW


@pytest.mark.parametrize(("view", "uid"), [(led(), None), (led(version=1), OLD)])
def test_without_a_key_that_every_daemon_can_use_it_is_refused(view: ClusterView, uid: KeyUid | None) -> None:
    with pytest.raises(Rejected) as refused:
        request(look_at(view), uid)
    assert (STATUS_OF[refused.value.refusal], refused.value.code) == (406, "cluster_key_absent")
    assert refused.value.remedy


def test_a_node_that_fetches_the_key_asks_for_patience() -> None:
    answer = answer_of(Transient(Code.CLUSTER_KEY_AWAITED, "this node does not hold the cluster key yet"))
    assert (answer.status_code, b'"not_ready"' in bytes(answer.body)) == (503, True)


def test_it_cannot_be_deleted() -> None:
    with pytest.raises(Rejected) as absent:
        find(led())
    assert absent.value.code == "action_not_found"
    with pytest.raises(Rejected) as refused:
        refuse_to_forget(led(ASKED))
    assert (STATUS_OF[refused.value.refusal], refused.value.code) == (409, "key_rotation_stays")


@pytest.mark.parametrize(
    ("phase", "status", "progress"),
    [
        (KeyPhase.MAKING, "queued", 0.0),
        (KeyPhase.SPREADING, "running", 23.3),
        (KeyPhase.SEALING, "running", 75.0),
        (KeyPhase.DROPPING, "running", 90.0),
        (KeyPhase.DONE, "completed", 100.0),
    ],
)
def test_it_is_shown_without_a_key(phase: KeyPhase, status: str, progress: float) -> None:
    rotation = replace(ASKED, phase=phase, new=None if phase is KeyPhase.MAKING else NEW)
    items = [value(1, NEW), value(2, NEW), value(3, NEW), value(4, OLD)]
    answer = key_rotation(shown(rotation, led(rotation), items))
    assert (answer["name"], answer["status"], answer["progress"]) == ("rotate_key", status, progress)
    assert (answer["values"], answer["values_left"]) == (4, 4 if phase is KeyPhase.MAKING else 1)
    assert (answer["node_uids"], answer["nodes"]) == ([] if phase is KeyPhase.MAKING else [1, 2], 3)
    assert answer["key_id"] == rotation.new
