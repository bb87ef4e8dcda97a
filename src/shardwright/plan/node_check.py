"""Judges the facts of a check of the nodes: what works, what does not, and what helps. Pure and total.

Called by the API, which collects the facts. Must not ask anything itself: what is not known is not judged.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from statistics import median_low

from shardwright.model.check import CheckCode, Checked, CheckGrade, Finding, NodeFacts, PortLook, PortOffer, PortUse, Reach
from shardwright.model.ids import NodeUid
from shardwright.plan.firewall import opening_lines

CLOCK_WARNING_S = 0.5
CLOCK_FAILED_S = 300.0
"""As certificates and joins: an earlier or later time is outside what they accept."""
SYNC_WARNING_MS = 10.0
"""Above it, the store's etcd stalls, and leases end late."""
CERTIFICATE_WARNING = timedelta(days=30)
"""Certificates last 90 days and are renewed 30 days before their end: less is left only if the renewal fails."""
FILES_WARNING = 65_536
FILES_FAILED = 10_240
"""A server accepts 10,000 clients, and each takes a file."""
PORTS = (10_000, 29_999)
DISK_WARNING = (0.10, 2 << 30)
DISK_FAILED = (0.01, 256 << 20)
"""A disk has too little space if less than both is free: the part of it, and the bytes."""

_NAMES = {
    PortUse.API: "API",
    PortUse.AGENT: "agent",
    PortUse.CONTROL: "endpoint control",
    PortUse.STORE: "etcd, for clients",
    PortUse.STORE_MEMBERS: "etcd, between members",
    PortUse.DATABASES: "databases, 10000-19999",
    PortUse.SERVERS: "servers, 20000-29999",
}
_REACHES = {
    Reach.REFUSED: (CheckCode.PORT_REFUSED, "is refused"),
    Reach.NO_ANSWER: (CheckCode.PORT_NO_ANSWER, "is not answered"),
    Reach.NO_ROUTE: (CheckCode.PORT_NO_ROUTE, "finds no route"),
}


def ports_to_try(
    uid: NodeUid, offers: Mapping[NodeUid, Sequence[PortOffer]], about: Collection[NodeUid]
) -> tuple[tuple[NodeUid, PortOffer], ...]:
    """The ports of other nodes that this node must reach, in ascending order of the nodes. ``about``: the nodes that are
    checked; a connection matters if one of its ends is among them."""
    is_member = any(offer.use is PortUse.STORE_MEMBERS for offer in offers.get(uid, ()))
    return tuple(
        (other, offer)
        for other in sorted(offers)
        if other != uid and (uid in about or other in about)
        for offer in offers[other]
        if is_member or offer.use is not PortUse.STORE_MEMBERS
    )


def judge(
    nodes: Collection[Checked],
    *,
    about: Collection[NodeUid],
    needed: Collection[tuple[str, str]],
    interfaces: Collection[str] = (),
    now: datetime,
) -> tuple[Finding, ...]:
    """Everything that is wrong with the nodes in ``about``, in ascending order of the nodes, failures first.

    ``nodes``: all nodes of which something is known. ``needed``: kind and version of the servers of all databases.
    ``interfaces``: those of the virtual addresses.
    ``now``: by the clock of the node that asks. A connection between two nodes counts for the one to which it is."""
    found = [finding for node in nodes for finding in _of_node(node, nodes, needed, now)]
    found += [finding for node in nodes if node.facts for finding in _of_interfaces(node.uid, node.facts, interfaces)]
    found += _of_clocks(nodes)
    found += _of_versions(nodes)
    wanted = [f for f in found if f.node_uid in about or f.from_uid in about]
    return tuple(sorted(wanted, key=lambda f: (f.node_uid, f.grade is not CheckGrade.FAILED)))


def concerns(finding: Finding, uid: NodeUid) -> bool:
    """Whether a finding belongs into the result of this node: it is about it, or about its connection to another one."""
    return finding.node_uid == uid or finding.from_uid == uid


# -- one node --------------------------------------------------------------------------------------------------------------


def _of_node(
    node: Checked, nodes: Collection[Checked], needed: Collection[tuple[str, str]], now: datetime
) -> Iterator[Finding]:
    yield from (_of_look(node, look) for look in node.looks if look.reach is not Reach.OPEN)
    facts = node.facts
    if facts is None:
        yield _failed(CheckCode.NODE_SILENT, node.uid, f"the agent does not answer: {node.silence or 'no reason is known'}")
        return
    for offer, why in facts.unusable:
        text = f"{offer.address} cannot be used ({_NAMES[offer.use]}): {why}"
        yield _failed(CheckCode.ADDRESS_UNUSABLE, node.uid, text)
    yield from _of_disk(node.uid, facts)
    yield from _of_limits(node.uid, facts)
    yield from _of_certificates(node.uid, facts, now)
    for kind, version in sorted(set(needed) - set(facts.servers)):
        have = ", ".join(f"{k} {v}" for k, v in facts.servers) or "none"
        text = f"a database runs on {kind} {version}; this node has {have}"
        yield _failed(CheckCode.SERVER_MISSING, node.uid, text, remedy=f"install {kind} {version}")
    if facts.etcd is not None and not facts.etcd.is_suitable:
        text = f"its etcd has version {facts.etcd.version or 'unknown'}"
        yield _failed(CheckCode.ETCD_UNSUITABLE, node.uid, text)


def _of_interfaces(uid: NodeUid, facts: NodeFacts, interfaces: Collection[str]) -> Iterator[Finding]:
    """A warning: other nodes can have the address."""
    for name in sorted(set(interfaces) - set(facts.interfaces)):
        have = ", ".join(facts.interfaces) or "none"
        yield _warning(
            CheckCode.INTERFACE_MISSING, uid, f"a virtual address is for the interface {name}; this node has {have}"
        )
    if interfaces and not facts.may_move_addresses:
        text = "its daemon lacks CAP_NET_ADMIN or CAP_NET_RAW, so it can have no virtual address"
        yield _warning(CheckCode.CAPABILITY_MISSING, uid, text)


