"""The rules of the lease and of the leader key."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.leader import leadership as rules
from shardwright.leader.leadership import Held, KeyState, LeaseTimes, key_state
from shardwright.model.cluster import DaemonPresence, Leadership
from shardwright.model.ids import LeaseId, NodeUid
from shardwright.store import keys, records
from shardwright.store.protocol import CreatedAt, DeleteKey, KeyValue, ModifiedAt, PutKey
from testkit.builders import NOW

LEASE, OTHER_LEASE = LeaseId(5), LeaseId(6)
NODE = NodeUid(1)
PRESENCE = DaemonPresence(NODE, 100, 1, "boot", 0, "0.1.0", "https://127.0.0.1:9443", NOW)
HELD = Held(term=3, revision_created=40, valid_until_monotonic=103.0)


def leader_key(lease: LeaseId, created: int) -> KeyValue:
    return KeyValue(keys.LEADER, records.encode(Leadership(NODE, 3)), created, created, lease)


@pytest.mark.parametrize(
    ("leader", "held", "now", "state"),
    [
        (None, None, 100.0, KeyState.FREE),
        (None, HELD, 100.0, KeyState.FREE),
        (leader_key(LEASE, 40), HELD, 102.9, KeyState.OURS),
        (leader_key(LEASE, 40), HELD, 103.0, KeyState.LEFT_OVER),
        (leader_key(LEASE, 40), None, 100.0, KeyState.LEFT_OVER),
        (leader_key(LEASE, 41), HELD, 100.0, KeyState.LEFT_OVER),
        (leader_key(OTHER_LEASE, 40), HELD, 100.0, KeyState.ANOTHERS),
        (leader_key(OTHER_LEASE, 41), None, 100.0, KeyState.ANOTHERS),
    ],
    ids=["free", "deleted", "ours", "past_its_time", "answer_lost", "of_another_term", "taken", "another_leads"],
)
def test_what_a_look_at_the_leader_key_means(
    leader: KeyValue | None, held: Held | None, now: float, state: KeyState
) -> None:
    assert key_state(leader, LEASE, held, now) is state


def test_a_lease_lasts_from_before_it_was_asked_for() -> None:
    assert rules.valid_until(100.0, LeaseTimes(ttl=timedelta(seconds=3))) == 103.0
    assert rules.valid_until(100.0, rules.ETCD_TIMES) == pytest.approx(105.88)


def test_a_leadership_is_extended_while_it_lasts_and_never_revived() -> None:
    assert HELD.is_valid(102.9)
    assert not HELD.is_valid(103.0), "at that moment the store may have ended it"
    assert HELD.extended(104.0, 102.9) == replace(HELD, valid_until_monotonic=104.0)
    assert HELD.extended(104.0, 103.0) is None


def test_writes_are_fenced_with_the_key_that_the_leadership_created() -> None:
    assert HELD.fence.revision_created == 40


@pytest.mark.parametrize("times", [rules.NORMAL_TIMES, rules.ETCD_TIMES], ids=["this_machine", "etcd"])
def test_a_lease_is_renewed_and_the_key_looked_at_several_times_before_it_ends(times: LeaseTimes) -> None:
    assert times.renew_s * 2 < times.ttl.total_seconds()
    assert times.look_s < times.ttl.total_seconds()


def test_only_another_daemon_is_one_to_leave_the_field_to() -> None:
    own = KeyValue(keys.key_of(PRESENCE), b"", 1, 1, LEASE)
    other = KeyValue(keys.key_of(replace(PRESENCE, node_uid=NodeUid(2))), b"", 1, 1, OTHER_LEASE)
    assert not rules.has_other([], PRESENCE)
    assert not rules.has_other([own], PRESENCE)
    assert rules.has_other([own, other], PRESENCE)


def test_a_presence_names_its_lease_and_ends_with_it() -> None:
    (put,) = rules.presence_with(LEASE, PRESENCE, None).operations
    assert isinstance(put, PutKey)
    assert put.lease == LEASE
    assert records.decode(put.key, put.value) == replace(PRESENCE, lease_id=LEASE)


@pytest.mark.parametrize(("last", "revision"), [(None, 0), (KeyValue(keys.key_of(PRESENCE), b"", 2, 9, OTHER_LEASE), 9)])
def test_a_presence_is_recorded_only_if_it_is_still_the_one_that_was_read(last: KeyValue | None, revision: int) -> None:
    transaction = rules.presence_with(LEASE, PRESENCE, last)
    assert transaction.compares == (ModifiedAt(keys.key_of(PRESENCE), revision),)


def test_the_first_term_is_one_and_each_later_one_follows_the_last() -> None:
    assert rules.next_term(None) == 1
    assert rules.next_term(KeyValue(keys.TERM, b"7", 2, 9, None)) == 8


@pytest.mark.parametrize(("last", "revision", "term"), [(None, 0, 1), (KeyValue(keys.TERM, b"7", 2, 9, None), 9, 8)])
def test_a_daemon_leads_only_if_no_other_does_and_the_term_is_unchanged(
    last: KeyValue | None, revision: int, term: int
) -> None:
    transaction = rules.stand(NODE, LEASE, last)
    assert transaction.compares == (ModifiedAt(keys.LEADER, 0), ModifiedAt(keys.TERM, revision))
    assert transaction.operations == (
        PutKey(keys.LEADER, records.encode(Leadership(NODE, term)), LEASE),
        PutKey(keys.TERM, str(term).encode()),
    )


def test_only_the_key_of_that_leadership_is_deleted() -> None:
    transaction = rules.delete_leader(40)
    assert transaction.compares == (CreatedAt(keys.LEADER, 40),)
    assert transaction.operations == (DeleteKey(keys.LEADER),)
