"""Members of the store on the wire. Pure."""

from typing_extensions import TypedDict

from shardwright.model.store_member import MemberState, StoreRole
from shardwright.model.view import ClusterView
from shardwright.plan.store_members import node_of


class StoreMemberAnswer(TypedDict):
    """A member of the store. ``uid``: as the store's own tools show it. ``node_uid``: null if it is on no node of the
    cluster. ``leader``: it leads the store, which is not the cluster's leadership."""

    uid: str
    name: str
    node_uid: int | None
    role: str
    leader: bool
    reachable: bool
    client_urls: list[str]
    peer_urls: list[str]


def store_member(state: MemberState, view: ClusterView) -> StoreMemberAnswer:
    """A member, and what it answered."""
    member = state.member
    uid = node_of(member, view)
    return {
        "uid": f"{member.id:x}",
        "name": member.name,
        "node_uid": uid if uid in view.nodes else None,
        "role": (StoreRole.LEARNER if member.is_learner else StoreRole.VOTER).value,
        "leader": state.is_leader,
        "reachable": state.is_reached,
        "client_urls": list(member.client_urls),
        "peer_urls": list(member.peer_urls),
    }
