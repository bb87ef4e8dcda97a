"""A change of the cluster key: when the leader goes on, what it waits for, and which keys a node is to hold."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.model.codes import Code
from shardwright.model.event import Event
from shardwright.model.ids import KeyUid, NodeUid
from shardwright.model.key_rotation import KeyPhase, KeyRotation
from shardwright.model.reason import Reason
from shardwright.model.seen import NodeSeen
from shardwright.model.view import ClusterView, Put
from shardwright.reconcile.key_rotation import (
    NOTED_AFTER,
    UNHELD_AFTER,
    KeysWish,
    Unsealed,
    decide_key_rotation,
    decide_keys,
    holders,
)
from testkit.builders import NOW, cluster

OLD, NEW, OTHER = KeyUid("00" * 8), KeyUid("11" * 8), KeyUid("22" * 8)
NOTHING_LEFT = Unsealed()
ASKED = KeyRotation(OLD, NOW, "admin@example.com", KeyPhase.MAKING, NOW)


def at(phase: KeyPhase) -> KeyRotation:
    return ASKED if phase is KeyPhase.MAKING else replace(ASKED, phase=phase, new=NEW)


def view_of(
    rotation: KeyRotation | None, held: Mapping[int, Sequence[KeyUid]], *, away: Sequence[int] = (), nodes: int = 3
) -> ClusterView:
    """``held``: the keys that each node has reported."""
    view = cluster(nodes, leader=1).view
    daemons = {uid: daemon for uid, daemon in view.daemons.items() if uid not in away}
    seen = {NodeUid(uid): NodeSeen(NodeUid(uid), NOW, cluster_keys=tuple(found)) for uid, found in held.items()}
    absent = frozenset(NodeUid(uid) for uid in away)
    return view.changed(key_rotation=rotation, node_seen=seen, daemons=daemons, away=absent)


def decided(view: ClusterView, after: timedelta = timedelta(0), unsealed: Unsealed = NOTHING_LEFT) -> KeyRotation | None:
    """The record that is written; None: none is."""
    writes = decide_key_rotation(view, NOW + after, unsealed).writes
    return next((w.record for w in writes if isinstance(w, Put) and isinstance(w.record, KeyRotation)), None)


def waits(view: ClusterView, unsealed: Unsealed = NOTHING_LEFT) -> tuple[Reason, ...]:
    """The reasons that are written after a while."""
    assert decided(view, NOTED_AFTER - timedelta(seconds=1), unsealed) is None, "a short wait is not worth a write"
    after = decided(view, NOTED_AFTER, unsealed)
    assert after is not None
    assert view.key_rotation is not None
    assert after.phase is view.key_rotation.phase
    assert decided(view.changed(key_rotation=after), 2 * NOTED_AFTER, unsealed) is None, "once"
    return after.reasons


ALL_BOTH = {1: (OLD, NEW), 2: (OLD, NEW), 3: (OLD, NEW)}


def test_without_a_change_and_after_its_end_nothing_is_decided() -> None:
    assert decided(view_of(None, {})) is None
    assert decided(view_of(at(KeyPhase.DONE), {1: (OLD,)})) is None


def test_a_key_that_is_not_made_is_waited_for() -> None:
    (reason,) = waits(view_of(ASKED, {}))
    assert reason.code is Code.CLUSTER_KEY_AWAITED


def test_nothing_is_sealed_with_the_new_key_before_every_present_node_holds_it() -> None:
    two = {1: (OLD, NEW), 2: (OLD, NEW), 3: (OLD,)}
    (reason,) = waits(view_of(at(KeyPhase.SPREADING), two))
    assert (reason.node_uid, reason.code) == (3, Code.CLUSTER_KEY_AWAITED)
    after = decided(view_of(at(KeyPhase.SPREADING), ALL_BOTH))
    assert after is not None
    assert (after.phase, after.new, after.seals) == (KeyPhase.SEALING, NEW, NEW)


def test_a_node_that_is_away_is_not_waited_for() -> None:
    held = {1: (OLD, NEW), 2: (OLD, NEW), 3: (OLD,)}
    after = decided(view_of(at(KeyPhase.SPREADING), held, away=[3]))
    assert after is not None
    assert after.phase is KeyPhase.SEALING
    # A moment without a lease is no absence.
    view = view_of(at(KeyPhase.SPREADING), held)
    passing = view.changed(daemons={uid: d for uid, d in view.daemons.items() if uid != 3})
    assert decided(passing) is None


def test_a_key_that_is_not_on_most_nodes_is_not_used() -> None:
    held = {1: (OLD, NEW), 2: (OLD,), 3: (OLD,)}
    reasons = waits(view_of(at(KeyPhase.SPREADING), held, away=[2, 3]))
    assert [reason.node_uid for reason in reasons] == [2, 3]
    alone = decided(view_of(at(KeyPhase.SPREADING), {1: (OLD, NEW)}, nodes=1))
    assert alone is not None
    assert alone.phase is KeyPhase.SEALING, "a cluster of one node has the key on all of them"


def test_a_key_that_is_lost_before_it_was_used_is_made_again() -> None:
    lost = view_of(at(KeyPhase.SPREADING), {1: (OLD,), 2: (OLD,), 3: (OLD, NEW)}, away=[3])
    waiting = decided(lost, UNHELD_AFTER - timedelta(seconds=1))
    assert waiting is not None
    assert (waiting.phase, waiting.new) == (KeyPhase.SPREADING, NEW)
    after = decided(lost, UNHELD_AFTER)
    assert after is not None
    assert (after.phase, after.new, after.seals) == (KeyPhase.MAKING, None, OLD)


def test_the_old_key_stays_until_no_value_needs_it() -> None:
    sealing = view_of(at(KeyPhase.SEALING), ALL_BOTH)
    assert decided(sealing, NOTED_AFTER, Unsealed(3)) is None
    after = decided(sealing)
    assert after is not None
    assert (after.phase, after.sealed_at) == (KeyPhase.DROPPING, NOW)


def test_a_value_that_does_not_open_keeps_the_old_key_and_is_named() -> None:
    (reason,) = waits(view_of(at(KeyPhase.SEALING), ALL_BOTH), Unsealed(damaged=("users/00000001",)))
    assert (reason.code, "users/00000001" in reason.text) == (Code.SECRET_DAMAGED, True)


def test_the_end_is_that_no_node_has_the_old_key() -> None:
    dropping = at(KeyPhase.DROPPING)
    held: dict[int, Sequence[KeyUid]] = {1: (NEW,), 2: (NEW,), 3: (NEW, OLD)}
    (reason,) = waits(view_of(dropping, held))
    assert (reason.node_uid, reason.code) == (3, Code.CLUSTER_KEY_KEPT)
    (away,) = waits(view_of(dropping, held, away=[3]))
    assert "away" in away.text
    decision = decide_key_rotation(view_of(dropping, dict.fromkeys((1, 2, 3), (NEW,))), NOW, NOTHING_LEFT)
    written = [write.record for write in decision.writes]
    assert [r.phase for r in written if isinstance(r, KeyRotation)] == [KeyPhase.DONE]
    assert [e.kind for e in written if isinstance(e, Event)] == ["key_rotation_completed"]


def test_a_node_without_a_report_holds_nothing() -> None:
    view = view_of(at(KeyPhase.SPREADING), {1: (OLD, NEW)})
    assert holders(view, NEW) == [1]
    assert holders(view, None) == []
    assert [reason.node_uid for reason in waits(view)] == [2, 3], "a daemon of an older version reports no keys"


# -- a node ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "known", "needed", "wish"),
    [
        (KeyPhase.MAKING, (OLD,), {OLD}, KeysWish((OLD,))),
        (KeyPhase.SPREADING, (OLD,), {OLD}, KeysWish((OLD,), fetches=NEW)),
        (KeyPhase.SPREADING, (OLD, NEW), {OLD}, KeysWish((OLD, NEW))),
        (KeyPhase.SEALING, (OLD, NEW), {OLD, NEW}, KeysWish((NEW, OLD))),
        (KeyPhase.SEALING, (OLD, OTHER, NEW), {NEW}, KeysWish((NEW, OLD, OTHER))),
        (KeyPhase.DROPPING, (NEW, OLD), {NEW}, KeysWish((NEW,))),
        (KeyPhase.DROPPING, (OLD,), {NEW}, KeysWish((OLD,), fetches=NEW)),
        (KeyPhase.DONE, (OLD, OTHER, NEW), {NEW, OTHER}, KeysWish((NEW, OTHER))),
    ],
)
def test_what_a_node_does_about_its_keys(
    phase: KeyPhase, known: tuple[KeyUid, ...], needed: set[KeyUid], wish: KeysWish
) -> None:
    assert decide_keys(at(phase), known, needed, leads=False) == wish


def test_the_leaders_node_makes_the_key() -> None:
    assert decide_keys(ASKED, (OLD,), {OLD}, leads=True).makes
    assert not decide_keys(at(KeyPhase.SPREADING), (OLD,), {OLD}, leads=True).makes


UIDS = st.sampled_from([OLD, NEW, OTHER])


@given(
    phase=st.sampled_from(KeyPhase),
    known=st.lists(UIDS, min_size=1, unique=True),
    needed=st.frozensets(UIDS),
    leads=st.booleans(),
)
def test_no_key_goes_that_a_value_needs_and_the_one_that_seals_is_first(
    phase: KeyPhase, known: list[KeyUid], needed: frozenset[KeyUid], leads: bool
) -> None:
    rotation = at(phase)
    wish = decide_keys(rotation, known, needed, leads=leads)
    assert set(known) & needed <= set(wish.keys) <= set(known)
    assert wish.keys, "a node never has no key"
    if rotation.seals in known and phase not in (KeyPhase.MAKING, KeyPhase.SPREADING):
        assert wish.keys[0] == rotation.seals
    again = decide_keys(rotation, wish.keys, needed, leads=leads)
    assert again.keys == wish.keys
