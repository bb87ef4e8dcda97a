"""Whether a cluster without faults has reached its desired state, judged from outside. Names what is missing."""

from typing import TYPE_CHECKING

from shardwright.model.database import Role
from shardwright.model.ids import GroupUid, database_of
from sim.checker import Json
from sim.lives import ENDED_STATES, ENDED_STATUS
from sim.strict import lacks_replica

if TYPE_CHECKING:
    from sim.world import World

AWAITED_S = 120.0
"""Copies that are lost for longer than a grace period up to this must be rebuilt when everything is at rest."""


def is_out_of_reach(world: "World", database_uid: int) -> bool:
    """Whether a database cannot be served because a machine is lost for good: its disk may hold data that no other copy has,
    there is no other copy, or no other node may serve the endpoint."""
    tables = world.checker.tables
    gone = lost_nodes(world)
    copies = [s for s in tables["shards"].values() if s["database_uid"] == database_uid and s["wanted"] == "running"]
    has_other = any(s["node_uid"] not in gone for s in copies)
    waits = any(
        s["node_uid"] in gone
        and tables["groups"][f"groups/{s['group_uid']}"]["phase"] != "serving"
        and (_keeps_file(s) or not has_other)
        for s in copies
    )
    bound = [e for e in tables["endpoints"].values() if e["database_uid"] == database_uid and set(e["nodes"]) <= gone]
    return waits or (bool(bound) and not _open_nodes(world))


def _keeps_file(shard: Json) -> bool:
    return "|disabled|" not in shard["settings"]


def _waits_for_a_lost_node(world: "World", database_uid: int) -> bool:
    """Whether a creation or a change cannot end: its database is out of reach, or no node has room for a lost copy."""
    gone = lost_nodes(world)
    copies = [s for s in world.checker.tables["shards"].values() if s["database_uid"] == database_uid]
    running = [s for s in copies if s["wanted"] == "running"]
    stays = [s for s in running if s["node_uid"] in gone and not _is_to_be_rebuilt(world, s, running)]
    return bool(stays) or is_out_of_reach(world, database_uid)


def lost_nodes(world: "World") -> set[int]:
    """Members whose machine is lost for good."""
    return {n["uid"] for n in world.checker.tables["nodes"].values() if world.nodes[n["uid"]].is_lost}


def _open_nodes(world: "World") -> list[Json]:
    """Members that run and take new shards and endpoints."""
    marks = ("is_quorum_only", "is_closed", "is_decommissioning")
    gone = lost_nodes(world)
    return [n for n in world.checker.tables["nodes"].values() if n["uid"] not in gone and not any(n[m] for m in marks)]


def missing(world: "World") -> list[str]:
    """What is not in its desired state; empty if the cluster is at rest."""
    tables = world.checker.tables
    found = []
    if not tables["leader"]:
        found.append("no daemon leads")
    found += [
        f"action {a['uid']} {a['name']} is {a['status']} without a reason"
        for a in tables["actions"].values()
        if a["status"] not in ENDED_STATUS and not a["reasons"]
    ]
    live = [m for m in tables["moves"].values() if m["state"] not in ENDED_STATES]
    waiting = [m for m in live if m["reasons"] and is_out_of_reach(world, m["database_uid"])]
    found += [f"move {m['uid']} is {m['state']}" for m in live if m not in waiting]
    found += [
        f"database {d['uid']} is {d['status']}"
        for d in tables["databases"].values()
        if d["status"] not in ("active", "creation-failed")
        and not (d["status"] in ("pending", "active-change-pending") and _waits_for_a_lost_node(world, d["uid"]))
    ]
    for group in tables["groups"].values():
        found += _group(world, group)
    found += _strays(world, kept={m["shard_uid"] for m in waiting if "shard_uid" in m})
    return found


