"""Finds the boundaries of commands and replies in bytes, RESP2 and RESP3, without building objects.

Pure. Called by the session for every chunk of either direction, so it is written for speed: both scanners remember their
position, examine nothing twice, and skip the bodies of bulk strings. They never copy or keep bytes: the caller keeps the
rest of a scan, appends to it, and scans again when ``at`` bytes have arrived. Must not know the meaning of commands.
"""

import re

ARGUMENTS_MAX = 2**31 - 1
"""Arguments of one command; the servers' own limit. COMMAND_BYTES_MAX bounds the memory."""
BULK_BYTES_MAX = 512 * 1024 * 1024
"""One argument; the servers' default ``proto-max-bulk-len``."""
COMMAND_BYTES_MAX = BULK_BYTES_MAX + 1024 * 1024
"""One whole command. It is kept until it is complete, so its size must be bounded."""
LINE_BYTES_MAX = 64 * 1024
"""An inline command or a header line. The servers also refuse a longer line, but some accept it if they receive it at
once."""
UNAUTHENTICATED_ARGUMENTS_MAX = 10
UNAUTHENTICATED_BULK_BYTES_MAX = 16384
"""The servers' own limits for a client that has not authenticated."""

PUSH = ord(">")
ERROR = ord("-")

_COMMAND = ord("*")
_BULK = ord("$")
_SHORT_ARRAYS = {b"*%d\r\n" % n: n for n in range(1, 10)}
_SHORT_BULKS = {b"$%d\r\n" % n: n for n in range(10)}
_TWO_DIGIT_BULKS = {b"$%d\r\n" % n: n for n in range(10, 100)}
_THREE_DIGIT_BULKS = {b"$%d\r\n" % n: n for n in range(100, 1000)}
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
    """The bytes are not RESP, or exceed a limit. The text is the servers' own text after ``Protocol error:``."""


class CommandScanner:
    """Splits a client's bytes into commands, including inline commands."""

    __slots__ = ("_left", "_word", "at", "error", "is_unauthenticated")

    def __init__(self) -> None:
        self.at = 0
        """Position at which the scan of an incomplete command continues, counted from its first byte; may be beyond the
        received bytes."""
        self.is_unauthenticated = False
        """The client has not authenticated: its limits are tighter."""
        self.error = ""
        """Set if the bytes were not RESP: the scanner is unusable afterwards."""
        self._left = -1  # number of missing arguments; -1: at a command's beginning
        self._word: bytes | None = None

    @property
    def is_inside(self) -> bool:
        """Whether the header of an incomplete command has been read."""
        return self._left >= 0

    def scan(self, buffer: bytes) -> list[tuple[int, bytes]]:
        """End and first word (upper case; empty for an empty command) of each complete command. ``buffer`` begins at the
        last end of the previous scan. Sets ``error`` at the first byte that is not RESP, and returns the commands before
        it."""
        cuts: list[tuple[int, bytes]] = []
        try:
            self._scan(buffer, cuts)
        except ProtocolError as error:
            self.error = str(error)
        return cuts

    def _scan(self, buffer: bytes, cuts: list[tuple[int, bytes]]) -> None:
        size = len(buffer)
        find = buffer.find
        at = self.at
        left = self._left
        word = self._word
        base = 0
        while at < size or left == 0:  # 0: only the end of the last argument was missing
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
                    cuts.append((at, word))
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
                        cuts.append((at, b""))
                        continue
                left = count
                word = None
            while left and at < size:
                length = _SHORT_BULKS.get(buffer[at : at + 4])
                if length is not None:
                    body = at + 4
                elif (length := _TWO_DIGIT_BULKS.get(buffer[at : at + 5])) is not None:
                    body = at + 5
                elif (length := _THREE_DIGIT_BULKS.get(buffer[at : at + 6])) is not None:
                    body = at + 6
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
                    cuts.append((at, word or b""))
                    base = at
                    left = -1
                    continue
            break
        self.at = at - base
        self._left = left
        self._word = word

    def _count(self, digits: bytes) -> int:
        if _NEGATIVE.fullmatch(digits):
            return -1
        if not _DIGITS.fullmatch(digits) or (count := int(digits)) > ARGUMENTS_MAX:
            raise ProtocolError("invalid multibulk length")
        if self.is_unauthenticated and count > UNAUTHENTICATED_ARGUMENTS_MAX:
            raise ProtocolError("unauthenticated multibulk length")
        return count

    def _length(self, header: bytes) -> int:
        if header[:1] != b"$":
            raise ProtocolError(f"expected '$', got '{chr(header[0]) if header[:1].strip(_LINE_END) else ' '}'")
        digits = header[1:]
        if not _DIGITS.fullmatch(digits) or (length := int(digits)) > BULK_BYTES_MAX:
            raise ProtocolError("invalid bulk length")
        if self.is_unauthenticated and length > UNAUTHENTICATED_BULK_BYTES_MAX:
            raise ProtocolError("unauthenticated bulk length")
        return length


