"""The texts about a change of the cluster key. Pure: API answers in, text out. Never sees a key, only the uids of keys."""

from collections.abc import Sequence

from shardwright.cli.overview import Json, told

_NAME = "rotate_key"


def line_of(answer: Json) -> str:
    """How far a change of the cluster key is, in one line."""
    nodes = f"{len(answer.get('node_uids') or [])} of {answer.get('nodes')} nodes"
    match answer.get("phase"):
        case "making":
            return "cluster key: a new one was requested"
        case "spreading":
            return f"cluster key {answer.get('key_id')}: {nodes} hold it"
        case "sealing":
            done = int(answer.get("values") or 0) - int(answer.get("values_left") or 0)
            return f"cluster key {answer.get('key_id')}: {done} of {answer.get('values')} secrets are sealed with it"
        case "dropping":
            return f"cluster key {answer.get('key_id')}: every secret is sealed with it; the nodes drop the old one"
        case _:
            return f"cluster key {answer.get('key_id')}: in use on every node; {answer.get('former_key_id')} opens nothing"


def waits_of(answer: Json) -> list[str]:
    """What it waits for, a line each."""
    return [f"  waits: {told(reason)}" for reason in answer.get("reasons") or []]


def rotation_text(actions: Sequence[Json]) -> str:
    """A change that is under way, for ``status``; empty: none is."""
    found = [action for action in actions if action.get("name") == _NAME and action.get("status") != "completed"]
    return "\n".join(["CLUSTER KEY:", *(line for one in found for line in (line_of(one), *waits_of(one)))]) if found else ""
