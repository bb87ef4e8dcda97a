"""When the endpoint processes of a database in default mode need proofs, so that a primary that is out of reach can be
replaced without a proof of its end (``parking.py``).

Called by the leader each turn for every slot group. A proof needs a replica that answers its primary, so proofs are wanted
while there is one, and given up before clients would wait for them. The invariant: a process is missing in ``Lease.waived``
only if it needs proofs, by its own word or from its start, or has certainly ended; the records say first what a process may
do, then it is told. The reasons are in ``docs/decisions/0026-lease.md``.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.commands import TellLease
from shardwright.model.database import Database, Endpoint, GroupPhase, Role, SlotGroup
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.ids import NodeUid
from shardwright.model.lease import Lease, Waiver
from shardwright.model.seen import EndpointProcessSeen, EndpointState
from shardwright.model.version import FIELDS_SINCE
from shardwright.model.view import ClusterView, Put
from shardwright.plan.waivers import given_up, may_serve
from shardwright.reconcile.copies import Copy, copies_of

UNCONFIRMED_S = 0.3
"""Proofs are given up when the server has answered without a replica for so long. New commands wait from two seconds after
the last good question on, and the processes are asked once a second."""
REST = timedelta(seconds=3)
"""After proofs have failed, they are not wanted again for so long: a replica that stalls again and again would otherwise
cost two commits each time."""


def decide_lease(group: SlotGroup, view: ClusterView, now: datetime) -> Decision:
    """Begin or give up the proofs, note who needs them, and tell the processes."""
    database = view.databases.get(group.database_uid)
    if database is None:
        return NOTHING
    if group.lease is None:
        first = _first(view) if is_leasable(database, view) and not group.is_changing_roles else None
        return NOTHING if first is None else Decision(writes=(Put(replace(group, lease=first)),))
    after = group.lease if group.is_changing_roles else _next(group, group.lease, database, view, now)
    rests_until = None if after.is_needed or after.ended_at is None else after.ended_at + REST
    return Decision(
        writes=() if after == group.lease else (Put(replace(group, lease=after)),),
        commands=() if group.handoff is not None else _tell(group, after, view),
        wake_at=rests_until if rests_until is not None and rests_until > now else None,
    )


def is_leasable(database: Database, view: ClusterView) -> bool:
    """Whether a failover without a proof of the primary's end may ever need proofs of the endpoint processes."""
    cluster = view.cluster
    if cluster is None or not cluster.is_of_machines or cluster.cluster_version < FIELDS_SINCE["SlotGroup", "lease"]:
        return False
    return database.has_replica and not database.is_strict and database.shards_count == 1


def _first(view: ClusterView) -> Lease:
    """No process knows of proofs yet: each one that runs may serve without."""
    waivers = []
    for uid in sorted(view.nodes):
        process = view.endpoint_processes.get(uid)
        if process is None or not process.has_ended:
            waivers.append(Waiver(uid, "" if process is None or not process.answers else process.instance))
    return Lease(waived=tuple(waivers))


def _next(group: SlotGroup, lease: Lease, database: Database, view: ClusterView, now: datetime) -> Lease:
    kept = tuple(waiver for waiver in lease.waived if not _is_over(waiver, lease, group, view))
    lease = lease if kept == lease.waived else replace(lease, waived=kept)
    if not lease.is_needed:
        is_resting = lease.ended_at is not None and timedelta(0) <= now - lease.ended_at < REST
        if is_leasable(database, view) and not is_resting and _has_witness(group, view):
            return lease.begun()
        return given_up(replace(group, lease=lease), view) or lease
    if not is_leasable(database, view) or not _has_heir(group, view):
        return given_up(replace(group, lease=lease), view) or lease
    if _fail(group, lease, view):
        lost = given_up(replace(group, lease=lease), view) or lease
        return replace(lost, ended_at=now)
    return _with_strangers(lease, group, view)


# -- who needs proofs --------------------------------------------------------------------------------------------------


def _is_over(waiver: Waiver, lease: Lease, group: SlotGroup, view: ClusterView) -> bool:
    """Whether the process no longer serves without a proof. Nothing on a removed node is waited for, as elsewhere."""
    process = view.endpoint_processes.get(waiver.node_uid)
    if waiver.node_uid not in view.nodes or (process is not None and process.has_ended):
        return True
    if process is None or not process.answers or not process.instance:
        return False
    if waiver.instance and process.instance != waiver.instance:
        return True  # another process listens in its place
    return lease.is_needed and all(_has_shown(process, e, lease) for e in view.endpoints_of(group.database_uid))


