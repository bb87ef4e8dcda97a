"""The members of a store in memory, with the rules that etcd has for changing them."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import count

from shardwright.errors import Permanent, Transient
from shardwright.model.codes import Code
from shardwright.model.store_member import MemberState, StoreMember
from shardwright.store.protocol import StoreUnavailable


class MemoryMembers:
    """Implements ``store.members.Members``. ``silent``: names of members that do not run. ``behind``: names of learners that
    have not caught up. ``is_cut``: this client reaches none."""

    def __init__(self, uids: Iterable[int] = (1,)) -> None:
        self.found = [self._new(uid, is_learner=False) for uid in uids]
        self.silent: set[str] = set()
        self.behind: set[str] = set()
        self.is_cut = False
        self.is_closed = False
        self.asked = 0
        """How often ``states`` was answered."""
        self.changes: list[str] = []
        self._ids = count(1000)

    @staticmethod
    def _new(uid: int, *, is_learner: bool) -> StoreMember:
        address = f"127.0.0.{uid}"
        urls = (f"https://{address}:2380",), (f"https://{address}:2379",)
        return StoreMember(uid, f"node-{uid}", *urls, is_learner)

    def starts(self, uid: int) -> None:
        """The member of this node, which was added, starts."""
        new = self._new(uid, is_learner=True)
        self.found = [replace(new, id=m.id) if m.peer_urls == new.peer_urls else m for m in self.found]

    async def members(self) -> tuple[StoreMember, ...]:
        self._reach()
        return tuple(self.found)

    async def states(self) -> tuple[MemberState, ...]:
        self._reach()
        self.asked += 1
        return tuple(MemberState(m, m.name not in self.silent and bool(m.client_urls)) for m in self.found)

    async def add_learner(self, peer_url: str) -> StoreMember:
        self._reach()
        for member in self.found:
            if peer_url in member.peer_urls:
                return member
        if any(member.is_learner for member in self.found):
            raise Transient(Code.STORE_LEARNER_PENDING, "another learner")
        self._check(self.found)
        self.found.append(StoreMember(next(self._ids), "", (peer_url,), (), is_learner=True))
        return self.found[-1]

    async def promote(self, member_id: int) -> bool:
        self._reach()
        member = next((m for m in self.found if m.id == member_id), None)
        if member is None:
            raise Permanent(Code.STORE_MEMBER_GONE, "unknown")
        if not member.name or member.name in self.behind:
            return False
        self.found = [replace(m, is_learner=False) if m.id == member_id else m for m in self.found]
        self.changes.append(f"promote {member.name}")
        return True

    async def remove(self, member_id: int) -> None:
        self._reach()
        left = [member for member in self.found if member.id != member_id]
        self._check(left)
        self.changes += [f"remove {m.name or m.peer_urls[0]}" for m in self.found if m.id == member_id]
        self.found = left

    async def close(self) -> None:
        self.is_closed = True

    def _reach(self) -> None:
        if self.is_cut or self.is_closed:
            raise StoreUnavailable(Code.STORE_UNAVAILABLE, "no member answers")

    def _check(self, members: Iterable[StoreMember]) -> None:
        voters = [m for m in members if not m.is_learner]
        if 2 * sum(m.name not in self.silent for m in voters) <= len(voters):
            raise Transient(Code.STORE_MEMBERS_UNREADY, "unhealthy cluster")
