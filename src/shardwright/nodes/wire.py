"""The messages on an agent's socket: one question or answer per line, as JSON."""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from shardwright.nodes.protocol import NewsMark, NodeNews

_marks: TypeAdapter[NewsMark | None] = TypeAdapter(NewsMark | None)
_news: TypeAdapter[NodeNews] = TypeAdapter(NodeNews)


def question(since: NewsMark | None) -> dict[str, Any]:
    """The request for news."""
    return {"op": "news", "since": _marks.dump_python(since, mode="json")}


def mark_of(message: dict[str, Any]) -> NewsMark | None:
    """The mark in a request. Raises ValueError."""
    return _marks.validate_python(message.get("since"))


def answer(news: NodeNews) -> dict[str, Any]:
    """The answer with this news."""
    return {"ok": _news.dump_python(news, mode="json")}


def news_of(message: dict[str, Any]) -> NodeNews:
    """The news in an answer. Raises ValueError."""
    if "ok" not in message:
        raise ValueError(str(message.get("error", "an answer without news")))
    try:
        return _news.validate_python(message["ok"])
    except ValidationError as e:
        raise ValueError(f"news that cannot be read: {e}") from e
