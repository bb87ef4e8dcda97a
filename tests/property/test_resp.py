"""Laws of the scanners: boundaries do not depend on how a stream is split, and agree with a generator that knows them."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shardwright.endpoint.resp import CommandScanner, ReplyScanner, encode_command, split_arguments

blobs = st.binary(max_size=40) | st.sampled_from([b"\r\n", b"*1\r\n", b"$5\r\n", b"", b"x" * 300, b">2\r\n"])
lines = st.binary(max_size=12).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b""))


@st.composite
def replies(draw: st.DrawFn, depth: int = 0) -> bytes:
    kinds = ["+", "-", ":", "_", "#", ",", "(", "$", "!", "=", "null$", "null*"]
    if depth < 3:
        kinds += ["*", "~", ">", "%", "|"]
    kind = draw(st.sampled_from(kinds))
    match kind:
        case "null$":
            return b"$-1\r\n"
        case "null*":
            return b"*-1\r\n"
        case "$" | "!" | "=":
            body = draw(blobs)
            return b"%b%d\r\n%b\r\n" % (kind.encode(), len(body), body)
        case "*" | "~" | ">":
            items = draw(st.lists(replies(depth + 1), max_size=3))
            return b"%b%d\r\n" % (kind.encode(), len(items)) + b"".join(items)
        case "%" | "|":
            pairs = draw(st.lists(st.tuples(replies(depth + 1), replies(depth + 1)), max_size=2))
            whole = b"%b%d\r\n" % (kind.encode(), len(pairs)) + b"".join(a + b for a, b in pairs)
            return whole + draw(replies(depth + 1)) if kind == "|" else whole
        case _:
            return kind.encode() + draw(lines) + b"\r\n"


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(p % (len(stream) + 1) for p in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(marks)]


def scan_replies(chunks: list[bytes]) -> list[bytes]:
    scanner, tail, found = ReplyScanner(), b"", []
    for chunk in chunks:
        tail += chunk
        start = 0
        for end in scanner.scan(tail):
            found.append(tail[start:end])
            start = end
        tail = tail[start:]
    assert tail == b""
    assert not scanner.is_inside
    return found


@given(st.lists(replies(), max_size=8), st.lists(st.integers(min_value=0), max_size=12))
def test_replies_are_found_however_the_stream_is_split(expected: list[bytes], places: list[int]) -> None:
    assert scan_replies(cut(b"".join(expected), places)) == expected


@given(st.lists(replies(), max_size=4))
def test_replies_are_found_byte_by_byte(expected: list[bytes]) -> None:
    stream = b"".join(expected)
    assert scan_replies([stream[i : i + 1] for i in range(len(stream))]) == expected


@given(replies(), st.lists(st.integers(min_value=0), max_size=6))
def test_a_reply_may_be_passed_on_while_it_arrives(reply: bytes, places: list[int]) -> None:
    scanner, tail, passed = ReplyScanner(), b"", b""
    ends = 0
    for chunk in cut(reply, places):
        tail += chunk
        found = scanner.scan(tail)
        ends += len(found)
        count = found[-1] if found else min(scanner.at, len(tail))
        passed += tail[:count]
        tail = tail[count:]
        if not found:
            scanner.skip(count)
    assert (passed, ends) == (reply, 1)


commands = st.lists(blobs, min_size=1, max_size=12)


@given(st.lists(commands, max_size=6), st.lists(st.integers(min_value=0), max_size=12))
def test_commands_are_found_however_the_stream_is_split(expected: list[list[bytes]], places: list[int]) -> None:
    scanner, tail, found = CommandScanner(), b"", []
    for chunk in cut(b"".join(encode_command(*arguments) for arguments in expected), places):
        tail += chunk
        start = 0
        for end, word in scanner.scan(tail):
            arguments = split_arguments(tail[start:end])
            assert word == arguments[0].upper()
            found.append(arguments)
            start = end
        tail = tail[start:]
        assert not scanner.error
    assert found == expected
    assert tail == b""


words = st.text(alphabet="abcXYZ019:-", min_size=1, max_size=6).map(str.encode)


@given(st.lists(st.lists(words, max_size=4), max_size=6), st.lists(st.integers(min_value=0), max_size=8))
def test_inline_commands_are_found_however_the_stream_is_split(expected: list[list[bytes]], places: list[int]) -> None:
    stream = b"".join(b" ".join(arguments) + b"\r\n" for arguments in expected)
    scanner, tail, found = CommandScanner(), b"", []
    for chunk in cut(stream, places):
        tail += chunk
        start = 0
        for end, word in scanner.scan(tail):
            found.append((word, split_arguments(tail[start:end])))
            start = end
        tail = tail[start:]
    assert found == [(arguments[0].upper() if arguments else b"", arguments) for arguments in expected]


quotables = st.binary(max_size=6).map(lambda word: b'"%b"' % b"".join(b"\\x%02x" % byte for byte in word))


@given(st.lists(st.lists(st.one_of(words, quotables, words.map(lambda w: b"'%b'" % w)), min_size=1, max_size=4), max_size=4))
def test_quoted_inline_commands_have_the_same_arguments_as_on_the_servers(expected: list[list[bytes]]) -> None:
    stream = b"".join(b"\t ".join(arguments) + b"\r\n" for arguments in expected)
    start, found = 0, []
    for end, word in CommandScanner().scan(stream):
        arguments = split_arguments(stream[start:end])
        assert word == arguments[0].upper()
        found.append(arguments)
        start = end
    assert found == [[plain(argument) for argument in arguments] for arguments in expected]


def plain(word: bytes) -> bytes:
    """The text without its quotes."""
    if word[:1] != b'"':
        return word.strip(b"'")
    return bytes.fromhex(word[1:-1].replace(b"\\x", b"").decode())


def test_inline_commands_that_the_servers_refuse_are_refused() -> None:
    for line in (b'ECHO "a', b"ECHO 'a", b'ECHO a"b', b'"PING', b"ECHO 'a\\'", b'ECHO "a\\'):
        scanner = CommandScanner()
        assert scanner.scan(b"PING\r\n" + line + b"\r\n") == [(6, b"PING")]
        assert scanner.error == "unbalanced quotes in request"


@given(st.binary(max_size=80), st.lists(st.integers(min_value=0), max_size=4))
def test_any_bytes_are_commands_or_an_error(stream: bytes, places: list[int]) -> None:
    scanner, tail = CommandScanner(), b""
    for chunk in cut(stream, places):
        tail += chunk
        found = scanner.scan(tail)
        if scanner.error:
            return
        tail = tail[found[-1][0] :] if found else tail
        assert scanner.at >= 0
