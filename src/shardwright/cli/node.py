"""``shardwright node``: list, show, check, add and remove nodes, maintenance, step-down, snapshots."""

import shlex
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from shardwright.cli import backup, declaration, membership
from shardwright.cli.check import check
from shardwright.cli.database import find
from shardwright.cli.failure import usage
from shardwright.cli.overview import NODE_ROLES, node_status, nodes_table, shards_table
from shardwright.cli.plan import explanation_text, plan_text
from shardwright.cli.session import CommandSession, NodeArgument, Timeout, Wait, Yes, command, confirm, node_uid, parsed
from shardwright.cli.table import fields, table
from shardwright.cli.waiting import wait_for_action, wait_until
from shardwright.units import format_bytes, parse_bytes

MovesMax = Annotated[
    int | None, typer.Option("--max-moves", min=0, help="Parallel moves; 0: no limit; default: the cluster's policy.")
]
YieldLeadership = Annotated[
    bool, typer.Option("--yield-leadership", help="If this node's daemon leads, hand leadership to another daemon.")
]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Start nothing: show the plan, its cost and its obstacles.")]
PlanId = Annotated[
    str | None,
    typer.Option("--plan", metavar="ID", help="Execute exactly the plan of a dry run; refuse if the plan has changed."),
]
ACTIONS = {"remove": "remove", "maintenance-on": "maintenance_on", "maintenance-off": "maintenance_off"} | {
    "step-down": "enslave_node"
}


def register(app: typer.Typer) -> None:
    """Add the command group ``node``."""
    group = typer.Typer(
        no_args_is_help=True, help="List, show, check, add and remove nodes; maintenance, step-down, snapshots."
    )
    app.add_typer(group, name="node")
    command(group, "list")(_list)
    command(group, "show", examples="shardwright node show 3")(_show)
    command(group, "add", examples="shardwright node add --wait\nshardwright node add --memory 8gb --rack b")(_add)
    command(group, "check", examples="shardwright node check\nshardwright node check 2 3 --json")(check)
    command(
        group, "remove", examples="shardwright node remove 3 --wait\nshardwright node remove 3 --wait-for-persistence --yes"
    )(_remove)
    command(group, "reopen", examples="shardwright node reopen 3")(_reopen)
    command(
        group,
        "step-down",
        examples="shardwright node step-down 1 --wait\nshardwright node step-down 1 --yield-leadership --wait",
    )(_step_down)
    command(
        group,
        "explain",
        examples="shardwright node explain 2 --action remove\nshardwright node explain 2 --action maintenance-on --json",
    )(_explain)
    command(group, "snapshots", examples="shardwright node snapshots 3\nshardwright node snapshots 3 --create before-patch")(
        _snapshots
    )
    membership.register(group)
    declaration.register(group)
    backup.register_node(group)
    maintenance = typer.Typer(no_args_is_help=True, help="Empty a node so that it can be switched off, and bring it back.")
    group.add_typer(maintenance, name="maintenance")
    command(
        maintenance,
        "on",
        examples="shardwright node maintenance on 3 --dry-run\n"
        "shardwright node maintenance on 3 --wait\nshardwright node maintenance on 3 --keep-replicas --wait\n"
        "shardwright node maintenance on 3 --evict-db orders --evict-db cache",
    )(_maintenance_on)
    command(
        maintenance,
        "off",
        examples="shardwright node maintenance off 3 --wait\nshardwright node maintenance off 3 --no-restore",
    )(_maintenance_off)


def _list(session: CommandSession) -> None:
    """List the nodes."""
    nodes = session.api.get("/v1/nodes")
    if session.as_json:
        session.show(nodes, lambda: "")
        return
    session.say(nodes_table(nodes, session.api.get("/v1/nodes/status")))


def _show(session: CommandSession, node: NodeArgument) -> None:
    """Show one node and its shards."""
    uid = node_uid(node)
    found = session.api.get(f"/v1/nodes/{uid}")
    if session.as_json:
        session.show(found, lambda: "")
        return
    status = session.api.get(f"/v1/nodes/{uid}/status")
    shards = [shard for shard in session.api.get("/v1/shards") if str(shard.get("node_uid")) == str(uid)]
    session.say(f"{_described(found, status)}\n\n{shards_table(shards, session.api.get('/v1/bdbs'))}")


