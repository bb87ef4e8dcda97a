"""Converts records to bytes and back. The only module that maps records to JSON in the store.

The records of a union (moves) are told apart by their ``kind``.

An unknown key in stored JSON is ignored and a missing one gets its default, so that daemons of adjacent versions can share
a store.
"""

from types import UnionType
from typing import Annotated, Any, cast

from pydantic import Discriminator, TypeAdapter, ValidationError

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.store import keys
from shardwright.store.keys import RecordType, StoredRecord

_adapters: dict[RecordType, TypeAdapter[Any]] = {}


def _adapter(kind: RecordType) -> TypeAdapter[Any]:
    adapter = _adapters.get(kind)
    if adapter is None:
        form: Any = Annotated[kind, Discriminator("kind")] if isinstance(kind, UnionType) else kind
        adapter = _adapters[kind] = TypeAdapter(form)
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
