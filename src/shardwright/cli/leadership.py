"""``shardwright cluster members`` and ``cluster change-leader``: who keeps the records, and who leads the cluster."""

from collections.abc import Sequence
from typing import Any

import typer

from shardwright.cli.failure import Exit, Failure
from shardwright.cli.overview import Json
from shardwright.cli.session import CommandSession, NodeArgument, Timeout, Wait, command, node_uid
from shardwright.cli.table import table
from shardwright.cli.waiting import wait_until

_ACTION = "/v1/cluster/actions/change_master"
_NO_NODE = "none"
"""The member is on no node of the cluster."""
_ENDED = ("completed", "failed", "cancelled")


def register(group: typer.Typer) -> None:
    """Add both commands to the group ``cluster``."""
    command(group, "members")(_members)
    command(group, "change-leader", examples="shardwright cluster change-leader 3 --wait")(_change_leader)


def _members(session: CommandSession) -> None:
    """List the members of the store: which nodes run one, whether it votes, and whether it answers."""
    found = session.api.get("/v1/cluster/store_members")
    session.show(found, lambda: members_text(found))


def members_text(members: Sequence[Json]) -> str:
    """The table of the members, and a line about what a failure would cost."""
    if not members:
        return "The store is a file on this machine: it has no members."
    rows = [
        [
            _NO_NODE if member.get("node_uid") is None else f"node:{member['node_uid']}",
            member.get("name"),
            member.get("role"),
            "yes" if member.get("leader") else "no",
            ", ".join(member.get("client_urls") or member.get("peer_urls") or []),
            "yes" if member.get("reachable") else "NO",
        ]
        for member in members
    ]
    columns = ("NODE", "MEMBER", "ROLE", "LEADER", "ADDRESS", "REACHABLE")
    return f"{table(columns, rows)}\n\n{_spare_text(members)}"


def _spare_text(members: Sequence[Json]) -> str:
    voters = [member for member in members if member.get("role") == "voter"]
    there = sum(bool(member.get("reachable")) for member in voters)
    spare = there - (len(voters) // 2 + 1)
    if spare < 0:
        return f"{there} of {len(voters)} voters answer: the store does not work from here."
    return f"{there} of {len(voters)} voters answer; the store works on without {spare} of them."


def _change_leader(
    session: CommandSession, node: NodeArgument, is_waited_for: Wait = False, timeout: Timeout = None
) -> None:
    """Let the daemon of a node lead the cluster. Databases do not notice it."""
    uid = node_uid(node)
    answer = session.api.post(_ACTION, {"node_uid": str(uid)})

    def ask() -> dict[str, Any] | None:
        found = session.api.get(_ACTION)
        return dict(found) if found.get("status") in _ENDED else None

    if is_waited_for and answer.get("status") not in _ENDED:
        answer = wait_until(session, f"node:{uid} to lead", ask, timeout=timeout)
    session.show(answer, lambda: _told(answer))
    if answer.get("status") == "failed":
        raise Failure(Exit.FAILED, str(answer.get("error_code")), str(answer.get("error_message")))


def _told(answer: Json) -> str:
    node = f"node:{answer.get('node_uid')}"
    match answer.get("status"):
        case "completed":
            return f"{node} leads the cluster"
        case "failed":
            return f"{node} does not lead the cluster"
        case _:
            return f"requested: {node} is to lead the cluster"
