"""How virtual addresses are shown."""

from shardwright.cli.virtual_address import addresses_text

ONE = {"addr": "10.0.0.9", "prefix_length": 24, "interface": "eth0", "status": "active", "able_nodes": [1, 2]}


def test_the_table_says_who_has_it_and_who_can() -> None:
    none = {"addr": "10.0.0.10", "prefix_length": 32, "interface": "eth1", "bdb_uid": 1, "status": "pending"}
    assert addresses_text([ONE | {"bdb_uid": None, "node_uid": 2}, none]).splitlines() == [
        "ADDRESS       INTERFACE  DB    NODE    STATUS   CAN HAVE IT",
        "10.0.0.9/24   eth0       all   node:2  active   node:1, node:2",
        "10.0.0.10/32  eth1       db:1  none    pending  none",
    ]


def test_there_may_be_none() -> None:
    assert addresses_text([]) == "There are no virtual addresses."
