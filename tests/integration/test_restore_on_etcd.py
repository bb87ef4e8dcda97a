"""A cluster's state is backed up and restored after its store has lost its quorum: real files and real members of the store.

No daemon runs: ``wait_for_store`` is what one does first.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shardwright.backup_files import load_backup
from shardwright.cli.failure import Exit
from shardwright.cli.main import build
from shardwright.errors import Permanent, Rejected
from shardwright.key_file import read_sealing
from shardwright.machine.lock import try_lock
from shardwright.machine.processes import end
from shardwright.model.cluster import Restored
from shardwright.model.codes import Code
from shardwright.model.store_member import StoreRole
from shardwright.node import quorum
from shardwright.node.backing_up import back_up, backups_of
from shardwright.node.daemon_settings import restoring_file
from shardwright.node.etcd_config import NAME as ETCD_NAME
from shardwright.node.etcd_config import client_url, peer_url
from shardwright.node.follow import follow
from shardwright.node.places import daemon_lock
from shardwright.node.restore import restore
from shardwright.node.settings import NodeSettings
from shardwright.node.settings_file import load_settings, write_settings
from shardwright.node.store_wait import wait_for_store
from shardwright.store import keys, records
from shardwright.store.etcd import EtcdStore
from shardwright.store.open import open_members
from shardwright.store.protocol import PutKey, StoreReplaced, StoreUnavailable, Transaction
from shardwright.store.raising import TERMS
from testkit.deadlines import until
from tests.integration.founding_harness import (
    Etcds,
    First,
    MembersByGateway,
    NodeApi,
    join_in,
    running_first,
    store_of,
)
from tests.integration.restore_harness import (
    NOW,
    as_daemon,
    etcd_of,
    examined,
    lose,
    members_of,
    node_in,
    said,
    store_dir,
    whole_of,
)

pytestmark = pytest.mark.server


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> Iterator[First]:
    monkeypatch.setattr(quorum, "ASKED_S", 3.0)
    with running_first() as running:
        yield running


def test_a_backup_is_of_one_revision_and_private(first: First) -> None:
    written = back_up(first.settings, None, now=NOW)
    assert written.path.parent == first.settings.directories.backups
    assert written.path.stat().st_mode & 0o777 == 0o600
    whole, _ = whole_of(first.settings)
    backup = load_backup(written.path)
    assert backup.items == {key: item.value for key, item in whole.items.items()}
    assert (backup.header.revision, backup.header.cluster) == (whole.revision, "cluster.local")
    assert b"argon2" not in written.path.read_bytes()
    elsewhere = first.folder / "my.backup"
    back_up(first.settings, elsewhere, now=NOW)
    assert load_backup(elsewhere).items == backup.items
    (first.settings.directories.backups / "cluster-x.backup").write_bytes(elsewhere.read_bytes()[:-9])
    assert [one.flaw for one in backups_of(first.settings)] == ["", Code.BACKUP_DAMAGED]


def test_a_store_with_its_quorum_is_not_restored(first: First) -> None:
    written = back_up(first.settings, None, now=NOW)
    before, _ = whole_of(first.settings)
    with pytest.raises(Rejected) as refused:
        examined(first.settings, written.path)
    assert refused.value.code == Code.STORE_HAS_QUORUM
    lock = try_lock(daemon_lock(first.settings.directories))
    assert lock is not None
    with pytest.raises(Rejected) as refused:
        examined(first.settings, written.path)
    assert refused.value.code == "node_runs"
    os.close(lock)
    assert whole_of(first.settings)[0].items == before.items


def test_a_store_is_founded_again_from_a_backup(first: First) -> None:
    settings = first.settings
    written = back_up(settings, None, now=NOW)
    before, old_id = whole_of(settings)
    lose(etcd_of(first), data=(settings,))
    found = examined(settings, written.path)
    assert all(not one.has_cluster for one in found.members)
    for _ in range(2):
        restore(found, say=said, now=NOW)  # May be repeated, as after an interruption.
    assert restoring_file(settings.directories).stat().st_mode & 0o777 == 0o600
    first.etcds.start(settings)
    as_daemon(settings)
    after, new_id = whole_of(settings)
    assert new_id != old_id, "daemons of the earlier store must notice"
    assert not restoring_file(settings.directories).exists()
    assert keys.INCOMPLETE_COPY not in after.items
    assert int(after.items[keys.TERM].value) >= TERMS
    assert after.items[keys.CLUSTER_ID].value == before.items[keys.CLUSTER_ID].value
    sealing = read_sealing(settings.directories.cluster_key)
    assert sealing.open("users/00000001", after.items["users/00000001"].value) == sealing.open(
        "users/00000001", before.items["users/00000001"].value
    )
    restored = records.decode(keys.RESTORED, after.items[keys.RESTORED].value)
    assert isinstance(restored, Restored)
    assert restored.uid == found.uid
    node = node_in(after, 1)
    assert (node.awaits_survey, node.store_role) == (False, StoreRole.VOTER), "its daemon has said what runs"
    as_daemon(settings)
    assert whole_of(settings)[0].items == after.items, "the next start changes nothing"


@pytest.mark.proof
def test_a_restore_is_confirmed_by_the_clusters_name(first: First) -> None:
    settings = first.settings
    written = back_up(settings, None, now=NOW)
    lose(etcd_of(first))
    toml = settings.directories.configuration / "node.toml"
    before = toml.read_bytes()
    words = ["cluster", "restore", str(written.path), "--config", str(toml), "--no-start"]
    refused = CliRunner().invoke(build(), words)
    assert (refused.exit_code, "no terminal" in refused.stderr) == (Exit.USAGE, True)
    assert "Databases in it: none." in refused.stdout
    assert (toml.read_bytes(), store_dir(settings).is_dir()) == (before, True), "nothing was changed"
    done = CliRunner().invoke(build(), [*words, "--yes", "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert (shown["restored_on"], shown["running"], len(shown["start"])) == (1, False, 2)
    assert Path(shown["moved_to"]).is_dir()


@pytest.mark.proof
def test_a_restore_writes_into_no_store_with_a_cluster(first: First) -> None:
    settings = first.settings
    written = back_up(settings, None, now=NOW)
    asyncio.run(end(etcd_of(first), 0.0))
    found = examined(settings, written.path)
    restoring_file(settings.directories).write_bytes(found.content)
    first.etcds.start(settings)  # The earlier store is back: the restore was interrupted before it touched anything.
    with pytest.raises(Permanent) as refused:
        as_daemon(settings)
    assert refused.value.code is Code.RESTORE_FILE_UNUSABLE
    assert keys.RESTORED not in whole_of(settings)[0].items


def test_a_backup_of_another_cluster_is_refused(first: First) -> None:
    written = back_up(first.settings, None, now=NOW)
    asyncio.run(end(etcd_of(first), 0.0))
    with Etcds() as etcds:
        other = First(first.folder / "other", first.address(9), etcds)
        asyncio.run(end(etcds._running[0], 0.0))
        with pytest.raises(Rejected) as refused:
            examined(other.settings, written.path)
    assert refused.value.code == Code.BACKUP_OF_ANOTHER_CLUSTER
    key_file = first.settings.directories.cluster_key
    key_file.write_text(f"{'ab' * 32}\n")
    with pytest.raises(Permanent) as missing:
        examined(first.settings, written.path)
    assert missing.value.code is Code.SECRET_KEY_MISSING


def test_another_machine_follows_and_its_member_begins_again(first: First) -> None:
    """Two members, both of which vote; the second one's data survive, and are of no use."""
    with NodeApi(first.settings, MembersByGateway(first.settings)) as api:
        second = join_in(first.folder / "two", first.address(2), api.token()).settings
    own = first.etcds.start(second)
    promote(first.settings, second, first)
    written = back_up(first.settings, None, now=NOW)
    lose(etcd_of(first), data=(first.settings,))
    alone = back_up(second, first.folder / "alone.backup", now=NOW, alone=True)
    assert load_backup(alone.path).items == load_backup(written.path).items, "a member alone still says what it holds"
    endpoint = client_url(first.settings.address, first.settings.ports.store_clients)

    restore(examined(first.settings, alone.path), say=said, now=NOW)
    first.etcds.start(first.settings)
    restored = as_daemon(first.settings)
    assert list(members_of(restored)) == ["node-1"]
    assert node_in(whole_of(restored)[0], 2).awaits_survey

    with pytest.raises(Rejected) as refused:
        follow(second, endpoint, has_program=True, say=said, now=NOW)
    assert refused.value.code == "node_runs", "its member of the earlier store"
    lose(own)
    followed = follow(second, endpoint, has_program=True, say=said, now=NOW)
    assert followed.moved_to is not None
    assert followed.moved_to.is_dir()
    again = follow(second, endpoint, has_program=True, say=said, now=NOW)
    assert again.settings == followed.settings, "it may be repeated"
    assert again.settings.store.endpoints[0] == endpoint
    first.etcds.start(followed.settings)
    as_daemon(followed.settings)
    promote(restored, followed.settings, first)
    after, _ = whole_of(restored)
    assert not node_in(after, 2).awaits_survey
    late = follow(followed.settings, endpoint, has_program=True, say=said, now=NOW)
    assert late.moved_to is None, "its member belongs to the new store"


