"""The messages on an agent's socket: one question or answer per line, as JSON. Unknown keys are ignored: the other side may
run a newer version."""

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from shardwright.model.seen import ProcessIdentity
from shardwright.nodes.protocol import NewsMark, NodeNews, ProcessLook
from shardwright.trust.renewal import RenewalRequest

Json = dict[str, Any]
Read = TypeVar("Read")

_marks: TypeAdapter[NewsMark | None] = TypeAdapter(NewsMark | None)
_news: TypeAdapter[NodeNews] = TypeAdapter(NodeNews)
_processes: TypeAdapter[ProcessIdentity] = TypeAdapter(ProcessIdentity)
_renewals: TypeAdapter[RenewalRequest] = TypeAdapter(RenewalRequest)
_looks: TypeAdapter[ProcessLook] = TypeAdapter(ProcessLook)


def question(since: NewsMark | None) -> Json:
    """The request for news."""
    return {"op": "news", "since": _marks.dump_python(since, mode="json")}


def mark_of(message: Json) -> NewsMark | None:
    """The mark in a request. Raises ValueError."""
    return _marks.validate_python(message.get("since"))


def answer(news: NodeNews) -> Json:
    """The answer with this news."""
    return {"ok": _news.dump_python(news, mode="json")}


def news_of(message: Json) -> NodeNews:
    """The news in an answer. Raises ValueError."""
    return _read(_news, message, "news")


def look_question(process: ProcessIdentity) -> Json:
    """The request to look for a process."""
    return {"op": "look", "process": _processes.dump_python(process, mode="json")}


def endpoint_process_question() -> Json:
    """The question whether the endpoint process of the agent's node runs. Its answer is a look."""
    return {"op": "endpoint_process"}


def look_answer(look: ProcessLook) -> Json:
    """The answer to these two."""
    return {"ok": _looks.dump_python(look, mode="json")}


def look_of(message: Json) -> ProcessLook:
    """The look in an answer. Raises ValueError."""
    return _read(_looks, message, "a look")


def end_question(process: ProcessIdentity, term: int) -> Json:
    """The request of the leader of this term to end a process."""
    return {"op": "end", "process": _processes.dump_python(process, mode="json"), "term": term}


def renew_question(request: RenewalRequest) -> Json:
    """The request to sign a renewed certificate for the node that asks."""
    return {"op": "renew", "renewal": _renewals.dump_python(request, mode="json")}


def renewal_of(message: Json) -> RenewalRequest:
    """The renewal in a request. Raises ValueError."""
    return _renewals.validate_python(message.get("renewal"))


def renewed_answer(chain: bytes) -> Json:
    """The answer with the renewed certificate, followed by the authority's, PEM."""
    return {"ok": chain.decode()}


def chain_of(message: Json) -> bytes:
    """The certificates in an answer. Raises ValueError."""
    chain = message.get("ok")
    if not isinstance(chain, str):
        raise ValueError("an answer without a certificate")
    return chain.encode()


def process_of(message: Json) -> ProcessIdentity:
    """The process in a request. Raises ValueError."""
    return _processes.validate_python(message.get("process"))


def term_of(message: Json) -> int:
    """The term in a request. Raises ValueError."""
    term = message.get("term")
    if not isinstance(term, int) or isinstance(term, bool):
        raise ValueError("a request without the leader's term")
    return term


def _read(adapter: TypeAdapter[Read], message: Json, what: str) -> Read:
    if "ok" not in message:
        raise ValueError(str(message.get("error", f"an answer without {what}")))
    try:
        return adapter.validate_python(message["ok"])
    except ValidationError as e:
        raise ValueError(f"{what} that cannot be read: {e}") from e
