"""``node token`` and ``node leave``: a machine that comes to a cluster of machines, and one that goes.

What ``node leave`` needs is imported when it runs: most commands for nodes only ask the API.
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from shardwright.cli.access import Access, Wanted
from shardwright.cli.direct import failure_of, failures
from shardwright.cli.failure import Failure
from shardwright.cli.progress import has_ended
from shardwright.cli.session import CommandSession, Yes, command, confirm
from shardwright.cli.waiting import wait_for_action
from shardwright.errors import Rejected
from shardwright.node.settings import SETTINGS_FILE, NodeSettings

Timeout = Annotated[
    str | None,
    typer.Option(
        "--timeout", metavar="TIME", help="Stop waiting for the removal after this time, such as 10m; it continues."
    ),
]


def register(group: typer.Typer) -> None:
    """Add the commands to the group ``node``."""
    command(group, "token", examples="shardwright node token\nshardwright node token --json")(_token)
    examples = "shardwright node leave\nshardwright node leave --yes"
    command(group, "leave", examples=examples, find=_own_cluster)(_leave)


def _token(session: CommandSession) -> None:
    """Make a join token and print the line to run on the new machine. It admits one machine and expires after 24 hours."""
    made = session.api.post("/v1/nodes/tokens")
    session.show(made, lambda: f"{made['join_line']}\n(good for one machine until {made['expires_at']})")


def _leave(
    session: CommandSession,
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The settings of this machine's node.")] = (
        SETTINGS_FILE
    ),
    yes: Yes = False,
    timeout: Timeout = None,
) -> None:
    """Take this machine out of its cluster: empty its node, remove it, stop its services, and move its files aside.

    Data in the moved files is not deleted. After an interruption, the same command continues.
    """
    from shardwright.node.leave import take_out

    settings = _settings(config)
    uid = settings.node_uid
    if _is_recorded(session, uid):
        confirm(f"Remove node:{uid} from the cluster and stop it on this machine?", is_confirmed=yes)
        action = _removal(session, uid)
        session.say(f"remove node:{uid}: action {action}")
        wait_for_action(session, action, timeout=timeout, is_shown=False)
    else:
        confirm(f"The cluster has no node:{uid} any more. Stop it on this machine?", is_confirmed=yes)
    with failures(session.as_json):
        left = take_out(settings, say=session.say, now=datetime.now(UTC))
    places = [str(path) for path in left.moved_to]
    session.show({"node_uid": uid, "moved_to": places}, lambda: _farewell(uid, places))


def _farewell(uid: int, places: list[str]) -> str:
    return (
        f"node:{uid} has left; its files are in {', '.join(places)}\n"
        "The node's certificates and keys are among them. The cluster's store accepts these until they expire, for up to\n"
        "90 days: with them, every record can be read and changed. Destroy the files as soon as you do not need the data."
    )


def _own_cluster(wanted: Wanted, own: Mapping[str, Any]) -> Access:
    """The uid of this machine's node means something in its own cluster only."""
    from shardwright.cli.own_node import access_of_own

    return access_of_own(wanted, os.environ, _settings(own["config"]))


def _settings(config: Path) -> NodeSettings:
    from shardwright.cli.own_node import settings_of_own

    try:
        return settings_of_own(config)
    except Rejected as e:
        raise failure_of(e) from None


def _removal(session: CommandSession, uid: int) -> str:
    """The uid of the node's removal: a new one, or the one that is under way, which an interrupted leave has left or someone
    else has started. Raises Failure."""
    try:
        answer = session.api.post(f"/v1/nodes/{uid}/actions/remove")
    except Failure as failure:
        if failure.code != "node_action_in_progress":
            raise
        live = live_removal(session.api.get(f"/v1/nodes/{uid}/actions"))
        if live is None:
            raise  # Another action, such as maintenance.
        return live
    return str(answer.get("action_uid") or answer.get("task_id"))


def live_removal(answer: object) -> str | None:
    """The uid of the removal that runs, among the latest actions of a node; None if there is none."""
    found = answer.get("actions") if isinstance(answer, dict) else None
    removals = [action for action in found or () if action.get("name") in ("remove", "remove_node")]
    return next((str(action["action_uid"]) for action in removals if not has_ended(action)), None)


def _is_recorded(session: CommandSession, uid: int) -> bool:
    """Whether the cluster still has the node: an interrupted leave may have removed it."""
    try:
        session.api.get(f"/v1/nodes/{uid}")
    except Failure as failure:
        if failure.code == "node_not_found":
            return False
        raise
    return True
