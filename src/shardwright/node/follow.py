"""``node follow-restore``: this machine's node goes on with the store that another machine has restored.

The node's servers and its endpoint process run all the time. Its daemon stops, its member of the store begins again without
data, and ``node.toml`` names the new store; then the node is started, and its daemon says what runs here (``survey.py``).
Data of the earlier member are moved aside. Each step may be repeated.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from shardwright.errors import ClusterError, Refusal, Rejected
from shardwright.model.cluster import Node
from shardwright.model.codes import Code
from shardwright.model.store_member import StoreMember
from shardwright.node import files, own_member, services
from shardwright.node.etcd_config import NAME as ETCD_NAME
from shardwright.node.etcd_config import client_url, member_name, peer_url
from shardwright.node.known_store import learning_of
from shardwright.node.places import store_settings, trust_files
from shardwright.node.recorded import record_key
from shardwright.node.services import SAY_EVERY_S, Say
from shardwright.node.settings import NodeSettings
from shardwright.store import keys, records
from shardwright.store.open import open_members, open_store
from shardwright.store.settings import EtcdSettings
from shardwright.trust.files import own_key
from shardwright.trust.keys import hash_of_key

MEMBER_TIMEOUT_S: Final = 120.0
"""For another new member of the store to catch up: etcd takes one at a time."""
_PAUSE_S: Final = 2.0
_PASSES: Final = (Code.STORE_LEARNER_PENDING, Code.STORE_MEMBERS_UNREADY, Code.STORE_UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class Followed:
    """The result of ``follow``."""

    settings: NodeSettings
    has_member: bool
    """Whether the node runs a member of the new store."""
    moved_to: Path | None
    """Data of its member of the earlier store; None: there were none, or its member belongs to the new store already."""


def follow(settings: NodeSettings, endpoint: str, *, has_program: bool, say: Say, now: datetime) -> Followed:
    """Go on with the store at ``endpoint``. ``has_program``: this machine's etcd can run a member. Raises Rejected,
    Permanent, Transient (repeat it later), StoreUnavailable, OSError."""
    if learning_of(settings) is None:
        code = Code.STORE_NOT_RESTORABLE
        text = "the store of this cluster is an etcd that you run yourself"
        raise Rejected(Refusal.NOT_ACCEPTABLE, code, text, remedy=code.remedy)
    place = replace(store_settings(settings.store), endpoints=(endpoint,))
    say(f"looking for the restored store at {endpoint}")
    asyncio.run(_check(place, settings))
    directories = settings.directories
    with files.locked(directories):
        if services.is_managed(directories):
            say("stopping the daemon and the store's member of this node; its servers go on")
            services.stop_programs()
        with own_member.without_daemon(settings):
            members = _members(place)
            own = next((member for member in members if peer_url(settings) in member.peer_urls), None)
            wants = has_program and (own is not None or (directories.configuration / ETCD_NAME).exists())
            moved = None
            if wants and (own is None or not own.name):
                own_member.check_stopped(settings)
                moved = _begin_member(settings, place, say, now)
            changed = own_member.point_at(settings, _endpoints(members, settings, endpoint, has_member=wants))
    return Followed(changed, wants, moved)


async def _check(place: EtcdSettings, settings: NodeSettings) -> None:
    """Whether the store has this cluster's records, from a backup, and this node among them. Raises Rejected,
    StoreUnavailable."""
    store = await open_store(place)
    try:
        cluster, restored = await store.get(keys.CLUSTER), await store.get(keys.RESTORED)
        item = await store.get(record_key(settings.node_uid))
    finally:
        await store.close()
    if cluster is None or restored is None:
        code = Code.STORE_NOT_RESTORED
        text = f"the store at {place.endpoints[0]} has no records that come from a backup"
        raise Rejected(Refusal.CONFLICT, code, text, remedy=code.remedy)
    node = None if item is None else records.decode(item.key, item.value)
    own = hash_of_key(own_key(trust_files(settings.directories)).public_key())
    if not isinstance(node, Node) or node.key_hash != own:
        code = Code.NODE_NOT_RECORDED
        text = f"the restored records do not know this machine as node {settings.node_uid}: it joined after the backup"
        remedy = "keep the files of its databases if you need them; then `shardwright node leave`, and join again"
        raise Rejected(Refusal.CONFLICT, code, text, remedy=remedy)


def _members(place: EtcdSettings) -> tuple[StoreMember, ...]:
    async def ask() -> tuple[StoreMember, ...]:
        members = open_members(place)
        assert members is not None
        try:
            return await members.members()
        finally:
            await members.close()

    return asyncio.run(ask())


def _begin_member(settings: NodeSettings, place: EtcdSettings, say: Say, now: datetime) -> Path | None:
    """Add this node's member to the store and write its files. Returns where the data of the earlier member are."""
    others = asyncio.run(_add(settings, place, say))
    peers = {member.name: member.peer_urls[0] for member in others if member.name and member.peer_urls}
    peers[member_name(settings.node_uid)] = peer_url(settings)
    return own_member.write_member(settings, peers, is_new=False, now=now)


async def _add(settings: NodeSettings, place: EtcdSettings, say: Say) -> list[StoreMember]:
    """Add the member, again while another one catches up. Returns the others."""
    members = open_members(place)
    assert members is not None
    began = time.monotonic()
    said_at = began
    url = peer_url(settings)
    try:
        while True:
            try:
                await members.add_learner(url)
                return [member for member in await members.members() if url not in member.peer_urls]
            except ClusterError as e:
                now = time.monotonic()
                if e.code not in _PASSES or now - began > MEMBER_TIMEOUT_S:
                    raise
                if now - said_at >= SAY_EVERY_S:
                    said_at = now
                    say(f"waiting: {e.text} ({now - began:.0f} s)")
            await asyncio.sleep(_PAUSE_S)
    finally:
        await members.close()


def _endpoints(members: Sequence[StoreMember], settings: NodeSettings, given: str, *, has_member: bool) -> tuple[str, ...]:
    """The other members that vote, the one that was given first; the node's own last: it serves when it has caught up."""
    own = client_url(settings.address, settings.ports.store_clients)
    voters = [url for member in members if not member.is_learner for url in member.client_urls]
    others = [url for url in dict.fromkeys((given, *voters)) if url != own]
    return (*others, *((own,) if has_member or not others else ()))
