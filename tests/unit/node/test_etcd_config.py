"""The configuration of a member of the store: what it listens at, whom it takes, and how it starts."""

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from shardwright.model.ids import NodeUid
from shardwright.node.etcd_config import client_url, member_name, metrics_url, peer_url, render_etcd
from shardwright.node.founding import Place, first_settings, members_store, settings_of
from shardwright.node.settings import NodeSettings
from shardwright.trust.files import TrustFiles

FILES = TrustFiles(Path("/etc/shardwright"))


def settings(address: str, uid: int = 1) -> NodeSettings:
    place = Place((ip_address(address),))
    return settings_of(NodeUid(uid), place, members_store(place, ("https://10.0.0.1:2379",)))


def values(text: str) -> dict[str, Any]:
    """The few forms of YAML that the file has."""
    found: dict[str, Any] = {}
    table = found
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        key, _, value = line.strip().partition(": ")
        if not line.startswith(" "):
            table = found
        if line.endswith(":"):
            table = found[key.rstrip(":")] = {}
        else:
            table[key] = json.loads(value)
    return found


def test_the_first_member_founds_a_store_and_listens_at_the_nodes_address_only() -> None:
    found = values(
        render_etcd(settings("10.0.0.1"), FILES, initial_cluster={"node-1": "https://10.0.0.1:2380"}, is_new=True)
    )
    listens = {key: value for key, value in found.items() if key.startswith(("listen-", "advertise-", "initial-adv"))}
    assert listens == {
        "listen-client-urls": "https://10.0.0.1:2379",
        "advertise-client-urls": "https://10.0.0.1:2379",
        "listen-peer-urls": "https://10.0.0.1:2380",
        "initial-advertise-peer-urls": "https://10.0.0.1:2380",
        "listen-metrics-urls": "http://127.0.0.1:2381",
    }
    assert (found["initial-cluster"], found["initial-cluster-state"]) == ("node-1=https://10.0.0.1:2380", "new")
    for kind in ("client", "peer"):
        assert found[f"{kind}-transport-security"] == {
            "cert-file": "/etc/shardwright/store.pem",
            "key-file": "/etc/shardwright/node-key.pem",
            "client-cert-auth": True,
            "trusted-ca-file": "/etc/shardwright/ca.pem",
        }
    assert (found["heartbeat-interval"], found["election-timeout"], found["pre-vote"]) == (100, 1000, True)
    assert (found["auto-compaction-mode"], found["auto-compaction-retention"]) == ("revision", "10000")
    assert (found["quota-backend-bytes"], found["experimental-initial-corrupt-check"]) == (2 * 1024**3, True)
    assert found["enable-grpc-gateway"] is True
    assert found["data-dir"] == "/var/lib/shardwright/etcd"


def test_a_further_member_joins_those_that_exist() -> None:
    members = {"node-3": "https://10.0.0.3:2380", "node-1": "https://10.0.0.1:2380"}
    found = values(render_etcd(settings("10.0.0.3", 3), FILES, initial_cluster=members, is_new=False))
    assert found["name"] == member_name(NodeUid(3)) == "node-3"
    assert found["initial-cluster"] == "node-1=https://10.0.0.1:2380,node-3=https://10.0.0.3:2380"
    assert found["initial-cluster-state"] == "existing"


def test_a_member_that_would_not_find_itself_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        render_etcd(settings("10.0.0.3", 3), FILES, initial_cluster={"node-1": "https://10.0.0.1:2380"}, is_new=False)


def test_addresses_of_both_families() -> None:
    assert client_url(ip_address("fd00::1"), 2379) == "https://[fd00::1]:2379"
    assert peer_url(settings("fd00::1")) == "https://[fd00::1]:2380"
    assert metrics_url(settings("fd00::1")) == "http://127.0.0.1:2381"
    assert metrics_url(settings("127.3.2.1")) == "http://127.3.2.1:2381", "nodes of one machine share no port"
    assert metrics_url(settings("::1")) == "http://[::1]:2381"


def test_the_first_node_reaches_its_own_member() -> None:
    assert first_settings(Place((ip_address("10.0.0.1"),)), None).store.endpoints == ("https://10.0.0.1:2379",)
