"""The limits of the scanners, each on both of its sides, and their error texts."""

import pytest

from shardwright.endpoint import resp
from shardwright.endpoint.resp import (
    CommandScanner,
    ProtocolError,
    ReplyScanner,
    bulk,
    elements_of,
    encode_command,
    second_word,
    split_arguments,
    split_inline,
)


def refusal(data: bytes, *, is_unauthenticated: bool = False) -> str:
    """The error for a command; empty if it is complete or may become complete."""
    scanner = CommandScanner()
    scanner.is_unauthenticated = is_unauthenticated
    scanner.scan(data)
    return scanner.error


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"*x\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*%d\r\n" % resp.ARGUMENTS_MAX, ""),
        (b"*%d\r\n" % (resp.ARGUMENTS_MAX + 1), "invalid multibulk length"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$%d\r\n" % resp.BULK_BYTES_MAX, ""),
        (b"*1\r\n$%d\r\n" % (resp.BULK_BYTES_MAX + 1), "invalid bulk length"),
        (b"*1\r\n:5\r\n", "expected '$', got ':'"),
        (b"*1\r\n\r\n", "expected '$', got ' '"),
    ],
)
def test_headers_are_read_like_the_servers(data: bytes, error: str) -> None:
    assert refusal(data) == error


@pytest.mark.parametrize(
    ("beginning", "error"),
    [(b"*", "too big mbulk count string"), (b"*1\r\n$", "too big bulk count string"), (b"GET ", "too big inline request")],
)
def test_a_line_without_an_end_is_bounded(beginning: bytes, error: str) -> None:
    line = beginning[beginning.rfind(b"\n") + 1 :]
    fill = b"1" * (resp.LINE_BYTES_MAX - len(line))
    assert refusal(beginning + fill) == ""
    assert refusal(beginning + fill + b"1") == error


@pytest.mark.parametrize(
    ("arguments", "size", "error"),
    [
        (resp.UNAUTHENTICATED_ARGUMENTS_MAX, 1, ""),
        (resp.UNAUTHENTICATED_ARGUMENTS_MAX + 1, 1, "unauthenticated multibulk length"),
        (2, resp.UNAUTHENTICATED_BULK_BYTES_MAX, ""),
        (2, resp.UNAUTHENTICATED_BULK_BYTES_MAX + 1, "unauthenticated bulk length"),
    ],
)
def test_a_client_without_a_login_has_tighter_limits(arguments: int, size: int, error: str) -> None:
    command = encode_command(*[b"x" * size] * arguments)
    assert refusal(command, is_unauthenticated=True) == error
    assert refusal(command) == ""


def test_commands_before_an_error_are_found_and_none_after_it() -> None:
    scanner = CommandScanner()
    assert scanner.scan(b"PING\r\n*1\r\n$3\r\nGET\r\n*x\r\nPING\r\n") == [(6, b"PING"), (19, b"GET")]
    assert scanner.error == "invalid multibulk length"


@pytest.mark.parametrize("empty", [b"*0\r\n", b"*-1\r\n", b"\r\n", b"   \r\n"])
def test_an_array_without_arguments_is_an_empty_command(empty: bytes) -> None:
    assert CommandScanner().scan(empty + b"get a\n") == [(len(empty), b""), (len(empty) + 6, b"GET")]


def test_an_inline_command_with_a_nul_byte_never_ends_as_on_the_servers() -> None:
    scanner = CommandScanner()
    assert scanner.scan(b"GET a\0b\r\n") == []
    assert not scanner.error


def test_the_body_of_a_long_argument_is_skipped() -> None:
    scanner = CommandScanner()
    head = b"*2\r\n$3\r\nGET\r\n$1000\r\n"
    assert scanner.scan(head) == []
    assert (scanner.at, scanner.is_inside) == (len(head) + 1002, True)
    assert scanner.scan(head + b"*1\r\n" * 250 + b"\r\n") == [(len(head) + 1002, b"GET")]
    assert not scanner.is_inside


# -- replies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"?1\r\n", b"$x\r\n", b"*x\r\n", b"%x\r\n", b"*2\r\n+a\r\nb\r\n", b"OK\r\n"])
def test_bytes_that_no_server_sends_are_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        ReplyScanner().scan(data)


@pytest.mark.parametrize(
    ("data", "is_odd"),
    [
        (b"+OK\r\n:1\r\n", False),
        (b"+OK\r\n-ERR x\r\n", True),
        (b">1\r\n+x\r\n", True),
        (b"*1\r\n-ERR x\r\n", False),
        (b"*1\r\n>1\r\n+x\r\n", False),
        (b"!3\r\nERR\r\n", False),
        (b"+OK\r\n-ERR", False),
    ],
)
def test_errors_and_pushes_among_complete_replies_are_noticed_but_nested_ones_are_not(data: bytes, is_odd: bool) -> None:
    scanner = ReplyScanner()
    scanner.scan(data)
    assert scanner.has_oddity is is_odd


def test_an_oddity_belongs_to_the_last_scan_only() -> None:
    scanner = ReplyScanner()
    scanner.scan(b"-ERR x\r\n")
    assert scanner.has_oddity
    scanner.scan(b"+OK\r\n")
    assert not scanner.has_oddity


def test_an_attribute_belongs_to_the_value_after_it() -> None:
    data = b"|1\r\n+ttl\r\n:5\r\n*1\r\n+a\r\n:7\r\n"
    assert ReplyScanner().scan(data) == [len(data) - 4, len(data)]


def test_the_elements_of_an_array_may_be_nested() -> None:
    parts = [b"+OK\r\n", b"*2\r\n:1\r\n:2\r\n", b"$-1\r\n", bulk(b"*1\r\n"), b"%1\r\n+a\r\n:1\r\n", b"-ERR x\r\n"]
    assert elements_of(b"*%d\r\n" % len(parts) + b"".join(parts)) == parts
    assert elements_of(b"*0\r\n") == []


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        (b"SET a 1", [b"SET", b"a", b"1"]),
        (b'SET a "b c"', [b"SET", b"a", b"b c"]),
        (b'"\\x41\\n\\t\\\\\\q"', [b"A\n\t\\q"]),
        (b"'it\\'s' '\\n'", [b"it's", b"\\n"]),
        (b'""', [b""]),
        (b' a\tb"c"\x0b', [b"a", b"bc\x0b"]),
        (b"", []),
    ],
)
def test_inline_arguments_are_unquoted(line: bytes, arguments: list[bytes]) -> None:
    assert split_inline(line) == split_arguments(line + b"\r\n") == arguments


def test_the_second_word_of_a_command() -> None:
    assert second_word(encode_command(b"script", b"kill")) == b"KILL"
    assert second_word(b"script flush\r\n") == b"FLUSH"
    assert second_word(b"PING\r\n") == second_word(b'SCRIPT "x\r\n') == b""
