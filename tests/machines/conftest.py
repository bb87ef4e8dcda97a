"""The cluster of the tests on machines that need nothing special of it."""

from collections.abc import Iterator

import pytest

from demo.machines.cluster import MachinesCluster
from testkit.etcd import require_etcd


@pytest.fixture(scope="module")
def cluster() -> Iterator[MachinesCluster]:
    """Three machines, one cluster on etcd."""
    require_etcd()
    with MachinesCluster(print) as made:
        yield made
