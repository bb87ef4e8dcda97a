"""One client of the discovery service: what each of its commands is answered with. Pure.

Speaks the part of the Sentinel protocol that clients of redis-py, ioredis and node-redis use, in RESP2 and RESP3
(``docs/discovery.md``). Has no state but the protocol's version and the subscriptions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shardwright.discovery.found import FoundAddress

SWITCHED = "+switch-master"
"""Channel of the message that a database has another place: ``NAME OLD-ADDRESS OLD-PORT NEW-ADDRESS NEW-PORT``."""
NO_SUCH_MASTER = "ERR No such master with that name"
VERSION = "7.2.0"
"""What clients are told: that of the protocol. No client is known to care."""


@dataclass(frozen=True, slots=True)
class Sentinel:
    """A discovery service of the cluster."""

    uid: str
    place: FoundAddress


@dataclass(frozen=True, slots=True)
class Known:
    """What the service knows when a command comes."""

    own_uid: str
    masters: Mapping[str, FoundAddress]
    others: Sequence[Sentinel]


@dataclass(frozen=True, slots=True)
class Error:
    """An error reply."""

    text: str


@dataclass(frozen=True, slots=True)
class Simple:
    """A status reply, such as OK."""

    text: str


@dataclass(frozen=True, slots=True)
class Push:
    """Something that the client did not ask for, or the answer to a subscription."""

    items: tuple[Any, ...]


OK = Simple("OK")
_SUBSCRIBED_MAY = frozenset({"PING", "SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE", "QUIT", "RESET"})
"""What a client of RESP2 with a subscription may send: it could not tell replies from messages."""


class DiscoveryDialogue:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.protocol = 2
        self.channels: set[str] = set()
        self.patterns: set[str] = set()
        self.is_over = False
        """The client has asked for the end of the connection."""

    def answer(self, arguments: Sequence[bytes], known: Known) -> bytes:
        """The reply to one command, in the client's protocol. Empty for an empty command."""
        words = [argument.decode("utf-8", "replace") for argument in arguments]
        if not words:
            return b""
        word = words[0].upper()
        if self.protocol == 2 and (self.channels or self.patterns) and word not in _SUBSCRIBED_MAY:
            return self._encoded(
                Error(f"ERR Can't execute '{words[0].lower()}': only (P)SUBSCRIBE, PING and QUIT are allowed")
            )
        handler = _HANDLERS.get(word)
        if handler is None:
            return self._encoded(Error(f"ERR unknown command '{words[0][:64]}'"))
        replies = handler(self, words, known)
        return b"".join(map(self._encoded, replies))

    def message(self, name: str, before: FoundAddress, after: FoundAddress) -> bytes:
        """What the client is told when a database has another place; empty: it has not subscribed to that."""
        text = f"{name} {before.address} {before.port} {after.address} {after.port}"
        found: list[Push] = []
        if SWITCHED in self.channels:
            found.append(Push(("message", SWITCHED, text)))
        found += [Push(("pmessage", p, SWITCHED, text)) for p in sorted(self.patterns) if p in ("*", "+*", SWITCHED)]
        return b"".join(map(self._encoded, found))

    # -- replies -------------------------------------------------------------------------------------------------------

    def _encoded(self, reply: Any) -> bytes:
        match reply:
            case None:
                return b"_\r\n" if self.protocol == 3 else b"$-1\r\n"
            case Error(text):
                return f"-{text}\r\n".encode()
            case Simple(text):
                return f"+{text}\r\n".encode()
            case int():
                return b":%d\r\n" % reply
            case str():
                data = reply.encode()
                return b"$%d\r\n%b\r\n" % (len(data), data)
            case dict():
                pairs = b"".join(self._encoded(k) + self._encoded(v) for k, v in reply.items())
                head = b"%%%d\r\n" % len(reply) if self.protocol == 3 else b"*%d\r\n" % (2 * len(reply))
                return head + pairs
            case Push(items):
                head = b">" if self.protocol == 3 else b"*"
                return head + b"%d\r\n" % len(items) + b"".join(map(self._encoded, items))
            case list() | tuple():
                return b"*%d\r\n" % len(reply) + b"".join(map(self._encoded, reply))
        raise AssertionError(f"no reply: {reply!r}")

    # -- commands ------------------------------------------------------------------------------------------------------

    def _ping(self, words: list[str], known: Known) -> list[Any]:
        if self.protocol == 2 and (self.channels or self.patterns):
            return [["pong", words[1] if len(words) > 1 else ""]]
        return [words[1] if len(words) > 1 else Simple("PONG")]

    def _hello(self, words: list[str], known: Known) -> list[Any]:
        if len(words) > 1:
            if words[1] not in ("2", "3"):
                return [Error("NOPROTO unsupported protocol version")]
            self.protocol = int(words[1])
        facts: dict[str, Any] = {"server": "redis", "version": VERSION, "proto": self.protocol, "id": 1}
        return [facts | {"mode": "sentinel", "role": "sentinel", "modules": []}]

    def _sentinel(self, words: list[str], known: Known) -> list[Any]:
        do, names = (words[1].lower() if len(words) > 1 else ""), words[2:]
        match do:
            case "masters":
                return [[_master(name, place, known) for name, place in sorted(known.masters.items())]]
            case "myid":
                return [known.own_uid]
            case "get-master-addr-by-name" if names:
                place = known.masters.get(names[0])
                return [None if place is None else [place.address, str(place.port)]]
            case "master" | "sentinels" | "replicas" | "slaves" | "ckquorum" if names:
                place = known.masters.get(names[0])
                return [Error(NO_SUCH_MASTER) if place is None else _of_master(do, names[0], place, known)]
        return [Error(f"ERR Unknown subcommand or wrong number of arguments for '{do[:64]}'")]

    def _subscribe(self, words: list[str], known: Known) -> list[Any]:
        return self._change("subscribe", self.channels.add, words[1:])

    def _psubscribe(self, words: list[str], known: Known) -> list[Any]:
        return self._change("psubscribe", self.patterns.add, words[1:])

    def _unsubscribe(self, words: list[str], known: Known) -> list[Any]:
        return self._change("unsubscribe", self.channels.discard, words[1:] or sorted(self.channels))

    def _punsubscribe(self, words: list[str], known: Known) -> list[Any]:
        return self._change("punsubscribe", self.patterns.discard, words[1:] or sorted(self.patterns))

    def _change(self, kind: str, change: Callable[[str], None], names: Sequence[str]) -> list[Any]:
        if not names:
            return [Push((kind, None, 0))] if kind.endswith("unsubscribe") else [_too_few(kind)]
        replies = []
        for name in names:
            change(name)
            replies.append(Push((kind, name, len(self.channels) + len(self.patterns))))
        return replies

    def _quit(self, words: list[str], known: Known) -> list[Any]:
        self.is_over = True
        return [OK]

    def _reset(self, words: list[str], known: Known) -> list[Any]:
        self.protocol = 2
        self.channels.clear()
        self.patterns.clear()
        return [Simple("RESET")]


