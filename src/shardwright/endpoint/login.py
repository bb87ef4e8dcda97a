"""The parts of AUTH, HELLO and CLIENT that the endpoint processes itself, with the servers' own error texts. Pure."""

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass

Effect = Callable[[bytes], None]
"""Called with a command's final reply."""

NOAUTH = b"-NOAUTH Authentication required.\r\n"
HELLO_NOAUTH = (
    b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> "
    b"option can be used to authenticate the client and select the RESP protocol version at the same time\r\n"
)
WRONGPASS = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
NO_PASSWORD_SET = (
    b"-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is "
    b"correct?\r\n"
)
BAD_NAME = b"-ERR Client names cannot contain spaces, newlines or special characters.\r\n"
OK = b"+OK\r\n"
USER = b"default"
_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class HelloRequest:
    """A well-formed HELLO. ``protocol`` None: unchanged."""

    protocol: int | None
    user: bytes | None = None
    password: bytes = b""
    name: bytes | None = None


def is_valid_login(user: bytes, given: bytes, password: str) -> bool:
    """Whether user and password are valid. Takes the same time for a wrong password as for the right one."""
    is_same = hmac.compare_digest(given, password.encode())
    return user == USER and (is_same or not password)


def answer_auth(arguments: list[bytes], password: str) -> bytes:
    """The reply to AUTH; ``OK`` if it succeeds."""
    match arguments[1:]:
        case [given]:
            if not password:
                return NO_PASSWORD_SET
            return OK if is_valid_login(USER, given, password) else WRONGPASS
        case [user, given]:
            return OK if is_valid_login(user, given, password) else WRONGPASS
        case []:
            return wrong_number("auth")
        case _:
            return b"-ERR syntax error\r\n"


def parse_hello(arguments: list[bytes]) -> HelloRequest | bytes:
    """The request of a HELLO, or the error reply."""
    if len(arguments) < 2:
        return HelloRequest(None)
    if not _INTEGER.fullmatch(arguments[1]):
        return b"-ERR Protocol version is not an integer or out of range\r\n"
    protocol = int(arguments[1])
    if protocol not in (2, 3):
        return b"-NOPROTO unsupported protocol version\r\n"
    user: bytes | None = None
    password = b""
    name: bytes | None = None
    rest = arguments[2:]
    while rest:
        match [rest[0].upper(), *rest[1:]]:
            case [b"AUTH", given_user, given_password, *_]:
                user, password = given_user, given_password
                rest = rest[3:]
            case [b"SETNAME", given_name, *_]:
                if not is_name(given_name):
                    return BAD_NAME
                name = given_name
                rest = rest[2:]
            case _:
                return b"-ERR Syntax error in HELLO option '%b'\r\n" % rest[0].translate(None, b"\r\n")
    return HelloRequest(protocol, user, password, name)


def wrong_number(command: str) -> bytes:
    """The error reply to a command with too few or too many arguments."""
    return f"-ERR wrong number of arguments for '{command}' command\r\n".encode()


def is_name(name: bytes) -> bool:
    """Whether the servers accept this client name."""
    return all(33 <= char <= 126 for char in name)


def setting_of(arguments: list[bytes]) -> str | None:
    """The connection setting that a CLIENT command changes; None: it changes no setting."""
    match [argument.upper() for argument in arguments[1:3]]:
        case [b"SETNAME", _]:
            return "SETNAME"
        case [b"SETINFO", attribute] if len(arguments) == 4:
            return "SETINFO " + attribute.decode("latin-1")
        case [b"NO-TOUCH" | b"NO-EVICT" as setting, _]:
            return setting.decode()
        case _:
            return None
