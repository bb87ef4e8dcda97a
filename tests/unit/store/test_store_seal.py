"""Sealed values: what is sealed, what opens, and what the errors do not say."""

import itertools
import traceback
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.errors import Permanent, Transient
from shardwright.model.account import User
from shardwright.model.codes import Code
from shardwright.model.database import Database, ServerSecrets
from shardwright.model.trust import JoinToken
from shardwright.store import keys, records
from shardwright.store.protocol import KeyValue
from shardwright.store.seal import (
    IN_CLEAR,
    KEY_BYTES,
    MAGIC,
    SEALED,
    ClusterKey,
    Sealing,
    is_as_wanted,
    is_sealed,
    keys_of,
    must_be_sealed,
    text_of,
    to_seal_again,
    uid_in,
)

OLD, NEW = ClusterKey.of(bytes(KEY_BYTES)), ClusterKey.of(bytes(range(KEY_BYTES)))
SECRET = b'{"application":"hunter2"}'
PLACE = "secrets/00000001"


def counted() -> Callable[[int], bytes]:
    numbers = itertools.count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def sealing(*found: ClusterKey) -> Sealing:
    return Sealing(found, counted())


def parts(kind: Any) -> Iterator[Any]:
    """A type and all types in it."""
    yield kind
    for argument in get_args(kind):
        yield from parts(argument)


def hidden_fields(kind: Any, seen: set[Any]) -> Iterator[str]:
    """The fields of a record, and of the records in it, that its text hides."""
    for part in parts(kind):
        if part in seen or not (isinstance(part, type) and is_dataclass(part)):
            continue
        seen.add(part)
        hints = get_type_hints(part)
        for field in fields(part):
            if not field.repr:
                yield f"{part.__name__}.{field.name}"
            yield from hidden_fields(hints[field.name], seen)


def test_a_sealed_value_opens_and_shows_nothing() -> None:
    mine = sealing(NEW)
    stored = mine.seal(PLACE, SECRET)
    assert is_sealed(stored)
    assert b"hunter2" not in stored
    assert mine.open(PLACE, stored) == SECRET
    assert len(stored) == len(MAGIC) + 8 + 12 + len(SECRET) + 16
    assert sealing(OLD, NEW).open(PLACE, stored) == SECRET, "any of its keys opens"


@given(st.binary(max_size=200), st.text(max_size=10))
def test_every_value_of_a_secret_opens_again(value: bytes, rest: str) -> None:
    mine = sealing(NEW)
    key = f"databases/{rest}"
    assert mine.open(key, mine.seal(key, value)) == value


def test_each_seal_has_a_nonce_of_its_own() -> None:
    mine = sealing(NEW)
    assert mine.seal(PLACE, SECRET) != mine.seal(PLACE, SECRET)
    assert sealing(NEW).seal(PLACE, SECRET) == sealing(NEW).seal(PLACE, SECRET), "randomness is an argument"


def test_a_value_that_was_moved_to_another_record_does_not_open() -> None:
    mine = sealing(NEW)
    stored = mine.seal(PLACE, SECRET)
    with pytest.raises(Permanent) as refused:
        mine.open("secrets/00000002", stored)
    assert refused.value.code == Code.SECRET_DAMAGED
    assert "secrets/00000002" in refused.value.text


def test_no_changed_byte_opens() -> None:
    mine = sealing(NEW)
    stored = mine.seal(PLACE, SECRET)
    for at in range(len(MAGIC), len(stored)):
        damaged = stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]
        with pytest.raises(Permanent) as refused:
            mine.open(PLACE, damaged)
        assert refused.value.code in (Code.SECRET_DAMAGED, Code.SECRET_KEY_MISSING)
    for size in range(len(MAGIC), len(stored)):
        with pytest.raises(Permanent) as refused:
            mine.open(PLACE, stored[:size])
        assert refused.value.code == Code.SECRET_DAMAGED


@pytest.mark.parametrize("other", [sealing(OLD), IN_CLEAR])
def test_a_missing_key_is_named_with_a_remedy_and_without_the_content(other: Sealing) -> None:
    stored = sealing(NEW).seal(PLACE, SECRET)
    for refuse in (other.open, other.check_key):
        with pytest.raises(Permanent) as refused:
            refuse(PLACE, stored)
        assert refused.value.code == Code.SECRET_KEY_MISSING
        for part in (PLACE, NEW.uid, Code.SECRET_KEY_MISSING.remedy):
            assert part in refused.value.text
        said = f"{refused.value!r} {refused.value.__cause__!r} {refused.value.text}"
        assert "hunter2" not in said
        assert NEW.secret.hex() not in said


def test_without_a_key_values_stay_in_clear_and_clear_values_always_open() -> None:
    assert IN_CLEAR.uid is None
    assert IN_CLEAR.seal(PLACE, SECRET) == SECRET
    assert IN_CLEAR.open(PLACE, SECRET) == SECRET
    assert sealing(NEW).open(PLACE, SECRET) == SECRET, "an old store opens"


def test_what_contains_no_secret_is_not_sealed() -> None:
    assert sealing(NEW).seal("nodes/00000001", b"{}") == b"{}"
    assert not must_be_sealed("cluster"), "it must be readable before the key is known"