def test_only_a_restored_store_of_this_cluster_is_followed(first: First) -> None:
    endpoint = client_url(first.settings.address, first.settings.ports.store_clients)
    before = (first.settings.directories.configuration / "node.toml").read_bytes()
    with pytest.raises(Rejected) as refused:
        follow(first.settings, endpoint, has_program=True, say=said, now=NOW)
    assert refused.value.code == Code.STORE_NOT_RESTORED
    assert (first.settings.directories.configuration / "node.toml").read_bytes() == before


def test_an_etcd_of_the_operators_is_left_to_its_own_tools(first: First) -> None:
    written = back_up(first.settings, None, now=NOW)
    own = replace(first.settings, store=replace(first.settings.store, key=first.settings.directories.cluster_key))
    for refuse in (
        lambda: examined(own, written.path),
        lambda: follow(own, own.store.endpoints[0], has_program=True, say=said, now=NOW),
    ):
        with pytest.raises(Rejected) as refused:
            refuse()
        assert refused.value.code == Code.STORE_NOT_RESTORABLE


@pytest.mark.proof
def test_a_wait_after_a_restore_survives_a_member_that_is_late(first: First) -> None:
    """The daemon is started before the store's member, as by the service manager."""
    settings = first.settings
    written = back_up(settings, None, now=NOW)
    lose(etcd_of(first), data=(settings,))
    restore(examined(settings, written.path), say=said, now=NOW)

    async def scenario() -> None:
        waiting = asyncio.ensure_future(
            wait_for_store(
                load_settings(settings.directories.configuration / "node.toml"),
                read_sealing(settings.directories.cluster_key),
                say=said,
            )
        )
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.to_thread(first.etcds.start, settings)
        async with asyncio.timeout(60):
            await waiting

    asyncio.run(scenario())


