"""Where a node accepts other nodes."""

from ipaddress import ip_address

from shardwright.model.check import PortUse
from shardwright.model.ids import NodeUid
from shardwright.node.offers import offers_of
from shardwright.node.settings import NodeSettings, Ports, StorePlace

SETTINGS = NodeSettings(
    NodeUid(3),
    (ip_address("10.0.0.3"), ip_address("192.0.2.3")),
    StorePlace(("http://127.0.0.1:2379",)),
    ports=Ports(api=443),
)


def test_a_node_offers_its_own_ports_and_those_of_its_member_of_the_store() -> None:
    own = [(PortUse.API, 443), (PortUse.AGENT, 9444), (PortUse.CONTROL, 9445)]
    store = [(PortUse.STORE, 2379), (PortUse.STORE_MEMBERS, 2380)]
    for runs_member, expected in ((False, own), (True, own + store)):
        offers = offers_of(SETTINGS, runs_member=runs_member)
        assert [(offer.use, offer.port) for offer in offers] == expected
        assert {offer.address for offer in offers} == {"10.0.0.3"}
