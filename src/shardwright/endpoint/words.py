"""The endpoint's tables of commands: those that it answers, watches or refuses, and those that it may repeat.

Pure. A command that is not in a table is forwarded, has one reply, and counts as a write.
"""

from collections.abc import Container
from enum import Enum, auto


class Treatment(Enum):
    """The treatment of a command that is not simply forwarded."""

    EMPTY = auto()
    """An empty line, which has no reply, or a command with an empty name, which has a reply."""
    HTTP = auto()
    """First word of an HTTP request. Like the servers, the endpoint closes the connection, so that no web page can make a
    browser send commands."""
    AUTH = auto()
    HELLO = auto()
    RESET = auto()
    QUIT = auto()
    CLIENT = auto()
    SELECT = auto()
    MULTI = auto()
    EXEC = auto()
    DISCARD = auto()
    WATCH = auto()
    UNWATCH = auto()
    SUBSCRIBE = auto()
    """Its replies cannot be counted: it ties the connection to its server."""
    BLOCKING = auto()
    """Waits for other clients; its reply cannot be drained."""
    STREAM_READ = auto()
    """Blocks if it has the argument BLOCK."""
    REFUSED = auto()
    """Does not have one reply per command; the application user may not use it either."""


RULES: dict[bytes, Treatment] = {
    b"": Treatment.EMPTY,
    b"POST": Treatment.HTTP,
    b"HOST:": Treatment.HTTP,
    b"AUTH": Treatment.AUTH,
    b"HELLO": Treatment.HELLO,
    b"RESET": Treatment.RESET,
    b"QUIT": Treatment.QUIT,
    b"CLIENT": Treatment.CLIENT,
    b"SELECT": Treatment.SELECT,
    b"MULTI": Treatment.MULTI,
    b"EXEC": Treatment.EXEC,
    b"DISCARD": Treatment.DISCARD,
    b"WATCH": Treatment.WATCH,
    b"UNWATCH": Treatment.UNWATCH,
    **dict.fromkeys(
        (b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE", b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE"), Treatment.SUBSCRIBE
    ),
    **dict.fromkeys(
        (
            *(b"BLPOP", b"BRPOP", b"BLMOVE", b"BRPOPLPUSH", b"BLMPOP", b"BZPOPMIN", b"BZPOPMAX", b"BZMPOP"),
            *(b"WAIT", b"WAITAOF"),
        ),
        Treatment.BLOCKING,
    ),
    b"XREAD": Treatment.STREAM_READ,
    b"XREADGROUP": Treatment.STREAM_READ,
    **dict.fromkeys((b"MONITOR", b"SYNC", b"PSYNC", b"REPLCONF"), Treatment.REFUSED),
}

READS: frozenset[bytes] = frozenset(
    word.encode()
    for line in (
        "BITCOUNT BITFIELD_RO BITPOS COMMAND DBSIZE DUMP ECHO EVALSHA_RO EVAL_RO EXISTS EXPIRETIME FCALL_RO",
        "GEODIST GEOHASH GEOPOS GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GET GETBIT GETRANGE HEXISTS HGET",
        "HGETALL HKEYS HLEN HMGET HRANDFIELD HSCAN HSTRLEN HVALS HTTL HPTTL HEXPIRETIME HPEXPIRETIME INFO",
        "KEYS LCS LINDEX LLEN LOLWUT LPOS LRANGE MGET OBJECT PEXPIRETIME PFCOUNT PING PTTL RANDOMKEY SCAN",
        "SCARD SDIFF SINTER SINTERCARD SISMEMBER SMEMBERS SMISMEMBER SORT_RO SRANDMEMBER SSCAN STRLEN SUBSTR",
        "SUNION TIME TTL TYPE WAIT WAITAOF XINFO XLEN XPENDING XRANGE XREAD XREVRANGE ZCARD ZCOUNT ZDIFF",
        "ZINTER ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE",
        "ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNION",
    )
    for word in line.split()
)
"""Commands that may be sent again when their reply was lost, because they change nothing."""

STORES_NOTHING = READS | frozenset(
    word.encode()
    for line in (
        "ACL ASKING CLIENT CLUSTER COMMANDLOG CONFIG DISCARD HELLO LATENCY MEMORY PUBLISH PUBSUB READONLY READWRITE ROLE",
        "SELECT SLOWLOG SPUBLISH PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE UNWATCH WATCH",
    )
    for word in line.split()
)
"""Strict mode: commands that cannot write data that a replica must have. Does not contain MULTI and EXEC."""


NEVER_QUEUED = frozenset((b"MULTI", b"WATCH"))
"""Commands that are answered with an error at once within a transaction. Some servers still execute the rest at EXEC."""


class _NotPlainWhenStrict:
    """The words of commands that strict mode processes one by one."""

    def __contains__(self, word: object) -> bool:
        return word not in STORES_NOTHING or word in RULES


NOT_PLAIN: Container[bytes] = RULES
"""Words that a chunk of commands must not contain if it is forwarded whole."""
NOT_PLAIN_WHEN_STRICT: Container[bytes] = _NotPlainWhenStrict()

BUSY_MAY_RUN = ((b"SCRIPT", b"KILL"), (b"FUNCTION", b"KILL"), (b"FUNCTION", b"STATS"))
"""Commands that a server accepts while it is busy with a script or function. New connections must be able to send them. They
change no key, whichever server they reach."""

REFUSALS = (
    b"-READONLY You can't write",
    b"-NOREPLICAS Not enough",
    b"-REDIRECT ",
    b"-MASTERDOWN Link with",
    b"-LOADING ",
)
"""Errors that mean: not executed, but another server would execute it, or this one later. They contain the servers' own
texts, so that a script with an error of its own is not executed twice."""
ABORT_CAUSES = (b"READONLY You can't write", b"NOREPLICAS Not enough", b"MASTERDOWN Link with", b"LOADING ")
"""The same after ``-EXECABORT Transaction discarded because of:``."""


UNBLOCKED = (b"-UNBLOCKED force", b"-REDIRECT ")
"""Replies to a blocking command whose server loses its role."""


def is_refusal(reply: bytes) -> bool:
    """Whether a reply means: not executed here and now."""
    return reply.startswith(REFUSALS)


def is_aborted_by_refusal(reply: bytes) -> bool:
    """Whether a reply to EXEC means: not executed here and now."""
    if reply.startswith(b"-EXECABORT "):
        return any(cause in reply[:160] for cause in ABORT_CAUSES)
    return is_refusal(reply)