def _of_look(node: Checked, look: PortLook) -> Finding:
    offer = look.offer
    code, what = _REACHES[look.reach]
    why = f": {look.text}" if look.text else ""
    text = f"from node {node.uid} to {offer.address}:{offer.port} ({_NAMES[offer.use]}): the connection {what}{why}"
    lines = " | ".join(opening_lines(offer, node.address))
    remedy = f"on node {look.node_uid}, one of: {lines}"
    match look.reach:
        case Reach.REFUSED:
            remedy = f"start what listens there, or {remedy}"
        case Reach.NO_ROUTE:
            remedy = f"on node {node.uid}, see: ip route get {offer.address}; or {remedy}"
    # Clients reach databases, not nodes: their way may be open.
    grade = CheckGrade.WARNING if offer.use is PortUse.DATABASES else CheckGrade.FAILED
    return Finding(code, grade, look.node_uid, text, remedy, node.uid)


def _of_disk(uid: NodeUid, facts: NodeFacts) -> Iterator[Finding]:
    free, total = facts.disk_free_bytes, facts.disk_total_bytes
    text = f"{free >> 20} MiB of {total >> 20} MiB are free on the disk of the state"
    if _is_below(free, total, DISK_FAILED):
        yield _failed(CheckCode.DISK_FULL, uid, text)
    elif _is_below(free, total, DISK_WARNING):
        yield _warning(CheckCode.DISK_FULL, uid, text)
    if facts.sync_p99_ms is not None and facts.sync_p99_ms > SYNC_WARNING_MS:
        text = f"a synchronous write takes {facts.sync_p99_ms:.1f} ms (99th percentile); more than {SYNC_WARNING_MS:g} ms"
        yield _warning(CheckCode.DISK_SLOW, uid, text)


def _is_below(free: int, total: int, limit: tuple[float, int]) -> bool:
    part, size = limit
    return total > 0 and free < part * total and free < size


def _of_limits(uid: NodeUid, facts: NodeFacts) -> Iterator[Finding]:
    text = f"a process may open {facts.files_max} files"
    if facts.files_max < FILES_FAILED:
        yield _failed(CheckCode.FILES_FEW, uid, f"{text}; a server needs {FILES_FAILED}")
    elif facts.files_max < FILES_WARNING:
        yield _warning(CheckCode.FILES_FEW, uid, f"{text}; {FILES_WARNING} are advisable")
    if facts.local_ports is None:
        return
    first, last = facts.local_ports
    gap = next(_gaps(max(first, PORTS[0]), min(last, PORTS[1]), facts.reserved_ports), None)
    if gap is not None:
        text = f"outgoing connections may take the ports {gap[0]}-{gap[1]} of databases and servers"
        yield _warning(CheckCode.PORTS_NOT_RESERVED, uid, text)


def _gaps(first: int, last: int, reserved: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of a range that are not reserved."""
    for start, end in sorted(reserved):
        if first > last:
            return
        if start > first:
            yield first, min(last, start - 1)
        first = max(first, end + 1)
    if first <= last:
        yield first, last


def _of_certificates(uid: NodeUid, facts: NodeFacts, now: datetime) -> Iterator[Finding]:
    for certificate in facts.certificates:
        left, name = certificate.at - now, f"the certificate {certificate.name!r}"
        if left <= timedelta(0):
            yield _failed(CheckCode.CERTIFICATE_ENDED, uid, f"{name} ended on {certificate.at:%Y-%m-%d}")
        elif left < CERTIFICATE_WARNING:
            yield _warning(CheckCode.CERTIFICATE_ENDS, uid, f"{name} ends on {certificate.at:%Y-%m-%d}, in {left.days} days")


# -- several nodes ---------------------------------------------------------------------------------------------------------


def _of_clocks(nodes: Collection[Checked]) -> Iterator[Finding]:
    """Against the clock in the middle, so that the one clock that is wrong is named, also if it is the one that asks."""
    known = [node for node in nodes if node.facts is not None]
    if not known:
        return
    middle = median_low(node.clock_ahead_s for node in known)
    right = next(node for node in known if node.clock_ahead_s == middle)
    for node in known:
        ahead = node.clock_ahead_s - middle
        certain = abs(ahead) - node.clock_uncertain_s - right.clock_uncertain_s
        if node is right or certain <= CLOCK_WARNING_S:
            continue
        text = f"its clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} that of node {right.uid}"
        grade = CheckGrade.FAILED if certain > CLOCK_FAILED_S else CheckGrade.WARNING
        yield Finding(CheckCode.CLOCK_DIFFERS, grade, node.uid, text, CheckCode.CLOCK_DIFFERS.remedy)


def _of_versions(nodes: Collection[Checked]) -> Iterator[Finding]:
    found = [(node.uid, node.facts.version) for node in nodes if node.facts is not None]
    versions = sorted({version for _, version in found}, key=lambda v: (-sum(version == v for _, version in found), v))
    for uid, version in found:
        if version != versions[0]:
            text = f"it runs Shardwright {version}, most nodes run {versions[0]}"
            yield _warning(CheckCode.VERSIONS_DIFFER, uid, text)


def _failed(code: CheckCode, uid: NodeUid, text: str, *, remedy: str = "") -> Finding:
    return Finding(code, CheckGrade.FAILED, uid, text, remedy or code.remedy)


def _warning(code: CheckCode, uid: NodeUid, text: str) -> Finding:
    return Finding(code, CheckGrade.WARNING, uid, text, code.remedy)
