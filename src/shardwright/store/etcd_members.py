"""The members of the cluster's etcd: lists, adds, promotes and removes them. Implements ``members.Members``.

Opened by ``open.py``, with connections of its own. Every call has the same effect when it is repeated, so it is sent again
when no answer came, also to another member. Must decide nothing: etcd itself refuses what would cost its quorum.
"""

import asyncio

from shardwright.errors import ClusterError, Permanent, Transient
from shardwright.model.codes import Code
from shardwright.model.store_member import MemberState, StoreMember
from shardwright.store.endpoints import EndpointBook
from shardwright.store.etcd_connection import connect
from shardwright.store.etcd_errors import EtcdCode, Refused, error_of
from shardwright.store.etcd_json import Json, number, revision_request
from shardwright.store.etcd_wire import EtcdWire, message_of
from shardwright.store.protocol import StoreUnavailable
from shardwright.store.settings import EtcdSettings, parsed_endpoint

__all__ = ["EtcdMembers", "StoreMember"]

_LIST, _ADD = "/v3/cluster/member/list", "/v3/cluster/member/add"
_PROMOTE, _REMOVE = "/v3/cluster/member/promote", "/v3/cluster/member/remove"
_RANGE, _STATUS = "/v3/kv/range", "/v3/maintenance/status"


class EtcdMembers:
    """See ``members.Members``."""

    def __init__(self, settings: EtcdSettings, book: EndpointBook | None = None) -> None:
        """Connects to nothing yet. ``book``: see ``EtcdStore.open``. Raises Permanent ``store_settings_invalid``."""
        self._settings = settings
        self._wire = EtcdWire(settings, book or EndpointBook(settings))

    async def members(self) -> tuple[StoreMember, ...]:
        """See ``Members``."""
        # A member lists what it knows itself. One that has just read linearizably has a leader, and knows all changes.
        answer = await self._wire.ask(_LIST, {}, first=(_RANGE, revision_request()))
        return tuple(sorted(map(member_of, answer.get("members", ())), key=lambda member: member.id))

    async def states(self) -> tuple[MemberState, ...]:
        """See ``Members``."""
        return tuple(await asyncio.gather(*map(self._state, await self.members())))

    async def add_learner(self, peer_url: str) -> StoreMember:
        """See ``Members``."""
        if (found := await self._with_url(peer_url)) is not None:
            return found
        try:
            answer = await self._ask(_ADD, {"peerURLs": [peer_url], "isLearner": True})
        except Refused as e:
            # Perhaps it was added meanwhile, by an attempt without an answer or by another daemon.
            if (found := await self._with_url(peer_url)) is not None:
                return found
            if "too many learner members" in e.text:
                text = f"{peer_url} cannot be added to the store: another new member has not caught up yet"
                raise Transient(Code.STORE_LEARNER_PENDING, text) from e
            raise _error_of(e, f"{peer_url} cannot be added to the store") from e
        return member_of(answer["member"])

    async def promote(self, member_id: int) -> bool:
        """See ``Members``."""
        try:
            await self._ask(_PROMOTE, {"ID": str(member_id)})
        except Refused as e:
            if "in sync with leader" in e.text:
                # etcd compares the logs before it asks whether the member votes already.
                return member_id in [member.id for member in await self.members() if not member.is_learner]
            if "can only promote a learner" in e.text:
                return True
            if e.code == EtcdCode.NOT_FOUND:
                raise Permanent(Code.STORE_MEMBER_GONE, f"the store has no member {member_id:x}") from e
            raise _error_of(e, f"member {member_id:x} of the store cannot be promoted") from e
        return True

    async def remove(self, member_id: int) -> None:
        """See ``Members``."""
        try:
            await self._ask(_REMOVE, {"ID": str(member_id)})
        except Refused as e:
            # etcd judges the health of the members before it looks for this one.
            if e.code == EtcdCode.NOT_FOUND or member_id not in [member.id for member in await self.members()]:
                return
            raise _error_of(e, f"member {member_id:x} of the store cannot be removed") from e

    async def close(self) -> None:
        """See ``Members``."""
        await self._wire.close()

    async def _with_url(self, peer_url: str) -> StoreMember | None:
        return next((member for member in await self.members() if peer_url in member.peer_urls), None)

    async def _ask(self, path: str, body: Json) -> Json:
        """Ask any member. Raises Refused, StoreUnavailable."""
        return await self._wire.ask(path, body)

    # -- one member --------------------------------------------------------------------------------------------------

    async def _state(self, member: StoreMember) -> MemberState:
        """Ask the member itself, at each of its addresses until one answers."""
        for url in member.client_urls:
            try:
                status = await self._status(url)
            except (StoreUnavailable, Refused, TimeoutError, ValueError):
                continue
            leader = number(status, "leader")
            return MemberState(member, is_reached=leader != 0, is_leader=leader == member.id)
        return MemberState(member, is_reached=False)

    async def _status(self, url: str) -> Json:
        """The member's status; without a leader (0), it serves nothing."""
        connection = await connect(parsed_endpoint(url), self._settings, 0)
        try:
            async with asyncio.timeout(self._settings.limits.attempt_s):
                connection.send(_STATUS, {})
                return message_of(await connection.answer())
        finally:
            connection.abort()


def member_of(found: Json) -> StoreMember:
    """A member in etcd's JSON."""
    return StoreMember(
        id=number(found, "ID"),
        name=str(found.get("name", "")),
        peer_urls=tuple(found.get("peerURLs", ())),
        client_urls=tuple(found.get("clientURLs", ())),
        is_learner=bool(found.get("isLearner", False)),
    )


def _error_of(refused: Refused, what: str) -> ClusterError:
    """The error for a refusal without a meaning of its own in the call."""
    if any(text in refused.text for text in ("unhealthy cluster", "not enough started members")):
        text = f"{what}: too few of its members run, or not long enough; etcd says: {refused.text}"
        return Transient(Code.STORE_MEMBERS_UNREADY, text)
    return error_of(refused)
