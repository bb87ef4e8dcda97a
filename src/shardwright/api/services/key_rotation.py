"""The change of the cluster key as an intent, and what is shown of it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from shardwright.api.codes import conflict, not_acceptable, not_found
from shardwright.api.services.intent import Intent, Look, audit
from shardwright.model.event import EventKind
from shardwright.model.ids import KeyUid, NodeUid
from shardwright.model.key_rotation import KeyPhase, KeyRotation
from shardwright.model.version import Feature, may_write
from shardwright.model.view import ClusterView, Put
from shardwright.reconcile.key_rotation import holders
from shardwright.store.protocol import KeyValue
from shardwright.store.seal import to_seal_again

NAME = "rotate_key"
"""Its word on the wire."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A change of the key with what has become of it."""

    rotation: KeyRotation
    holding: tuple[NodeUid, ...]
    """The nodes that hold the new key."""
    nodes: int
    values: int
    """How many sealed values the store has."""
    left: int
    """How many of them another key has sealed."""

    @property
    def percent(self) -> float:
        """How much of it is done: the parts are the new key on the nodes, the values, and the end of the old key."""
        match self.rotation.phase:
            case KeyPhase.MAKING:
                return 0.0
            case KeyPhase.SPREADING:
                return 10.0 + 20.0 * len(self.holding) / max(1, self.nodes)
            case KeyPhase.SEALING:
                return 30.0 + 60.0 * (1 - self.left / max(1, self.values))
            case KeyPhase.DROPPING:
                return 90.0
            case KeyPhase.DONE:
                return 100.0


def request(seen: Look, sealing_uid: KeyUid | None) -> Intent[KeyRotation]:
    """Ask for a new cluster key. One change at a time: while one is under way, that one is the answer. ``sealing_uid``: the
    key that seals by the files of the answering node; None if there is none. Raises Rejected (406)."""
    cluster, earlier = seen.view.cluster, seen.view.key_rotation
    if sealing_uid is None or cluster is None:
        text = "This cluster was created without a cluster key: the secrets in its store are in clear."
        remedy = "Move the records of the stopped cluster into an etcd (cluster move-store): that makes a key."
        raise not_acceptable("cluster_key_absent", text, remedy=remedy)
    if not may_write(Feature.SEALED_VALUES, cluster.cluster_version):
        text = "Not every daemon can open sealed values yet."
        raise not_acceptable("cluster_key_absent", text, remedy="Upgrade every node first.")
    if earlier is not None and not earlier.has_ended:
        return Intent(earlier)
    old = sealing_uid if earlier is None else earlier.seals
    rotation = KeyRotation(old, seen.now, seen.by, KeyPhase.MAKING, seen.now)
    return Intent(rotation, (Put(rotation), audit(seen, EventKind.KEY_ROTATION_REQUEST, "a new cluster key was requested")))


def find(view: ClusterView) -> KeyRotation:
    """The last change. Raises Rejected (404)."""
    if view.key_rotation is None:
        raise not_found("action_not_found", f"The cluster has no result of {NAME}.")
    return view.key_rotation


def refuse_to_forget(view: ClusterView) -> None:
    """The record says which key seals, so it stays, and a change goes on to its end. Raises Rejected (404, 409)."""
    find(view)
    text = f"{NAME} is not undone, and its result stays: it says which key seals."
    raise conflict("key_rotation_stays", text, remedy=f"Wait for its end, or remove what blocks it (GET …/{NAME}).")


def shown(rotation: KeyRotation, view: ClusterView, secrets: Iterable[KeyValue]) -> Shown:
    """``secrets``: all items of the store that are sealed."""
    items = list(secrets)
    left = len(items) if rotation.new is None else len(to_seal_again(items, rotation.new))
    return Shown(rotation, tuple(holders(view, rotation.new)), len(view.nodes), len(items), left)
