"""What end-to-end tests share: daemons are killed while others speak to them."""

from pathlib import Path

import pytest

_RESET_SOCKET = r"ignore:Exception ignored in. <ssl\.SSLSocket:pytest.PytestUnraisableExceptionWarning"
"""A peer that is killed between TCP's handshake and TLS's resets the connection, and ``ssl.SSLSocket._create`` of CPython
3.11 then raises without closing what it made: nobody has the socket in hand to close it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(_RESET_SOCKET))
