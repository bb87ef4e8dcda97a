"""A restore that ended after any of its steps: the same command repeats it. Real files, and a real etcd."""

import secrets
from collections.abc import Callable, Iterator

import pytest

from shardwright.machine.files import write_private
from shardwright.node import own_member, quorum
from shardwright.node.backing_up import back_up
from shardwright.node.daemon_settings import restoring_file
from shardwright.node.etcd_config import NAME as ETCD_NAME
from shardwright.node.etcd_config import client_url, member_name, peer_url, render_etcd
from shardwright.node.places import trust_files
from shardwright.node.restore import Examined, restore
from shardwright.node.settings_file import load_settings
from shardwright.store import keys
from tests.integration.founding_harness import First, running_first
from tests.integration.restore_harness import NOW, as_daemon, etcd_of, examined, lose, said, store_dir, whole_of

pytestmark = [pytest.mark.server, pytest.mark.proof]


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> Iterator[First]:
    monkeypatch.setattr(quorum, "ASKED_S", 1.0)
    with running_first() as running:
        yield running


def with_records(found: Examined) -> None:
    write_private(restoring_file(found.settings.directories), found.content)


def with_configuration(found: Examined) -> None:
    with_records(found)
    settings = found.settings
    members = {member_name(settings.node_uid): peer_url(settings)}
    token = secrets.token_hex(8)
    text = render_etcd(settings, trust_files(settings.directories), initial_cluster=members, is_new=True, token=token)
    write_private(settings.directories.configuration / ETCD_NAME, text.encode())


def without_data(found: Examined) -> None:
    with_records(found)
    settings = found.settings
    members = {member_name(settings.node_uid): peer_url(settings)}
    own_member.write_member(settings, members, is_new=True, now=NOW, token=secrets.token_hex(8))


def with_settings(found: Examined) -> None:
    without_data(found)
    settings = found.settings
    own_member.point_at(settings, (client_url(settings.address, settings.ports.store_clients),))


@pytest.mark.parametrize("step", [with_records, with_configuration, without_data, with_settings])
def test_it_is_repeated_after_each_step(first: First, step: Callable[[Examined], None]) -> None:
    settings = first.settings
    written = back_up(settings, None, now=NOW)
    _, old_id = whole_of(settings)
    lose(etcd_of(first))
    toml = settings.directories.configuration / "node.toml"
    step(examined(settings, written.path))
    again = examined(load_settings(toml), written.path)
    restore(again, say=said, now=NOW)
    assert not store_dir(settings).exists()
    first.etcds.start(settings)
    as_daemon(settings)
    after, new_id = whole_of(settings)
    assert new_id != old_id
    assert again.uid.encode() in after.items[keys.RESTORED].value


@pytest.mark.parametrize("step", [with_records, with_configuration])
def test_before_the_data_go_the_earlier_store_is_as_it_was(first: First, step: Callable[[Examined], None]) -> None:
    settings = first.settings
    written = back_up(settings, None, now=NOW)
    before, old_id = whole_of(settings)
    lose(etcd_of(first))
    step(examined(settings, written.path))
    first.etcds.start(settings)
    restoring_file(settings.directories).unlink()  # As the how-to says.
    as_daemon(settings)
    after, new_id = whole_of(settings)
    assert (new_id, after.items) == (old_id, before.items)
