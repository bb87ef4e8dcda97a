"""Converts records to bytes and back. The only module that maps records to JSON in the store.

An unknown key in stored JSON is ignored and a missing one gets its default, so that daemons of adjacent versions can share
a store.
"""

from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.store import keys
from shardwright.store.keys import StoredRecord

_adapters: dict[type[StoredRecord], TypeAdapter[Any]] = {}


def _adapter(kind: type[StoredRecord]) -> TypeAdapter[Any]:
    adapter = _adapters.get(kind)
    if adapter is None:
        adapter = _adapters[kind] = TypeAdapter(kind)
    return adapter


def encode(record: StoredRecord) -> bytes:
    """The record as compact JSON."""
    return _adapter(type(record)).dump_json(record)


def decode(key: str, value: bytes) -> StoredRecord | str:
    """The record at a key, or the bare text of a key without a record. Raises Permanent if it is unreadable."""
    kind = keys.type_of(key)
    if kind is None:
        return value.decode()
    try:
        return cast(StoredRecord, _adapter(kind).validate_json(value))
    except ValidationError as e:
        raise Permanent(Code.STORE_RECORD_UNREADABLE, f"the record at {key} cannot be read: {e}") from e
