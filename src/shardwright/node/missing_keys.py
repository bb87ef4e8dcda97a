"""Fetches the cluster keys that the store's secrets need and that this node does not have: the key was changed while the
node was away.

Called while the daemon waits for the store, before anything of the node is done. The other nodes give a member of the
cluster every key that they hold; a newcomer gets them with its join.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from shardwright.endpoint.credentials import OwnCertificate
from shardwright.errors import ClusterError, Permanent, Transient
from shardwright.key_file import KeyFile, Keys
from shardwright.model.cluster import Node
from shardwright.model.codes import Code
from shardwright.model.ids import KeyUid, NodeUid
from shardwright.model.trust import CertificateRole, IssuedCertificate
from shardwright.node.places import trust_files
from shardwright.node.settings import NodeSettings
from shardwright.nodes.cluster_key import ask_for_key
from shardwright.nodes.remote import NodeAddress
from shardwright.store import keys, records
from shardwright.store.admission import missing_keys
from shardwright.store.keys import StoredRecord
from shardwright.store.protocol import Store
from shardwright.store.seal import ClusterKey, Sealing
from shardwright.trust.peers import revoked_serials

CERTIFICATES: Final = "issued_certificates/"

_log = structlog.get_logger(__name__)


async def fetch_missing_keys(settings: NodeSettings, sealing: Sealing, store: Store) -> None:
    """Have every key that the store's values need. Raises Permanent ``secret_key_missing`` if every other node has answered
    and none gives such a key, Transient if some did not answer: then it may be repeated; StoreUnavailable."""
    missing = await missing_keys(store, sealing)
    if not missing:
        return
    others = await _others(settings, store)
    for uid in missing:
        key = await _fetch(uid, others)
        file = KeyFile(settings.directories.cluster_key)
        try:
            held = await asyncio.to_thread(file.change, partial(_with_key, key))
        except OSError as e:
            text = f"{settings.directories.cluster_key} cannot be written: {e.strerror}"
            raise Permanent(Code.CLUSTER_KEY_UNUSABLE, text) from e
        sealing.hold(held)
        _log.info("this node has fetched a cluster key", key_uid=uid)


def _with_key(key: ClusterKey, found: Keys) -> Keys:
    return found if key in found else (*found, key)


@dataclass(frozen=True, slots=True)
class _Others:
    """The other nodes, by what the store says of them."""

    own: OwnCertificate
    places: tuple[tuple[NodeUid, NodeAddress], ...]
    revoked: frozenset[str]


async def _others(settings: NodeSettings, store: Store) -> _Others:
    nodes = [record async for record in _records(store, keys.NODES) if isinstance(record, Node)]
    issued = [record async for record in _records(store, CERTIFICATES) if isinstance(record, IssuedCertificate)]
    ports = settings.ports
    places = tuple(
        (node.uid, NodeAddress(node.address, ports.agent, ports.control)) for node in nodes if node.uid != settings.node_uid
    )
    own = OwnCertificate(trust_files(settings.directories).member(CertificateRole.NODE))
    return _Others(own, places, revoked_serials(issued, [node.uid for node in nodes]))


async def _records(store: Store, prefix: str) -> AsyncIterator[StoredRecord | str]:
    start: str | None = prefix
    while start is not None:
        page = await store.range(prefix, start=start)
        for item in page.items:
            try:
                yield records.decode(item.key, item.value)
            except Permanent as e:
                _log.warning("a record cannot be read and is skipped", key=item.key, code=e.code)
        start = page.next_start


async def _fetch(uid: KeyUid, others: _Others) -> ClusterKey:
    said: list[ClusterError] = []
    for node, at in others.places:
        try:
            return await ask_for_key(node, at, uid, context=others.own.client, revoked=lambda: others.revoked)
        except ClusterError as e:
            said.append(e)
    text = f"the store's secrets need the cluster key {uid}, which this node does not have"
    why = "; ".join(e.text for e in said) or "there is no other node"
    if any(isinstance(e, Transient) for e in said):
        raise Transient(Code.CLUSTER_KEY_AWAITED, f"{text}: {why}")
    raise Permanent(Code.SECRET_KEY_MISSING, f"{text}, and no other one gives it: {why}")