def _too_few(word: str) -> Error:
    return Error(f"ERR wrong number of arguments for '{word}' command")


def _master(name: str, place: FoundAddress, known: Known) -> dict[str, str]:
    """The fields that the original has, and those that clients need to believe that it can be used."""
    return {
        "name": name,
        "ip": place.address,
        "port": str(place.port),
        "flags": "master",
        "num-other-sentinels": str(len(known.others)),
        "num-slaves": "0",
        "quorum": "1",
    }


def _of_master(do: str, name: str, place: FoundAddress, known: Known) -> Any:
    match do:
        case "master":
            return _master(name, place, known)
        case "sentinels":
            return [
                {"name": s.uid, "ip": s.place.address, "port": str(s.place.port), "runid": s.uid, "flags": "sentinel"}
                for s in known.others
            ]
        case "ckquorum":
            return Simple(f"OK {len(known.others) + 1} usable Sentinels.")
    return []  # Clients reach a database at its endpoint only, so that replicas have no place of their own.


def _info(dialogue: DiscoveryDialogue, words: list[str], known: Known) -> list[Any]:
    lines = ["# Server", f"redis_version:{VERSION}", "redis_mode:sentinel", "", "# Sentinel"]
    lines.append(f"sentinel_masters:{len(known.masters)}")
    count = len(known.others) + 1
    lines += [
        f"master{number}:name={name},status=ok,address={place.address}:{place.port},slaves=0,sentinels={count}"
        for number, (name, place) in enumerate(sorted(known.masters.items()))
    ]
    return ["\r\n".join(lines) + "\r\n"]


Handler = Callable[[DiscoveryDialogue, list[str], Known], list[Any]]
_HANDLERS: dict[str, Handler] = {
    "PING": DiscoveryDialogue._ping,
    "HELLO": DiscoveryDialogue._hello,
    "SENTINEL": DiscoveryDialogue._sentinel,
    "SUBSCRIBE": DiscoveryDialogue._subscribe,
    "PSUBSCRIBE": DiscoveryDialogue._psubscribe,
    "UNSUBSCRIBE": DiscoveryDialogue._unsubscribe,
    "PUNSUBSCRIBE": DiscoveryDialogue._punsubscribe,
    "QUIT": DiscoveryDialogue._quit,
    "RESET": DiscoveryDialogue._reset,
    "INFO": _info,
    "ROLE": lambda _, words, known: [["sentinel", sorted(known.masters)]],
    "AUTH": lambda _, words, known: [OK],  # There is nothing to protect: every client may ask where a database is.
    "CLIENT": lambda _, words, known: [OK],
    "COMMAND": lambda _, words, known: [[]],
}
