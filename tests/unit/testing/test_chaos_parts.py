"""The decisions of a chaos run: the schedule, the comparison, and the rules for targets."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from chaos import rules
from chaos.facts import Records
from chaos.journal import (
    ACCOUNTS,
    KEYS,
    Entry,
    Stored,
    WriteKind,
    compare,
    counter_of,
    longest_pause,
    parse,
)
from chaos.report import Result
from chaos.rules import Promise
from chaos.schedule import FREEZES_S, UNNOTICED, ItemKind, schedule
from chaos.verdict import ClientKind, Tally, TurnOutcome
from shardwright.model.action import Action, ActionName, ActionStatus, StepDownParameters
from shardwright.model.database import Handoff
from shardwright.model.ids import ActionUid, GroupUid, NodeUid, ShardUid
from shardwright.model.move import Move, MoveState
from shardwright.model.seen import ProcessIdentity
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.moves import relocation

# -- schedule ----------------------------------------------------------------------------------------------------------


def test_a_seed_decides_everything() -> None:
    assert schedule(7, seconds=60) == schedule(7, seconds=60)
    assert schedule(7, seconds=60) != schedule(8, seconds=60)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short = schedule(7, seconds=30)
    assert [i for i in schedule(7, seconds=60) if i in short] == list(short)


def test_every_kind_is_scheduled_in_order_and_within_its_bounds() -> None:
    items = schedule(1, seconds=3600)
    assert {item.kind for item in items} == set(ItemKind)
    assert [item.at_s for item in items] == sorted(item.at_s for item in items)
    for item in items:
        least, most = FREEZES_S.get(item.kind, (0.0, 0.0))
        assert least <= item.lasts_s <= most


def test_an_unnoticeable_run_has_the_same_requests_and_fewer_faults() -> None:
    every, unnoticed = schedule(7, seconds=300), schedule(7, seconds=300, faults=UNNOTICED)
    assert {item.kind for item in unnoticed if item.kind.is_fault} == UNNOTICED
    first = next(i for i in every if not i.kind.is_fault)
    assert first == next(i for i in unnoticed if not i.kind.is_fault)


# -- comparison --------------------------------------------------------------------------------------------------------


def entries(count: int, *, in_doubt: tuple[int, ...] = ()) -> list[Entry]:
    return [Entry(turn, turn not in in_doubt, turn * 1.0, turn * 1.0 + 0.5) for turn in range(1, count + 1)]


def everything(written: list[Entry], *, without: tuple[int, ...] = ()) -> Stored:
    kept = [e for e in written if e.turn not in without]
    counters = [0] * KEYS
    for entry in kept:
        if entry.kind is WriteKind.COUNT:
            counters[counter_of(entry.turn)] += 1
    return Stored(
        counters,
        [e.turn for e in kept if e.kind is WriteKind.APPEND],
        [e.turn for e in kept if e.kind is WriteKind.TRANSFER],
        [0] * ACCOUNTS,
    )


def first(kind: WriteKind) -> int:
    return next(e.turn for e in entries(9) if e.kind is kind)


def test_a_complete_database_has_no_finding() -> None:
    found = compare("db", entries(90), everything(entries(90)))
    assert (found.acked, found.lost, found.doubled, found.torn) == (90, [], [], [])


@pytest.mark.parametrize("kind", list(WriteKind))
def test_an_acknowledged_write_that_is_missing_is_lost(kind: WriteKind) -> None:
    found = compare("db", entries(90), everything(entries(90), without=(first(kind),)))
    assert len(found.lost) == 1
    assert found.lost_allowed == []


@pytest.mark.parametrize("kind", list(WriteKind))
def test_a_write_in_doubt_may_be_stored_or_not(kind: WriteKind) -> None:
    turn = first(kind)
    for without in ((), (turn,)):
        found = compare("db", entries(90, in_doubt=(turn,)), everything(entries(90), without=without))
        assert (found.in_doubt, found.lost, found.doubled) == (1, [], [])


def test_a_write_that_is_stored_twice_is_doubled_even_if_in_doubt() -> None:
    turn = first(WriteKind.APPEND)
    stored = everything(entries(30))
    twice = replace(stored, appended=[*stored.appended, turn])
    assert len(compare("db", entries(30, in_doubt=(turn,)), twice).doubled) == 1
    high = replace(stored, counters=[stored.counters[0] + 1, *stored.counters[1:]])
    assert len(compare("db", entries(30), high).doubled) == 1
    unknown = replace(stored, transfers=[*stored.transfers, 9999])
    assert len(compare("db", entries(30), unknown).doubled) == 1


def test_accounts_with_a_sum_other_than_zero_are_torn() -> None:
    stored = replace(everything(entries(30)), accounts=[1] + [0] * (ACCOUNTS - 1))
    assert len(compare("db", entries(30), stored).torn) == 1


@pytest.mark.parametrize("kind", list(WriteKind))
def test_only_the_last_moment_before_a_kill_may_be_lost(kind: WriteKind) -> None:
    turn = first(kind)
    stored = everything(entries(90), without=(turn,))
    assert len(compare("db", entries(90), stored, kills=[turn + 1.0]).lost_allowed) == 1
    assert len(compare("db", entries(90), stored, kills=[turn + 30.0]).lost) == 1


def test_an_incomplete_journal_is_read_as_far_as_possible() -> None:
    lines = [e.line() for e in entries(3)]
    assert parse([*lines, "4 1 17.0"]) == entries(3)


def test_the_longest_pause_is_between_acknowledgements_of_any_writer() -> None:
    one, other = [Entry(1, True, 0, 1.0), Entry(2, True, 0, 9.0)], [Entry(1, True, 0, 4.0), Entry(2, False, 0, 6.0)]
    assert longest_pause([one, other]) == (5.0, 4.0)


# -- what a client may observe -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "outcome", "noticed"),
    [
        (ClientKind.SCRIPT, TurnOutcome.DONE, 0),
        (ClientKind.SCRIPT, TurnOutcome.REFUSED, 1),
        (ClientKind.PIPELINE, TurnOutcome.CLOSED, 1),
        (ClientKind.DOWNLOAD, TurnOutcome.CUT, 1),
        (ClientKind.HALVES, TurnOutcome.CLOSED, 0),
        (ClientKind.HALVES, TurnOutcome.REFUSED, 1),
        (ClientKind.HALVES, TurnOutcome.RESET, 1),
        (ClientKind.UNREAD, TurnOutcome.RESET, 0),
        (ClientKind.UNREAD, TurnOutcome.SILENT, 1),
    ],
)
def test_only_slow_and_rude_clients_may_be_closed(kind: ClientKind, outcome: TurnOutcome, noticed: int) -> None:
    tally = Tally(kind)
    tally.end_turn(outcome, "why")
    assert tally.noticed == noticed


@pytest.mark.parametrize(("stored", "lost", "doubled"), [(4, 1, 0), (5, 0, 0), (7, 0, 0), (8, 0, 1), (None, 0, 0)])
def test_the_stored_number_lies_between_the_acknowledged_and_the_sent_one(
    stored: int | None, lost: int, doubled: int
) -> None:
    tally = Tally(ClientKind.SCRIPT, acked=5, sent=7, stored=stored)
    assert (tally.lost, tally.doubled) == (lost, doubled)


def result(**changes: Any) -> Result:
    crowd = {"script": {"outcomes": {"done": 9}, "lost": 0, "doubled": 0, "wrong": [], "noticed": 0, "texts": []}}
    whole = Result(1, 20, "auto", found={"lost": 0, "doubled": 0, "torn": 0, "in_doubt": 0}, crowd=crowd, reconnects=0)
    return replace(whole, **{"converged_s": 1.0, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"found": {"lost": 0, "doubled": 0, "torn": 0, "in_doubt": 1}},
        {"reconnects": 1},
        {"reconnects": None},
        {"too_long": ["remove of node 3 took 99.0 s, completed"]},
        {"crowd": {"script": {"outcomes": {"done": 9}, "lost": 0, "doubled": 0, "wrong": [], "noticed": 1, "texts": []}}},
    ],
)
def test_effects_that_are_allowed_for_faults_are_forbidden_for_planned_actions(changes: dict[str, Any]) -> None:
    assert result(**changes).is_good
    assert not result(**changes, is_unnoticed=True).is_good
    assert result(is_unnoticed=True).is_good


@pytest.mark.parametrize("damage", [{"lost": 1}, {"doubled": 1}, {"wrong": ["another value"]}])
def test_damage_that_the_crowd_finds_is_damage(damage: dict[str, Any]) -> None:
    crowd = {"script": {**result().crowd["script"], **damage}}
    assert not result(crowd=crowd).is_good


# -- rules -------------------------------------------------------------------------------------------------------------

PROMISES = {"db1": Promise.REPLICAS_MAY_DIE, "db2": Promise.ONLY_COPY_MAY_DIE, "db3": Promise.PRIMARY_MAY_DIE}


def databases() -> ClusterBuilder:
    """Shards 1 and 2 of db1, 3 of db2, 4 and 5 of db3; the first one of each is the primary."""
    return cluster(nodes=3).with_database(on=((1, 2),)).with_database(on=((1,),)).with_database(on=((2, 3),))


def records(builder: ClusterBuilder, *moves: Move) -> Records:
    view = builder.view
    identities = {uid: p.identity for uid, p in view.processes.items() if p.identity is not None}
    return Records(
        view.nodes,
        view.databases,
        list(view.groups.values()),
        view.shards,
        list(view.endpoints.values()),
        view.secrets,
        identities,
        view.daemons,
        view.leadership,
        list(view.actions.values()),
        list(moves),
    )


def runs(_: ProcessIdentity) -> bool:
    return True


def all_but(uid: int) -> rules.Runs:
    return lambda process: process.pid != 50_000 + uid


def moving(group: str) -> Move:
    uid = GroupUid(group)
    return relocation(state=MoveState.SYNCING, database_uid=databases().view.groups[uid].database_uid, group_uid=uid)


def test_only_replicas_of_running_primaries_may_die() -> None:
    now = records(databases())
    assert rules.replicas(now, runs) == [2, 5]
    assert rules.replicas(now, all_but(1)) == [5]


def test_an_action_that_took_too_long_is_named() -> None:
    parameters = StepDownParameters()
    ended = Action(
        ActionUid("a"),
        ActionName.STEP_DOWN,
        NodeUid(2),
        parameters,
        ActionStatus.COMPLETED,
        NOW,
        "somebody",
        ended_at=NOW + timedelta(seconds=70),
    )
    now = replace(records(databases()), actions=[ended, replace(ended, ended_at=None)])
    assert rules.too_long(now, 60) == ["step_down of node 2 took 70.0 s, completed"]
    assert rules.too_long(now, 80) == []


def test_no_server_dies_as_a_replica_while_a_role_moves() -> None:
    builder = databases()
    group = builder.view.groups[GroupUid("1:1")]
    handing = replace(group, handoff=Handoff(ShardUid(1), ShardUid(2), 2, 1, NOW))
    assert rules.replicas(records(builder.with_records(handing)), runs) == [5]


def test_an_only_copy_dies_only_while_nothing_of_it_moves() -> None:
    assert rules.only_copies(records(databases()), PROMISES, runs) == [3]
    assert rules.only_copies(records(databases(), moving("2:1")), PROMISES, runs) == []


def test_a_primary_dies_only_if_it_is_counted_separately_and_an_heir_is_in_sync() -> None:
    builder = databases()
    assert rules.primaries(records(builder), PROMISES, runs) == [4]
    assert rules.primaries(records(builder), PROMISES, all_but(5)) == []
    behind = builder.with_records(replace(builder.view.shards[ShardUid(5)], in_sync_generation=-1))
    assert rules.primaries(records(behind), PROMISES, runs) == []
    assert rules.primaries(records(builder, moving("3:1")), PROMISES, runs) == []
