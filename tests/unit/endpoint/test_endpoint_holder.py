"""Which sockets in the kernel's tables prevent a listener, and which process holds one."""

import os
import socket
from collections.abc import Callable

import pytest

from shardwright.endpoint.holder import holder_of, sockets_at

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
REST = "00000000:00000000 00:00000000 00000000     0        0"


def line(local: str, state: str, inode: int) -> str:
    return f"   0: {local} 00000000:0000 {state} {REST} {inode} 1 0000000000000000 100 0 0 10 0\n"


@pytest.mark.parametrize(
    ("local", "state", "is_held"),
    [
        ("0100007F:2EE0", "0A", True),
        ("00000000:2EE0", "0A", True),
        ("0000000000000000FFFF00000100007F:2EE0", "0A", True),
        ("00000000000000000000000000000000:2EE0", "0A", True),
        ("0100007F:2EE0", "01", True),
        ("0100007F:2EE0", "06", False),
        ("0200007F:2EE0", "0A", False),
        ("0100007F:2EE1", "0A", False),
    ],
)
def test_conflicting_sockets(local: str, state: str, is_held: bool) -> None:
    assert sockets_at(HEAD + line(local, state, 77), "127.0.0.1", 12000) == (["77"] if is_held else [])


def test_a_listener_is_named_before_its_connections() -> None:
    table = HEAD + line("0100007F:2EE0", "01", 1) + line("0100007F:2EE0", "0A", 2)
    assert sockets_at(table, "127.0.0.1", 12000) == ["2"]


def test_this_process_is_found(loopback_base: Callable[[], str]) -> None:
    address = loopback_base()
    with socket.create_server((address, 0)) as listener:
        port = listener.getsockname()[1]
        assert holder_of(address, port).startswith(f"process {os.getpid()} (")
    assert holder_of(address, port) == ""