def _add(
    session: CommandSession,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Memory limit for its shards, such as 4gb.")
    ] = None,
    rack: Annotated[str | None, typer.Option("--rack", help="Its rack.")] = None,
    address: Annotated[str | None, typer.Option("--address", help="Its address; default: the next free one.")] = None,
    is_waited_for: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Add a node to a running local cluster (other clusters: `node token`)."""
    given = {"memory": parsed(parse_bytes, memory), "rack_id": rack, "addr": address}
    node = session.api.post("/v1/nodes", {key: value for key, value in given.items() if value is not None})
    uid = node["uid"]

    def ask() -> dict[str, Any] | None:
        found = session.api.get(f"/v1/nodes/{uid}")
        return dict(found) if found.get("status") == "active" else None

    if is_waited_for:
        node = wait_until(session, f"the start of node:{uid}", ask, timeout=timeout)
    session.show(node, lambda: f"added node:{uid} at {node.get('addr')}: {node_status(node)}")


def _remove(
    session: CommandSession,
    node: NodeArgument,
    wait_for_persistence: Annotated[
        bool | None,
        typer.Option(
            "--wait-for-persistence/--no-wait-for-persistence",
            help="End only when the moved shards have new files on disk; default: the cluster's policy.",
        ),
    ] = None,
    dry_run: DryRun = False,
    plan: PlanId = None,
    is_confirmed: Yes = False,
    is_waited_for: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Move everything off a node and take it out of the cluster."""
    uid = node_uid(node)
    if not dry_run:
        confirm(f"Remove node:{uid} from the cluster?", is_confirmed=is_confirmed)
    body: dict[str, object] = {} if wait_for_persistence is None else {"wait_for_persistence": wait_for_persistence}
    how = _How(dry_run, plan, is_waited_for, timeout)
    _start(session, uid, "remove", body, how)


def _reopen(session: CommandSession, node: NodeArgument) -> None:
    """Reopen a node that a failed or cancelled removal left closed for new shards."""
    uid = node_uid(node)
    answer = session.api.put(f"/v1/nodes/{uid}", {"accept_servers": True})
    session.show(answer, lambda: f"node:{uid} accepts new shards and endpoints")


