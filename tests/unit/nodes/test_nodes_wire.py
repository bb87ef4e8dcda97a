"""What passes over an agent's socket comes back as it was; anything else is a ValueError and never a guess."""

import json
from dataclasses import replace

import pytest

from shardwright.model.seen import Health, NodeFigures, ProcessIdentity, ServerSeen, Sighting
from shardwright.nodes import wire
from shardwright.nodes.protocol import NOT_SEEN, NewsMark, NodeNews, ProcessLook
from testkit.builders import NOW, cluster

MARK = NewsMark("life", 7)
SERVERS = tuple(cluster(2).with_database(on=((1, 2),)).view.servers.values())
PROCESS = ProcessIdentity(77, "boot", 5, "/usr/bin/valkey-server", "/data/1", "machine")
NEWS = NodeNews(MARK, NOW, 0.25, NodeFigures(1, 2, 3), SERVERS)


def sent(message: object) -> dict[str, object]:
    """The message after its way through a socket."""
    received: dict[str, object] = json.loads(json.dumps(message))
    return received


@pytest.mark.parametrize("mark", [None, MARK])
def test_a_question_carries_its_mark(mark: NewsMark | None) -> None:
    assert wire.mark_of(sent(wire.question(mark))) == mark


def test_news_arrives_as_it_was_sent() -> None:
    assert wire.news_of(sent(wire.answer(NEWS))) == NEWS


def test_silence_of_a_server_arrives_too() -> None:
    silent: ServerSeen = replace(SERVERS[0], health=Health.TIMEOUT, unanswered_since=NOW, role=None)
    news = replace(NEWS, servers=(silent,))
    assert wire.news_of(sent(wire.answer(news))).servers == (silent,)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"error": "no such question"}, "no such question"),
        ({}, "without news"),
        ({"ok": {}}, "cannot be read"),
        ({"ok": {**wire.answer(NEWS)["ok"], "servers": [{"shard_uid": "x"}]}}, "cannot be read"),
    ],
)
def test_an_unreadable_answer_is_refused(message: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        wire.news_of(message)


@pytest.mark.parametrize("since", [7, {"epoch": "life"}, {"epoch": "life", "number": "many"}])
def test_an_unreadable_mark_is_refused(since: object) -> None:
    with pytest.raises(ValueError, match="validation error"):
        wire.mark_of({"op": "news", "since": since})


@pytest.mark.parametrize("look", [NOT_SEEN, ProcessLook(Sighting.RUNS, 1.25), ProcessLook(Sighting.ENDED)])
def test_a_look_arrives_as_it_was_sent(look: ProcessLook) -> None:
    question = sent(wire.look_question(PROCESS))
    assert (wire.process_of(question), wire.process_of(question).machine_id) == (PROCESS, "machine")
    assert wire.look_of(sent(wire.look_answer(look))) == look


def test_the_request_to_end_a_process_carries_the_term() -> None:
    question = sent(wire.end_question(PROCESS, 7))
    assert (wire.process_of(question), wire.term_of(question)) == (PROCESS, 7)
    for term in (None, "7", True, 7.5):
        with pytest.raises(ValueError, match="term"):
            wire.term_of(question | {"term": term})
    with pytest.raises(ValueError, match="validation error"):
        wire.process_of({"op": "end", "term": 7})


def test_what_a_newer_version_adds_is_ignored() -> None:
    new = {"new": [1]}
    news = sent(wire.answer(NEWS))["ok"]
    assert isinstance(news, dict)
    news |= new | {"servers": [server | new for server in news["servers"]], "mark": news["mark"] | new}
    assert wire.news_of({"ok": news} | new) == NEWS
    assert wire.look_of({"ok": {"sighting": "ended"} | new}).sighting is Sighting.ENDED
    assert wire.mark_of({"since": {"epoch": "life", "number": 7} | new}) == MARK
    question = wire.end_question(PROCESS, 7) | new
    assert wire.process_of(question | {"process": question["process"] | new}) == PROCESS