class ReplyScanner:
    """Finds the replies in a server's bytes. One number is enough to find the end of a nested reply: the number of missing
    elements, at any depth."""

    __slots__ = ("_inside", "_todo", "_top", "at", "has_oddity")

    def __init__(self) -> None:
        self.at = 0
        """Position at which the scan of an incomplete reply continues, counted from the buffer's beginning; may be beyond
        its end."""
        self.has_oddity = False
        """Whether the last scan's complete replies contain an error or a push."""
        self._todo = 0
        self._inside = False
        self._top = 0

    @property
    def is_inside(self) -> bool:
        """Whether a reply is incomplete."""
        return self._inside

    def scan(self, buffer: bytes | bytearray) -> list[int]:
        """Ends of the complete replies and pushes in ``buffer``. It begins at the last end that the previous scan returned,
        or at the position after ``skip``. Raises ProtocolError."""
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
                    todo += 2 * max(count, 0)  # the value follows the attribute
                else:
                    raise ProtocolError(f"unknown type {chr(kind)!r} in a reply")
        self.at = at - ends[-1] if ends else at
        self._todo = todo
        self._inside = inside
        self._top = top
        self.has_oddity = odd
        return ends

    def skip(self, count: int) -> None:
        """The caller has passed on ``count`` bytes of the incomplete reply and removed them from the buffer."""
        self.at -= count


def elements_of(reply: bytes) -> list[bytes]:
    """The elements of one complete array."""
    body = reply[reply.index(b"\r\n") + 2 :]
    start, elements = 0, []
    for end in ReplyScanner().scan(body):
        elements.append(body[start:end])
        start = end
    return elements


def _number(digits: bytes | bytearray) -> int:
    try:
        return int(digits)
    except ValueError:
        raise ProtocolError("invalid length in a reply") from None


def _check_line(length: int, text: str) -> None:
    if length > LINE_BYTES_MAX:
        raise ProtocolError(text)


def _inline_end(buffer: bytes, at: int) -> int:
    """Position of an inline command's line feed; -1: none. The servers do not find a line feed after a NUL."""
    end = buffer.find(b"\n", at)
    return -1 if buffer.find(b"\0", at, max(end, at)) >= 0 else end


def _inline_word(line: bytes) -> bytes:
    words = split_inline(line) if _NEEDS_CARE.search(line) else line.split(None, 1)
    return words[0].upper() if words else b""


def split_inline(line: bytes) -> list[bytes]:
    """The arguments of an inline command. Like newer servers, it accepts a closed quote within a word; an older server
    refuses the command and closes the connection itself. Raises ProtocolError for unbalanced quotes."""
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
    spaces = _SPACES.match(line, at)
    return spaces.end() if spaces else at


def _unquoted(piece: re.Match[bytes]) -> bytes:
    plain, double, single = piece.groups()
    if double is not None:
        return _ESCAPE.sub(_unescaped, double)
    return bytes(plain) if single is None else single.replace(b"\\'", b"'")


def _unescaped(escape: re.Match[bytes]) -> bytes:
    code = escape[1]
    return bytes([int(code[1:], 16)]) if len(code) == 3 else _ESCAPED.get(code, code)


def split_arguments(command: bytes) -> list[bytes]:
    """The arguments of one complete command, inline or not, including its first word. Raises ProtocolError for unbalanced
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
    """The second word of one complete command, upper case; empty if there is none, or if the command is invalid."""
    try:
        arguments = split_arguments(command)
    except ProtocolError:
        return b""
    return arguments[1].upper() if len(arguments) > 1 else b""


def encode_command(*arguments: bytes) -> bytes:
    """A command in RESP."""
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(a), a) for a in arguments)


def bulk(text: bytes) -> bytes:
    """A bulk string in RESP."""
    return b"$%d\r\n%b\r\n" % (len(text), text)
