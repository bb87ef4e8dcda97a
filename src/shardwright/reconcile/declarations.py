"""Ends the word that a node's machine is off, as soon as a daemon of the node runs. Called by the leader each turn.

While the word stands and the node is away, the node's processes count as ended (``model/liveness.py``). It must not outlive
the absence for which it was given: at the next cut of the network it would be a proof of nothing.
"""

from dataclasses import replace
from datetime import datetime

from shardwright.model.cluster import DaemonPresence, DeclaredOff, Node
from shardwright.model.decision import Decision
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.view import ClusterView, Put, Write


def decide_declarations(view: ClusterView, now: datetime) -> Decision:
    """End the word about every node whose daemon runs."""
    writes: list[Write] = []
    for uid, daemon in sorted(view.daemons.items()):
        node = view.nodes.get(uid)
        if node is not None and node.declared_off is not None:
            writes += [Put(replace(node, declared_off=None)), Put(_event(node, node.declared_off, daemon, now))]
    return Decision(writes=tuple(writes))


def _event(node: Node, word: DeclaredOff, daemon: DaemonPresence, now: datetime) -> Event:
    """Without another boot, the machine was never off: a primary there may have answered writes that are lost now."""
    kind, said = EventKind.NODE_DECLARATION_ENDED, f"the daemon of node {node.uid}, which {word.by} had declared off, runs"
    if word.boot_id and word.boot_id == daemon.boot_id:
        text = f"{said}, and its machine has not booted since: it was not off, and writes that it answered may be lost"
        return Event(now, kind, Severity.ERROR, text, node_uid=node.uid)
    return Event(now, kind, Severity.INFO, f"{said} again", node_uid=node.uid)
