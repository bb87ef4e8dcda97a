"""``shardwright cluster rotate-key``: replaces the key that seals the secrets in the cluster's store.

Owns the dialog; the texts are in ``cluster_key.py``, because ``status`` shows a change that is under way too.
"""

from typing import Any

import typer

from shardwright.cli.cluster_key import line_of, waits_of
from shardwright.cli.overview import Json
from shardwright.cli.session import CommandSession, Timeout, Wait, command
from shardwright.cli.waiting import wait_until

PATH = "/v1/cluster/actions/rotate_key"
_EXAMPLES = """
shardwright cluster rotate-key --wait
shardwright cluster rotate-key --json
"""


def register(group: typer.Typer) -> None:
    """Add the command to the group ``cluster``."""
    command(group, "rotate-key", examples=_EXAMPLES)(_rotate_key)


def _rotate_key(session: CommandSession, is_waited_for: Wait = False, timeout: Timeout = None) -> None:
    """Replace the key that seals the secrets in the cluster's store. Databases and clients do not notice it.

    The leader's node makes the new key, all nodes fetch it, the secrets are sealed again, and every node drops the old key.
    While a change is under way, the command shows that one and starts no other. Keep a copy of the new cluster.key
    afterwards, and the copy of the old one for as long as you keep backups from before.
    """
    answer = session.api.post(PATH, {})
    if is_waited_for:
        answer = _ended(session, answer, timeout)
    session.show(answer, lambda: "\n".join((line_of(answer), *_rest(answer))))


def _ended(session: CommandSession, answer: Json, timeout: str | None) -> Json:
    said: list[str] = []

    def ask() -> dict[str, Any] | None:
        found = dict(session.api.get(PATH))
        if found.get("status") == "completed":
            return found
        for line in (line_of(found), *waits_of(found)):
            if line not in said:
                said.append(line)
                session.say(line)
        return None

    if answer.get("status") == "completed":
        return answer
    return wait_until(session, "the change of the cluster key", ask, timeout=timeout)


def _rest(answer: Json) -> list[str]:
    if answer.get("status") != "completed":
        return [*waits_of(answer), "It goes on by itself. Watch it: shardwright cluster rotate-key --wait"]
    return ["Keep a copy of cluster.key in a safe place. Backups from before open only with the former key."]
