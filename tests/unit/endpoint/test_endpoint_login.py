"""AUTH, HELLO and CLIENT, answered like the servers."""

import pytest

from shardwright.endpoint import login
from shardwright.endpoint.login import HelloRequest, answer_auth, is_name, is_valid_login, parse_hello, setting_of


def words(line: str) -> list[bytes]:
    return line.encode().split()


@pytest.mark.parametrize(
    ("user", "given", "password", "is_in"),
    [
        (b"default", b"secret", "secret", True),
        (b"default", b"Secret", "secret", False),
        (b"default", b"", "secret", False),
        (b"application", b"secret", "secret", False),
        (b"DEFAULT", b"secret", "secret", False),
        (b"default", b"anything", "", True),
        (b"somebody", b"anything", "", False),
        (b"default", "pässword".encode(), "pässword", True),
    ],
)
def test_one_user_logs_in_with_the_databases_password_or_any_without_one(
    user: bytes, given: bytes, password: str, is_in: bool
) -> None:
    assert is_valid_login(user, given, password) is is_in
    assert answer_auth([b"AUTH", user, given], password) == (login.OK if is_in else login.WRONGPASS)


def test_the_servers_own_user_cannot_log_in_through_the_endpoint() -> None:
    for user in (b"management", b"application", b"replication", b"observation"):
        assert answer_auth([b"AUTH", user, b"secret"], "secret") == login.WRONGPASS


@pytest.mark.parametrize(
    ("line", "password", "reply"),
    [
        ("AUTH secret", "secret", login.OK),
        ("AUTH wrong", "secret", login.WRONGPASS),
        ("AUTH anything", "", login.NO_PASSWORD_SET),
        ("AUTH", "secret", login.wrong_number("auth")),
        ("AUTH default secret more", "secret", b"-ERR syntax error\r\n"),
    ],
)
def test_the_short_form_of_auth(line: str, password: str, reply: bytes) -> None:
    assert answer_auth(words(line), password) == reply


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        ("HELLO", HelloRequest(None)),
        ("HELLO 2", HelloRequest(2)),
        ("HELLO 3 AUTH u p", HelloRequest(3, b"u", b"p")),
        ("HELLO 3 setname me", HelloRequest(3, name=b"me")),
        ("HELLO 3 SETNAME me AUTH u p", HelloRequest(3, b"u", b"p", b"me")),
        ("HELLO 3 AUTH u p AUTH v q", HelloRequest(3, b"v", b"q")),
    ],
)
def test_the_request_of_a_hello(line: str, request_: HelloRequest) -> None:
    assert parse_hello(words(line)) == request_


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("HELLO x", b"-ERR Protocol version is not an integer"),
        ("HELLO 3.0", b"-ERR Protocol version is not an integer"),
        ("HELLO 03", b"-ERR Protocol version is not an integer"),
        ("HELLO 1", b"-NOPROTO"),
        ("HELLO 4", b"-NOPROTO"),
        ("HELLO -2", b"-NOPROTO"),
        ("HELLO 3 AUTH u", b"-ERR Syntax error in HELLO option 'AUTH'"),
        ("HELLO 3 SETNAME", b"-ERR Syntax error in HELLO option 'SETNAME'"),
        ("HELLO 3 other", b"-ERR Syntax error in HELLO option 'other'"),
        ("HELLO 3 SETNAME me more", b"-ERR Syntax error in HELLO option 'more'"),
    ],
)
def test_an_invalid_hello_is_answered_like_the_servers(line: str, error: bytes) -> None:
    reply = parse_hello(words(line))
    assert isinstance(reply, bytes)
    assert reply.startswith(error)
    assert reply.endswith(b"\r\n")


def test_an_error_never_contains_the_clients_line_ends() -> None:
    reply = parse_hello([b"HELLO", b"3", b"a\r\n+OK\r\nb"])
    assert isinstance(reply, bytes)
    assert reply.count(b"\r\n") == 1
    assert parse_hello([b"HELLO", b"3", b"SETNAME", b"a b"]) == login.BAD_NAME


@pytest.mark.parametrize(
    ("name", "is_good"), [(b"me-2", True), (b"", True), (b"a b", False), (b"a\n", False), (b"\xc3", False)]
)
def test_names_have_no_spaces_or_line_ends(name: bytes, is_good: bool) -> None:
    assert is_name(name) is is_good


@pytest.mark.parametrize(
    ("line", "setting"),
    [
        ("CLIENT SETNAME me", "SETNAME"),
        ("CLIENT setinfo lib-name x", "SETINFO LIB-NAME"),
        ("CLIENT SETINFO LIB-VER 1", "SETINFO LIB-VER"),
        ("CLIENT SETINFO LIB-VER", None),
        ("CLIENT NO-EVICT on", "NO-EVICT"),
        ("CLIENT no-touch off", "NO-TOUCH"),
        ("CLIENT NO-TOUCH", None),
        ("CLIENT SETNAME", None),
        ("CLIENT ID", None),
        ("CLIENT KILL x", None),
        ("CLIENT", None),
    ],
)
def test_the_settings_that_a_new_server_connection_gets(line: str, setting: str | None) -> None:
    assert setting_of(words(line)) == setting
