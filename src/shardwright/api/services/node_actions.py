"""Node actions as intents: start, cancel, forget, find. Pure; ``intent.submit`` commits them.

One transaction starts an action: its record, the node's lock (and the cluster's for a removal), and the pointer to the
latest action of its name. The leader does the rest and deletes the locks when the action ends.
"""

from dataclasses import replace

from shardwright.api.codes import conflict, invalid, not_found
from shardwright.api.schemas.v1.common import action_name, action_of_url
from shardwright.api.schemas.v1.parameters import parameters_of
from shardwright.api.services.intent import Intent, Look, audit
from shardwright.api.services.preview import preview
from shardwright.model.action import Action, ActionName, ActionStatus
from shardwright.model.event import EventKind
from shardwright.model.ids import ActionUid, NodeUid
from shardwright.model.view import Put, Write
from shardwright.store import keys
from shardwright.store.protocol import Compare, DeleteKey, ModifiedAt, Operation, PutKey

_REQUEST_EVENTS = {ActionName.REMOVE: EventKind.NODE_REMOVE_REQUEST}
_CANCEL_EVENTS = {ActionName.REMOVE: EventKind.NODE_ABORT_REMOVE_REQUEST}


def start(seen: Look, node_uid: NodeUid, word: str, raw: bytes, *, uid: ActionUid) -> Intent[Action]:
    """Queue an action. ``uid`` is new. Raises Rejected: unknown node or action, bad parameters, a conflicting action."""
    view = seen.view
    node = view.nodes.get(node_uid)
    if node is None:
        raise not_found("node_not_found", f"Node {node_uid} does not exist.")
    name = action_of_url(word)
    if name is None:
        known = "remove, maintenance_on, maintenance_off, enslave_node"
        raise invalid("invalid_action", f"The node action {word!r} does not exist.", remedy=f"Actions are: {known}.")
    parameters = parameters_of(name, raw, databases=view.databases)
    _refuse_conflicts(seen, node_uid, name)
    action = Action(uid, name, node_uid, parameters, ActionStatus.QUEUED, seen.now, seen.by)
    kind = _REQUEST_EVENTS.get(name) or EventKind.of(f"{name}_request")
    text = f"{action_name(name)} of node {node_uid} was requested"
    writes: list[Write] = [Put(action), audit(seen, kind, text, node_uid=node_uid, action_uid=uid)]
    lock = keys.node_lock_key(node_uid)
    node_key = keys.key_of(node)
    compares: list[Compare] = [ModifiedAt(lock, 0)]
    operations: list[Operation] = [
        PutKey(lock, uid.encode()),
        PutKey(keys.last_action_key(node_uid, name), uid.encode()),
    ]
    if name is ActionName.REMOVE:
        writes[0] = Put(action := replace(action, was_closed=node.is_closed))
        writes.append(Put(replace(node, is_closed=True)))
        compares.append(ModifiedAt(keys.REMOVE_LOCK, 0))
        operations.append(PutKey(keys.REMOVE_LOCK, uid.encode()))
    else:
        compares.append(ModifiedAt(node_key, seen.modified_at(node_key)))
    return Intent(action, tuple(writes), tuple(compares), tuple(operations))


def start_planned(seen: Look, node_uid: NodeUid, word: str, raw: bytes, *, uid: ActionUid, plan_uid: str) -> Intent[Action]:
    """Queue an action that follows the plan of a dry run. Raises Rejected like ``start`` does, and if the plan would now be
    different because the cluster has changed."""
    intent = start(seen, node_uid, word, raw, uid=uid)
    found = preview(intent.answer, seen.view, intent.writes, seen.now)
    if found.plan_uid != plan_uid:
        raise conflict(
            "plan_outdated",
            "The cluster has changed since the plan was made: its moves, places or obstacles would now be different.",
            remedy="Request a new plan (dry_run).",
        )
    action = replace(intent.answer, plan_uid=plan_uid, targets=found.targets)
    writes = tuple(Put(action) if w.record == intent.answer else w for w in intent.writes)
    return replace(intent, answer=action, writes=writes)


def _refuse_conflicts(seen: Look, node_uid: NodeUid, name: ActionName) -> None:
    if (holder := seen.bare(keys.node_lock_key(node_uid))) is not None:
        raise conflict(
            "node_action_in_progress",
            f"Node {node_uid} has a live action: {_describe(seen, holder)}.",
            remedy="Wait for it to end, or cancel it.",
        )
    if name is ActionName.REMOVE and (holder := seen.bare(keys.REMOVE_LOCK)) is not None:
        raise conflict(
            "remove_in_progress", f"Another removal is running: {_describe(seen, holder)}.", remedy="Wait for it to end."
        )