def _has_shown(process: EndpointProcessSeen, endpoint: Endpoint, lease: Lease) -> bool:
    seen = process.leases.get(endpoint.uid)
    return seen is not None and seen.version >= lease.version and not seen.is_waived


def _with_strangers(lease: Lease, group: SlotGroup, view: ClusterView) -> Lease:
    """With the processes that are seen to serve without a proof although no record lets them: a defect elsewhere, or a late
    word of a time before the lease. They must show what they do like the others."""
    known = {waiver.node_uid for waiver in lease.waived}
    found = [
        Waiver(uid, process.instance)
        for endpoint in view.endpoints_of(group.database_uid)
        for uid, process in sorted(view.endpoint_processes.items())
        if uid in view.nodes and uid not in known and process.answers and _is_free(process, endpoint)
    ]
    return replace(lease, waived=(*lease.waived, *found)) if found else lease


def _is_free(process: EndpointProcessSeen, endpoint: Endpoint) -> bool:
    seen = process.leases.get(endpoint.uid)
    if seen is None:
        return process.endpoint(endpoint.uid).state is not EndpointState.ABSENT
    return seen.is_waived


# -- whether they can be had -------------------------------------------------------------------------------------------


def _others(group: SlotGroup, view: ClusterView) -> list[Copy]:
    return [
        copy
        for copy in copies_of(group, view)
        if copy.shard.uid != group.primary and copy.shard.in_sync_generation == group.generation
    ]


def _has_heir(group: SlotGroup, view: ClusterView) -> bool:
    """Whether a replica that was in sync may live."""
    return group.phase is GroupPhase.SERVING and any(not copy.has_ended for copy in _others(group, view))


def _has_witness(group: SlotGroup, view: ClusterView) -> bool:
    """Whether a replica in sync answers, and so does its primary."""
    primary = next((copy for copy in copies_of(group, view) if copy.shard.uid == group.primary), None)
    if primary is None or not primary.has_role(Role.PRIMARY) or primary.seen is None or primary.seen.is_fenced:
        return False
    if group.phase is not GroupPhase.SERVING:
        return False
    replicas = (copy.seen for copy in _others(group, view) if copy.has_role(Role.REPLICA))
    return any(seen is not None and seen.is_link_up and not seen.is_syncing for seen in replicas)


def _fail(group: SlotGroup, lease: Lease, view: ClusterView) -> bool:
    """Whether the primary serves, and a process that knows this lease finds no replica behind it. The word of a process that
    does not reach the primary does not count: it is cut off, or the primary is."""
    primary = next((copy for copy in copies_of(group, view) if copy.shard.uid == group.primary), None)
    if primary is None or not primary.answers:
        return False
    seen = (
        process.leases.get(endpoint.uid)
        for endpoint in view.endpoints_of(group.database_uid)
        for process in view.endpoint_processes.values()
        if process.answers
    )
    proving = (one for one in seen if one is not None and one.version >= lease.version and not one.is_waived)
    return any((one.unconfirmed_s or 0.0) >= UNCONFIRMED_S for one in proving)


# -- telling -----------------------------------------------------------------------------------------------------------


def _tell(group: SlotGroup, lease: Lease, view: ClusterView) -> tuple[TellLease, ...]:
    """The processes that know an older version. One that does not serve the endpoint needs to know only if it is named."""
    named = {waiver.node_uid for waiver in lease.waived}
    return tuple(
        TellLease(uid, endpoint.uid, lease.version)
        for endpoint in view.endpoints_of(group.database_uid)
        for uid, process in sorted(view.endpoint_processes.items())
        if _is_to_be_told(uid, process, endpoint, lease, view) and (uid in named or may_serve(process, endpoint, view))
    )


def _is_to_be_told(uid: NodeUid, process: EndpointProcessSeen, endpoint: Endpoint, lease: Lease, view: ClusterView) -> bool:
    if uid not in view.nodes or not process.answers or not process.instance:
        return False
    seen = process.leases.get(endpoint.uid)
    return seen is None or seen.version < lease.version
