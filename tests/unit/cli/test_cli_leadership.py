"""How the members of the store are shown."""

from typing import Any

from shardwright.cli.leadership import members_text


def member(uid: int | None, **changes: object) -> dict[str, Any]:
    return {
        "node_uid": uid,
        "name": f"node-{uid}",
        "role": "voter",
        "leader": False,
        "reachable": True,
        "client_urls": [f"https://10.0.0.{uid}:2379"],
        "peer_urls": [f"https://10.0.0.{uid}:2380"],
    } | changes


def test_the_table_says_who_votes_and_who_answers() -> None:
    new = member(4, name="", role="learner", reachable=False, client_urls=[])
    shown = members_text([member(1, leader=True), member(2, reachable=False), member(3), new, member(None, name="other")])
    assert shown.splitlines() == [
        "NODE    MEMBER  ROLE     LEADER  ADDRESS                   REACHABLE",
        "node:1  node-1  voter    yes     https://10.0.0.1:2379     yes",
        "node:2  node-2  voter    no      https://10.0.0.2:2379     NO",
        "node:3  node-3  voter    no      https://10.0.0.3:2379     yes",
        "node:4  N/A     learner  no      https://10.0.0.4:2380     NO",
        "none    other   voter    no      https://10.0.0.None:2379  yes",
        "",
        "3 of 4 voters answer; the store works on without 0 of them.",
    ]


def test_what_may_still_fail() -> None:
    assert members_text([member(1)]).endswith("1 of 1 voters answer; the store works on without 0 of them.")
    assert members_text([member(n) for n in (1, 2, 3)]).endswith("works on without 1 of them.")
    assert members_text([member(n) for n in (1, 2, 3, 4, 5)]).endswith("works on without 2 of them.")
    few = members_text([member(1), member(2, reachable=False), member(3, reachable=False)])
    assert few.endswith("1 of 3 voters answer: the store does not work from here.")


def test_a_file_has_no_members() -> None:
    assert "file" in members_text([])
