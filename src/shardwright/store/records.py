"""Converts records to bytes and back. The only module that maps records to JSON in the store.

The records of a union (moves) are told apart by their ``kind``.

An unknown key in stored JSON is ignored and a missing one gets its default, so that daemons of adjacent versions can share
a store.
"""

import json
from types import UnionType
from typing import Annotated, Any, cast

from pydantic import Discriminator, TypeAdapter, ValidationError

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.version import FIRST_CLUSTER_VERSION
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
    """The record at a key, or the bare text of a key without a record. ``value`` is in clear. Raises Permanent if it is
    unreadable; the error names the places in the record, never what is there, because that may be a secret."""
    kind = keys.type_of(key)
    if kind is None:
        return value.decode()
    try:
        return cast(StoredRecord, _adapter(kind).validate_json(value))
    except ValidationError as e:
        # Without the cause: a traceback in a log would quote the value.
        raise Permanent(Code.STORE_RECORD_UNREADABLE, f"the record at {key} cannot be read: {_places(e)}") from None


def _places(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return ", ".join(f"{'.'.join(map(str, problem['loc'])) or 'all of it'} ({problem['type']})" for problem in found)


def cluster_version_of(value: bytes) -> int:
    """The version in the cluster's record, even if this version of Shardwright cannot read the record itself. A record
    without one is of the first version."""
    try:
        found = json.loads(value)
    except ValueError:
        return FIRST_CLUSTER_VERSION
    version = found.get("cluster_version") if isinstance(found, dict) else None
    return version if isinstance(version, int) else FIRST_CLUSTER_VERSION
