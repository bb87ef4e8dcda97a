"""A survey after a restore: the records follow what a machine has, and nothing that was made since is lost."""

from dataclasses import replace

from shardwright.model.cluster import Restored
from shardwright.model.database import Shard, ShardWanted, SlotGroup
from shardwright.model.ids import DatabaseUid, GroupUid, NodeUid, ShardUid
from shardwright.model.view import Delete, Put
from shardwright.reconcile.survey import FoundShard, Survey, decide_survey
from testkit.builders import NOW

NODE, DATABASE, GROUP = NodeUid(1), DatabaseUid(1), GroupUid("1:1")
SHARD = Shard(ShardUid(3), DATABASE, GROUP, NODE, 20_303, NOW, incarnation=2)
OPEN = SlotGroup(GROUP, DATABASE, 1, primary=SHARD.uid)
RESTORED = Restored("5eed", NOW, NOW, next_shard=10)
SAME = FoundShard(SHARD.uid, 2, 20_303, DATABASE, GROUP)


def survey(*found: FoundShard, shards: tuple[Shard, ...] = (SHARD,), group: SlotGroup = OPEN) -> Survey:
    return decide_survey(NODE, found, shards, {GROUP: group}, RESTORED, NOW)


def test_what_is_as_on_record_changes_nothing() -> None:
    assert survey(SAME) == Survey((), (), (), ())


def test_a_server_that_was_started_again_is_adopted() -> None:
    newer = replace(SAME, incarnation=4, port=20_305)
    assert survey(newer).writes == (Put(replace(SHARD, incarnation=4, port=20_305)),)
    stopped = replace(SHARD, wanted=ShardWanted.STOPPED)
    (write,) = survey(newer, shards=(stopped,)).writes
    assert write.record == replace(SHARD, incarnation=4, port=20_305), "it was taken back since"


def test_a_server_whose_port_is_unknown_is_not_adopted_and_not_replaced() -> None:
    assert survey(replace(SAME, incarnation=4, port=0)) == Survey((), (), (), ())


def test_a_shard_that_is_to_go_goes() -> None:
    gone = replace(SHARD, wanted=ShardWanted.GONE)
    assert survey(replace(SAME, incarnation=4), shards=(gone,)).writes == ()
    assert survey(shards=(gone,)).writes == ()


def test_a_copy_that_was_made_since_gets_a_record() -> None:
    made = FoundShard(ShardUid(12), 1, 21_212, DATABASE, GROUP)
    result = survey(SAME, made)
    assert result.writes == (Put(Shard(ShardUid(12), DATABASE, GROUP, NODE, 21_212, NOW)),)
    assert (result.adopted, result.left_alone) == ((12,), ())


def test_what_no_record_explains_is_left_alone() -> None:
    uid = ShardUid(12)
    for unknown in (
        FoundShard(uid, 1, 21_212, DatabaseUid(7), GroupUid("7:1")),
        FoundShard(uid, 1, 21_212, DatabaseUid(7), GROUP),
        FoundShard(uid, 1, 21_212),
        FoundShard(uid, 1, 0, DATABASE, GROUP),
        FoundShard(uid, 0, 0),
    ):
        assert survey(SAME, unknown) == Survey((), (uid,), (), ())


def test_a_number_that_is_anothers_on_record_is_left_alone() -> None:
    elsewhere = replace(SHARD, uid=ShardUid(4), node_uid=NodeUid(2))
    result = survey(SAME, FoundShard(ShardUid(4), 9, 20_404, DATABASE, GROUP), shards=(SHARD, elsewhere))
    assert result == Survey((), (ShardUid(4),), (), ())


def test_what_was_deleted_before_the_backup_is_the_agents() -> None:
    assert survey(SAME, FoundShard(ShardUid(5), 1, 20_505, DATABASE, GROUP)) == Survey((), (), (), ())


def test_a_copy_that_is_not_here_has_no_record() -> None:
    for shard in (SHARD, replace(SHARD, wanted=ShardWanted.STOPPED)):
        result = survey(shards=(shard,))
        assert (result.writes, result.missing) == ((Delete(shard),), (SHARD.uid,))
    elsewhere = replace(SHARD, node_uid=NodeUid(2))
    assert survey(shards=(elsewhere,)).writes == (), "another node says that"


def test_a_shard_that_was_never_started_still_is() -> None:
    assert survey(group=replace(OPEN, primary=None)).writes == ()
