"""The protocol by which the members of a store are listed and changed. ``open.py`` opens what implements it.

A store without members (a file) has no such part. Who calls it decides nothing about the cluster's nodes here:
``plan/store_members.py`` does.
"""

from typing import Protocol

from shardwright.model.store_member import MemberState, StoreMember


class Members(Protocol):
    """Belongs to the event loop in which it is first used. Calls raise StoreUnavailable (nothing is known of their outcome;
    each may be repeated, also by another daemon) and StoreReplaced. Those that change something raise Transient
    ``store_members_unready``: too few members run, or not long enough, so that the change could cost the quorum."""

    async def members(self) -> tuple[StoreMember, ...]:
        """The members, by id, after every change that ended before the call."""
        ...

    async def states(self) -> tuple[MemberState, ...]:
        """The members, by id, each asked whether it answers."""
        ...

    async def add_learner(self, peer_url: str) -> StoreMember:
        """Add a member that does not vote yet, or return the one that has this address already. Raises Transient
        ``store_learner_pending`` while another learner has not been promoted."""
        ...

    async def promote(self, member_id: int) -> bool:
        """Let a learner vote. True: it votes (now, or already). False: it has not caught up yet. Raises Permanent
        ``store_member_gone``: no member has this id."""
        ...

    async def remove(self, member_id: int) -> None:
        """Remove a member; without effect if it is no member any more."""
        ...

    async def close(self) -> None:
        """End all connections; calls under way end with StoreUnavailable."""
        ...