def test_every_record_with_a_hidden_field_is_sealed() -> None:
    """A field of a record that its text hides is a secret, by the project's rule."""
    hidden = {key: set(hidden_fields(kind, set())) for key, kind in keys._TYPES.items()}
    assert {key for key, names in hidden.items() if names} == SEALED.keys()
    assert set().union(*hidden.values()) == {
        "Database.password",
        "User.password_hash",
        "JoinToken.hash",
        *(f"ServerSecrets.{f.name}" for f in fields(ServerSecrets) if f.name != "database_uid"),
    }
    assert {keys._TYPES[key] for key in SEALED} == {Database, ServerSecrets, User, JoinToken}
    assert isinstance(keys._TYPES["moves/"], UnionType), "unions are looked into"


def test_no_field_that_sounds_secret_is_shown() -> None:
    words = ("password", "secret", "seed", "token", "credential", "private_key")
    harmless = {"User.password_changed_at"}

    def named(kind: Any, seen: set[Any]) -> Iterator[str]:
        for part in parts(kind):
            if part in seen or not (isinstance(part, type) and is_dataclass(part)):
                continue
            seen.add(part)
            hints = get_type_hints(part)
            for field in fields(part):
                if field.repr and any(word in field.name for word in words):
                    yield f"{part.__name__}.{field.name}"
                yield from named(hints[field.name], seen)

    assert {name for kind in keys._TYPES.values() for name in named(kind, set())} == harmless


def test_a_change_of_the_key_seals_exactly_what_is_not_sealed_with_it() -> None:
    old, new = sealing(OLD), sealing(NEW, OLD)
    values = {
        "secrets/00000001": old.seal("secrets/00000001", SECRET),
        "secrets/00000002": new.seal("secrets/00000002", SECRET),
        "databases/00000001": SECRET,
        "nodes/00000001": b"{}",
        "policy": old.seal("secrets/00000009", SECRET),
        "users/00000001": MAGIC,
    }
    items = [KeyValue(key, value, 1, 1) for key, value in values.items()]
    found = to_seal_again(items, NEW.uid)
    assert found == ("secrets/00000001", "databases/00000001", "policy", "users/00000001")
    assert to_seal_again([i for i in items if i.key not in found], NEW.uid) == ()
    for key in ("secrets/00000001", "databases/00000001"):
        again = new.seal(key, new.open(key, values[key]))
        assert to_seal_again([KeyValue(key, again, 1, 1)], NEW.uid) == ()
        assert sealing(NEW).open(key, again) == SECRET, "the old key may be forgotten"


def test_the_keys_change_while_the_sealing_is_used() -> None:
    mine = sealing(OLD)
    stored = mine.seal(PLACE, SECRET)
    with pytest.raises(Transient) as refused:
        mine.seal(PLACE, SECRET, NEW.uid)
    assert refused.value.code == Code.CLUSTER_KEY_AWAITED
    mine.hold((OLD, NEW))
    assert (mine.uid, mine.uids) == (OLD.uid, (OLD.uid, NEW.uid))
    assert uid_in(mine.seal(PLACE, SECRET)) == OLD.uid
    assert uid_in(mine.seal(PLACE, SECRET, NEW.uid)) == NEW.uid
    mine.hold((NEW,))
    with pytest.raises(Permanent):
        mine.open(PLACE, stored)
    for wrong in (lambda: mine.hold(()), lambda: IN_CLEAR.hold((NEW,))):
        with pytest.raises(AssertionError):
            wrong()  # type: ignore[no-untyped-call]
    assert IN_CLEAR.uids == ()


@pytest.mark.parametrize("value", [SECRET, MAGIC, b""])
def test_what_is_not_sealed_or_too_short_names_no_key(value: bytes) -> None:
    assert uid_in(value) is None


def test_without_a_key_nothing_may_be_sealed() -> None:
    assert is_as_wanted(PLACE, SECRET, None)
    assert not is_as_wanted(PLACE, sealing(OLD).seal(PLACE, SECRET), None)


def test_a_key_file_keeps_the_order_of_its_keys() -> None:
    assert keys_of(text_of((NEW, OLD))) == (NEW, OLD)
    assert Sealing(keys_of(text_of((NEW, OLD))), counted()).uid == NEW.uid
    assert NEW.secret.hex() not in repr(NEW)
    assert NEW.uid != OLD.uid


@pytest.mark.parametrize("text", ["", "# nothing\n", "00" * 31, "zz" * 32, f"{'00' * 32}\nhunter2\n"])
def test_a_damaged_key_file_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(Permanent) as refused:
        keys_of(text)
    assert refused.value.code == Code.CLUSTER_KEY_UNUSABLE
    assert "hunter2" not in refused.value.text
    assert "zz" not in refused.value.text


def test_the_form_of_a_sealed_value_is_stable() -> None:
    """Stores of released versions must open: this value was written once and is never made again."""
    stored = bytes.fromhex(
        "007365616c656431af7c9bf86bac5f63000000000000000000000001aef515d2ba28bb8f6f7fa2fc"
        "b88e736f381563f15b24d39a9d323a548cb3a740b8451c3adbf1637738"
    )
    assert sealing(NEW).open(PLACE, stored) == SECRET


@pytest.mark.parametrize(
    "value",
    [
        b'{"uid": 1, "name": "hunter2"}',
        b'{"database_uid": 1, "application": ["hunter2"], "replication": 2}',
        b'"hunter2"',
        b"hunter2",
        b'{"hunter2',
    ],
)
def test_an_unreadable_secret_is_not_quoted_by_its_error(value: bytes) -> None:
    with pytest.raises(Permanent) as refused:
        records.decode(PLACE, value)
    assert refused.value.code == Code.STORE_RECORD_UNREADABLE
    assert PLACE in refused.value.text
    assert "hunter2" not in "".join(traceback.format_exception(refused.value)), "not in the traceback of a log either"
