"""The settings of a node, for all settings that a daemon can use: what is written is read back; no text does harm."""

from ipaddress import ip_network
from pathlib import Path

from hypothesis import assume, given
from hypothesis import strategies as st

from shardwright.errors import Rejected
from shardwright.model.ids import NodeUid
from shardwright.node.settings import (
    RESERVED_PORTS,
    Address,
    Directories,
    Network,
    NodeSettings,
    Ports,
    StorePlace,
    problems,
)
from shardwright.node.settings_text import parse, render

ADDRESSES = st.ip_addresses().filter(lambda a: not (a.is_unspecified or a.is_multicast or a.is_link_local))
FIRST_PORTS = st.integers(1, RESERVED_PORTS.start - 6) | st.integers(RESERVED_PORTS.stop, 65_530)
PORTS = FIRST_PORTS.flatmap(lambda first: st.permutations(range(first, first + 6))).map(lambda ports: Ports(*ports))
PRINTABLE = st.characters(categories=("L", "N", "P", "S"), exclude_characters="/") | st.just(" ")
NAMES = st.text(PRINTABLE, min_size=1, max_size=5).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: Path("/", *names))
DIRECTORIES = st.lists(PATHS, min_size=4, max_size=4, unique=True).map(lambda paths: Directories(*paths))
HOSTS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{2,5})?", fullmatch=True)
MEMBERS = st.builds("https://{}:{}".format, HOSTS, st.integers(1, 65_535))
STORES = st.builds(
    StorePlace, st.lists(MEMBERS, min_size=1, max_size=5, unique=True).map(tuple), PATHS, PATHS, PATHS
) | st.just(StorePlace(("http://127.0.0.1:2379",)))


def network_of(address: Address, host_bits: int) -> Network:
    return ip_network(f"{address}/{address.max_prefixlen - host_bits}", strict=False)


@st.composite
def usable(draw: st.DrawFn) -> NodeSettings:
    addresses = tuple(draw(st.lists(ADDRESSES, min_size=1, max_size=3, unique=True)))
    host_bits = draw(st.none() | st.integers(0, 32))
    settings = NodeSettings(
        node_uid=NodeUid(draw(st.integers(1, 2**63 - 1))),
        addresses=addresses,
        store=draw(STORES),
        external_address=draw(st.none() | ADDRESSES),
        cluster_network=None if host_bits is None else network_of(addresses[-1], host_bits),
        is_public_network_accepted=draw(st.booleans()) or any(a.is_global for a in addresses),
        ports=draw(PORTS),
        directories=draw(DIRECTORIES),
    )
    assume(not problems(settings))
    return settings


@given(usable())
def test_what_is_rendered_is_read_back(settings: NodeSettings) -> None:
    assert parse(render(settings), name="node.toml") == settings


@given(usable(), st.data())
def test_any_other_text_is_refused_with_a_remedy_or_gives_usable_settings(
    settings: NodeSettings, data: st.DataObject
) -> None:
    text = render(settings)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 12)))
    text = text[:start] + data.draw(st.text(max_size=6)) + text[end:]
    read = outcome(text)
    if isinstance(read, Rejected):
        assert read.text.startswith("node.toml")
        assert read.remedy
    else:
        assert problems(read) == []
        assert parse(render(read), name="node.toml") == read


def outcome(text: str) -> NodeSettings | Rejected:
    try:
        return parse(text, name="node.toml")
    except Rejected as e:
        return e