async def write_until_it_is_refused(store: EtcdStore) -> None:
    """Raises what is not a lost connection."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(StoreUnavailable):
                await store.transact(Transaction((), (PutKey(keys.POLICY, b"{}"),)))
            await asyncio.sleep(0.1)


def promote(settings: NodeSettings, learner: NodeSettings, first: First) -> None:
    """As the leader does, when the member has caught up."""
    url = peer_url(learner)

    async def attempt() -> bool:
        members = open_members(store_of(settings))
        assert members is not None
        try:
            found = next(member for member in await members.members() if url in member.peer_urls)
            return bool(found.name) and await members.promote(found.id)
        finally:
            await members.close()

    until("the learner votes", lambda: asyncio.run(attempt()), seconds=40, state=lambda: first.etcds.state(learner))


@pytest.mark.proof
def test_settings_that_name_the_wrong_store_are_corrected(first: First) -> None:
    """The machine that restores need not be named in its own settings alone."""
    settings = first.settings
    path = settings.directories.configuration / "node.toml"
    more = (*settings.store.endpoints, f"https://{first.address(77)}:2379")
    write_settings(path, replace(settings, store=replace(settings.store, endpoints=more)))
    written = back_up(settings, None, now=NOW)
    lose(etcd_of(first), data=(settings,))
    restore(examined(load_settings(path), written.path), say=said, now=NOW)
    assert load_settings(path).store.endpoints == settings.store.endpoints
    assert "restore-" in (settings.directories.configuration / ETCD_NAME).read_text()


@pytest.mark.proof
def test_a_transaction_of_the_earlier_store_does_not_reach_the_new_one(first: First) -> None:
    settings = first.settings
    written = back_up(settings, None, now=NOW)

    async def scenario() -> None:
        store = await EtcdStore.open(store_of(settings))
        try:
            await asyncio.to_thread(lose, etcd_of(first), data=(settings,))
            found = await asyncio.to_thread(examined, settings, written.path)
            await asyncio.to_thread(restore, found, say=said, now=NOW)
            await asyncio.to_thread(first.etcds.start, settings)
            await asyncio.to_thread(as_daemon, settings)
            with pytest.raises(StoreReplaced):
                await write_until_it_is_refused(store)
        finally:
            await store.close()

    asyncio.run(scenario())
