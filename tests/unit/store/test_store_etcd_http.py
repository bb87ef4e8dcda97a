"""Answers of etcd's gateway, whole and in pieces: heads, bodies, chunks, trailers, several on one connection."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.store.etcd_http import HEAD_BYTES_MAX, AnswerParser, BodyPart, End, Head, Part, compose

PLAIN = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'
TRAILED = (
    b"HTTP/1.1 404 Not Found\r\nTrailer: Grpc-Trailer-Content-Type\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'6\r\n{"code\r\n4;x=y\r\n":5}\r\n0\r\nGrpc-Trailer-Content-Type: application/grpc\r\n\r\n'
)
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n"
NONE = b"HTTP/1.1 204 No Content\r\n\r\n"


def joined(parts: list[Part]) -> list[Part]:
    """The same with neighboring bodies joined: where they are cut depends on how the bytes arrive."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, BodyPart) and found and isinstance(last := found[-1], BodyPart):
            found[-1] = BodyPart(last.data + part.data)
        else:
            found.append(part)
    return found


ANSWERS: dict[bytes, list[Part]] = {
    PLAIN: [Head(200, True), BodyPart(b'{"a":1}'), End()],
    TRAILED: [Head(404, True), BodyPart(b'{"code":5}'), End()],
    EMPTY: [Head(200, True), End()],
    CHUNKED: [Head(200, True), BodyPart(b"0123456789"), End()],
    NONE: [Head(204, True), End()],
    b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN: [Head(200, True), BodyPart(b'{"a":1}'), End()],
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_has_its_parts(answer: bytes) -> None:
    parser = AnswerParser()
    assert joined(parser.feed(answer)) == ANSWERS[answer]
    assert parser.ends() == []


@given(st.lists(st.sampled_from(sorted(ANSWERS)), max_size=4), st.lists(st.integers(0, 800), max_size=12))
def test_answers_follow_each_other_however_their_bytes_arrive(answers: list[bytes], cuts: list[int]) -> None:
    data = b"".join(answers)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parser = AnswerParser()
    parts = [part for first, last in pairwise(places) for part in parser.feed(data[first:last])]
    assert joined(parts) == joined([part for answer in answers for part in ANSWERS[answer]])


def test_a_body_of_no_stated_length_ends_with_the_connection() -> None:
    parser = AnswerParser()
    assert parser.feed(b"HTTP/1.1 200 OK\r\n\r\nabc") == [Head(200, False), BodyPart(b"abc")]
    assert parser.feed(b"d") == [BodyPart(b"d")]
    assert parser.ends() == [End()]


def test_a_connection_that_is_to_be_closed_is_not_kept() -> None:
    closing = PLAIN.replace(b"Content-Type: application/json", b"Connection: close")
    assert AnswerParser().feed(closing)[0] == Head(200, False)


@pytest.mark.parametrize("data", [TRAILED[:60], TRAILED[:-1], PLAIN[:-1], b"H"])
def test_an_answer_that_is_cut_off_is_an_error(data: bytes) -> None:
    parser = AnswerParser()
    parser.feed(data)
    with pytest.raises(ValueError, match="middle of an answer"):
        parser.ends()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not an answer"),
        (b"HTTP/1.1 abc\r\n\r\n", "not an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "length of an answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "size of a chunk"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "size of a chunk"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "longer than its size"),
        (b"x" * (HEAD_BYTES_MAX + 1), "no end"),
    ],
)
def test_what_is_no_answer_is_an_error(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        AnswerParser().feed(data)


def test_a_request_is_composed() -> None:
    head, _, body = compose("/v3/watch", b"{}", host="127.0.0.1:2379", needs_leader=True).partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /v3/watch HTTP/1.1",
        b"Host: 127.0.0.1:2379",
        b"Content-Type: application/json",
        b"Content-Length: 2",
        b"Grpc-Metadata-hasleader: true",
    ]
    assert body == b"{}"
    assert b"hasleader" not in compose("/v3/kv/txn", b"{}", host="h")