def _describe(seen: Look, uid: str) -> str:
    action = seen.view.actions.get(ActionUid(uid))
    if action is None:
        return uid
    return f"{action_name(action.name)} of node {action.node_uid}, {action.status}, {uid}"


def known_node(seen: Look, node_uid: NodeUid) -> None:
    """Raises Rejected unless the node exists, or existed and its actions are still kept."""
    removed = seen.view.removed_nodes.get(node_uid)
    if node_uid not in seen.view.nodes and (removed is None or removed.retained_until < seen.now):
        raise not_found("node_not_found", f"Node {node_uid} does not exist.")


def of_node(seen: Look, node_uid: NodeUid) -> list[Action]:
    """The latest action of each name on the node, oldest first. Raises Rejected."""
    known_node(seen, node_uid)
    return _latest(seen, node_uid)


def of_all_nodes(seen: Look) -> list[Action]:
    """The latest action of each name on each node, by node and age; actions of removed nodes while they are kept."""
    kept = {uid for uid, removed in seen.view.removed_nodes.items() if removed.retained_until >= seen.now}
    return [action for uid in sorted({*seen.view.nodes, *kept}) for action in _latest(seen, uid)]


def _latest(seen: Look, node_uid: NodeUid) -> list[Action]:
    found = (_last(seen, node_uid, name) for name in ActionName)
    return sorted((a for a in found if a is not None), key=lambda a: (a.created_at, a.uid))


def _last(seen: Look, node_uid: NodeUid, name: ActionName) -> Action | None:
    uid = seen.bare(keys.last_action_key(node_uid, name))
    return None if uid is None else seen.view.actions.get(ActionUid(uid))


def find(seen: Look, node_uid: NodeUid, word: str) -> Action:
    """The latest action with that name on the node. Raises Rejected (404), also for an unknown name."""
    known_node(seen, node_uid)
    name = action_of_url(word)
    action = None if name is None else _last(seen, node_uid, name)
    if action is None:
        raise not_found(
            "action_not_found", f"Node {node_uid} has no action {word!r}: it never ran, or its result was deleted."
        )
    return action


def is_undo(mode: str | None) -> bool:
    """Whether a cancellation asks for an undo. Raises Rejected for an unknown mode."""
    if mode not in (None, "stop", "undo"):
        raise invalid("invalid_parameter", f"mode: {mode!r} is not a mode.", remedy="Modes are: stop (the default), undo.")
    return mode == "undo"


def cancel_or_forget(seen: Look, node_uid: NodeUid, word: str, *, mode: str | None = None) -> Intent[Action]:
    """Ask a live action to stop or to undo its changes, or delete the result of one that has ended. The answer shows a live
    action as cancelling. A stop may become an undo; an undo cannot be revoked."""
    undoes = is_undo(mode)
    action = find(seen, node_uid, word)
    if action.status.is_terminal:
        if undoes:
            text = f"{action_name(action.name)} of node {node_uid} ended {action.status}: only a live action can be undone."
            raise conflict("action_ended", text, remedy="maintenance_off brings back what maintenance_on moved.")
        return _forget(seen, action)
    shown = replace(action, status=ActionStatus.CANCELLING)
    if action.cancel_requested_at is not None and (action.is_undo_wanted or not undoes):
        return Intent(shown)
    asked_at = action.cancel_requested_at or seen.now
    wish = replace(action, cancel_requested_at=asked_at, cancel_requested_by=seen.by, is_undo_wanted=undoes)
    kind = _CANCEL_EVENTS.get(action.name) or EventKind.of(f"{action.name}_cancel_request")
    text = f"{action_name(action.name)} of node {node_uid}: {'undo' if undoes else 'stop'} was requested"
    event = audit(seen, kind, text, node_uid=node_uid, action_uid=action.uid)
    return Intent(replace(wish, status=ActionStatus.CANCELLING), (Put(wish), event))


def _forget(seen: Look, action: Action) -> Intent[Action]:
    pointer = keys.last_action_key(action.node_uid, action.name)
    text = f"the result of {action_name(action.name)} of node {action.node_uid} was deleted"
    event = audit(seen, EventKind.NODE_ACTION_FORGOTTEN, text, node_uid=action.node_uid, action_uid=action.uid)
    return Intent(action, (event,), (ModifiedAt(pointer, seen.modified_at(pointer)),), (DeleteKey(pointer),))
