"""What the endpoint knows of commands: the few it answers, watches or refuses, and those that may be sent twice.

Pure tables. Every word that is not named here passes, counts as one reply, and counts as a write.
"""

from collections.abc import Container
from enum import Enum, auto


class Rule(Enum):
    """How a command that is not simply forwarded is treated."""

    NOTHING = auto()
    """An empty line, which has no reply; or a command with an empty name, which has one."""
    ATTACK = auto()
    """First words of an HTTP request: the servers close, so that no web page can make a browser send them commands."""
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
    """Replies can no longer be counted: the connection is tied to its server."""
    BLOCKING = auto()
    """Waits for others; never drains by itself."""
    STREAM_READ = auto()
    """Blocks if it says so."""
    REFUSED = auto()
    """Would leave the pattern of one reply per command; the application user may not use it either."""


RULES: dict[bytes, Rule] = {
    b"": Rule.NOTHING,
    b"POST": Rule.ATTACK,
    b"HOST:": Rule.ATTACK,
    b"AUTH": Rule.AUTH,
    b"HELLO": Rule.HELLO,
    b"RESET": Rule.RESET,
    b"QUIT": Rule.QUIT,
    b"CLIENT": Rule.CLIENT,
    b"SELECT": Rule.SELECT,
    b"MULTI": Rule.MULTI,
    b"EXEC": Rule.EXEC,
    b"DISCARD": Rule.DISCARD,
    b"WATCH": Rule.WATCH,
    b"UNWATCH": Rule.UNWATCH,
    **dict.fromkeys(
        (b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE", b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE"), Rule.SUBSCRIBE
    ),
    **dict.fromkeys(
        (
            *(b"BLPOP", b"BRPOP", b"BLMOVE", b"BRPOPLPUSH", b"BLMPOP", b"BZPOPMIN", b"BZPOPMAX", b"BZMPOP"),
            *(b"WAIT", b"WAITAOF"),
        ),
        Rule.BLOCKING,
    ),
    b"XREAD": Rule.STREAM_READ,
    b"XREADGROUP": Rule.STREAM_READ,
    **dict.fromkeys((b"MONITOR", b"SYNC", b"PSYNC", b"REPLCONF"), Rule.REFUSED),
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
"""May be sent again when their reply was lost: they change nothing."""

STORES_NOTHING = READS | frozenset(
    word.encode()
    for line in (
        "ACL ASKING CLIENT CLUSTER COMMANDLOG CONFIG DISCARD HELLO LATENCY MEMORY PUBLISH PUBSUB READONLY READWRITE ROLE",
        "SELECT SLOWLOG SPUBLISH PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE UNWATCH WATCH",
    )
    for word in line.split()
)
"""Strict mode: what cannot have written anything that a replica would have to have. MULTI and EXEC are none of them."""


NEVER_QUEUED = frozenset((b"MULTI", b"WATCH"))
"""Answered at once within a transaction, with an error; some servers let its EXEC run all the same, without them."""


class _NotPlainWhenStrict:
    """The words that strict mode looks at one by one."""

    def __contains__(self, word: object) -> bool:
        return word not in STORES_NOTHING or word in RULES


NOT_PLAIN: Container[bytes] = RULES
"""What a chunk of commands that is forwarded whole must not contain."""
NOT_PLAIN_WHEN_STRICT: Container[bytes] = _NotPlainWhenStrict()

BUSY_MAY_RUN = ((b"SCRIPT", b"KILL"), (b"FUNCTION", b"KILL"), (b"FUNCTION", b"STATS"))
"""What a server that is busy with a script or function still does, and must be asked for by new connections too: it changes
no key, whichever server it reaches."""

REFUSALS = (
    b"-READONLY You can't write",
    b"-NOREPLICAS Not enough",
    b"-REDIRECT ",
    b"-MASTERDOWN Link with",
    b"-LOADING ",
)
"""Errors that mean: not executed, and elsewhere or later it would be. With the servers' own words, so that a script that
makes up an error of its own is not run twice."""
ABORT_CAUSES = (b"READONLY You can't write", b"NOREPLICAS Not enough", b"MASTERDOWN Link with", b"LOADING ")
"""The same behind ``-EXECABORT Transaction discarded because of:``."""


UNBLOCKED = (b"-UNBLOCKED force", b"-REDIRECT ")
"""What a blocking command is answered when its server loses its role."""


def is_refusal(reply: bytes) -> bool:
    """A reply that says: not executed here and now."""
    return reply.startswith(REFUSALS)


def is_aborted_by_refusal(reply: bytes) -> bool:
    """A reply to EXEC that says: not executed here and now."""
    if reply.startswith(b"-EXECABORT "):
        return any(cause in reply[:160] for cause in ABORT_CAUSES)
    return is_refusal(reply)
