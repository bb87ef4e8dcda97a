"""``node declare-off``: an administrator's word that a machine is off, so that its databases continue elsewhere."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from shardwright.cli.failure import Exit, Failure, usage
from shardwright.cli.session import CommandSession, NodeArgument, command, node_uid


def register(group: typer.Typer) -> None:
    """Add the command to the group ``node``."""
    examples = (
        "shardwright node declare-off 3\n"
        "shardwright node declare-off 3 --confirm 10.0.0.3\nshardwright node declare-off 3 --withdraw"
    )
    command(group, "declare-off", examples=examples)(_declare_off)


def _declare_off(
    session: CommandSession,
    node: NodeArgument,
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="ADDRESS", help="The node's address: confirms which machine is off.")
    ] = None,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take the word back.")] = False,
) -> None:
    """Say that a silent node's machine is off: its databases continue on the other nodes.

    First make sure that the machine has no power. If it still runs, clients that reach it go on writing there, and those
    writes are lost. The word ends by itself when the node's daemon runs again.
    """
    uid = node_uid(node)
    path = f"/v1/nodes/{uid}/declare_off"
    if withdraw:
        if confirm is not None:
            raise usage("--withdraw and --confirm are mutually exclusive")
        answer = session.api.delete(path)
        session.show(answer, lambda: f"node:{uid}: the word that its machine is off is withdrawn")
        return
    address = confirm if confirm is not None else _typed(session, uid)
    answer = session.api.post(path, {"address": address})
    done = f"node:{uid} at {answer.get('addr')} is declared off\n`shardwright status` shows what its databases do"
    session.show(answer, lambda: done)


def _typed(session: CommandSession, uid: int) -> str:
    """The address as the administrator types it, after the consequences. Raises Failure without a terminal."""
    found = session.api.get(f"/v1/nodes/{uid}")
    session.say(consequences(found, session.api.get(f"/v1/nodes/{uid}/status")))
    if not sys.stdin.isatty():
        text = f"declaring node:{uid} off needs a confirmation, and there is no terminal"
        raise usage(text, remedy=f"switch its machine off, then confirm with --confirm {found.get('addr')}")
    typed = str(typer.prompt(f"Type the address of node:{uid} to confirm", err=True)).strip()
    if typed != found.get("addr"):
        raise Failure(Exit.FAILED, "not_confirmed", f"{typed!r} is not the address of node:{uid}: nothing was done")
    return typed


def consequences(node: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """What the word does, for the administrator who is about to give it."""
    primaries = len(status.get("master_shards") or [])
    host = status.get("hostname") or "unknown host"
    return (
        f"node:{node['uid']} at {node.get('addr')} ({host}) holds {primaries} primaries.\n"
        "Their replicas take over at once. Writes that only this node holds are lost.\n"
        "If the machine still runs, clients that reach it go on writing there, and those writes are lost too:\n"
        "make sure that it has no power, or that its network is cut off for good."
    )


def described(word: Mapping[str, Any] | None) -> str:
    """When and by whom; "no" without a word."""
    return "no" if not word else f"since {word.get('at')}, by {word.get('by')}"
