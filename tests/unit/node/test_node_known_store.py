"""Where a node's programs look for the store at their start."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from shardwright.model.ids import NodeUid
from shardwright.node.founding import Place, members_store, settings_of
from shardwright.node.init import STORE_FILES
from shardwright.node.known_store import forget_learned, known_store, learning_of
from shardwright.node.places import store_settings
from shardwright.node.settings import Directories, NodeSettings, StorePlace
from shardwright.store.endpoints import Learned

FIRST, SECOND = "https://10.0.0.1:2379", "https://10.0.0.2:2379"


def place_in(directory: Path) -> Place:
    own = Directories(directory / "etc", directory / "lib", directory / "run", directory / "log")
    own.state.mkdir()
    return Place((ip_address("10.0.0.2"), ip_address("fd00::2")), directories=own)


@pytest.fixture
def member(tmp_path: Path) -> NodeSettings:
    place = place_in(tmp_path)
    return settings_of(NodeUid(2), place, members_store(place, (FIRST,)))


def test_a_node_follows_the_members_of_its_own_store(member: NodeSettings) -> None:
    learning = learning_of(member)
    assert learning is not None
    assert learning.own == (SECOND, "https://[fd00::2]:2379")
    assert learning.configured == (FIRST,)
    assert learning.file.path == member.directories.state / "store-endpoints.json"


def test_what_was_learned_comes_before_the_settings(member: NodeSettings) -> None:
    assert known_store(member) == store_settings(member.store), "nothing was learned yet"
    learning = learning_of(member)
    assert learning is not None
    learning.file.write(Learned("7", (SECOND,)))
    found = known_store(member)
    assert (found.endpoints, found.cluster_id) == ((SECOND, FIRST), "7")
    assert (found.ca, found.cert, found.key) == (member.store.authority, member.store.certificate, member.store.key)
    forget_learned(member)
    assert known_store(member) == store_settings(member.store)


def test_a_broken_file_is_ignored(member: NodeSettings) -> None:
    member.directories.store_endpoints.write_text('{"cluster_id": "7", "endpoints": ["http://10.0.0.9:2379"]}')
    assert known_store(member) == store_settings(member.store)


def test_an_etcd_of_the_operators_is_asked_where_the_settings_say(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    files = (place.directories.configuration / name for name in STORE_FILES)
    for store in (StorePlace((FIRST,), *files), StorePlace(("http://127.0.0.1:2379",))):
        settings = settings_of(NodeUid(2), place, store)
        assert learning_of(settings) is None
        settings.directories.store_endpoints.write_text('{"cluster_id": "7", "endpoints": ["https://10.0.0.9:2379"]}')
        assert known_store(settings) == store_settings(store)
        forget_learned(settings)
