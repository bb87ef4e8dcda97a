"""What a machine is told that has the files of a node and is to join."""

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from shardwright.errors import Rejected
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.node.init import Founded
from shardwright.node.join import judged
from shardwright.node.recorded import is_recorded
from shardwright.node.settings import Directories, NodeSettings, StorePlace
from testkit.certificates import members


def settings_in(directory: Path, address: str) -> NodeSettings:
    directories = Directories(*(directory / name for name in ("etc", "state", "run", "log")))
    return NodeSettings(NodeUid(3), (ip_address(address),), StorePlace((f"http://{address}:2379",)), directories=directories)


def test_a_removed_node_is_told_to_leave_before_it_joins(tmp_path: Path) -> None:
    settings, authority = settings_in(tmp_path, "127.0.0.1"), members().signer.authority
    found = Founded(settings, authority, was_member=True, has_member=True, is_pending=False)
    with pytest.raises(Rejected, match="node 3, which was removed") as caught:
        judged(found, False)
    assert caught.value.code == Code.NODE_NOT_RECORDED
    assert "node leave" in caught.value.remedy
    assert (judged(found, True).was_member, judged(found, True).is_sure) == (True, True)
    assert (judged(found, None).was_member, judged(found, None).is_sure) == (True, False)


def test_a_store_that_does_not_answer_says_nothing_of_the_node(tmp_path: Path, loopback_base: Callable[[], str]) -> None:
    assert asyncio.run(is_recorded(settings_in(tmp_path, loopback_base()))) is None
