"""``shardwright-node --drain``: empties the node before its machine shuts down, if the policy says so.

Asks for ``maintenance_on`` like an operator would and waits until it has ended. The leader does the work. A limit of time is
the caller's: the service manager's.
"""

import asyncio
import secrets
import uuid
from collections.abc import Callable

import structlog

from shardwright.api.deps import ApiContext
from shardwright.api.services import node_actions
from shardwright.api.services.check import Checks
from shardwright.api.services.figures import Figures
from shardwright.api.services.intent import Intent, Look, submit
from shardwright.clock import SystemClock
from shardwright.errors import Permanent, Rejected
from shardwright.model.action import Action, ActionName, ActionStatus
from shardwright.model.codes import Code
from shardwright.model.ids import ActionUid, NodeUid
from shardwright.model.view import ClusterView
from shardwright.node.places import store_settings
from shardwright.node.settings import NodeSettings
from shardwright.nodes.local import LocalNodes
from shardwright.store.mirror import Mirror
from shardwright.store.open import open_store
from shardwright.store.protocol import Store
from shardwright.store.seal import Sealing
from shardwright.tasks import spawn

READ_TIMEOUT_S = 20.0
"""For the first read of the store. A machine must not wait longer for a store that does not answer."""
EMPTIES = frozenset({ActionName.MAINTENANCE_ON, ActionName.REMOVE})
"""Actions whose end leaves the node empty."""

Say = Callable[[str], None]

_log = structlog.get_logger(__name__)


def needless(view: ClusterView, node_uid: NodeUid) -> str:
    """Why the node need not be emptied; empty: it must be."""
    node = view.nodes.get(node_uid)
    if node is None:
        return f"the cluster has no record of node {node_uid}"
    if not view.policy.drain_at_shutdown:
        return "the policy (drain_at_shutdown) does not ask for it"
    is_busy = any(action.node_uid == node_uid for action in view.live_actions())
    if node.is_quorum_only and not is_busy:
        return f"node {node_uid} is in maintenance already"
    return ""


def running(view: ClusterView, node_uid: NodeUid) -> Action | None:
    """The live action that empties the node already, if any."""
    return next((a for a in view.live_actions() if a.node_uid == node_uid and a.name in EMPTIES), None)


async def drain(settings: NodeSettings, sealing: Sealing, *, say: Say) -> bool:
    """Empty the node, and return when it is empty or need not be. False: the action has not completed. Raises Permanent
    ``drain_failed`` if the store does not answer or refuses the action; StoreError."""
    store = await open_store(store_settings(settings.store))
    mirror = Mirror(store, sealing=sealing)
    mirroring = spawn("mirror", mirror.run())
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            await mirror.ready()
            await mirror.fresh()
        if why := needless(mirror.view(), settings.node_uid):
            say(f"nothing to do: {why}")
            return True
        action = running(mirror.view(), settings.node_uid) or await _start(settings, store, mirror)
        return await _ended(mirror, action, say)
    except TimeoutError as e:
        raise Permanent(Code.DRAIN_FAILED, "the store does not answer") from e
    finally:
        mirroring.cancel()
        await asyncio.gather(mirroring, return_exceptions=True)
        await store.close()


async def _start(settings: NodeSettings, store: Store, mirror: Mirror) -> Action:
    node_uid, clock = settings.node_uid, SystemClock()
    nodes = LocalNodes.of(settings.directories.run, clock=clock)
    context = ApiContext(
        store=store,
        mirror=mirror,
        clock=clock,
        node_uid=node_uid,
        is_leader=lambda: False,
        new_uid=lambda: str(uuid.uuid4()),
        random_text=lambda: secrets.token_hex(4),
        figures=Figures(nodes, clock=clock),
        checks=Checks(nodes, clock=clock),
    )
    uid = ActionUid(context.new_uid())

    def decide(seen: Look) -> Intent[Action]:
        return node_actions.start(seen, node_uid, ActionName.MAINTENANCE_ON, b"{}", uid=uid)

    try:
        return await submit(context, f"shutdown of node {node_uid}", decide)
    except Rejected as e:
        raise Permanent(Code.DRAIN_FAILED, f"node {node_uid} cannot be emptied: {e.text}") from e
    finally:
        nodes.close()


async def _ended(mirror: Mirror, action: Action, say: Say) -> bool:
    told = ""
    revision = 0
    while True:
        revision = await mirror.wait_change(revision)
        found = mirror.view().actions.get(action.uid)
        if found is None:
            continue
        if (line := _line(found)) != told:
            told = line
            say(line)
        if found.status.is_terminal:
            return found.status is ActionStatus.COMPLETED


def _line(action: Action) -> str:
    waits = "; ".join(dict.fromkeys(reason.text for reason in action.reasons))
    return f"{action.name} of node {action.node_uid} is {action.status}{f': {waits}' if waits else ''}"
