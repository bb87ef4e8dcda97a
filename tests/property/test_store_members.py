"""Whatever happens to nodes and members: no step costs the store its majority, and every step leads to rest."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.model.ids import NodeUid
from shardwright.model.store_member import MemberState, StoreMember, StoreRole
from shardwright.model.view import ClusterView, Delete, Put
from shardwright.plan.store_members import UNKNOWN_KEPT, Note, PromoteMember, Remove, Step, next_step, strangers
from testkit.builders import cluster

NODES = 5

roles = st.lists(st.sampled_from(["none", "voter", "voter", "learner", "learner, new"]), min_size=NODES, max_size=NODES)
flags = st.lists(st.booleans(), min_size=NODES, max_size=NODES)


def state_of(uid: int, role: str, *, is_reached: bool) -> MemberState:
    is_new = role == "learner, new"
    address = f"127.0.0.{uid}"
    clients = () if is_new else (f"https://{address}:2379",)
    member = StoreMember(uid, "" if is_new else f"node-{uid}", (f"https://{address}:2380",), clients, role != "voter")
    return MemberState(member, is_reached and not is_new)


def carried_out(step: Step, view: ClusterView, states: list[MemberState]) -> tuple[ClusterView, list[MemberState]]:
    match step:
        case Note():
            node = replace(view.nodes[step.node_uid], store_role=step.role)
            return view.with_writes([Put(node)]), states
        case PromoteMember():
            states = [
                replace(s, member=replace(s.member, is_learner=False)) if s.member.id == step.member_id else s
                for s in states
            ]
            return view, states
        case Remove():
            return view, [s for s in states if s.member.id != step.member_id]


def is_quorate(states: list[MemberState]) -> bool:
    voters = [s for s in states if not s.member.is_learner]
    return sum(s.is_reached for s in voters) > len(voters) // 2


@settings(max_examples=300)
@given(roles, flags, flags, flags)
def test_every_step_keeps_the_majority_and_leads_to_rest(
    of: list[str], reached: list[bool], gone: list[bool], recorded: list[bool]
) -> None:
    builder = cluster(NODES)
    view = builder.view
    for uid, is_recorded in enumerate(recorded, 1):
        if is_recorded:
            view = view.with_writes([Put(replace(view.nodes[NodeUid(uid)], store_role=StoreRole.VOTER))])
    for uid, is_gone in enumerate(gone, 1):
        if is_gone:
            view = view.with_writes([Delete(view.nodes[NodeUid(uid)])])
    states = [
        state_of(uid, role, is_reached=is_reached)
        for uid, (role, is_reached) in enumerate(zip(of, reached, strict=True), 1)
        if role != "none"
    ]
    for _ in range(4 * NODES):
        known = dict.fromkeys(strangers(view, states), UNKNOWN_KEPT)
        judgment = next_step(view, states, unknown_for=known)
        step = judgment.step
        if step is None:
            break
        was_quorate = is_quorate(states)
        voters = [s for s in states if not s.member.is_learner]
        view, states = carried_out(step, view, states)
        if isinstance(step, Remove):
            assert step.node_uid not in view.nodes
            if step.member_id in [s.member.id for s in voters]:
                assert is_quorate(states), "those that stay and answer are a majority"
        assert is_quorate(states) or not was_quorate
    else:
        raise AssertionError(f"it does not come to rest: {states}")
    # At rest, what is left over has a reason.
    is_own = any(node.store_role is not StoreRole.NONE for node in view.nodes.values())
    left = [s for s in states if s.member.name and NodeUid(s.member.id) not in view.nodes]
    if states and is_own and left:
        assert {r.node_uid for r in judgment.reasons} >= {s.member.id for s in left}
    for node in view.nodes.values() if states and is_own else ():
        found = [s for s in states if s.member.id == node.uid]
        wanted = StoreRole.NONE if not found else StoreRole.LEARNER if found[0].member.is_learner else StoreRole.VOTER
        assert node.store_role is wanted
