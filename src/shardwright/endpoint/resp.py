"""Finds the boundaries of commands and replies in bytes, RESP2 and RESP3, without building objects.

Pure. Called by the session for every chunk of either direction, so it is written for speed: both scanners remember how far
they got, nothing is looked at twice, and the body of a bulk is jumped over. They never copy or keep bytes: the caller keeps
what a scan left over, appends to it, and scans again once ``at`` bytes are there. Must not know what commands mean.
"""

import re

ARGUMENTS_MAX = 2**31 - 1
"""Arguments of one command; the servers' own limit. What bounds the memory is COMMAND_BYTES_MAX."""
BULK_BYTES_MAX = 512 * 1024 * 1024
"""One argument; the servers' default ``proto-max-bulk-len``."""
COMMAND_BYTES_MAX = BULK_BYTES_MAX + 1024 * 1024
"""One whole command: it is kept until it is complete, so it must be bounded."""
LINE_BYTES_MAX = 64 * 1024
"""An inline command or a header line. The servers refuse a longer one too, except that some let one pass which they could
read at once."""
STRANGER_ARGUMENTS_MAX = 10
STRANGER_BULK_BYTES_MAX = 16384
"""What a client may send before it has authenticated, as the servers limit it."""

PUSH = ord(">")
ERROR = ord("-")

_COMMAND = ord("*")
_BULK = ord("$")
_SHORT_ARRAYS = {b"*%d\r\n" % n: n for n in range(1, 10)}
_SHORT_BULKS = {b"$%d\r\n" % n: n for n in range(10)}
_TWO_DIGIT_BULKS = {b"$%d\r\n" % n: n for n in range(10, 100)}
_ODD = (ERROR, PUSH)
_DIGITS = re.compile(rb"0|[1-9][0-9]{0,9}")
_NEGATIVE = re.compile(rb"-[1-9][0-9]{0,18}")
_LINE_END = b"\r\n"
_SPACES = re.compile(rb"[ \t\n\r\x0b\x0c]*")
_NEEDS_CARE = re.compile(rb"[\"'\x0b\x0c]")
_DOUBLE = rb'"((?:[^"\\]|\\.)*+)"'
_SINGLE = rb"'((?:\\'|[^'])*+)'"
_TOKEN = re.compile(rb"""(?:[^ \t\n\r"']++|%b|%b)++(?=[ \t\n\r]|\Z)""" % (_DOUBLE, _SINGLE), re.DOTALL)
_PIECE = re.compile(rb"""([^"']++)|%b|%b""" % (_DOUBLE, _SINGLE), re.DOTALL)
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}
_LINES = frozenset(b"+-:_,#(")
_BLOBS = frozenset(b"$!=")
_ARRAYS = frozenset(b"*~>")
_MAP = ord("%")
_ATTRIBUTE = ord("|")


class ProtocolError(Exception):
    """The bytes are no RESP, or exceed a limit. The text is what the servers answer behind ``Protocol error:``."""


