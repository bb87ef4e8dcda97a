"""The messages on an agent's socket: one question or answer per line, as JSON. Unknown keys are ignored: the other side may
run a newer version."""

import base64
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from shardwright.model.check import NodeFacts, PortLook, PortOffer
from shardwright.model.ids import KeyUid, NodeUid
from shardwright.model.seen import ProcessIdentity
from shardwright.nodes.protocol import NewsMark, NodeNews, ProcessLook
from shardwright.trust.renewal import RenewalRequest

Json = dict[str, Any]
PORTS_MAX = 4096
"""Of one request: seven of each of some hundred nodes."""
Read = TypeVar("Read")

_marks: TypeAdapter[NewsMark | None] = TypeAdapter(NewsMark | None)
_news: TypeAdapter[NodeNews] = TypeAdapter(NodeNews)
_processes: TypeAdapter[ProcessIdentity] = TypeAdapter(ProcessIdentity)
_renewals: TypeAdapter[RenewalRequest] = TypeAdapter(RenewalRequest)
_looks: TypeAdapter[ProcessLook] = TypeAdapter(ProcessLook)
_facts: TypeAdapter[NodeFacts] = TypeAdapter(NodeFacts)
_Ports = tuple[tuple[NodeUid, PortOffer], ...]
_ports: TypeAdapter[_Ports] = TypeAdapter(_Ports)
_port_looks: TypeAdapter[tuple[PortLook, ...]] = TypeAdapter(tuple[PortLook, ...])


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


def key_question(uid: KeyUid) -> Json:
    """The request for a cluster key."""
    return {"op": "cluster_key", "uid": uid}


def key_uid_of(message: Json) -> KeyUid:
    """The uid of the key in a request. Raises ValueError."""
    uid = message.get("uid")
    if not isinstance(uid, str):
        raise ValueError("a request without the uid of a key")
    return KeyUid(uid)


def key_answer(secret: bytes) -> Json:
    """The answer with the key. It is never logged."""
    return {"ok": base64.b64encode(secret).decode()}


def secret_of(message: Json) -> bytes:
    """The key in an answer. Raises ValueError, whose text says nothing of the key."""
    found = message.get("ok")
    try:
        if isinstance(found, str):
            return base64.b64decode(found, validate=True)
    except ValueError:
        pass
    raise ValueError("an answer without a key")


def process_of(message: Json) -> ProcessIdentity:
    """The process in a request. Raises ValueError."""
    return _processes.validate_python(message.get("process"))


def term_of(message: Json) -> int:
    """The term in a request. Raises ValueError."""
    term = message.get("term")
    if not isinstance(term, int) or isinstance(term, bool):
        raise ValueError("a request without the leader's term")
    return term


def check_question() -> Json:
    """The request for the facts of a check."""
    return {"op": "check"}


def check_answer(facts: NodeFacts) -> Json:
    """The answer with these facts."""
    return {"ok": _facts.dump_python(facts, mode="json")}


def facts_of(message: Json) -> NodeFacts:
    """The facts in an answer. Raises ValueError."""
    return _read(_facts, message, "facts")


def ports_question(ports: Sequence[tuple[NodeUid, PortOffer]]) -> Json:
    """The request to connect to these ports."""
    return {"op": "try_ports", "ports": _ports.dump_python(tuple(ports), mode="json")}


def ports_of(message: Json) -> _Ports:
    """The ports in a request. Raises ValueError."""
    ports = _ports.validate_python(message.get("ports"))
    if len(ports) > PORTS_MAX:
        raise ValueError(f"more than {PORTS_MAX} ports")
    return ports


def ports_answer(looks: tuple[PortLook, ...]) -> Json:
    """The answer with these looks."""
    return {"ok": _port_looks.dump_python(looks, mode="json")}


def port_looks_of(message: Json) -> tuple[PortLook, ...]:
    """The looks at ports in an answer. Raises ValueError."""
    return _read(_port_looks, message, "looks")


def _read(adapter: TypeAdapter[Read], message: Json, what: str) -> Read:
    if "ok" not in message:
        raise ValueError(str(message.get("error", f"an answer without {what}")))
    try:
        return adapter.validate_python(message["ok"])
    except ValidationError as e:
        raise ValueError(f"{what} that cannot be read: {e}") from e
