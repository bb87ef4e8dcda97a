"""``shardwright cluster vip``: addresses that move between the nodes, for clients that know only one address."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from shardwright.cli.database import find
from shardwright.cli.failure import Failure
from shardwright.cli.overview import Json
from shardwright.cli.session import CommandSession, Timeout, Wait, Yes, command, confirm
from shardwright.cli.table import table
from shardwright.cli.waiting import wait_until

_PATH = "/v1/cluster/virtual_addresses"
_NOT_FOUND = 404


def register(group: typer.Typer) -> None:
    """Add the group ``vip`` to the group ``cluster``."""
    vip = typer.Typer(no_args_is_help=True, help="Virtual addresses: each is on one node at a time.")
    group.add_typer(vip, name="vip")
    examples = (
        "shardwright cluster vip add 10.0.0.9/24 --interface eth0 --wait\n"
        "shardwright cluster vip add 10.0.0.10/24 --interface eth0 --database 1"
    )
    command(vip, "add", examples=examples)(_add)
    command(vip, "list", examples="shardwright cluster vip list")(_list)
    command(vip, "remove", examples="shardwright cluster vip remove 10.0.0.9 --yes --wait")(_remove)


Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="A virtual address, such as 10.0.0.9.")]


def _add(
    session: CommandSession,
    address: Annotated[str, typer.Argument(metavar="ADDRESS/PREFIX", help="A free address, such as 10.0.0.9/24.")],
    interface: Annotated[str, typer.Option(metavar="NAME", help="The interface that gets it, on every node.")],
    database: Annotated[
        str | None, typer.Option(metavar="DATABASE", help="Name or number of the only database there; default: all.")
    ] = None,
    is_waited_for: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Add a virtual address: the databases are served at it too, on whichever node has it.

    It moves to another node when its node is emptied, cut off or dead. The daemons need the capabilities of
    virtual-address.conf (see the documents).
    """
    body: dict[str, object] = {"address": address, "interface": interface}
    if database is not None:
        body["bdb_uid"] = find(session, database)["uid"]
    added = dict(session.api.post(_PATH, body))

    def ask() -> dict[str, Any] | None:
        found = dict(session.api.get(f"{_PATH}/{added['addr']}"))
        return found if found.get("status") == "active" else None

    if is_waited_for and added.get("status") != "active":
        added = wait_until(session, f"a node to have {added['addr']}", ask, timeout=timeout)
    session.show(added, lambda: f"{added.get('addr')}/{added.get('prefix_length')}: {_standing(added)}")


def _list(session: CommandSession) -> None:
    """List the virtual addresses: which node has each, and which nodes can."""
    found = session.api.get(_PATH)
    session.show(found, lambda: addresses_text(found))


def _remove(
    session: CommandSession,
    address: Address,
    is_confirmed: Yes = False,
    is_waited_for: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Remove a virtual address. Its clients are closed first, each behind a reply."""
    name = address.partition("/")[0]
    confirm(f"Remove the virtual address {name}? Clients that know only it are disconnected.", is_confirmed=is_confirmed)
    gone = session.api.delete(f"{_PATH}/{name}")
    if is_waited_for:
        wait_until(session, f"the removal of {name}", lambda: _is_gone(session, name), timeout=timeout)
    session.show(gone, lambda: f"{name}: {'removed' if is_waited_for else 'being removed'}")


def _is_gone(session: CommandSession, name: str) -> bool | None:
    try:
        session.api.get(f"{_PATH}/{name}")
    except Failure as failure:
        if failure.status == _NOT_FOUND:
            return True
        raise
    return None


def addresses_text(addresses: Sequence[Json]) -> str:
    """The table of the addresses."""
    if not addresses:
        return "There are no virtual addresses."
    rows = [
        [
            f"{one.get('addr')}/{one.get('prefix_length')}",
            one.get("interface"),
            "all" if one.get("bdb_uid") is None else f"db:{one['bdb_uid']}",
            "none" if one.get("node_uid") is None else f"node:{one['node_uid']}",
            one.get("status"),
            ", ".join(f"node:{uid}" for uid in one.get("able_nodes") or []) or "none",
        ]
        for one in addresses
    ]
    return table(("ADDRESS", "INTERFACE", "DB", "NODE", "STATUS", "CAN HAVE IT"), rows)


def _standing(one: Json) -> str:
    if one.get("node_uid") is None:
        return "added; a node gets it within seconds"
    return f"node:{one['node_uid']} has it" if one.get("status") == "active" else str(one.get("status"))
