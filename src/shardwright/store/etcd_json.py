"""The store's terms in the JSON of etcd's gateway, and back: keys and values in base64, 64-bit numbers as text, defaults
left out.

Pure. Called by ``etcd.py``. Every key of the cluster begins with ``ROOT``, which no caller of the store ever sees. Must
decide nothing: ``etcd_errors.py`` says what a refusal means.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from shardwright.model.ids import LeaseId
from shardwright.store.bounds import prefix_end
from shardwright.store.protocol import Compare, DeleteKey, KeyChange, KeyValue, ModifiedAt, Operation, PutKey, Transaction

Json = Mapping[str, Any]

ROOT = "shardwright/"
"""Where the cluster's keys are in its etcd."""
_ROOT_BYTES = len(ROOT.encode())
_FIRST = b"\0"
"""The smallest key; as an end it means: to the last key."""


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _key(key: str) -> str:
    return _text((ROOT + key).encode())


def _end_of(prefix: str) -> str:
    end = prefix_end(ROOT + prefix)
    assert end is not None  # ROOT has one.
    return _text(end.encode())


def number(of: Json, name: str) -> int:
    """A number that may be left out (0) and may be text."""
    return int(of.get(name, 0))


# -- requests ----------------------------------------------------------------------------------------------------------


def get_request(key: str) -> Json:
    """Read one key."""
    return {"key": _key(key)}


def range_request(prefix: str, start: str, *, limit: int, revision: int) -> Json:
    """Read keys with the prefix from ``start`` on. ``revision`` 0: the current one."""
    return {"key": _key(start), "range_end": _end_of(prefix), "limit": limit, "revision": revision}


def alone(request: Json) -> Json:
    """The same read, answered by the member itself without a look at the others: also while the store has no quorum."""
    return {**request, "serializable": True}


def revision_request() -> Json:
    """Read as little as possible, linearizably: only the header of the answer matters."""
    return {"key": _key(""), "keys_only": True, "limit": 1}


def foreign_requests() -> tuple[Json, Json]:
    """Read the first key before, and after, all keys of the cluster."""
    before = {"key": _text(_FIRST), "range_end": _text(ROOT.encode()), "keys_only": True, "limit": 1}
    after = {"key": _end_of(""), "range_end": _text(_FIRST), "keys_only": True, "limit": 1}
    return before, after


def transaction_request(transaction: Transaction) -> Json:
    """A transaction: all compares hold, or nothing happens."""
    return {
        "compare": [_compare(compare) for compare in transaction.compares],
        "success": [_operation(operation) for operation in transaction.operations],
    }


def _compare(compare: Compare) -> Json:
    target = ("MOD", "mod_revision") if isinstance(compare, ModifiedAt) else ("CREATE", "create_revision")
    return {"key": _key(compare.key), "result": "EQUAL", "target": target[0], target[1]: str(compare.revision)}


def _operation(operation: Operation) -> Json:
    match operation:
        case PutKey():
            put = {"key": _key(operation.key), "value": _text(operation.value), "lease": str(operation.lease or 0)}
            return {"request_put": put}
        case DeleteKey():
            return {"request_delete_range": {"key": _key(operation.key)}}


def watch_request(prefix: str, *, from_revision: int) -> Json:
    """Watch keys with the prefix. Long messages come in fragments: a message has a bounded size."""
    create = {"key": _key(prefix), "range_end": _end_of(prefix), "start_revision": str(from_revision), "fragment": True}
    return {"create_request": create}


# -- answers -----------------------------------------------------------------------------------------------------------


def item_of(item: Json) -> KeyValue:
    """A key with its value and history."""
    return KeyValue(
        key=key_of(item),
        value=b64decode(item.get("value", "")),
        create_revision=number(item, "create_revision"),
        modify_revision=number(item, "mod_revision"),
        lease=LeaseId(lease) if (lease := number(item, "lease")) else None,
    )


def key_of(item: Json) -> str:
    """The key alone, without ROOT."""
    return b64decode(item["key"])[_ROOT_BYTES:].decode()


def foreign_key(answer: Json) -> str | None:
    """The key that an answer to one of ``foreign_requests`` has found, for people; None if there is none."""
    items = answer.get("kvs", ())
    return b64decode(items[0]["key"]).decode(errors="backslashreplace") if items else None


def change_of(event: Json) -> tuple[int, KeyChange]:
    """A change and its revision."""
    item = event["kv"]
    revision = number(item, "mod_revision")
    if event.get("type", "PUT") == "DELETE":
        return revision, KeyChange(key_of(item), None)
    return revision, KeyChange(key_of(item), item_of(item))
