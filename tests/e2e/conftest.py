"""Shared by the end-to-end tests: daemons are killed while clients call them."""

from pathlib import Path

import pytest

_RESET_SOCKET = r"ignore:Exception ignored in. <ssl\.SSLSocket:pytest.PytestUnraisableExceptionWarning"
"""A peer that is killed between the handshakes of TCP and TLS resets the connection. Then ``ssl.SSLSocket._create`` of
CPython 3.11 raises without closing its socket, and no caller can close it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(_RESET_SOCKET))
