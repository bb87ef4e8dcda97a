"""Removes the node whose place this one has taken: the shell around ``services/replacing.py``.

A task of the new node's daemon. It repeats the request until the cluster has accepted it; the leader does the rest.
"""

from functools import partial

import structlog

from shardwright.api.deps import ApiContext
from shardwright.api.services.intent import submit
from shardwright.api.services.replacing import begin_removal, is_due
from shardwright.errors import ShardwrightError
from shardwright.model.ids import ActionUid

AGAIN_S = 5.0
"""After a refusal: another action may stand in the way."""

_log = structlog.get_logger(__name__)


async def replace_node(context: ApiContext) -> None:
    """Eternal task."""
    revision, pause_s, complaint = 0, None, ""
    while True:
        revision = await context.mirror.wait_change(revision, pause_s)
        pause_s = None
        if not is_due(context.mirror.view(), context.node_uid):
            continue
        begin = partial(begin_removal, node_uid=context.node_uid, uid=ActionUid(context.new_uid()))
        try:
            action = await submit(context, f"node {context.node_uid}", begin)
        except ShardwrightError as e:
            if e.text != complaint:
                _log.warning("the node that this one replaces cannot be removed yet", code=e.code, reason=e.text)
            pause_s, complaint = AGAIN_S, e.text
        else:
            if action is not None:
                _log.info("the node that this one replaces is being removed", replaced=action.node_uid, action=action.uid)
