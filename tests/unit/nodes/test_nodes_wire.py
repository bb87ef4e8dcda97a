"""What passes over an agent's socket comes back as it was; anything else is a ValueError and never a guess."""

import json
from dataclasses import replace

import pytest

from shardwright.model.seen import Health, NodeFigures, ServerSeen
from shardwright.nodes import wire
from shardwright.nodes.protocol import NewsMark, NodeNews
from testkit.builders import NOW, cluster

MARK = NewsMark("life", 7)
SERVERS = tuple(cluster(2).with_database(on=((1, 2),)).view.servers.values())
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
