"""Which members of the etcd are asked, in which order, what is kept of them, and which etcd is believed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.store_member import StoreMember
from shardwright.store.endpoints import (
    LEARNED_MAX,
    EndpointBook,
    Learned,
    asked,
    learned_text,
    member_urls,
    next_endpoint,
    read_learned,
    usable,
    with_learned,
)
from shardwright.store.protocol import StoreReplaced
from shardwright.store.settings import EtcdSettings, parsed_endpoint

A, B, C, D = (f"https://10.0.0.{n}:2379" for n in (1, 2, 3, 4))
FILES = Path("ca.pem"), Path("store.pem"), Path("node-key.pem")
SETTINGS = EtcdSettings((A,), *FILES)


def member(number: int, *urls: str, is_learner: bool = False) -> StoreMember:
    return StoreMember(number, f"node-{number}" if urls else "", (f"https://10.0.0.{number}:2380",), urls, is_learner)


# -- which list from which members -------------------------------------------------------------------------------------


def test_the_own_member_is_first_and_the_others_follow() -> None:
    members = (member(1, A), member(2, B), member(3, C))
    assert member_urls(members, ()) == (A, B, C), "a node without a member"
    assert member_urls(members, (B,)) == (B, A, C)
    assert member_urls(tuple(reversed(members)), (C,)) == (C, A, B), "etcd's own order does not matter"


def test_learners_are_last_even_the_own_one() -> None:
    members = (member(1, A, is_learner=True), member(2, B), member(3, C))
    assert member_urls(members, (A,)) == (B, C, A)
    assert member_urls((*members, member(4, D, is_learner=True)), (D,)) == (B, C, D, A)


def test_a_member_that_has_not_started_or_was_removed_is_not_asked() -> None:
    assert member_urls((member(1, A), member(2)), ()) == (A,)
    assert member_urls((member(2, B), member(3, C)), (A,)) == (B, C)


def test_without_a_voter_nothing_is_learned() -> None:
    assert member_urls((), (A,)) == ()
    assert member_urls((member(1), member(2)), ()) == ()
    assert member_urls((member(1), member(2, B, is_learner=True)), ()) == ()
    assert member_urls((member(1, "http://10.0.0.1:2379"),), ()) == ()


def test_every_address_of_a_member_is_asked_once() -> None:
    members = (member(1, A, A + "/", D), member(2, B))
    assert member_urls(members, ()) == (A, B, D)
    many = tuple(member(n, f"https://10.0.1.{n}:2379") for n in range(1, 40))
    assert len(member_urls(many, ())) == LEARNED_MAX


def test_the_configured_ones_are_never_dropped_and_come_last() -> None:
    assert asked((B, C), (A,)) == (B, C, A)
    assert asked((B, A, C), (A,)) == (B, A, C), "once only"
    assert asked((B,), (B + "/", "http://127.0.0.1:1")) == (B, "http://127.0.0.1:1")
    assert asked((), (A, B)) == (A, B)


@pytest.mark.parametrize(
    "text",
    [
        "http://10.0.0.1:2379",
        "ftp://10.0.0.1:2379",
        "https://10.0.0.1",
        "https://10.0.0.1:0",
        "https://10.0.0.1:65536",
        "https://10.0.0.1:x",
        "https://:2379",
        "https://10.0.0.1:2379/a",
        "https://10.0.0.1:2379?a",
        "https://10.0.0.1:2379#a",
        "https://user@10.0.0.1:2379",
        "https://0.0.0.0:2379",
        "https://[::]:2379",
        "https://224.0.0.1:2379",
        "https://[10.0.0.1:2379",
        "https://a b:2379",
        "https://a\x00b:2379",
        "https://a..b:2379",
        "https://-:2379",
        "https://a;b:2379",
        "https://höst:2379",
        f"https://{'a' * 254}:2379",
        "",
    ],
)
def test_what_cannot_be_a_member_is_not_asked(text: str) -> None:
    assert usable(text) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (A, A),
        (A + "/", A),
        ("https://Store-1.Example:2379", "https://store-1.example:2379"),
        ("https://[fd00::1]:2379", "https://[fd00::1]:2379"),
        ("https://127.0.0.1:12379", "https://127.0.0.1:12379"),
    ],
)
def test_an_address_has_one_form(text: str, found: str) -> None:
    assert usable(text) == found


def test_the_next_one_is_asked_in_turn() -> None:
    one, two, three = map(parsed_endpoint, (A, B, C))
    assert next_endpoint((one, two), None) == one
    assert [next_endpoint((one, two, three), left) for left in (one, two, three)] == [two, three, one]
    assert next_endpoint((one, two), three) == one, "it is not asked any more"
    assert next_endpoint((one,), one) == one


# -- what all clients share --------------------------------------------------------------------------------------------


def test_a_book_begins_with_the_settings_and_is_replaced_as_a_whole() -> None:
    book = EndpointBook(SETTINGS)
    assert list(map(str, book.endpoints)) == [A]
    assert book.replace((A, B)) is True
    assert book.replace((A, B)) is False
    assert list(map(str, book.endpoints)) == [A, B]
    for bad in ((), ("http://10.0.0.1:2379",), (A, "http://10.0.0.1:2379"), ("nothing",)):
        with pytest.raises(ValueError, match="endpoint"):
            book.replace(bad)
    assert list(map(str, book.endpoints)) == [A, B]


def test_settings_that_cannot_be_used_make_no_book() -> None:
    with pytest.raises(Permanent) as refused:
        EndpointBook(EtcdSettings((A,)))
    assert refused.value.code is Code.STORE_SETTINGS_INVALID


def test_a_book_believes_the_etcd_of_the_settings_or_the_first_that_answers() -> None:
    free, bound = EndpointBook(SETTINGS), EndpointBook(replace(SETTINGS, cluster_id="7"))
    free.identity.check_answer({"header": {"cluster_id": "8"}})
    assert free.identity.cluster_id == "8"
    with pytest.raises(StoreReplaced):
        bound.identity.check_answer({"header": {"cluster_id": "8"}})
    assert bound.identity.cluster_id == "7"


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_what_was_learned_is_asked_first_at_the_next_start() -> None:
    learned = Learned("7", (B, C))
    assert with_learned(SETTINGS, learned) == replace(SETTINGS, endpoints=(B, C, A), cluster_id="7")
    assert with_learned(SETTINGS, None) == SETTINGS
    assert read_learned(learned_text(learned)) == learned


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"{",
        b"[" * 100_000,
        b"[]",
        b"{}",
        json.dumps({"cluster_id": "7"}).encode(),
        json.dumps({"cluster_id": "7", "endpoints": []}).encode(),
        json.dumps({"cluster_id": "7", "endpoints": A}).encode(),
        json.dumps({"cluster_id": "7", "endpoints": [A, 1]}).encode(),
        json.dumps({"cluster_id": "7", "endpoints": [A, "http://10.0.0.2:2379"]}).encode(),
        json.dumps({"cluster_id": "7", "endpoints": [A] * (LEARNED_MAX + 1)}).encode(),
        json.dumps({"cluster_id": 7, "endpoints": [A]}).encode(),
        json.dumps({"cluster_id": "", "endpoints": [A]}).encode(),
        json.dumps({"cluster_id": "0", "endpoints": [A]}).encode(),
        json.dumps({"cluster_id": "-7", "endpoints": [A]}).encode(),
        json.dumps({"cluster_id": "9" * 5000, "endpoints": [A]}).encode(),
        json.dumps({"cluster_id": str(2**64), "endpoints": [A]}).encode(),
        learned_text(Learned("7", (A, B)))[:-10],
    ],
)
def test_a_broken_file_is_not_believed(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"it is not|cluster_id|endpoints|https"):
        read_learned(content)
