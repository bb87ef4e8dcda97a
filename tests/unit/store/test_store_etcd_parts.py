"""The pure parts of the store on etcd: settings, messages of a watch, refusals, versions and identity."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from shardwright.model.codes import Code
from shardwright.model.ids import LeaseId
from shardwright.store import etcd_json
from shardwright.store.etcd_errors import Refused, error_of, is_of_the_member
from shardwright.store.etcd_identity import EtcdIdentity, is_suitable
from shardwright.store.etcd_watch import WatchMessages
from shardwright.store.protocol import (
    Compacted,
    CreatedAt,
    DeleteKey,
    KeyChange,
    KeyValue,
    ModifiedAt,
    PutKey,
    StoreFull,
    StoreReplaced,
    StoreUnavailable,
    TooLarge,
    Transaction,
    WatchBatch,
)
from shardwright.store.settings import EtcdEndpoint, EtcdSettings

FILE = Path("file.pem")


def text(value: str) -> str:
    return b64encode(value.encode()).decode()


def put(revision: int, key: str, value: str = "") -> dict[str, Any]:
    """An event as etcd sends it: what is empty or zero is left out."""
    item = {"key": text(f"shardwright/{key}"), "create_revision": "2", "mod_revision": str(revision)}
    return {"kv": {**item, "value": text(value)} if value else item}


def deletion(revision: int, key: str) -> dict[str, Any]:
    return {"type": "DELETE", "kv": {"key": text(f"shardwright/{key}"), "mod_revision": str(revision)}}


def changed(revision: int, key: str, value: bytes = b"") -> KeyChange:
    return KeyChange(key, KeyValue(key, value, 2, revision))


# -- settings ----------------------------------------------------------------------------------------------------------


def test_endpoints_are_parsed() -> None:
    settings = EtcdSettings(("https://10.0.0.1:12379", "https://etcd-2", "https://[fd00::1]:1/"), FILE, FILE, FILE)
    assert settings.parsed() == (
        EtcdEndpoint("10.0.0.1", 12379, True),
        EtcdEndpoint("etcd-2", 2379, True),
        EtcdEndpoint("fd00::1", 1, True),
    )
    assert [str(endpoint) for endpoint in settings.parsed()] == [
        "https://10.0.0.1:12379",
        "https://etcd-2:2379",
        "https://[fd00::1]:1",
    ]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (EtcdSettings(()), "no endpoint"),
        (EtcdSettings(("10.0.0.1:2379",)), "https://host:port"),
        (EtcdSettings(("http://a/path",)), "https://host:port"),
        (EtcdSettings(("http://root:x@a:2379",)), "has no user"),
        (EtcdSettings(("http://a:99999",)), "[Pp]ort"),
        (EtcdSettings(("http://a", "https://b"), FILE, FILE, FILE), "all endpoints"),
        (EtcdSettings(("https://a",)), "need the authority"),
        (EtcdSettings(("https://a",), FILE, FILE), "need the authority"),
        (EtcdSettings(("http://a",), FILE, FILE, FILE), "endpoints are http"),
    ],
)
def test_unusable_settings_are_refused(settings: EtcdSettings, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        settings.parsed()


# -- requests ----------------------------------------------------------------------------------------------------------


def test_a_transaction_in_etcds_terms() -> None:
    transaction = Transaction(
        (ModifiedAt("a", 7), CreatedAt("b", 0)), (PutKey("a", b"x", LeaseId(2**62)), PutKey("b", b""), DeleteKey("c"))
    )
    assert etcd_json.transaction_request(transaction) == {
        "compare": [
            {"key": text("shardwright/a"), "result": "EQUAL", "target": "MOD", "mod_revision": "7"},
            {"key": text("shardwright/b"), "result": "EQUAL", "target": "CREATE", "create_revision": "0"},
        ],
        "success": [
            {"request_put": {"key": text("shardwright/a"), "value": text("x"), "lease": str(2**62)}},
            {"request_put": {"key": text("shardwright/b"), "value": "", "lease": "0"}},
            {"request_delete_range": {"key": text("shardwright/c")}},
        ],
    }


def test_all_keys_are_below_the_clusters_root() -> None:
    asked = etcd_json.range_request("", "", limit=1, revision=0)
    assert (asked["key"], asked["range_end"]) == (text("shardwright/"), text("shardwright0"))
    before, after = etcd_json.foreign_requests()
    assert (before["key"], before["range_end"]) == (text("\0"), text("shardwright/"))
    assert (after["key"], after["range_end"]) == (text("shardwright0"), text("\0"))


# -- a watch -----------------------------------------------------------------------------------------------------------


def test_revisions_that_share_a_message_become_batches() -> None:
    watch = WatchMessages(from_revision=5, sees_all=True)
    assert watch.take({"created": True}) == []
    # Changes of one revision come in the order of their keys, whatever the transaction's order was.
    assert watch.take({"events": [put(5, "b", "1"), deletion(5, "a"), put(6, "b")]}) == [
        WatchBatch(5, (KeyChange("a", None), changed(5, "b", b"1"))),
        WatchBatch(6, (changed(6, "b"),)),
    ]


def test_a_revision_that_is_split_over_messages_is_joined() -> None:
    watch = WatchMessages(from_revision=5, sees_all=True)
    assert watch.take({"fragment": True, "events": [put(5, "a"), put(6, "a")]}) == [WatchBatch(5, (changed(5, "a"),))]
    assert watch.take({"fragment": True, "events": [put(6, "b")]}) == []
    assert watch.take({"events": [put(6, "c"), put(7, "a")]}) == [
        WatchBatch(6, (changed(6, "a"), changed(6, "b"), changed(6, "c"))),
        WatchBatch(7, (changed(7, "a"),)),
    ]


def test_a_watch_asks_one_revision_earlier_and_drops_it() -> None:
    watch = WatchMessages(from_revision=5, sees_all=True)
    assert watch.asked_from == 4
    assert watch.take({"events": [put(4, "a"), put(5, "a")]}) == [WatchBatch(5, (changed(5, "a"),))]
    # 0 would mean "from now on" to etcd.
    assert [WatchMessages(from_revision=n, sees_all=True).asked_from for n in (0, 1, 2, 3)] == [1, 1, 1, 2]


def test_a_watch_of_all_keys_that_skips_a_revision_has_lost_it() -> None:
    watch = WatchMessages(from_revision=5, sees_all=True)
    assert watch.take({"events": [put(5, "a")]}) == [WatchBatch(5, (changed(5, "a"),))]
    with pytest.raises(Compacted, match="6 to 7"):
        watch.take({"events": [put(8, "a")]})
    some = WatchMessages(from_revision=5, sees_all=False)
    assert some.take({"events": [put(8, "a")]}) == [WatchBatch(8, (changed(8, "a"),))]


def test_a_revision_that_exists_and_does_not_come_is_lost() -> None:
    watch = WatchMessages(from_revision=5, sees_all=True)
    watch.note_silence(4)
    watch.note_silence(5)
    assert watch.take({"events": [put(5, "a")]}) == [WatchBatch(5, (changed(5, "a"),))]
    watch.note_silence(6)
    with pytest.raises(Compacted, match="6 to 6"):
        watch.note_silence(6)
    some = WatchMessages(from_revision=5, sees_all=False)
    for _ in range(3):
        some.note_silence(9)


def test_a_watch_that_etcd_ends() -> None:
    with pytest.raises(Compacted, match="compacted at 9"):
        WatchMessages(from_revision=5, sees_all=True).take({"canceled": True, "compact_revision": "9"})
    with pytest.raises(StoreUnavailable, match="because"):
        WatchMessages(from_revision=5, sees_all=True).take({"canceled": True, "cancel_reason": "because"})


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said", "kind", "error_code", "of_the_member"),
    [
        (14, "etcdserver: no leader", StoreUnavailable, Code.STORE_UNAVAILABLE, True),
        (14, "etcdserver: request timed out", StoreUnavailable, Code.STORE_UNAVAILABLE, True),
        (4, "context deadline exceeded", StoreUnavailable, Code.STORE_UNAVAILABLE, True),
        (8, "etcdserver: mvcc: database space exceeded", StoreFull, Code.STORE_FULL, False),
        (8, "etcdserver: too many requests", StoreUnavailable, Code.STORE_UNAVAILABLE, True),
        (3, "etcdserver: request is too large", TooLarge, Code.STORE_TRANSACTION_TOO_LARGE, False),
        (14, "connection closed", StoreUnavailable, Code.STORE_CERTIFICATE_UNUSABLE, True),
        (7, "etcdserver: permission denied", StoreUnavailable, Code.STORE_UNAVAILABLE, False),
    ],
)
def test_a_refusal_has_one_meaning(code: int, said: str, kind: type, error_code: Code, of_the_member: bool) -> None:
    error = error_of(Refused(code, said))
    assert (type(error), error.code) == (kind, error_code)
    assert said in error.text
    assert is_of_the_member(code, said) is of_the_member


def test_a_full_store_names_its_quota_and_the_remedy() -> None:
    error = error_of(Refused(8, "etcdserver: mvcc: database space exceeded"))
    assert "--quota-backend-bytes" in error.text
    assert "defrag" in error.code.remedy
    assert "alarm disarm" in error.code.remedy


# -- identity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "suitable"),
    [
        ("3.4.22", False),
        ("3.4.23", True),
        ("3.4.41", True),
        ("3.5.0", False),
        ("3.5.2", False),
        ("3.5.3", True),
        ("3.5.27", True),
        ("3.6.1", False),
        ("3.3.99", False),
        ("4.4.30", False),
        ("", False),
        ("unknown", False),
    ],
)
def test_only_proven_versions_are_suitable(version: str, suitable: bool) -> None:
    assert is_suitable(version) is suitable


def test_another_etcd_than_the_first_is_noticed() -> None:
    identity = EtcdIdentity()
    identity.check_member({"version": "3.4.23", "header": {"cluster_id": "12"}})
    identity.check_answer({"header": {"cluster_id": "12", "revision": "3"}})
    identity.check_answer({"header": {"revision": "3"}})
    assert identity.cluster_id == "12"
    with pytest.raises(StoreReplaced, match="restored or replaced"):
        identity.check_answer({"header": {"cluster_id": "13"}})
    with pytest.raises(StoreReplaced):
        identity.check_member({"version": "3.4.23", "header": {"cluster_id": "13"}})
    with pytest.raises(StoreUnavailable, match=r"3\.5\.1"):
        identity.check_member({"version": "3.5.1", "header": {"cluster_id": "12"}})