def _maintenance_on(
    session: CommandSession,
    node: NodeArgument,
    overwrite_snapshot: Annotated[
        bool, typer.Option("--overwrite-snapshot", help="Take a new snapshot even if an earlier attempt left one.")
    ] = False,
    keep_replicas: Annotated[
        bool, typer.Option("--keep-replicas", help="Only primaries and endpoints leave the node.")
    ] = False,
    evict_db: Annotated[
        list[str] | None,
        typer.Option(
            "--evict-db",
            metavar="DATABASE",
            help="Databases that leave entirely; of all others, only primaries and endpoints leave; repeatable.",
        ),
    ] = None,
    yield_leadership: YieldLeadership = False,
    max_moves: MovesMax = None,
    dry_run: DryRun = False,
    plan: PlanId = None,
    is_waited_for: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Empty a node. Once the action has completed, the node can be switched off."""
    body: dict[str, object] = {}
    if overwrite_snapshot:
        body["overwrite_snapshot"] = True
    if keep_replicas:
        body |= {"evict_ha_replica": False, "evict_active_active_replica": False}
    if evict_db:
        body["evict_dbs"] = [str(find(session, name)["uid"]) for name in evict_db]
    if yield_leadership:
        body["demote_node"] = True
    if max_moves is not None:
        body["max_concurrent_actions"] = max_moves
    how = _How(dry_run, plan, is_waited_for, timeout)
    _start(session, node_uid(node), "maintenance_on", body, how)


def _maintenance_off(
    session: CommandSession,
    node: NodeArgument,
    snapshot: Annotated[
        str | None, typer.Option("--snapshot", metavar="NAME", help="Restore this snapshot instead of the latest.")
    ] = None,
    no_restore: Annotated[bool, typer.Option("--no-restore", help="Leave shards and endpoints in place.")] = False,
    max_moves: MovesMax = None,
    dry_run: DryRun = False,
    plan: PlanId = None,
    is_waited_for: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Bring a node back, with the shards, roles and endpoints that it had."""
    if snapshot is not None and no_restore:
        raise usage("--snapshot and --no-restore are mutually exclusive")
    body: dict[str, object] = {}
    if snapshot is not None:
        body["snapshot_name"] = snapshot
    if no_restore:
        body["skip_shards_restore"] = True
    if max_moves is not None:
        body["max_concurrent_actions"] = max_moves
    how = _How(dry_run, plan, is_waited_for, timeout)
    _start(session, node_uid(node), "maintenance_off", body, how)


def _step_down(
    session: CommandSession,
    node: NodeArgument,
    yield_leadership: YieldLeadership = False,
    endpoints_only: Annotated[bool, typer.Option("--endpoints-only", help="Endpoints leave, primaries stay.")] = False,
    shards_only: Annotated[bool, typer.Option("--shards-only", help="Primaries hand over, endpoints stay.")] = False,
    retry_timeout: Annotated[
        int | None,
        typer.Option("--retry-timeout", min=0, metavar="SECONDS", help="How long failed handoffs are retried."),
    ] = None,
    dry_run: DryRun = False,
    plan: PlanId = None,
    is_waited_for: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Hand over all primaries of a node to their replicas; all shards stay in place (enslave_node on the wire)."""
    if endpoints_only and shards_only:
        raise usage("--endpoints-only and --shards-only are mutually exclusive")
    body: dict[str, object] = {
        key: True
        for key, is_wanted in (
            ("demote_node", yield_leadership),
            ("endpoints_only", endpoints_only),
            ("shards_only", shards_only),
        )
        if is_wanted
    }
    if retry_timeout is not None:
        body["retry_timeout_seconds"] = retry_timeout
    how = _How(dry_run, plan, is_waited_for, timeout)
    _start(session, node_uid(node), "enslave_node", body, how)


def _snapshots(
    session: CommandSession,
    node: NodeArgument,
    create: Annotated[str | None, typer.Option("--create", metavar="NAME", help="Take a snapshot with this name.")] = None,
    delete: Annotated[
        str | None, typer.Option("--delete", metavar="NAME", help="Delete the snapshot with this name.")
    ] = None,
) -> None:
    """List, take or delete a node's snapshots of placement and roles (they contain no data)."""
    path = f"/v1/nodes/{node_uid(node)}/snapshots"
    if create is not None and delete is not None:
        raise usage("--create and --delete are mutually exclusive")
    if create is not None:
        answer = session.api.post(f"{path}/{_path_word(create)}")
        session.show(answer, lambda: f"took snapshot {create}")
    elif delete is not None:
        answer = session.api.delete(f"{path}/{_path_word(delete)}")
        session.show(answer, lambda: f"deleted snapshot {delete}")
    else:
        snapshots = session.api.get(path)
        rows = [
            [snapshot.get("name"), f"node:{snapshot.get('node_uid')}", snapshot.get("created_time")]
            for snapshot in snapshots
        ]
        session.show(snapshots, lambda: table(("NAME", "NODE", "TIME"), rows))


def _path_word(name: str) -> str:
    if not name or any(not (letter.isalnum() or letter in "-_.:") for letter in name) or not name.isascii():
        raise usage(f"{name!r} is not a valid snapshot name: use only letters, digits and -_.:")
    return name


@dataclass(frozen=True, slots=True)
class _How:
    """The options of an action request."""

    dry_run: bool
    plan: str | None
    is_waited_for: bool
    timeout: str | None


def _start(session: CommandSession, uid: int, action: str, body: dict[str, object], how: _How) -> None:
    path = f"/v1/nodes/{uid}/actions/{action}"
    if how.dry_run:
        if how.plan is not None or how.is_waited_for:
            raise usage("--dry-run starts nothing and excludes --plan and --wait")
        found = session.api.post(path, body, query={"dry_run": "true"})
        session.show(found, lambda: plan_text(found, start_with=_same_command()))
        return
    answer = session.api.post(path, body, query=None if how.plan is None else {"plan_id": how.plan})
    action_uid = str(answer.get("action_uid") or answer.get("task_id"))
    if how.is_waited_for:
        session.say(f"{action} node:{uid}: action {action_uid}")
        wait_for_action(session, action_uid, timeout=how.timeout)
        return
    session.show(answer, lambda: f"{action} node:{uid}: queued\nwatch it: shardwright action watch {action_uid}")


def _same_command() -> str:
    """The given command line without ``--dry-run``. It contains no secrets: no option takes one."""
    words = [word for word in sys.argv[1:] if word != "--dry-run"]
    return shlex.join(["shardwright", *words])


def _explain(
    session: CommandSession,
    node: NodeArgument,
    action: Annotated[
        str, typer.Option("--action", metavar="ACTION", help=f"One of {', '.join(ACTIONS)}.")
    ] = "maintenance-on",
) -> None:
    """Explain an action without starting it: feasibility, effects, obstacles, smallest remedy."""
    word = ACTIONS.get(action.replace("_", "-"), action)
    if word not in ACTIONS.values():
        raise usage(f"{action!r} is not an action", remedy=f"actions are: {', '.join(ACTIONS)}")
    found = session.api.get(f"/v1/nodes/{node_uid(node)}/explain", query={"action": word})
    session.show(found, lambda: explanation_text(found))


def _described(node: dict[str, Any], status: dict[str, Any]) -> str:
    snapshot = status.get("maintenance_snapshot") or {}
    memory = status.get("free_provisional_ram"), status.get("total_provisional_ram")
    return fields(
        [
            ("node", f"node:{node['uid']}"),
            ("status", node_status(node)),
            ("role", NODE_ROLES.get(str(status.get("role")))),
            ("address", node.get("addr")),
            ("external addresses", ", ".join(node.get("external_addr") or []) or "none"),
            ("rack", node.get("rack_id") or "none"),
            ("quorum only", bool(node.get("quorum_only"))),
            ("accepts new shards", "yes" if node.get("accept_servers") else "no"),
            ("shards", f"{node.get('shard_count')} (at most {node.get('max_redis_servers')})"),
            ("endpoints", f"{', '.join(status.get('endpoints') or []) or 'none'} (at most {node.get('max_listeners')})"),
            ("provisional memory", " free of ".join(format_bytes(size) for size in memory if isinstance(size, int))),
            ("maintenance snapshot", snapshot.get("name") or "none"),
            ("declared off", declaration.described(node.get("declared_off"))),
            ("version", node.get("software_version")),
        ]
    )
