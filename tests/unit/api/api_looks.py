"""Looks for pure tests of the services: a view, other keys, one moment, one user."""

from dataclasses import replace
from typing import TypeVar

from shardwright.api.services.databases import FreshSecrets
from shardwright.api.services.intent import Intent, Look
from shardwright.model.account import ManagementRole, User
from shardwright.model.event import Event
from shardwright.model.ids import UserUid
from shardwright.model.view import ClusterView, Put
from shardwright.store import keys
from testkit.builders import NOW, ClusterBuilder, cluster

Answer = TypeVar("Answer")
SECRETS = FreshSecrets("a" * 40, "b" * 40, "c" * 40, "d" * 40, "e" * 16)
SERVERS = (("valkey", "9.1.2"), ("redis", "7.0.15"), ("redis", "7.2.4"))


def view_with_servers(builder: ClusterBuilder) -> ClusterView:
    """The view with server programs on every node."""
    view = builder.view
    return replace(view, node_seen={uid: replace(seen, servers=SERVERS) for uid, seen in view.node_seen.items()})


def look_at(view: ClusterView | None = None, **held: str) -> Look:
    """A look. ``held`` are bare keys, with ``/`` written as ``__``. Names, ports and locks of the view are held too."""
    seen = view if view is not None else view_with_servers(cluster(nodes=3))
    bare = {key.replace("__", "/"): value for key, value in held.items()}
    for database in seen.databases.values():
        bare[keys.name_key(database.name)] = bare[keys.port_key(database.port)] = str(database.uid)
    for action in seen.live_actions():
        bare[keys.node_lock_key(action.node_uid)] = action.uid
    for action in sorted(seen.actions.values(), key=lambda a: a.created_at):
        bare[keys.last_action_key(action.node_uid, action.name)] = action.uid
    return Look(seen, bare.get, lambda key: 5 if key in bare or key.startswith("nodes/") else 0, NOW, "admin@example.com")


def user(uid: int = 1, role: ManagementRole = ManagementRole.ADMIN) -> User:
    """A user."""
    return User(UserUid(uid), f"user{uid}@example.com", f"User {uid}", role, "hash", NOW, NOW)


def events_of(intent: Intent[Answer]) -> list[Event]:
    """The audit events that an intent writes."""
    return [w.record for w in intent.writes if isinstance(w, Put) and isinstance(w.record, Event)]