class CommandScanner:
    """Cuts what a client sends into commands, inline ones included."""

    __slots__ = ("_left", "_word", "at", "error", "is_stranger")

    def __init__(self) -> None:
        self.at = 0
        """Where the scan of an incomplete command goes on, counted from its first byte; may lie beyond what is there."""
        self.is_stranger = False
        """The client has not authenticated: tighter limits."""
        self.error = ""
        """Set once the bytes were no RESP: the scanner is of no use afterwards."""
        self._left = -1  # arguments still to come; -1: at a command's beginning
        self._word: bytes | None = None

    @property
    def is_inside(self) -> bool:
        """An incomplete command's header has been read."""
        return self._left >= 0

    def scan(self, buffer: bytes) -> list[tuple[int, bytes]]:
        """End and first word (upper case; empty for an empty command) of each complete command. ``buffer`` begins where
        the last scan's last end was. Sets ``error`` at the first byte that is no RESP; what was before it is returned."""
        found: list[tuple[int, bytes]] = []
        try:
            self._scan(buffer, found)
        except ProtocolError as error:
            self.error = str(error)
        return found

    def _scan(self, buffer: bytes, found: list[tuple[int, bytes]]) -> None:
        size = len(buffer)
        find = buffer.find
        at = self.at
        left = self._left
        word = self._word
        base = 0
        while at < size:
            if left < 0:
                count = _SHORT_ARRAYS.get(buffer[at : at + 4])
                if count is not None:
                    at += 4
                elif buffer[at] != _COMMAND:
                    end = _inline_end(buffer, at)
                    _check_line((size if end < 0 else end) - at, "too big inline request")
                    if end < 0:
                        break
                    word = _inline_word(buffer[at:end])
                    base = at = end + 1
                    found.append((at, word))
                    continue
                else:
                    end = find(b"\r\n", at)
                    if end < 0:
                        _check_line(size - at, "too big mbulk count string")
                        break
                    count = self._count(buffer[at + 1 : end])
                    at = end + 2
                    if count <= 0:
                        base = at
                        found.append((at, b""))
                        continue
                left = count
                word = None
            while left and at < size:
                length = _SHORT_BULKS.get(buffer[at : at + 4])
                if length is not None:
                    body = at + 4
                elif (length := _TWO_DIGIT_BULKS.get(buffer[at : at + 5])) is not None:
                    body = at + 5
                else:
                    end = find(b"\r\n", at)
                    if end < 0:
                        _check_line(size - at, "too big bulk count string")
                        break
                    length = self._length(buffer[at:end])
                    body = end + 2
                if word is None:
                    if body + length > size:
                        break
                    word = buffer[body : body + length].upper()
                at = body + length + 2
                left -= 1
            else:
                if at - base > COMMAND_BYTES_MAX:
                    raise ProtocolError("too big command")
                if left == 0 and at <= size:
                    found.append((at, word or b""))
                    base = at
                    left = -1
                    continue
            break
        if left == 0 and at <= size:  # the last byte of a long bulk has come
            found.append((at, word or b""))
            base = at
            left = -1
        self.at = at - base
        self._left = left
        self._word = word

    def _count(self, digits: bytes) -> int:
        if _NEGATIVE.fullmatch(digits):
            return -1
        if not _DIGITS.fullmatch(digits) or (count := int(digits)) > ARGUMENTS_MAX:
            raise ProtocolError("invalid multibulk length")
        if self.is_stranger and count > STRANGER_ARGUMENTS_MAX:
            raise ProtocolError("unauthenticated multibulk length")
        return count

    def _length(self, header: bytes) -> int:
        if header[:1] != b"$":
            raise ProtocolError(f"expected '$', got '{chr(header[0]) if header[:1].strip(_LINE_END) else ' '}'")
        digits = header[1:]
        if not _DIGITS.fullmatch(digits) or (length := int(digits)) > BULK_BYTES_MAX:
            raise ProtocolError("invalid bulk length")
        if self.is_stranger and length > STRANGER_BULK_BYTES_MAX:
            raise ProtocolError("unauthenticated bulk length")
        return length


class ReplyScanner:
    """Counts the replies in what a server sends. One number is enough to know a nested reply's end: how many elements are
    still to come, whatever their depth."""

    __slots__ = ("_inside", "_todo", "_top", "at", "has_oddity")

    def __init__(self) -> None:
        self.at = 0
        """Where the scan of an incomplete reply goes on, counted from the buffer's beginning; may lie beyond its end."""
        self.has_oddity = False
        """The last scan found an error or a push among the complete replies."""
        self._todo = 0
        self._inside = False
        self._top = 0

    @property
    def is_inside(self) -> bool:
        """A reply has begun and is not complete."""
        return self._inside

    def scan(self, buffer: bytes | bytearray) -> list[int]:
        """Ends of the complete replies and pushes in ``buffer``, which begins where the last scan left off: at the last
        end it returned, or wherever ``skip`` was told. Raises ProtocolError."""
        ends: list[int] = []
        size = len(buffer)
        find = buffer.find
        at = self.at
        todo = self._todo
        inside = self._inside
        odd = False
        top = self._top
        while True:
            if inside and todo == 0 and at <= size:
                ends.append(at)
                inside = False
                if top in _ODD:
                    odd = True
            if at >= size:
                break
            kind = buffer[at]
            end = find(b"\r\n", at)
            if end < 0:
                if not inside:
                    top = kind
                break
            if not inside:
                inside = True
                todo = 1
                top = kind
            if kind in _LINES:
                todo -= 1
                at = end + 2
            elif kind in _BLOBS:
                length = _number(buffer[at + 1 : end])
                todo -= 1
                at = end + 2 if length < 0 else end + length + 4
            else:
                count = _number(buffer[at + 1 : end])
                at = end + 2
                if kind in _ARRAYS:
                    todo += max(count, 0) - 1
                elif kind == _MAP:
                    todo += 2 * max(count, 0) - 1
                elif kind == _ATTRIBUTE:
                    todo += 2 * max(count, 0)  # the value it precedes is still to come
                else:
                    raise ProtocolError(f"unknown type {chr(kind)!r} in a reply")
        self.at = at - ends[-1] if ends else at
        self._todo = todo
        self._inside = inside
        self._top = top
        self.has_oddity = odd
        return ends

    def skip(self, count: int) -> None:
        """The caller passed on ``count`` bytes of the incomplete reply and will not show them again."""
        self.at -= count


