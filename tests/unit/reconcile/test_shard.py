"""What the agent does about each shard: the table is total, safe, and leads to the goal."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.model.database import Shard, ShardWanted
from shardwright.model.ids import DatabaseUid, GroupUid, NodeUid, ShardUid
from shardwright.model.seen import ProcessIdentity, ProcessState
from shardwright.reconcile.shard import (
    TABLE,
    Age,
    AgentCommand,
    Expected,
    LocalShard,
    LocalState,
    Verb,
    decide_shard,
    decide_shards,
    report_of,
    reports_of,
)

UID = ShardUid(7)
IDENTITY = ProcessIdentity(100, "boot", 5, "/bin/server", "/shards/7")
SHARD = Shard(UID, DatabaseUid(1), GroupUid("1:1"), NodeUid(1), 20_000, datetime(2026, 1, 1, tzinfo=UTC), incarnation=3)

states = st.sampled_from(LocalState)
shards = st.none() | st.builds(
    lambda wanted, incarnation: replace(SHARD, wanted=wanted, incarnation=incarnation),
    st.sampled_from(ShardWanted),
    st.integers(1, 5),
)


@st.composite
def locals_(draw: st.DrawFn) -> LocalShard:
    state = draw(states)
    incarnation = 0 if state in (LocalState.NOTHING, LocalState.FILES) else draw(st.integers(1, 5))
    return LocalShard(UID, state, incarnation, IDENTITY if state is LocalState.RUNNING else None)


def after(local: LocalShard, command: AgentCommand) -> LocalShard:
    """The world once a command succeeded."""
    match command.verb:
        case Verb.START:
            return LocalShard(UID, LocalState.RUNNING, command.incarnation, IDENTITY)
        case Verb.STOP | Verb.END:
            return replace(local, state=LocalState.GONE)
        case Verb.DELETE:
            return LocalShard(UID)
        case Verb.WAIT:
            raise AssertionError("waiting is no command")


def test_the_table_is_total() -> None:
    assert set(TABLE) == set(product(Expected, LocalState, Age))


@given(shards, locals_(), st.booleans())
def test_the_agent_comes_to_rest(shard: Shard | None, local: LocalShard, is_certain: bool) -> None:
    for _ in range(4):
        command = decide_shard(shard, local, is_certain=is_certain)
        if command is None:
            break
        local = after(local, command)
    assert decide_shard(shard, local, is_certain=is_certain) is None
    if shard is not None and shard.wanted is ShardWanted.GONE:
        assert local.state is LocalState.NOTHING
    if shard is None and is_certain:
        assert local.state is LocalState.NOTHING


@given(shards, locals_(), st.booleans())
def test_an_incarnation_starts_once_and_never_beside_another(
    shard: Shard | None, local: LocalShard, is_certain: bool
) -> None:
    command = decide_shard(shard, local, is_certain=is_certain)
    if command is not None and command.verb is Verb.START:
        assert shard is not None
        assert shard.wanted is ShardWanted.RUNNING
        assert local.state is not LocalState.RUNNING
        assert command.incarnation == shard.incarnation > local.incarnation


@given(locals_())
def test_without_certainty_a_missing_record_means_nothing(local: LocalShard) -> None:
    assert decide_shard(None, local, is_certain=False) is None


@given(shards, locals_(), st.booleans())
def test_files_of_a_running_process_are_never_deleted(shard: Shard | None, local: LocalShard, is_certain: bool) -> None:
    command = decide_shard(shard, local, is_certain=is_certain)
    if command is not None and command.verb is Verb.DELETE:
        assert local.state is not LocalState.RUNNING


@given(shards, locals_(), st.booleans())
def test_a_busy_shard_is_left_alone(shard: Shard | None, local: LocalShard, is_certain: bool) -> None:
    assert decide_shard(shard, replace(local, is_busy=True), is_certain=is_certain) is None


@pytest.mark.parametrize(
    ("local", "verb"),
    [
        (LocalShard(UID), Verb.START),
        (LocalShard(UID, LocalState.FILES), Verb.START),
        (LocalShard(UID, LocalState.GONE, 3), None),
        (LocalShard(UID, LocalState.FAILED, 3), None),
        (LocalShard(UID, LocalState.GONE, 2), Verb.START),
        (LocalShard(UID, LocalState.RUNNING, 2, IDENTITY), Verb.STOP),
        (LocalShard(UID, LocalState.RUNNING, 3, IDENTITY), None),
        (LocalShard(UID, LocalState.RUNNING, 4, IDENTITY), None),
    ],
)
def test_a_wanted_shard(local: LocalShard, verb: Verb | None) -> None:
    command = decide_shard(SHARD, local, is_certain=False)
    assert (command.verb if command else None) == verb


def test_commands_come_in_the_order_of_uids() -> None:
    records = [replace(SHARD, uid=ShardUid(n)) for n in (9, 2)]
    stray = LocalShard(ShardUid(5), LocalState.RUNNING, 1, IDENTITY)
    commands = decide_shards(records, [stray], is_certain=True)
    assert [(c.shard_uid, c.verb) for c in commands] == [(2, Verb.START), (5, Verb.END), (9, Verb.START)]


@pytest.mark.parametrize("wanted", [ShardWanted.RUNNING, ShardWanted.GONE])
@pytest.mark.parametrize(
    "local", [LocalShard(UID), LocalShard(UID, LocalState.FILES), LocalShard(UID, LocalState.GONE, 2, text="killed")]
)
def test_a_start_that_may_be_under_way_is_not_reported_as_absent(wanted: ShardWanted, local: LocalShard) -> None:
    shard = replace(SHARD, wanted=wanted)
    seen = report_of(shard, replace(local, is_busy=True))
    assert (seen.state, seen.incarnation, seen.files_are_deleted) == (ProcessState.UNKNOWN, SHARD.incarnation, False)
    assert report_of(shard, local).state is not ProcessState.UNKNOWN


@pytest.mark.parametrize(
    "local",
    [
        LocalShard(UID),
        LocalShard(UID, LocalState.FILES),
        LocalShard(UID, LocalState.RUNNING, 2, IDENTITY),
        LocalShard(UID, LocalState.GONE, 2),
        LocalShard(UID, LocalState.FAILED, 2),
    ],
)
def test_the_report_of_the_turn_in_which_a_start_begins_does_not_say_absent(local: LocalShard) -> None:
    """The task of the start may not have run when the report is made, and the server runs long before the next one."""
    commands = decide_shards([SHARD], [local], is_certain=False)
    assert [c.shard_uid for c in commands] == [UID]
    (seen,) = reports_of([SHARD], [local], commands)
    assert (seen.state, seen.incarnation) == (ProcessState.UNKNOWN, SHARD.incarnation)


def test_what_begins_for_one_shard_changes_no_report_of_another() -> None:
    other = replace(SHARD, uid=ShardUid(8), wanted=ShardWanted.STOPPED)
    commands = decide_shards([SHARD, other], [], is_certain=False)
    assert [seen.state for seen in reports_of([SHARD, other], [], commands)] == [ProcessState.UNKNOWN, ProcessState.ABSENT]
    running = LocalShard(UID, LocalState.RUNNING, SHARD.incarnation, IDENTITY)
    assert reports_of([SHARD], [running], ()) == (report_of(SHARD, running),)


@given(shards.filter(lambda s: s is not None), locals_())
def test_reports_name_the_incarnation_they_speak_of(shard: Shard, local: LocalShard) -> None:
    seen = report_of(shard, local)
    assert seen.shard_uid == UID
    assert seen.incarnation >= shard.incarnation
    if seen.state is ProcessState.RUNNING:
        assert seen.identity is not None
        assert seen.incarnation == local.incarnation
    if seen.state is ProcessState.GONE:
        assert seen.files_are_deleted or local.incarnation == seen.incarnation
    if seen.files_are_deleted:
        assert shard.wanted is ShardWanted.GONE
        assert local.state is LocalState.NOTHING
