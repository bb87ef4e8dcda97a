"""What a client of the discovery service is answered with, byte by byte."""

import pytest

from shardwright.discovery.dialogue import SWITCHED, DiscoveryDialogue, Known, Sentinel
from shardwright.discovery.found import FoundAddress

ORDERS, CACHE = FoundAddress("10.0.0.1", 10_001), FoundAddress("10.0.0.2", 10_002)
KNOWN = Known("node-1", {"orders": ORDERS, "cache": CACHE}, (Sentinel("node-2", FoundAddress("10.0.0.2", 8001)),))


def ask(*words: str, dialogue: DiscoveryDialogue | None = None) -> bytes:
    return (dialogue or DiscoveryDialogue()).answer([word.encode() for word in words], KNOWN)


def bulk(text: str) -> bytes:
    return f"${len(text)}\r\n{text}\r\n".encode()


def test_the_place_of_a_database() -> None:
    assert ask("SENTINEL", "get-master-addr-by-name", "orders") == b"*2\r\n" + bulk("10.0.0.1") + bulk("10001")
    assert ask("sentinel", "GET-MASTER-ADDR-BY-NAME", "unknown") == b"$-1\r\n"


def test_every_database_with_the_fields_that_clients_judge_it_by() -> None:
    answer = ask("SENTINEL", "MASTERS")
    assert answer.startswith(b"*2\r\n*14\r\n" + bulk("name") + bulk("cache"))
    assert bulk("flags") + bulk("master") in answer
    assert bulk("num-other-sentinels") + bulk("1") in answer
    assert ask("SENTINEL", "master", "orders").startswith(b"*14\r\n" + bulk("name") + bulk("orders"))


def test_the_other_services_and_no_replicas() -> None:
    answer = ask("SENTINEL", "sentinels", "orders")
    assert answer.startswith(b"*1\r\n*10\r\n" + bulk("name") + bulk("node-2") + bulk("ip") + bulk("10.0.0.2"))
    for word in ("replicas", "slaves"):
        assert ask("SENTINEL", word, "orders") == b"*0\r\n"
    assert ask("SENTINEL", "ckquorum", "orders") == b"+OK 2 usable Sentinels.\r\n"
    assert ask("SENTINEL", "myid") == bulk("node-1")


@pytest.mark.parametrize("word", ["master", "sentinels", "replicas", "ckquorum"])
def test_an_unknown_name_is_refused_in_the_protocols_words(word: str) -> None:
    assert ask("SENTINEL", word, "unknown") == b"-ERR No such master with that name\r\n"


@pytest.mark.parametrize("words", [("SENTINEL",), ("SENTINEL", "failover", "orders"), ("SENTINEL", "master")])
def test_what_it_cannot_do_is_an_error(words: tuple[str, ...]) -> None:
    assert ask(*words).startswith(b"-ERR Unknown subcommand or wrong number of arguments")


def test_other_commands_of_clients() -> None:
    assert ask("PING") == b"+PONG\r\n"
    assert ask("PING", "hello") == bulk("hello")
    assert ask("AUTH", "user", "password") == ask("CLIENT", "SETINFO", "LIB-NAME", "x") == b"+OK\r\n"
    assert ask("COMMAND") == b"*0\r\n"
    assert ask("ROLE") == b"*2\r\n" + bulk("sentinel") + b"*2\r\n" + bulk("cache") + bulk("orders")
    assert b"master1:name=orders,status=ok,address=10.0.0.1:10001,slaves=0,sentinels=2\r\n" in ask("INFO")
    assert ask("GET", "x") == b"-ERR unknown command 'GET'\r\n"
    assert ask() == b""


def test_the_protocol_of_the_client() -> None:
    dialogue = DiscoveryDialogue()
    assert ask("HELLO", "4", dialogue=dialogue) == b"-NOPROTO unsupported protocol version\r\n"
    assert ask("HELLO", "3", dialogue=dialogue).startswith(b"%7\r\n" + bulk("server"))
    assert ask("SENTINEL", "master", "orders", dialogue=dialogue).startswith(b"%7\r\n")
    assert ask("SENTINEL", "get-master-addr-by-name", "unknown", dialogue=dialogue) == b"_\r\n"
    assert ask("RESET", dialogue=dialogue) == b"+RESET\r\n"
    assert ask("HELLO", dialogue=dialogue).startswith(b"*14\r\n")


@pytest.mark.parametrize(("protocol", "head"), [("2", b"*"), ("3", b">")])
def test_subscribers_are_told_that_a_database_has_moved(protocol: str, head: bytes) -> None:
    dialogue = DiscoveryDialogue()
    ask("HELLO", protocol, dialogue=dialogue)
    assert dialogue.message("orders", ORDERS, CACHE) == b"", "it has not subscribed"
    said = ask("SUBSCRIBE", SWITCHED, "+sdown", dialogue=dialogue)
    assert said == b"".join(
        head + b"3\r\n" + bulk("subscribe") + bulk(name) + b":%d\r\n" % count
        for count, name in enumerate((SWITCHED, "+sdown"), 1)
    )
    text = bulk("orders 10.0.0.1 10001 10.0.0.2 10002")
    assert dialogue.message("orders", ORDERS, CACHE) == head + b"3\r\n" + bulk("message") + bulk(SWITCHED) + text
    ask("UNSUBSCRIBE", dialogue=dialogue)
    assert dialogue.message("orders", ORDERS, CACHE) == b""
    ask("PSUBSCRIBE", "*", dialogue=dialogue)
    assert dialogue.message("orders", ORDERS, CACHE).startswith(head + b"4\r\n" + bulk("pmessage") + bulk("*"))
    assert ask("PUNSUBSCRIBE", dialogue=dialogue) == head + b"3\r\n" + bulk("punsubscribe") + bulk("*") + b":0\r\n"
    assert ask("UNSUBSCRIBE", dialogue=dialogue).startswith(head + b"3\r\n" + bulk("unsubscribe"))


def test_with_a_subscription_a_client_of_the_older_protocol_may_send_little() -> None:
    dialogue = DiscoveryDialogue()
    ask("SUBSCRIBE", SWITCHED, dialogue=dialogue)
    assert ask("SENTINEL", "masters", dialogue=dialogue).startswith(b"-ERR Can't execute 'sentinel'")
    assert ask("PING", dialogue=dialogue) == b"*2\r\n" + bulk("pong") + bulk("")
    newer = DiscoveryDialogue()
    ask("HELLO", "3", dialogue=newer)
    ask("SUBSCRIBE", SWITCHED, dialogue=newer)
    assert ask("PING", dialogue=newer) == b"+PONG\r\n"
    assert ask("SUBSCRIBE", dialogue=newer) == b"-ERR wrong number of arguments for 'subscribe' command\r\n"


def test_quit_ends_the_connection() -> None:
    dialogue = DiscoveryDialogue()
    assert ask("QUIT", dialogue=dialogue) == b"+OK\r\n"
    assert dialogue.is_over
