"""HTTP/1.1 as etcd's JSON gateway speaks it: composes requests, and finds heads, bodies and ends in the bytes of answers.

Pure. Called by ``etcd_wire.py`` for every chunk that arrives. Answers are chunked and may end with trailers, so the end of
an answer is found exactly: a kept connection is out of step otherwise. Must not know what a body means.
"""

from dataclasses import dataclass

HEAD_BYTES_MAX = 64 * 1024
"""The head of an answer, a chunk's size line, or the trailers. etcd's have a few hundred bytes."""


@dataclass(frozen=True, slots=True)
class Head:
    """An answer begins. ``is_kept``: the connection can serve another request after it."""

    status: int
    is_kept: bool


@dataclass(frozen=True, slots=True)
class BodyPart:
    """A part of the answer's body, of any size."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The answer is complete."""


Part = Head | BodyPart | End


def compose(path: str, body: bytes, *, host: str, needs_leader: bool = False) -> bytes:
    """A request. ``needs_leader``: etcd ends the answer as soon as the asked member knows no leader."""
    extra = "Grpc-Metadata-hasleader: true\r\n" if needs_leader else ""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{extra}\r\n".encode("ascii") + body


class AnswerParser:
    """The answers of one connection, one after the other. Raises ValueError for bytes that are no answer; the connection
    is useless then."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._read = self._read_head
        self._left = 0
        """Bytes of the body, or of the current chunk, that are still to come; negative: it ends with the connection."""

    def feed(self, data: bytes) -> list[Part]:
        """The parts that these bytes complete."""
        self._rest += data
        parts: list[Part] = []
        while self._read(parts):
            pass
        return parts

    def ends(self) -> list[Part]:
        """The connection has ended. Raises ValueError if that is in the middle of an answer."""
        if self._left < 0:
            self._left = 0
            return [End()]
        if self._rest or self._read != self._read_head:
            raise ValueError("the connection ended in the middle of an answer")
        return []

    # Each of these reads one element, appends what it is, and returns whether there may be more.

    def _read_head(self, parts: list[Part]) -> bool:
        end = self._rest.find(b"\r\n\r\n")
        if end < 0:
            return self._wait_for_line()
        lines = bytes(self._rest[:end]).decode("latin-1").split("\r\n")
        del self._rest[: end + 4]
        version, _, rest = lines[0].partition(" ")
        status = rest[:3]
        if not version.startswith("HTTP/1.") or not status.isdigit():
            raise ValueError(f"not an answer of HTTP/1.1: {lines[0][:60]!r}")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if 100 <= int(status) < 200:
            return True
        is_kept = fields.get("connection", "").lower() != "close"
        self._begin_body(fields, has_body=int(status) not in (204, 304))
        parts.append(Head(int(status), is_kept and self._left >= 0))
        if self._read == self._read_head:
            parts.append(End())
        return True

    def _begin_body(self, fields: dict[str, str], *, has_body: bool) -> None:
        if not has_body:
            return
        if fields.get("transfer-encoding", "").lower() == "chunked":
            self._read = self._read_chunk_size
        elif (length := fields.get("content-length")) is not None:
            if not length.isdigit():
                raise ValueError(f"the length of an answer is {length[:60]!r}")
            self._left = int(length)
            self._read = self._read_body if self._left else self._read_head
        else:
            self._left = -1
            self._read = self._read_body

    def _read_body(self, parts: list[Part]) -> bool:
        if not self._take(parts):
            return False
        self._read = self._read_head
        parts.append(End())
        return True

    def _take(self, parts: list[Part]) -> bool:
        """Pass on what is there of the body or chunk; returns whether it is complete."""
        count = len(self._rest) if self._left < 0 else min(self._left, len(self._rest))
        if count:
            parts.append(BodyPart(bytes(self._rest[:count])))
            del self._rest[:count]
            if self._left > 0:
                self._left -= count
        return self._left == 0

    def _read_chunk_size(self, parts: list[Part]) -> bool:
        line = self._line()
        if line is None:
            return False
        size = line.partition(b";")[0].strip()
        try:
            self._left = int(size, 16)
        except ValueError:
            raise ValueError(f"the size of a chunk is {bytes(size[:60])!r}") from None
        if self._left < 0:
            raise ValueError(f"the size of a chunk is {self._left}")
        self._read = self._read_chunk if self._left else self._read_trailers
        return True

    def _read_chunk(self, parts: list[Part]) -> bool:
        if not self._take(parts):
            return False
        self._read = self._read_chunk_end
        return True

    def _read_chunk_end(self, parts: list[Part]) -> bool:
        line = self._line()
        if line is None:
            return False
        if line:
            raise ValueError("a chunk is longer than its size")
        self._read = self._read_chunk_size
        return True

    def _read_trailers(self, parts: list[Part]) -> bool:
        line = self._line()
        if line is None:
            return False
        if not line:
            self._read = self._read_head
            parts.append(End())
        return True

    def _line(self) -> bytes | None:
        end = self._rest.find(b"\r\n")
        if end < 0:
            self._wait_for_line()
            return None
        line = bytes(self._rest[:end])
        del self._rest[: end + 2]
        return line

    def _wait_for_line(self) -> bool:
        if len(self._rest) > HEAD_BYTES_MAX:
            raise ValueError("a line of an answer has no end")
        return False
