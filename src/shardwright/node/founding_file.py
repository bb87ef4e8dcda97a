"""The first records of a cluster of machines, between ``init`` and the first start of the daemon (``founding.json``).

``init`` writes the file: the store does not run yet. The daemon of the first machine commits it in one transaction and then
deletes it. Both may be interrupted at any point and repeated: the cluster's id tells whether the records in the store came
from this file. The values are sealed as in the store, and only its owner can read the file.

    {"cluster_id": "…", "items": [{"key": "cluster", "value": "<base64>"}, …]}
"""

import asyncio
import base64
import binascii
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

from shardwright.errors import Permanent
from shardwright.machine.files import sync_directory, write_private
from shardwright.model.codes import Code
from shardwright.store import keys
from shardwright.store.founding import first_transaction, founding_items
from shardwright.store.keys import StoredRecord
from shardwright.store.protocol import PutKey, Store
from shardwright.store.seal import Sealing

NAME = "founding.json"
"""In the directory of the configuration."""
CLUSTER_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Founding:
    """What the file contains."""

    cluster_id: str
    items: tuple[PutKey, ...] = field(repr=False)


class StoreAnswer(StrEnum):
    """What the store said."""

    COMMITTED = "committed"
    """The cluster exists from now on."""
    WAS_COMMITTED = "was_committed"
    """An earlier attempt had committed it."""


def write_founding(path: Path, records: Sequence[StoredRecord], sealing: Sealing) -> str:
    """Write the records (with the cluster's, its policy, counters, nodes, users, issued certificates, events) for the
    daemon's first start. Returns the new cluster's id. Raises OSError."""
    cluster_id = secrets.token_hex(CLUSTER_ID_BYTES)
    items = founding_items(records, sealing, random_text=partial(secrets.token_hex, 4), cluster_id=cluster_id)
    write_private(path, text_of(Founding(cluster_id, items)).encode())
    return cluster_id


def read_founding(path: Path) -> Founding | None:
    """The content of the file; None if there is none. Raises Permanent ``founding_file_unusable``."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as e:
        raise _unusable(path, str(e.strerror) if isinstance(e, OSError) else "it is not a text file") from None
    try:
        return founding_of(text)
    except ValueError as e:
        raise _unusable(path, str(e)) from None


async def commit_founding(store: Store, founding: Founding) -> StoreAnswer:
    """Found the cluster, once. May be repeated after a failure whose outcome is unknown. Raises Permanent
    ``store_holds_another_cluster``, StoreUnavailable."""
    if (await store.transact(first_transaction(founding.items))).succeeded:
        return StoreAnswer.COMMITTED
    found = await store.get(keys.CLUSTER_ID)
    if found is not None and found.value.decode(errors="replace") == founding.cluster_id:
        return StoreAnswer.WAS_COMMITTED
    raise Permanent(
        Code.STORE_HOLDS_ANOTHER_CLUSTER, "the store contains a cluster already, and not the one that was founded here"
    )


async def found_cluster(path: Path, store: Store) -> StoreAnswer | None:
    """Commit the file if there is one, and delete it afterwards. None: there was none. Raises Permanent, StoreUnavailable,
    OSError."""
    founding = await asyncio.to_thread(read_founding, path)
    if founding is None:
        return None
    outcome = await commit_founding(store, founding)
    await asyncio.to_thread(_delete, path)
    return outcome


def text_of(founding: Founding) -> str:
    """The text of the file."""
    items = [{"key": item.key, "value": base64.b64encode(item.value).decode()} for item in founding.items]
    return json.dumps({"cluster_id": founding.cluster_id, "items": items}, indent=1) + "\n"


def founding_of(text: str) -> Founding:
    """The content of such a text. Raises ValueError, whose text quotes nothing of it."""
    try:
        found = json.loads(text)
        cluster_id, items = found["cluster_id"], found["items"]
        read = tuple(PutKey(str(item["key"]), base64.b64decode(item["value"], validate=True)) for item in items)
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise ValueError("it is not what init writes") from None
    if not isinstance(cluster_id, str) or not cluster_id or keys.CLUSTER not in {item.key for item in read}:
        raise ValueError("it does not contain a cluster")
    if PutKey(keys.CLUSTER_ID, cluster_id.encode()) not in read:
        raise ValueError("its records belong to another cluster id")
    return Founding(cluster_id, read)


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def _unusable(path: Path, reason: str) -> Permanent:
    return Permanent(Code.FOUNDING_FILE_UNUSABLE, f"{path} cannot be used: {reason}")
