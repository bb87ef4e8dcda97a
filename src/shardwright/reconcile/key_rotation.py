"""A change of the cluster key: what the leader decides, and which keys a node is to hold. Pure.

``leader/resealing.py`` and ``agent/cluster_keys.py`` carry it out. The rules: nothing is sealed with a key that less than
most nodes hold; a key is dropped only when no value needs it. The key itself never passes through the store: nodes ask each
other for it. So an old key, together with a copy of the store, never leads to the new one.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import KeyUid, NodeUid
from shardwright.model.key_rotation import KeyPhase, KeyRotation
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView, Put

NOTED_AFTER = timedelta(seconds=5)
"""A wait that lasts longer is written down with its reasons."""
UNHELD_AFTER = timedelta(seconds=30)
"""A key that no present node has reported to hold by then is lost. A report takes a second."""


@dataclass(frozen=True, slots=True)
class Unsealed:
    """What is not yet sealed with the new key."""

    count: int = 0
    """Values that can be sealed again."""
    damaged: tuple[str, ...] = ()
    """Their keys in the store: they cannot be opened."""


def decide_key_rotation(view: ClusterView, now: datetime, unsealed: Unsealed) -> Decision:
    """The next phase, or what the present one waits for. ``unsealed`` counts only in the phase ``sealing``."""
    rotation = view.key_rotation
    if rotation is None:
        return NOTHING
    match rotation.phase:
        case KeyPhase.MAKING:
            return _noted(rotation, (_reason("the leader's node has not made the new key yet"),), now)
        case KeyPhase.SPREADING:
            return _spread(rotation, view, now)
        case KeyPhase.SEALING:
            return _sealed(rotation, unsealed, now)
        case KeyPhase.DROPPING:
            return _dropped(rotation, view, now)
        case KeyPhase.DONE:
            return NOTHING


def holders(view: ClusterView, uid: KeyUid | None) -> list[NodeUid]:
    """The nodes that have reported to hold a key, by number. None: no key, which none holds."""
    return [node for node in sorted(view.nodes) if uid in held_by(view, node)]


def held_by(view: ClusterView, node: NodeUid) -> tuple[KeyUid, ...]:
    """The keys that a node has reported."""
    seen = view.node_seen.get(node)
    return () if seen is None else seen.cluster_keys


def _spread(rotation: KeyRotation, view: ClusterView, now: datetime) -> Decision:
    """A node that is away is not waited for: it asks for the key when it returns. But most nodes must hold the key before
    it is used, so that it survives what the store survives."""
    holding = holders(view, rotation.new)
    present = [node for node in sorted(view.nodes) if not view.is_away(node)]
    if not set(holding) & set(present) and now - rotation.since >= UNHELD_AFTER:
        return _in_phase(replace(rotation, new=None), KeyPhase.MAKING, now)
    lacking = [node for node in present if node not in holding]
    if not lacking and 2 * len(holding) > len(view.nodes):
        return _in_phase(rotation, KeyPhase.SEALING, now)
    reasons = [_reason(f"node {node} does not hold the new key yet", node) for node in lacking]
    if 2 * len(holding) <= len(view.nodes):
        away = [node for node in sorted(view.nodes) if view.is_away(node) and node not in holding]
        text = "is away, and the new key is used only when most nodes hold it"
        reasons += [_reason(f"node {node} {text}", node, Grade.HARD_LIMIT) for node in away]
    return _noted(rotation, reasons, now)


def _sealed(rotation: KeyRotation, unsealed: Unsealed, now: datetime) -> Decision:
    if unsealed.count:
        return NOTHING
    if unsealed.damaged:
        code = Code.SECRET_DAMAGED
        reasons = [
            Reason(code, f"the sealed value at {key} cannot be opened, so the old key is kept", remedy=code.remedy)
            for key in unsealed.damaged
        ]
        return _noted(rotation, reasons, now)
    after = replace(_moved(rotation, KeyPhase.DROPPING, now), sealed_at=now)
    text = f"every secret in the store is sealed with the cluster key {rotation.new}"
    return Decision(writes=(Put(after), Put(Event(now, EventKind.KEY_ROTATION_SEALED, Severity.INFO, text))))


def _dropped(rotation: KeyRotation, view: ClusterView, now: datetime) -> Decision:
    keeping = [node for node in sorted(view.nodes) if held_by(view, node) != (rotation.new,)]
    if keeping:
        return _noted(rotation, [_keeps(node, rotation.new, view) for node in keeping], now)
    after = replace(_moved(rotation, KeyPhase.DONE, now), ended_at=now)
    text = f"every node has the cluster key {rotation.new}, and no other"
    event = Event(now, EventKind.KEY_ROTATION_COMPLETED, Severity.INFO, text, by=rotation.requested_by)
    return Decision(writes=(Put(after), Put(event)))


def _keeps(node: NodeUid, new: KeyUid | None, view: ClusterView) -> Reason:
    if not view.is_away(node):
        return Reason(Code.CLUSTER_KEY_KEPT, f"node {node} has not dropped the old key yet", Grade.SOFT_LIMIT, node_uid=node)
    code = Code.CLUSTER_KEY_KEPT
    does = "drops it" if new in held_by(view, node) else "fetches the new one and drops it"
    text = f"node {node} is away and has the old key; it {does} when it returns"
    return Reason(code, text, Grade.CONFIGURATION, remedy=code.remedy, node_uid=node)


def _reason(text: str, node: NodeUid | None = None, grade: Grade = Grade.SOFT_LIMIT) -> Reason:
    code = Code.CLUSTER_KEY_AWAITED
    return Reason(code, text, grade, remedy=code.remedy, node_uid=node)


def _noted(rotation: KeyRotation, reasons: Iterable[Reason], now: datetime) -> Decision:
    """Write down what is waited for, if that lasts and is not what the record says."""
    found = tuple(reasons)
    if found == rotation.reasons or now - rotation.since < NOTED_AFTER:
        return NOTHING
    return Decision(writes=(Put(replace(rotation, reasons=found)),))


def _in_phase(rotation: KeyRotation, phase: KeyPhase, now: datetime) -> Decision:
    return Decision(writes=(Put(_moved(rotation, phase, now)),))


def _moved(rotation: KeyRotation, phase: KeyPhase, now: datetime) -> KeyRotation:
    return replace(rotation, phase=phase, since=now, reasons=())


# -- a node ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeysWish:
    """What a node's daemon does next about its keys."""

    keys: tuple[KeyUid, ...]
    """Those that its file is to have, in this order."""
    makes: bool = False
    """Make the new key, write it, and only then say so in the record."""
    fetches: KeyUid | None = None
    """Ask another node for this key."""


def decide_keys(rotation: KeyRotation, known: Sequence[KeyUid], needed: Collection[KeyUid], *, leads: bool) -> KeysWish:
    """``known``: the keys that the node has, in order. ``needed``: those with which a value in the store is sealed.
    ``leads``: this node's daemon leads."""
    new = rotation.new
    if rotation.phase is KeyPhase.MAKING or new is None:
        return KeysWish(tuple(known), makes=leads)
    if new not in known:
        return KeysWish(tuple(known), fetches=new)
    if rotation.phase is KeyPhase.SPREADING:
        return KeysWish(tuple(known))
    others = [uid for uid in known if uid != new]
    if rotation.phase is not KeyPhase.SEALING:
        others = [uid for uid in others if uid in needed]
    return KeysWish((new, *others))