def elements_of(reply: bytes) -> list[bytes]:
    """The elements of one complete array."""
    body = reply[reply.index(b"\r\n") + 2 :]
    start, found = 0, []
    for end in ReplyScanner().scan(body):
        found.append(body[start:end])
        start = end
    return found


def _number(digits: bytes | bytearray) -> int:
    try:
        return int(digits)
    except ValueError:
        raise ProtocolError("invalid length in a reply") from None


def _check_line(length: int, text: str) -> None:
    if length > LINE_BYTES_MAX:
        raise ProtocolError(text)


def _inline_end(buffer: bytes, at: int) -> int:
    """Where an inline command's line feed is; -1: not there. The servers never see the one behind a NUL."""
    end = buffer.find(b"\n", at)
    return -1 if buffer.find(b"\0", at, max(end, at)) >= 0 else end


def _inline_word(line: bytes) -> bytes:
    words = split_inline(line) if _NEEDS_CARE.search(line) else line.split(None, 1)
    return words[0].upper() if words else b""


def split_inline(line: bytes) -> list[bytes]:
    """The arguments of an inline command. A closed quote within a word is accepted as newer servers do it; an older one that
    refuses the command closes the connection itself. Raises ProtocolError for unbalanced quotes."""
    words: list[bytes] = []
    at = 0
    while (at := _skip_spaces(line, at)) < len(line):
        token = _TOKEN.match(line, at)
        if token is None:
            raise ProtocolError("unbalanced quotes in request")
        words.append(_PIECE.sub(_unquoted, token[0]))
        at = token.end()
    return words


def _skip_spaces(line: bytes, at: int) -> int:
    found = _SPACES.match(line, at)
    return found.end() if found else at


def _unquoted(piece: re.Match[bytes]) -> bytes:
    plain, double, single = piece.groups()
    if double is not None:
        return _ESCAPE.sub(_unescaped, double)
    return bytes(plain) if single is None else single.replace(b"\\'", b"'")


def _unescaped(escape: re.Match[bytes]) -> bytes:
    code = escape[1]
    return bytes([int(code[1:], 16)]) if len(code) == 3 else _ESCAPED.get(code, code)


def split_arguments(command: bytes) -> list[bytes]:
    """The arguments of one complete command, inline or not, its first word included. Raises ProtocolError for unbalanced
    quotes."""
    if command[:1] != b"*":
        return split_inline(command)
    arguments: list[bytes] = []
    at = command.index(b"\r\n") + 2
    size = len(command)
    while at < size:
        end = command.index(b"\r\n", at)
        length = int(command[at + 1 : end])
        arguments.append(command[end + 2 : end + 2 + length])
        at = end + length + 4
    return arguments


def second_word(command: bytes) -> bytes:
    """The second word of one complete command, upper case; empty when there is none, or it cannot be told."""
    try:
        arguments = split_arguments(command)
    except ProtocolError:
        return b""
    return arguments[1].upper() if len(arguments) > 1 else b""


def encode_command(*arguments: bytes) -> bytes:
    """A command as the servers read it."""
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(a), a) for a in arguments)


def bulk(text: bytes) -> bytes:
    """A bulk string."""
    return b"$%d\r\n%b\r\n" % (len(text), text)