def _group(world: "World", group: Json) -> list[str]:
    uid = group["uid"]
    found = []
    database = world.checker.database(group["database_uid"])
    if database is None or database["status"] != "active" or is_out_of_reach(world, database["uid"]):
        return []
    if group["phase"] != "serving" or group["handoff"] is not None or group["parking"] is not None:
        return [f"slot group {uid} is {group['phase']}, handoff {group['handoff']}, parking {group['parking']}"]
    shards = [s for s in world.checker.tables["shards"].values() if s["group_uid"] == uid and s["wanted"] == "running"]
    servers = {s.shard_uid: s for s in world.servers_of(uid)}
    primary = servers.get(group["primary"])
    if primary is None:
        return [f"the primary of {uid}, shard {group['primary']}, does not run"]
    if primary.role is not Role.PRIMARY or primary.is_fenced or primary.paused_until > world.loop.now:
        found.append(
            f"shard {primary.shard_uid} is {primary.role}, fenced {primary.is_fenced}, paused {primary.paused_until}"
        )
    copies = 2 if database["has_replica"] else 1
    if len(shards) != copies:
        found.append(f"slot group {uid} has {len(shards)} copies of {copies}")
    for shard in shards:
        server = servers.get(shard["uid"])
        if shard["node_uid"] in lost_nodes(world):
            if _is_to_be_rebuilt(world, shard, shards):
                found.append(f"shard {shard['uid']} of the lost node {shard['node_uid']} is not rebuilt")
        elif server is None:
            found.append(f"shard {shard['uid']} does not run")
        elif server is not primary and not (server.is_link_up and server.source_server is primary and not server.is_fenced):
            found.append(f"shard {shard['uid']} does not follow {primary.shard_uid}")
    chain = world.checker.chains.get(uid)
    if chain is not None and chain.required and not primary.position.holds(chain.required[-1]):
        found.append(f"shard {primary.shard_uid} lacks acknowledged writes")
    return found + _endpoints(world, group)


def _endpoints(world: "World", group: Json) -> list[str]:
    found = []
    for endpoint in world.checker.tables["endpoints"].values():
        if endpoint["database_uid"] != group["database_uid"]:
            continue
        holders = world.holders_of(endpoint["port"])
        nodes = [h.owner.node_uid for h in holders]
        # A lost node stays in the record of an endpoint that other nodes serve too.
        lost = lost_nodes(world) if len(endpoint["nodes"]) > 1 else set()
        if sorted(nodes) != [uid for uid in endpoint["nodes"] if uid not in lost]:
            found.append(f"endpoint {endpoint['uid']} is bound to {endpoint['nodes']} and served on {nodes}")
        for served in holders:
            target = served.gate.target
            if served.gate.hold is not None:
                found.append(f"endpoint {endpoint['uid']} still holds")
            elif target is None or target.shard_uid != group["primary"] or target.generation != group["generation"]:
                found.append(f"endpoint {endpoint['uid']} forwards to {target}")
    if group["database_uid"] in world.writers.failing_since and not lacks_replica(world, group["database_uid"]):
        found.append(f"writes to database {group['database_uid']} fail")
    return found


def _strays(world: "World", kept: set[int]) -> list[str]:
    """``kept``: old copies whose files a move keeps, because the new copies are out of reach."""
    recorded = world.checker.tables["shards"]
    members = world.checker.tables["nodes"]
    found = []
    for server in world.all_servers:
        is_member = f"nodes/{server.node_uid:08d}" in members
        if server.is_alive and is_member and f"shards/{server.shard_uid:08d}" not in recorded:
            found.append(f"shard {server.shard_uid} runs on node {server.node_uid} and is not recorded")
    gone = lost_nodes(world)
    unwanted = [
        s for s in recorded.values() if s["wanted"] != "running" and s["node_uid"] not in gone and s["uid"] not in kept
    ]
    return found + [f"shard {s['uid']} stays wanted {s['wanted']}" for s in unwanted]


def _is_to_be_rebuilt(world: "World", shard: Json, copies: list[Json]) -> bool:
    """Whether the policy requires a new copy by now, and a node has room for it."""
    tables = world.checker.tables
    policy = tables["policy"]["policy"]
    if not policy["slave_ha"] or policy["slave_ha_grace_period_s"] > AWAITED_S:
        return False
    held = {s["node_uid"] for s in copies}
    return any(n["uid"] not in held and world.checker.has_room(n, shard) for n in _open_nodes(world))


def lost(world: "World") -> list[str]:
    """Acknowledged writes that no primary holds at the end."""
    found = []
    for uid, chain in world.checker.chains.items():
        database = world.checker.database(database_of(GroupUid(uid)))
        if database is None or database["status"] == "delete-pending" or not chain.required:
            continue
        last = chain.required[-1]
        if not any(s.position.holds(last) for s in world.servers_of(uid)):
            found.append(f"{uid}: write {last.offset} of {last.history.uid} is nowhere")
    return found
