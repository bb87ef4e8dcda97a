"""Endpoints: the process that serves each of them, and the server to which it forwards commands.

Called by the leader each turn. A handoff switches endpoints itself; this module only corrects later deviations from the
records: a restarted process, a process that still holds, forwards to an older generation, uses an older password, or
answers in another mode.
"""

from collections.abc import Mapping, Sequence

from shardwright.model.commands import Command, DropEndpoint, PassEndpoint, RetireEndpoint, ServeEndpoint
from shardwright.model.database import Endpoint, GroupPhase, access_fingerprint
from shardwright.model.decision import Decision
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.move import Rebind
from shardwright.model.seen import EndpointSeen, EndpointState
from shardwright.model.serving import listening_address, policy_of, virtual_places
from shardwright.model.view import ClusterView


def decide_endpoint(endpoint: Endpoint, view: ClusterView) -> Decision:
    """Bring the processes of the bound nodes in line with the records; move all other clients there and end the endpoint on
    unbound nodes."""
    groups = view.groups_of(endpoint.database_uid)
    if any(g.handoff is not None for g in groups):
        return Decision()
    generation = max((g.generation for g in groups if g.phase is GroupPhase.SERVING), default=-1)
    moving = _nodes_of_rebinds(endpoint.uid, view)
    commands: list[Command] = []
    serving = {node: process.endpoint(endpoint.uid) for node, process in view.endpoint_processes.items() if process.answers}
    # A rebind sees to its own two nodes only. What an earlier one left on a third node may hold the port that both wait for.
    surplus = {node: seen for node, seen in serving.items() if node not in endpoint.bound_nodes and node not in moving}
    is_single = policy_of(endpoint, view).is_single
    is_elsewhere = is_single and any(seen.state is EndpointState.LISTENING for seen in surplus.values())
    for node, seen in sorted(serving.items()):
        if node in endpoint.bound_nodes:
            # No move is under way, and yet the endpoint was passed on: a command was late, or the move was cancelled at
            # that moment.
            was_passed = not moving and seen.state is EndpointState.DRAINING and not is_elsewhere
            is_old = is_access_old(seen, endpoint, view) or is_mode_old(seen, endpoint, view)
            is_old = is_old or is_address_old(seen, endpoint, node, view) or _are_virtual_old(seen, endpoint, node, view)
            if was_passed or is_old or _differs(seen, generation):
                commands.append(ServeEndpoint(node, endpoint.uid))
        elif seen.state is not EndpointState.ABSENT:
            if seen.held_generation is not None or seen.generation < generation:
                commands.append(ServeEndpoint(node, endpoint.uid))
            if node in surplus:
                commands += _end_surplus(node, seen, endpoint, serving, view)
    return Decision(commands=tuple(commands))


def _end_surplus(
    node: NodeUid, seen: EndpointSeen, endpoint: Endpoint, serving: Mapping[NodeUid, EndpointSeen], view: ClusterView
) -> Sequence[Command]:
    """Clients of an unbound process without a move: pass them to the bound process, as in a move. From another machine they
    cannot be passed: they connect again. With several addresses the process closes their connections instead, and they
    connect to another address."""
    if seen.state is not EndpointState.LISTENING and seen.connections == 0:
        return (DropEndpoint(node, endpoint.uid),)
    if node in endpoint.nodes or not policy_of(endpoint, view).is_single:
        return (RetireEndpoint(node, endpoint.uid),)
    bound = next((b for b in endpoint.bound_nodes if b in serving), None)
    if bound is not None and view.are_far(node, bound):
        return (DropEndpoint(node, endpoint.uid),) if serving[bound].state is EndpointState.LISTENING else ()
    return () if bound is None else (PassEndpoint(endpoint.uid, endpoint.database_uid, node, bound),)


def decide_strays(view: ClusterView) -> Decision:
    """End endpoints that processes serve without a record."""
    return Decision(
        commands=tuple(
            DropEndpoint(node, seen.endpoint_uid)
            for node, process in sorted(view.endpoint_processes.items())
            if process.answers
            for seen in process.endpoints
            if seen.endpoint_uid not in view.endpoints and seen.state is not EndpointState.ABSENT
        )
    )


def is_access_old(seen: EndpointSeen, endpoint: Endpoint, view: ClusterView) -> bool:
    """Whether the process uses a password other than the database's: it was not told about a change."""
    database, secrets = view.databases.get(endpoint.database_uid), view.secrets.get(endpoint.database_uid)
    if database is None or secrets is None or not seen.access:
        return False
    return seen.access != access_fingerprint(application_secret=secrets.application, password=database.password)


def is_mode_old(seen: EndpointSeen, endpoint: Endpoint, view: ClusterView) -> bool:
    """Whether the process answers writes earlier or later than the database's mode demands."""
    database = view.databases.get(endpoint.database_uid)
    return database is not None and seen.state is not EndpointState.ABSENT and seen.is_strict is not database.is_strict


def is_address_old(seen: EndpointSeen, endpoint: Endpoint, node_uid: NodeUid, view: ClusterView) -> bool:
    """Whether the process serves at an address that is no longer its own: the proxy policy or the node has changed."""
    is_known = seen.state is not EndpointState.ABSENT and bool(seen.address)
    return is_known and seen.address != listening_address(endpoint, node_uid, view)


def _are_virtual_old(seen: EndpointSeen, endpoint: Endpoint, node_uid: NodeUid, view: ClusterView) -> bool:
    """Whether the process does not know which virtual addresses there are, or which of them is about to go."""
    told = tuple(sorted((one.address, one.is_closed) for one in seen.virtual))
    return seen.state is not EndpointState.ABSENT and told != virtual_places(endpoint, node_uid, view)


def _differs(seen: EndpointSeen, generation: int) -> bool:
    if seen.state is EndpointState.ABSENT or seen.held_generation is not None:
        return True
    return seen.generation < generation


def _nodes_of_rebinds(uid: EndpointUid, view: ClusterView) -> frozenset[NodeUid]:
    """The nodes between which live rebinds pass the endpoint on."""
    rebinds = [m for m in view.live_moves() if isinstance(m, Rebind) and m.endpoint_uid == uid]
    return frozenset(node for m in rebinds for node in (m.from_node, m.to_node))
